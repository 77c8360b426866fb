"""Train a small motion encoder on data that a user names: `triportrait train motion`, on any number of processes.

run/weights    the encoder when the training is at its end: name it by `train stage2 --motion RUN/weights`

Multi-view sets and clips of procedural heads tell their nine numbers, clips of tracked faces their parameters.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.checkpoint import load_motion_encoder
from triportrait.core.errors import InputError
from triportrait.core.motion.declared_encoder import MOST_VALUES, MOST_WEIGHTS
from triportrait.core.motion.parameter_encoder import FLAME_WIDTHS
from triportrait.core.motion.small_encoder import GROUPS, HEAD_COLUMNS, SmallMotionEncoder
from triportrait.core.safe_text import LONGEST_NAME, shown
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.motion_targets import HEAD_TARGETS, MotionTargets, targets_of
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.data.set_config import SetConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.named_data import Loading, NamedData
from triportrait.train.presets import motion_model
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.stages import motion
from triportrait.train.stages.assemble import motion_clip_stage
from triportrait.train.stages.motion import Faces, MotionBatch
from triportrait.train.stages.stage import Stage

MOST_WIDTHS, WIDEST, LARGEST_CROP = 8, 4096, 1024
MEASURED = 64  # pairs of frames, or pictures of a set, that are measured
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSizes:
    """The encoder that is trained.

    Attributes:
        crop_size: side of the crop, px. widths: channels, see `SmallMotionEncoder`.
        targets: the parameters that it learns, of `FLAME_WIDTHS`; procedural heads have their own nine.
        motion_width: how many numbers it gives; None: as many as the targets need.
        name: for its card.
    """

    crop_size: int = 64
    widths: tuple[int, ...] = (32, 64, 96, 128)
    targets: tuple[str, ...] = tuple(FLAME_WIDTHS)
    motion_width: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        halved, widths = 2 ** len(self.widths), shown(" ".join(map(str, self.widths)))
        if not 1 <= len(self.widths) <= MOST_WIDTHS or any(w % GROUPS or not 0 < w <= WIDEST for w in self.widths):
            raise InputError(
                f"widths: expected 1 to {MOST_WIDTHS} multiples of {GROUPS} up to {WIDEST}, got {widths}; choose others"
            )
        if not halved <= self.crop_size <= LARGEST_CROP or self.crop_size % halved:
            raise InputError(
                f"crop-size: expected a multiple of {halved} up to {LARGEST_CROP}, as each of {len(self.widths)} "
                f"widths halves it, got {self.crop_size}; choose another"
            )
        side, hidden = self.crop_size // halved, 2 * self.widths[-1]
        maps = max(w * (self.crop_size >> i + 1) ** 2 for i, w in enumerate(self.widths))
        if maps > MOST_VALUES or side**2 * self.widths[-1] * hidden > MOST_WEIGHTS:
            raise InputError(
                f"widths: expected at most {MOST_WEIGHTS:,} weights in the largest layer and {MOST_VALUES:,} numbers "
                f"in the largest map, got more by {widths} at a crop of {self.crop_size} px; choose a smaller crop, "
                "narrower or more widths"
            )
        if self.motion_width is not None and not 1 <= self.motion_width <= WIDEST:
            raise InputError(f"motion-width: expected 1 to {WIDEST}, got {self.motion_width}; choose another")
        if len(self.name) > LONGEST_NAME or not self.name.isprintable():
            raise InputError(f"name: expected up to {LONGEST_NAME} letters, got {shown(self.name)}; choose another")


class MotionTraining(Inputs):
    """The inputs of the training of a motion encoder. See `run_folder.Inputs`.

    Args:
        data: a multi-view set or a clip store.
        sizes: of the encoder.
        loading: how data is read.
        flame: weights folder with FLAME's tables, for clips of tracked faces.
    """

    stages: Sequence[StageName] = ("motion",)

    def __init__(self, data: Path, sizes: EncoderSizes, loading: Loading, flame: str | None = None) -> None:
        self.data_folder, self.sizes, self.loading, self._flame_name = data, sizes, loading, flame
        self.prefetch = loading.prefetch

    def checked(self, config: TrainConfig) -> TrainConfig:
        """See `Inputs`."""
        self._data = data = NamedData(self.data_folder, self.loading)
        self._model = data.head_model(self._flame_name)
        targets = HEAD_TARGETS
        if data.clips is not None:
            targets = targets_of(data.clips, data.trained, self.sizes.targets, self.sizes.motion_width)
        elif self.sizes.motion_width not in (None, HEAD_COLUMNS.width):
            raise InputError(
                f"motion-width: expected {HEAD_COLUMNS.width}, as procedural heads have so many numbers, got "
                f"{self.sizes.motion_width}; leave it out"
            )
        self.targets: MotionTargets = targets
        side = data.index["size"] if data.clips is None else data.clips.size
        stage = config.motion if data.clips is None else dataclasses.replace(config.motion, front_sources=0.0)
        self.config = dataclasses.replace(config, model=motion_model(side), cast=SetConfig(size=side), motion=stage)
        return self.config

    @property
    def name(self) -> str:
        """Return the encoder's name for its card."""
        model = self.targets.columns.head_model
        return self.sizes.name or f"small, {'procedural heads' if model is None else model.name}"[:LONGEST_NAME]

    def config_entry(self, ranks: Ranks) -> dict[str, Any]:
        """See `Inputs`."""
        sizes = {"crop_size": self.sizes.crop_size, "widths": list(self.sizes.widths)}
        columns = self.targets.columns
        encoder = {"name": self.name, "motion_width": columns.width, **sizes, "columns": columns.to_dict()}
        return {"run": {"stage": "motion", **self._data.entry(ranks), "encoder": encoder}}

    def fingerprints(self) -> dict[str, Any] | None:
        """See `Inputs`."""
        return self._data.fingerprints()

    def open_data(self, folder: Path, config: TrainConfig, engines: Engines) -> None:
        """See `Inputs`."""
        self.folder, self.engines = folder, engines
        data, model = self._data, config.model
        data.tell_split(engines.ranks)
        if engines.ranks.first:
            logger.info("motion: %s", self._sentence())
        self.set: PictureSet | ClipPictures
        self._unseen: PictureSet | ClipPictures | None = None
        if data.clips is None:
            self.set = PictureSet(data.folder, model, necks=False, chosen=data.trained)
            if data.held_out:
                self._unseen = PictureSet(data.folder, model, necks=False, chosen=data.held_out)
            return
        self.set, unseen = data.pictures(model, config.seed, engines.ranks, self._model, None)
        if data.held_out:
            self._unseen = unseen

    def _sentence(self) -> str:
        columns = self.targets.columns
        words = ", ".join(f"{name} {width}" for name, width in columns.widths.items())
        whose = "procedural heads" if columns.head_model is None else str(columns.head_model)
        return f"{columns.width} numbers of {whose} ({words}), off crops of {self.sizes.crop_size} px"

    def make_networks(self, folder: Path) -> None:
        """See `Inputs`."""
        sizes, columns = self.sizes, self.targets.columns
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            encoder = SmallMotionEncoder(columns.width, sizes.crop_size, sizes.widths, columns, self.name)
        self.encoder = encoder.to(self.engines.ranks.device)

    def stage(self, name: StageName) -> Stage[Any]:
        """See `Inputs`."""
        seen = self._measure(self.set, "seen ")
        unseen = None if self._unseen is None else self._measure(self._unseen, "held_out ")
        return motion_clip_stage(self.config, self._draw, self.encoder, seen, unseen, self.set, self.engines)

    def export(self, command: str) -> Path:
        """Write the EMA of the newest checkpoint into `run/weights`."""
        folder = export(self.folder, self.folder / "weights", overwrite=True)
        load_motion_encoder(folder)
        return folder

    def _draw(self, streams: np.random.Generator, place: int, count: int) -> MotionBatch:
        """Draw a micro-batch of faces; the arguments alone decide."""
        if isinstance(self.set, PictureSet):
            stage = dataclasses.replace(self.config.motion, batch=count)
            return motion.draw([self.set], stage, self.sizes.crop_size, streams)
        pair = self.set.faces(-(-count // 2), streams, place // 2)  # decoding two frames of a clip costs as one does
        faces = _faces(pair, self.targets)
        return motion.varied(faces.take(count), self.sizes.crop_size, streams)

    def _measure(self, data: PictureSet | ClipPictures, prefix: str) -> Callable[[], dict[str, float]]:
        """Return what measures the encoder on the same frames at every step."""
        made: list[Faces] = []

        def measure() -> dict[str, float]:
            if not made:
                made.append(_measured_set(data) if isinstance(data, PictureSet) else self._measured_clips(data))
            said = [
                motion.read_motion(self.encoder, *(t.to(self.engines.ranks.device) for t in (image, landmarks))).cpu()
                for image, landmarks in zip(made[0].image.split(32), made[0].landmarks.split(32), strict=True)
            ]
            return motion.agreement(torch.cat(said), made[0].motion, self.targets.columns, prefix)

        return measure

    def _measured_clips(self, data: ClipPictures) -> Faces:
        found, reason = [], ""
        turns = -(-MEASURED // len(data.chosen))
        for place in range(min(MEASURED, len(data.chosen) * turns)):
            clip = data.chosen[place % len(data.chosen)]
            last = data.store.frames_of[clip] - 1
            at = last - last * (place // len(data.chosen)) // (turns + 1)
            try:
                found.append(_faces(data.face_pair(clip, at // 2, at), self.targets))
            except ValueError as error:
                reason = f" ({data.store.clips[clip]}: {error})"
        if not found:
            raise InputError(f"{data.store.folder}: none of the clips that are measured can be used{reason}; make the "
                             "store again, or go on without by --evaluate-every 0")  # fmt: skip
        return Faces.cat(found)


def _faces(pair: tuple[Pictures, Pictures], targets: MotionTargets) -> Faces:
    return Faces.cat([Faces(p.image, p.landmarks, targets.of(p.motion), p.origin) for p in pair])


def _measured_set(data: PictureSet) -> Faces:
    """Take pictures of a set, evenly over its poses, from its views in turn."""
    pose = torch.linspace(0, len(data) - 1, min(2 * MEASURED, len(data))).long()
    pictures = data.take(pose, torch.arange(len(pose)) % data.views)
    return Faces(pictures.image, pictures.landmarks, pictures.motion, pictures.origin)
