"""What is given of one person: aligned pictures with their motions, cameras and necks; and motions that nobody gave.

Letters: N pictures, S their side, M width of the motion, K motions of the bank.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.person import MOST_PICTURES
from triportrait.core.types import Camera, Index, NeckGrid
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population, take_pictures
from triportrait.train.stages.motion import read_motion

BANK = 16
BANK_PX = 128  # side of the heads that the bank is read off; a larger one would take longer than the refinement
BANK_SEED = 5
ASIDE_EACH = 5  # of so many pictures one is kept aside
LEAST_FOR_ASIDE = 3


@dataclass(frozen=True)
class GivenPictures:
    """N aligned pictures of one person; the first is the source.

    Attributes:
        image: [N, 3, S, S] in [-1, 1].
        motion: [N, M], v of each.
        camera: N cameras.
        neck: N neck poses; None: the neck is still in all.
        landmarks: [N, 68, 2] pixels, by which eyes and mouth count more; None: nowhere more.
        opacity: [N, 1, S, S] in [0, 1], where the person is; None: unknown.
    """

    image: Tensor
    motion: Tensor
    camera: Camera
    neck: NeckGrid | None = None
    landmarks: Tensor | None = None
    opacity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def check(self, side: int) -> None:
        """Check the number and the side of the pictures. Raises: `InputError`."""
        if not 1 <= len(self) <= MOST_PICTURES:
            raise InputError(
                f"personalize: expected 1 to {MOST_PICTURES} pictures of one person, got {len(self)}; leave some out"
            )
        if tuple(self.image.shape[1:]) != (3, side, side):
            raise InputError(f"personalize: expected aligned pictures of {side} px, got {tuple(self.image.shape[2:])}")

    def take(self, rows: Index) -> GivenPictures:
        """Select the pictures that `rows` names."""
        return GivenPictures(
            self.image[rows], self.motion[rows], self.camera.take(rows),
            None if self.neck is None else self.neck.take(rows),
            None if self.landmarks is None else self.landmarks[rows],
            None if self.opacity is None else self.opacity[rows],
        )  # fmt: skip

    def to(self, device: torch.device | str) -> GivenPictures:
        """Move them to a device, as tensors that may take part in a backward pass."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.clone().to(device)

        neck = None
        if self.neck is not None:
            neck = dataclasses.replace(self.neck, fine=moved(self.neck.fine), coarse=moved(self.neck.coarse))  # type: ignore[arg-type]
        camera = Camera(moved(self.camera.world_from_camera), moved(self.camera.intrinsics))  # type: ignore[arg-type]
        image, motion = moved(self.image), moved(self.motion)
        assert image is not None and motion is not None
        return GivenPictures(image, motion, camera, neck, moved(self.landmarks), moved(self.opacity))

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that is given, by which a refinement that goes on knows its own."""
        digest = hashlib.sha256()
        neck = (None, None) if self.neck is None else (self.neck.fine, self.neck.coarse)
        camera = self.camera.world_from_camera, self.camera.intrinsics
        for tensor in (self.image, self.motion, *camera, *neck, self.landmarks, self.opacity):
            digest.update(b"none" if tensor is None else str(tuple(tensor.shape)).encode())
            if tensor is not None:
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the numbers of the pictures to learn from, and of those kept aside; the source is learned from."""
        count = len(self)
        is_aside = torch.zeros(count, dtype=torch.bool)
        if count >= LEAST_FOR_ASIDE:
            is_aside[ASIDE_EACH - 1 :: ASIDE_EACH] = True
            is_aside[-1] = True
        return (~is_aside).nonzero()[:, 0], is_aside.nonzero()[:, 0]


def motion_bank(encoder: MotionEncoder) -> Tensor:
    """Return motions [K, M] of faces that nobody gave, by which a refined person goes on moving.

    A motion encoder that reads pictures reads them off drawn heads with drawn expressions. One whose motion is
    parameters gets numbers as far from 0 as their unit is large.
    """
    if not encoder.reads_pictures:
        generator = torch.Generator().manual_seed(BANK_SEED)
        return torch.randn(BANK, encoder.motion_width, generator=generator) / 2
    image, landmarks = _bank_pictures()
    device = next(encoder.parameters()).device
    with torch.no_grad():
        return read_motion(encoder, image.to(device), landmarks.to(device)).clone()


@lru_cache(maxsize=1)
def _bank_pictures() -> tuple[Tensor, Tensor]:
    identity, light = population(BANK_SEED, BANK)
    view = take_pictures(
        HeadRenderer(), identity, expressions(BANK_SEED, BANK, 1), light, filming_cameras(BANK_SEED, BANK), BANK_PX
    )
    return view.image, view.landmarks
