"""The 437 numbers of a frame in the published files: camera, shape, expression, neck, jaw and eyes.

The camera holds the head's full pose (the head stands still, its neck is straight); the neck's vector is the same
rotation once more, for those who keep the camera still and turn the head.
Letters: N clips, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from triportrait.core.motion.flame import rotation_vectors
from triportrait.core.tracking.fit import Fitted
from triportrait.core.types import PUBLISHED_FOCAL

WIDTHS = {"camera": 25, "shape": 300, "expression": 100, "neck": 3, "jaw": 3, "eyes": 6}
RECORD_WIDTH = sum(WIDTHS.values())


def records_of(fitted: Fitted) -> Tensor:
    """Write the parameters of N clips as published records, float32 [N, T, 437]; betas are padded with zeros."""
    N, T = fitted.expression.shape[:2]
    inverse = fitted.rotation.transpose(-1, -2)
    pose = torch.eye(4, dtype=inverse.dtype, device=inverse.device).repeat(N, T, 1, 1)
    pose[..., :3, :3] = inverse
    pose[..., :3, 3] = -(inverse @ fitted.translation[..., None])[..., 0]
    lens = pose.new_tensor([PUBLISHED_FOCAL, 0, 0.5, 0, PUBLISHED_FOCAL, 0.5, 0, 0, 1]).expand(N, T, 9)
    parts: Mapping[str, Tensor] = {
        "camera": torch.cat([pose.flatten(2), lens], -1),
        "shape": _padded(fitted.shape[:, None].expand(-1, T, -1), WIDTHS["shape"]),
        "expression": _padded(fitted.expression, WIDTHS["expression"]),
        "neck": rotation_vectors(fitted.rotation),
        "jaw": fitted.angles[..., :3],
        "eyes": fitted.angles[..., 3:],
    }
    return torch.cat([parts[name] for name in WIDTHS], -1).float()


def columns_of(records: Tensor) -> dict[str, Tensor]:
    """Split records [..., 437] into their parts by name."""
    return dict(zip(WIDTHS, records.split(list(WIDTHS.values()), -1), strict=True))


def _padded(betas: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(betas, (0, width - betas.shape[-1]))
