"""Reads off landmarks how heads are turned, on the device: `head_pose` for B faces, without waiting.

Rotations are unit quaternions [B, 4], w x y z, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

SQUARINGS = 10  # the largest eigenvalue then outweighs the others by their ratio to the power of 1024


def quaternion_between(reference: Tensor, seen: Tensor) -> Tensor:
    """Find the rotations of similarities that bring points nearest to others (Horn 1987).

    The quaternion is the eigenvector of a symmetric matrix [4, 4] for its largest eigenvalue, the only one that powers
    of the matrix leave.

    Args:
        reference: [N, 3]. seen: [B, N, 3], not in one plane.

    Returns:
        [B, 4] with w ≥ 0.
    """
    p, q = reference - reference.mean(0), seen - seen.mean(1, keepdim=True)
    m = (q.mT @ p).flatten(1)  # [B, 9]: row of the seen axis, column of the reference's
    a, b, c, d, e, f, g, h, i = m.unbind(1)
    rows = [
        a + e + i, h - f, c - g, d - b,
        h - f, a - e - i, b + d, c + g,
        c - g, b + d, e - a - i, f + h,
        d - b, c + g, f + h, i - a - e,
    ]  # fmt: skip
    k = torch.stack(rows, 1).unflatten(1, (4, 4))
    size = k.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-300)
    power = (k / size + torch.eye(4, device=k.device, dtype=k.dtype)) / 2  # eigenvalues from 0 to 1
    for _ in range(SQUARINGS):
        power = power @ power
    # now it is a multiple of q qᵀ: the column with the largest number on the diagonal is the surest
    column = power.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None].expand(-1, 4, 1)
    found = power.gather(2, column)[:, :, 0]
    found = found / found.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return torch.where(found[:, :1] < 0, -found, found)


def quaternion_of(vectors: Tensor) -> Tensor:
    """Turn rotation vectors [B, 3], radians, into quaternions [B, 4]."""
    half = vectors.norm(dim=1, keepdim=True) / 2
    return torch.cat([half.cos(), vectors / 2 * torch.sinc(half / torch.pi)], 1)


def vector_of(quaternion: Tensor) -> Tensor:
    """Turn quaternions [B, 4] into rotation vectors [B, 3], radians, shorter than π."""
    quaternion = torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)
    axis = quaternion[:, 1:]
    length = axis.norm(dim=1, keepdim=True)
    return axis / length.clamp(min=1e-12) * 2 * torch.atan2(length, quaternion[:, :1])


def product(first: Tensor, second: Tensor) -> Tensor:
    """Multiply quaternions [B, 4]: the rotation `second`, then `first`."""
    w, v = first[:, :1], first[:, 1:]
    x, u = second[:, :1], second[:, 1:]
    real = w * x - (v * u).sum(1, keepdim=True)
    return torch.cat([real, w * u + x * v + torch.linalg.cross(v, u.expand_as(v))], 1)
