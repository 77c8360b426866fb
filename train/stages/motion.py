"""Train a motion encoder, between the stages, to read the numbers of an expression off pictures and pseudo views.

It takes the place of the published PD-FGC, which knows nothing of procedural heads. Its truth is known, so it is
learned by regression, by mean squares: most numbers of most faces are 0, and absolute errors would leave it there.
Letters: B pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.motion_crop import motion_crop
from triportrait.core.motion.small_encoder import SPREAD as UNITS
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.train.config import StageConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.data.upload import upload

AnyMotionEncoder = MotionEncoder | SmallMotionEncoder
ALIGNED_SIZE = 512
SPREAD = torch.tensor(UNITS)  # of `sample_expression`, rounded
BRIGHTNESS, CONTRAST, TINT, LANDMARK_PX = 0.15, 0.15, 0.05, 1.0


@dataclass(frozen=True)
class MotionBatch:
    """B face crops and the true motion.

    Attributes:
        crop: [B, 3, c, c] in about [-1, 1]. motion: [B, 9].
    """

    crop: Tensor
    motion: Tensor


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
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    count = len(pictures.image)
    shift = LANDMARK_PX * torch.randn(count, 68, 2, generator=generator)
    shift = shift + LANDMARK_PX * torch.randn(count, 1, 2, generator=generator)
    crop = crops(pictures.image, pictures.landmarks + shift, crop_size)
    draws = torch.rand(count, 5, 1, 1, generator=generator) * 2 - 1
    crop = crop * (1 + CONTRAST * draws[:, :1]) + BRIGHTNESS * draws[:, 1:2] + TINT * draws[:, 2:]
    return MotionBatch(crop, pictures.motion)


def crops(image: Tensor, landmarks: Tensor, crop_size: int) -> Tensor:
    """Crop faces [B, 3, c, c] from pictures [B, 3, S, S] with landmarks [B, 68, 2] in pixels of the picture."""
    return motion_crop(image, landmarks * (ALIGNED_SIZE / image.shape[-1]) - 0.5, crop_size)


def read_motion(encoder: AnyMotionEncoder, image: Tensor, landmarks: Tensor) -> Tensor:
    """Read v [B, M] off pictures [B, 3, S, S] with landmarks [B, 68, 2] in pixels, always in float32."""
    with torch.autocast(image.device.type, enabled=False):
        return encoder(crops(image.float(), landmarks.float(), encoder.crop_size))


def motion_of(pictures: Pictures, encoder: AnyMotionEncoder | None) -> Tensor:
    """Return v [B, M] of real pictures: stored in the clips, else read off them; without an encoder the parameters."""
    if encoder is None:
        return pictures.motion
    return read_motion(encoder, pictures.image, pictures.landmarks) if pictures.features is None else pictures.features


def losses(batch: MotionBatch, encoder: SmallMotionEncoder) -> dict[str, Tensor]:
    """Return the mean squared error in units of each number's own spread, so that all of them count alike."""
    spread = upload(SPREAD.to(batch.motion.dtype), batch.motion.device)
    return {"motion": (encoder(batch.crop) - batch.motion / spread).square().mean()}


def correlations(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return the correlation of predicted with true motion [B, 9], number by number."""
    p, t = predicted - predicted.mean(0), true - true.mean(0)
    value = (p * t).sum(0) / (p.square().sum(0) * t.square().sum(0)).sqrt().clamp(min=1e-9)
    return dict(zip(EXPRESSION_AXES, value.tolist(), strict=True))
