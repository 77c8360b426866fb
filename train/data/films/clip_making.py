"""Makes a clip of a run: fits the head model, draws frames, segments the person, reads the motion.

Letters: T frames of a run, N of the clip, S side of the pictures, M width of the motion.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.faces.models import load_model, why_unusable
from triportrait.core.faces.segmentation import PersonSegmentation
from triportrait.core.motion.encoder import MotionEncoder, encoder_fingerprint
from triportrait.core.motion.motion_crop import motion_crop
from triportrait.core.tracking.bends import moves_evenly
from triportrait.core.tracking.clip_fit import ClipFit, fit_clip
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.core.tracking.network_landmarks import for_networks, weights_for_networks
from triportrait.core.tracking.records import columns_of
from triportrait.serve.faces.face import FaceProvider
from triportrait.serve.faces.providers import face_provider
from triportrait.train.data.clip_store.store import pack_masks
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.films.runs import Run
from triportrait.train.data.picture_encoder import load_picture_encoder

AT_A_TIME = 8  # pictures that a network sees together
PERSON = 0.5  # from this on a pixel is the person's


@dataclass(frozen=True, eq=False)
class Tools:
    """The networks and the model that films are read with, loaded once in a process.

    Args:
        options: name the head model and the motion encoder.
        device: where fits, segmentation and motion are computed; faces are found on the CPU.

    Raises: `InputError`, when one is first used, where it is missing or damaged.
    """

    options: FilmOptions
    device: torch.device

    @cached_property
    def head_model(self) -> HeadModel:
        """The head model."""
        return load_head_model(self.options.head_model)

    @cached_property
    def network_model(self) -> HeadModel:
        """The head model with its landmarks where the networks that find faces put them."""
        return for_networks(self.head_model)

    def model_of(self, provider: FaceProvider | None) -> HeadModel:
        """Return the head model whose landmarks are those of a provider; None: those of files."""
        return self.head_model if provider is None else self.network_model

    @cached_property
    def segmentation(self) -> PersonSegmentation:
        """The network that tells a person from what is behind."""
        return PersonSegmentation(load_model("segmentation")).to(self.device).eval()

    @cached_property
    def provider(self) -> FaceProvider:
        """What finds faces."""
        provider = face_provider("networks")
        assert provider is not None
        return provider

    @cached_property
    def motion(self) -> MotionEncoder | None:
        """The motion encoder; None where none is named."""
        if self.options.motion is None:
            return None
        return load_picture_encoder(self.options.motion).to(self.device)

    def check(self) -> None:
        """Load all that every film needs. Raises: `InputError`, in one sentence."""
        if (why := why_unusable()) is not None:
            raise InputError(f"{why.rpartition(', or')[0]}; who is in a picture and what is behind is told by them")
        _ = self.head_model, self.segmentation, self.motion

    def identity(self) -> dict[str, Any]:
        """Return what the index of a store says of the head model and the encoder."""
        encoder = self.motion
        named: dict[str, Any] = {"head_model": self.head_model.identity.to_dict(), "motion_encoder": None}
        if encoder is not None:
            named["motion_encoder"] = encoder.name
            named["motion"] = {"width": encoder.motion_width, "fingerprint": encoder_fingerprint(encoder)}
        return named

    def fit(self, run: Run, model: HeadModel, by_networks: bool) -> ClipFit:
        """Fit a head model to all T frames of a run, with one shape.

        Args:
            by_networks: the face networks found the landmarks, whose jaw is an outline.

        Raises: `InputError` where no frame has enough landmarks.
        """
        points, weights = (torch.from_numpy(np.stack(part)) for part in (run.points, run.weights))
        weights = weights_for_networks(model, weights) if by_networks else weights
        times = torch.tensor(run.times_s, dtype=torch.float64)
        return fit_clip(model, points, weights, film=moves_evenly(times), times=times, device=self.device)

    def table(self, run: Run, fit: ClipFit, rows: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
        """Make the table of a clip of these N frames of a run, with masks bool [N, S, S]; `frame` holds their numbers
        in the film."""
        parts = {name: part[rows].cpu() for name, part in columns_of(fit.records).items()}
        frames = pictures_of(run, rows)
        table = {
            "camera": parts["camera"], "shape": parts["shape"], "expression": parts["expression"],
            "pose": torch.cat([parts["neck"], parts["jaw"]], -1), "eyes": parts["eyes"],
        }  # fmt: skip
        if self.motion is not None:
            table["motion"] = self._motion_of(self.motion, frames, np.stack([run.landmarks[row] for row in rows]))
        columns = {name: np.ascontiguousarray(value.float().numpy()) for name, value in table.items()}
        return columns | {"mask": pack_masks(masks), "frame": np.array(run.frames, np.int64)[rows]}

    @torch.no_grad()
    def masks_of(self, run: Run, rows: np.ndarray) -> np.ndarray:
        """Segment N frames of a run, all of which show the face: bool [N, S, S], true on the person."""
        parts = [
            (self.segmentation(self._image(pictures_of(run, rows[k : k + AT_A_TIME])))[:, 0] > PERSON).cpu()
            for k in range(0, len(rows), AT_A_TIME)
        ]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def _motion_of(self, encoder: MotionEncoder, frames: np.ndarray, landmarks: np.ndarray) -> Tensor:
        """Read the motion [N, M] off pictures uint8 [N, S, S, 3] with landmarks [N, 68, 2] of the 512² picture."""
        assert encoder.crop_size is not None, "it reads pictures"
        parts = []
        for k in range(0, len(frames), AT_A_TIME):
            image = self._image(frames[k : k + AT_A_TIME]).float() / 127.5 - 1
            at = torch.from_numpy(landmarks[k : k + AT_A_TIME]).float().to(self.device)
            parts.append(encoder(motion_crop(image, at, encoder.crop_size)).cpu())
        return torch.cat(parts)

    def _image(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(frames).permute(0, 3, 1, 2).to(self.device)


@lru_cache(maxsize=1)
def tools_of(options: FilmOptions, device: str) -> Tools:
    """Return the tools of this process."""
    return Tools(options, torch.device(device))


def pictures_of(run: Run, rows: np.ndarray) -> np.ndarray:
    """Return the aligned pictures of some frames, all of which show the face: uint8 [N, S, S, 3]."""
    return np.stack([crop for row in rows if (crop := run.crops[row]) is not None])


def seed_of(seed: int, film: str, first: int) -> list[int]:
    """Return the seed of the frames that are drawn of a run: the film's name and the run's first frame decide."""
    return [seed, int.from_bytes(hashlib.sha256(os.fsencode(Path(film).as_posix())).digest()[:6]), first]
