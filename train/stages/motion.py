"""Train a motion encoder to read the numbers of an expression off pictures and pseudo views.

It takes the place of the published PD-FGC, which knows nothing of procedural heads. Its truth is known (a procedural
head's nine numbers, or the parameters of tracked faces), so it is learned by regression, by mean squares: most numbers
of most faces are 0, and absolute errors would leave it there.
Letters: B pictures, M numbers of the motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.motion_crop import motion_crop
from triportrait.core.motion.small_encoder import SPREAD as UNITS
from triportrait.train.config import StageConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.data.upload import upload

ALIGNED_SIZE = 512
SPREAD = torch.tensor(UNITS)  # of `sample_expression`, rounded
MOVES, _DIGITS = 1e-3, 4  # of a unit, at least, if a number moves; of what is logged
BRIGHTNESS, CONTRAST, TINT, LANDMARK_PX = 0.15, 0.15, 0.05, 1.0


@dataclass(frozen=True)
class Faces:
    """B pictures of faces, and their true motion.

    Attributes:
        image: [B, 3, S, S]. landmarks: [B, 68, 2], pixels of the picture. motion: [B, M], each number in its own unit.
        origin: the file of each.
    """

    image: Tensor
    landmarks: Tensor
    motion: Tensor
    origin: tuple[str, ...] = ()

    def take(self, count: int) -> Faces:
        """Return the first ones."""
        return Faces(self.image[:count], self.landmarks[:count], self.motion[:count], self.origin[:count])

    @staticmethod
    def cat(parts: Sequence[Faces]) -> Faces:
        """Join them, in order."""
        image, landmarks, motion = (torch.cat([getattr(p, n) for p in parts]) for n in ("image", "landmarks", "motion"))
        return Faces(image, landmarks, motion, tuple(name for p in parts for name in p.origin))


@dataclass(frozen=True)
class MotionBatch:
    """B face crops and the true motion.

    Attributes:
        crop: [B, 3, c, c] in about [-1, 1]. motion: [B, M], each number in its own unit.
        origin: the file of each of the B, so that a bad one can be found.
    """

    crop: Tensor
    motion: Tensor
    origin: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> MotionBatch:
        """Return the batch on a device."""
        return upload(self, device)


def draw(sets: list[PictureSet], config: StageConfig, crop_size: int, rng: np.random.Generator) -> MotionBatch:
    """Return a batch of crops, some a little off, brighter or darker; the generator alone decides."""
    stranger = (rng.random(config.batch) < config.strangers) & (len(sets) > 1)
    parts = []
    for number, chosen in enumerate(sets):
        count = int((stranger == bool(number)).sum())
        if count:
            pose = torch.from_numpy(rng.integers(len(chosen), size=count))
            front = rng.random(count) < config.front_sources
            view = torch.from_numpy(np.where(front, 0, rng.integers(chosen.views, size=count)))
            parts.append(chosen.take(pose, view))
    pictures = join(parts)
    return varied(Faces(pictures.image, pictures.landmarks, pictures.motion, pictures.origin), crop_size, rng)


def varied(pictures: Faces, crop_size: int, rng: np.random.Generator) -> MotionBatch:
    """Crop faces a little off, brighter or darker; the generator alone decides."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    count = len(pictures.image)
    shift = LANDMARK_PX * torch.randn(count, 68, 2, generator=generator)
    shift = shift + LANDMARK_PX * torch.randn(count, 1, 2, generator=generator)
    crop = crops(pictures.image, pictures.landmarks + shift, crop_size)
    draws = torch.rand(count, 5, 1, 1, generator=generator) * 2 - 1
    crop = crop * (1 + CONTRAST * draws[:, :1]) + BRIGHTNESS * draws[:, 1:2] + TINT * draws[:, 2:]
    return MotionBatch(crop, pictures.motion, pictures.origin)


def crops(image: Tensor, landmarks: Tensor, crop_size: int) -> Tensor:
    """Crop faces [B, 3, c, c] from pictures [B, 3, S, S] with landmarks [B, 68, 2] in pixels of the picture."""
    return motion_crop(image, landmarks * (ALIGNED_SIZE / image.shape[-1]) - 0.5, crop_size)


def read_motion(encoder: MotionEncoder, image: Tensor, landmarks: Tensor) -> Tensor:
    """Read v [B, M] off pictures [B, 3, S, S] with landmarks [B, 68, 2] in pixels, always in float32."""
    assert encoder.crop_size is not None, "parameters are read off no picture"
    with torch.autocast(image.device.type, enabled=False):
        motion: Tensor = encoder(crops(image.float(), landmarks.float(), encoder.crop_size))
        return motion


def motion_of(pictures: Pictures, encoder: MotionEncoder | None) -> Tensor:
    """Return v [B, M] of real pictures: stored in the clips, else read off them; the parameters in their units where
    those are the motion, as they are without an encoder."""
    if encoder is None:
        return pictures.motion
    if encoder.crop_size is None:
        motion: Tensor = encoder(pictures.motion)
        return motion
    return read_motion(encoder, pictures.image, pictures.landmarks) if pictures.features is None else pictures.features


def losses(batch: MotionBatch, encoder: MotionEncoder) -> dict[str, Tensor]:
    """Return the mean squared error in units of each number's own spread, so that all of them count alike."""
    units = SPREAD if encoder.columns is None else torch.tensor(encoder.columns.scale)
    spread = upload(units.to(batch.motion.dtype), batch.motion.device)
    return {"motion": (encoder(batch.crop) - batch.motion / spread).square().mean()}


def correlations(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return the correlation of predicted with true motion [B, 9], number by number."""
    return dict(zip(EXPRESSION_AXES, correlation(predicted, true).tolist(), strict=True))


def correlation(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the correlation of predicted with true motion [B, M], number by number: [M]; 0 where one is constant."""
    p, t = predicted - predicted.mean(0), true - true.mean(0)
    value: Tensor = (p * t).sum(0) / (p.square().sum(0) * t.square().sum(0)).sqrt().clamp(min=1e-9)
    return value


def agreement(said: Tensor, true: Tensor, columns: MotionColumns, prefix: str) -> dict[str, float]:
    """Return how well an encoder reads faces that it is measured on.

    Args:
        said: [B, M], in units of `columns`. true: [B, M], without units.
        prefix: how the names of the numbers begin.

    Returns:
        For each parameter the mean correlation of those of its numbers that move in these faces, and `all error`, the
        mean squared error in units (1 where the mean is said).
    """
    units = true / torch.tensor(columns.scale)
    moves, each = units.std(0) > MOVES, correlation(said, units)
    found = {
        f"{prefix}{name} correlation": round(float(each[place][moves[place]].mean()), _DIGITS)
        for name, place in columns.slices().items()
        if bool(moves[place].any())
    }
    return found | {f"{prefix}all error": round(float((said - units).square().mean()), _DIGITS)}
