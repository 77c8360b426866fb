"""Show how GenHead's training goes: real pictures, heads drawn by their parameters, masks, depth, a view from aside."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.render.cameras import camera_label, fixed_camera, turned
from triportrait.core.types import Camera
from triportrait.train.data.training_pictures import TrainingPictures
from triportrait.train.data.upload import upload
from triportrait.train.runs.draw_grids import shown_depth, write_grid
from triportrait.train.stages.genhead import DrawnHeads, GenHeadModels, render_heads, seen_from

SHOWN = 4  # rows
SMALLEST_PX = 96  # of a picture in the grid, so that labels have room
SIDE_DEG = 30.0  # yaw of the camera that shows them from aside
_EYES, _MOUTH, _TINT = (1.0, -0.4, -0.6), (-0.6, 0.6, 1.0), 0.6  # colours in [-1, 1], and how strong they are


def genhead_sample(
    pictures: TrainingPictures, models: GenHeadModels, seed: int, device: torch.device
) -> Callable[[Path | None], dict[str, float]]:
    """Return the sampler: the same people and the same noise at every time.

    Its numbers say how much of the eyes, of the mouths and of the picture the drawn heads cover.
    """
    entries = np.linspace(0, len(pictures) - 1, SHOWN).round().astype(np.int64)
    real = pictures.real(entries)
    noise = torch.Generator().manual_seed(seed)
    latent = torch.randn(SHOWN, models.generator.config.latent_width, generator=noise)

    def sample(path: Path | None) -> dict[str, float]:
        generator, head = models.generator, upload(real.head, device)
        own_latent = latent.to(device)
        condition = torch.cat([camera_label(head.camera), head.shape], 1)
        painted = generator.paint(generator.styles(own_latent, condition), generator.background_styles(own_latent))
        drawn = render_heads(models, painted, head)
        if path is not None:
            camera = turned(fixed_camera(), math.radians(SIDE_DEG), 0.0)
            aside = render_heads(models, painted, seen_from(head, Camera.cat([camera] * SHOWN).to(device)))
            side = drawn.rendering.image.shape[-1]
            columns = {
                "real": real.image,
                "drawn": drawn.rendering.image,
                "masks": _with_masks(drawn),
                "depth": shown_depth(drawn.rendering.depth, drawn.rendering.opacity, side),
                "aside": aside.rendering.image,
                "its depth": shown_depth(aside.rendering.depth, aside.rendering.opacity, side),
            }
            shown = {name: value.float().cpu() for name, value in columns.items()}
            write_grid(path, shown, scale=-(-SMALLEST_PX // side))
        opacity = drawn.rendering.opacity
        return {
            "opacity": opacity.mean().item(),
            "opacity eyes": _mean_in(opacity, drawn.masks.eye),
            "opacity mouth": _mean_in(opacity, drawn.masks.mouth),
        }

    return sample


def _with_masks(drawn: DrawnHeads) -> Tensor:
    """Return the pictures, eyes and mouths tinted."""
    picture = drawn.rendering.image
    for mask, colour in ((drawn.masks.eye_picture, _EYES), (drawn.masks.mouth_picture, _MOUTH)):
        share = _TINT * F.interpolate(mask, size=picture.shape[-2:], mode="bilinear", align_corners=False)
        picture = torch.lerp(picture, picture.new_tensor(colour)[:, None, None].expand_as(picture), share)
    return picture


def _mean_in(value: Tensor, mask: Tensor) -> float:
    return float((value * mask).sum() / mask.sum().clamp(min=1e-6))
