"""Reads pictures of one person, aligned as a portrait is, for the trainer that refines the networks for this person."""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.person import ENDING, Person, save_person
from triportrait.core.types import Camera
from triportrait.serve.aligned_sources import AligningNetworks
from triportrait.serve.animation import base_camera
from triportrait.serve.controls import DEFAULT_CONTROLS
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.image_tensors import to_float
from triportrait.serve.media.output_file import check_output
from triportrait.serve.personal_pictures import all_faces, listed
from triportrait.serve.picture_inputs import Picture
from triportrait.serve.pipeline_inputs import optional_path
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.tracked.person_mask import person_mask
from triportrait.serve.weight_loading import files_of, need_faces

TRAINER = "triportrait.train.personal"  # serve imports nothing of train: it is loaded when somebody is to be learned
LEAST_SHARE = 0.05  # of an aligned picture; where less is a person, the mask has not found them

logger = logging.getLogger(__name__)


def trainer() -> ModuleType:
    """Load what refines networks for a person."""
    return importlib.import_module(TRAINER)


def refine_config(minutes: float | None, steps: int | None, rank: int | None, seed: int) -> Any:
    """Make the numbers of a refinement; those that are None are the trainer's own.

    Args:
        minutes, steps, rank, seed: as in `Pipeline.personalize`.

    Raises:
        InputError: minutes and steps are both given, or a number is out of its range.
    """
    how_long = {} if minutes is None and steps is None else {"minutes": minutes, "steps": steps}
    of_updates = {} if rank is None else {"rank": rank}
    for name, value, kind in (("minutes", minutes, (int, float)), ("steps", steps, int), ("rank", rank, int),
                              ("seed", seed, int)):  # fmt: skip
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if value is not None and (not is_number or (isinstance(value, float) and not math.isfinite(value))):
            raise InputError(f"{name}: expected a number, got {value!r}; choose one")
    return trainer().RefineConfig(**how_long, **of_updates, seed=seed)


def state_of(out: Path) -> Path:
    """Name the file in which a refinement stands while it runs, beside the person's file."""
    return out.with_name(f"{out.name}.state")


def check_person_output(
    out: Path, overwrite: bool, pictures: Iterable[Picture], weights: str, files: Iterable[Path] = ()
) -> None:
    """Check before any work that a person's file, and its state while it is made, can be written.

    Args:
        out, overwrite: as in `Pipeline.personalize`.
        pictures: of the person; those that are paths are not overwritten, nor are the files of the weights.
        weights: `demo`, `rule` or a folder.
        files: others that are read.

    Raises:
        InputError: says what to do.
    """
    inputs = [*(each for each in pictures if isinstance(each, str | os.PathLike)), *files, *files_of(weights)]
    check_output(out, overwrite, (ENDING,), inputs)
    try:
        os.fsencode(out).decode()
    except UnicodeDecodeError as error:  # safetensors opens no such file
        raise InputError(
            f"{out}: expected a name of Unicode letters, got other bytes; choose another output"
        ) from error
    check_output(state_of(out), True, (state_of(out).suffix,), inputs)


def named(person: Person, source: Path | str, weights: str) -> Person:
    """Return a person as its file will hold it, with the names of the picture and the weights that it was made of."""
    names = {"source": Path(source).name, "weights": Path(weights).name or Path(weights).resolve().name}
    return replace(person, card={**names, **person.card}).rounded()


def given_pictures(reenactor: Reenactor, source: PreparedSource, faces: Sequence[AlignedFace], masks: bool) -> Any:
    """Read what the trainer wants to know of aligned faces, as a driving frame is read.

    Args:
        reenactor: the networks, in float32.
        source: of the first face.
        faces: N of them.
        masks: find the person in each picture where a network for that is at hand.

    Returns:
        `GivenPictures` of the trainer.
    """
    crops, side = np.stack([face.crop for face in faces]), reenactor.image_size
    motion = torch.cat([reenactor.motion(face) for face in faces])
    with torch.inference_mode():
        neck = reenactor.necks([(source, face, DEFAULT_CONTROLS) for face in faces])
    known = [face.tracking.landmarks for face in faces]
    # there middles of pixels are whole numbers, here the first one's is at 0.5
    landmarks = [(points[:, :, :2].float() + 0.5) * side / ALIGNED_SIZE for points in known if points is not None]
    opacity = _opacity(crops) if masks else None
    return trainer().GivenPictures(
        to_float(torch.from_numpy(crops)), motion, Camera.cat([base_camera(face, DEFAULT_CONTROLS) for face in faces]),
        neck, torch.cat(landmarks) if len(landmarks) == len(faces) else None, opacity,
    )  # fmt: skip


def _opacity(crops: np.ndarray) -> torch.Tensor | None:
    """Find the person in crops [N, S, S, 3]: [N, 1, S, S] in [0, 1]; None without network, or where it finds nobody."""
    mask = person_mask()
    if mask is None:
        return None
    opacity = torch.from_numpy(np.stack([mask(crop) for crop in crops])).float()[:, None] / 255
    if (opacity.mean((1, 2, 3)) < LEAST_SHARE).any():
        logger.info("the network that tells persons from backgrounds finds nobody in a picture; it is not asked")
        return None
    return opacity


class PersonalizingNetworks(AligningNetworks):
    """Holds networks, and refines them for one person."""

    def personalize(
        self, sources: Picture | Iterable[Picture], out: str | os.PathLike[str] | None = None, *,
        minutes: float | None = None, steps: int | None = None, rank: int | None = None, seed: int = 0,
        face: int | None = None, source_params: str | os.PathLike[str] | None = None, overwrite: bool = False,
        previews: bool = False, progress: Callable[[Any], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Person:  # fmt: skip
        """Refine the networks for one person, from one picture or a few, for `prepare` and `animate`.

        Args:
            sources: a picture as in `prepare`, or several of one person, 40 at most: of a folder or a film pictures
                are taken evenly. The first picture is the portrait that will be shown.
            out: where to write the person's file, .safetensors; None returns the person only.
            minutes: how long to learn, 2 by default. steps: how many steps instead; on one CPU the same number gives
                the same person again.
            rank: of the updates of weights, 8 by default; 0 learns the residual of the planes alone.
            seed: of all random numbers.
            face: as in `prepare`, of the first picture; of the others the largest is taken. A film that is the first
                source is followed from the frame where this face is seen, any other from its first face on.
            source_params: as in `prepare`, of every picture.
            overwrite: replace an existing file.
            previews: give `progress` a picture of how it stands every few seconds.
            progress: called after each step with a `RefineStep`: its number and theirs, seconds left, PSNR.
            should_stop: asked after each step; where it says yes, what was reached is kept.

        Raises:
            InputError: an argument cannot be used, a picture cannot be read or shows no such face, or the file cannot
                be written.
        """
        config, pictures, target = refine_config(minutes, steps, rank, seed), listed(sources), optional_path(out)
        if target is not None:
            check_person_output(target, overwrite, pictures, self.weights)
        wide = self._in_float32()
        portrait, first = wide._aligned(pictures[0], face, source_params)
        faces = all_faces(
            pictures, portrait, first, lambda each: wide._aligned(each, None, source_params, is_first=False),
            lambda: wide.tracker(smooth=False), optional_path(source_params),
        )  # fmt: skip
        reenactor = wide._reenactor
        given = given_pictures(reenactor, reenactor.prepare(first), faces, masks=need_faces(self.weights))
        person = trainer().refine(
            reenactor.portrait, reenactor.motion_encoder, given, config, progress or (lambda step: None),
            should_stop or (lambda: False), None if target is None else state_of(target), previews,
        )  # fmt: skip
        person = named(person, portrait.name, self.weights)
        if target is not None:
            save_person(target, person, overwrite=overwrite)
            trainer().forget(state_of(target))
        return person

    def _in_float32(self) -> Self:
        """Return networks whose weights are as they were loaded, as what is learned needs all digits.

        Raises:
            InputError: they are static, or have changed since on the disk.
        """
        reenactor = self._reenactor
        if reenactor.static:
            raise InputError("personalize: expected weights that move, got a static synthesizer; leave static out")
        if not reenactor.is_rounded:
            return self
        networks = self._files.load_again(reenactor.is_same)
        return type(self)(Reenactor(*networks, reenactor.device), self.weights, self._finder)
