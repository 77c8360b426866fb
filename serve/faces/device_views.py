"""Squares on faces on the device, and the crops in them: `views` and `network_faces` for B faces, without waiting.

A square is four numbers, float64 [B, 4]: x and y of its middle, its side, its roll, as of `views.View`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from triportrait.core.faces.regions import Regions, crop
from triportrait.serve.faces.network_faces import OFF_SHARE
from triportrait.serve.faces.views import BROW_SHARE, KEPT_RADIANS, KEPT_SHARE, MARGIN

# Blocks along a side of what holds a turned square: it is less than twice the crop and a block wide.
BLOCKS_SHARE = 2 * 2 * math.sqrt(0.5)


def views_around(points: Tensor) -> Tensor:
    """Choose the squares [B, 4] in which the mesh sees faces with these landmarks [B, 68, 2 or 3] best."""
    flat = points[..., :2].double()
    along = flat[:, 42:48].mean(1) - flat[:, 36:42].mean(1)
    roll = torch.atan2(along[:, 1], along[:, 0])
    right = torch.stack([roll.cos(), roll.sin()], 1)
    down = torch.stack([-right[:, 1], right[:, 0]], 1)
    across, high = ((flat @ axis[..., None])[..., 0] for axis in (right, down))  # [B, 68]
    brows, chin = high[:, 17:27].amin(1), high[:, :17].amax(1)
    top = brows - BROW_SHARE * (chin - brows)
    low, far = across.amin(1), across.amax(1)
    side = MARGIN * torch.maximum(far - low, chin - top)
    middle = ((low + far) / 2)[:, None] * right + ((top + chin) / 2)[:, None] * down
    return torch.cat([middle, side[:, None], roll[:, None]], 1)


def kept(last: Tensor, wanted: Tensor) -> Tensor:
    """Keep last squares while the wanted ones [B, 4] are close to them; a last one of NaN is none."""
    off = wanted - last
    share = torch.maximum(off[:, :2].norm(dim=1), off[:, 2].abs()) / last[:, 2]
    turn = off[:, 3] - 2 * math.pi * (off[:, 3] / (2 * math.pi)).round()
    stays = (share <= KEPT_SHARE) & (turn.abs() <= KEPT_RADIANS)
    return torch.where(stays[:, None], last, wanted)


def cut_out(canvas: Tensor, sizes: Tensor, views: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut squares out, upright; what is reduced is reduced by means of whole blocks first.

    Args:
        canvas: uint8 [B, H, W, 3], pictures from its first pixel on.
        sizes: int64 [B, 2], rows and columns of the pictures.
        views: [B, 4], sides of 2 pixels or more.

    Returns:
        Levels [B, 3, *size].
    """
    x, y, side, roll = views.unbind(1)
    block = (side / size[0]).floor().clamp(min=1)
    reach = (side * math.sqrt(0.5)).ceil() + block + 1
    starts, counts, places = [], [], []
    for at, count in ((y, sizes[:, 0]), (x, sizes[:, 1])):
        first = torch.minimum((at.floor() - reach).clamp(min=0), count - 1.0)
        end = torch.maximum(torch.minimum(at.ceil() + reach, count.double()).clamp(min=1), first + 1)
        starts.append((first, end))
        counts.append(((end - first) / block).ceil())
        places.append((at - first + 0.5) / block - 0.5)
    reduced = _block_means(canvas, starts, block, math.ceil(BLOCKS_SHARE * size[0]) + 8)
    off, c, s = side / block / size[0] * OFF_SHARE, roll.cos(), roll.sin()
    middle = torch.stack([places[1] + off * (c - s), places[0] + off * (s + c)], 1)
    regions = Regions(middle.float(), (side / block).float(), roll.float())
    return crop(reduced, regions, size, sizes=torch.stack(counts, 1))


def _block_means(canvas: Tensor, ends: list[tuple[Tensor, Tensor]], block: Tensor, count: int) -> Tensor:
    """Take the means of square blocks: uint8 [B, 3, count, count]; those beyond the ends are anything.

    Args:
        ends: first and last pixels [B] along rows and along columns.
        block: [B], sides.
    """
    # sums over all pixels above and to the left of each corner of pixels; they wrap, their differences do not
    sums = F.pad(canvas.permute(0, 3, 1, 2), (1, 0, 1, 0)).cumsum(3, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    steps = torch.arange(count + 1, device=canvas.device)
    rows, columns = (
        torch.minimum(first[:, None] + steps * block[:, None], end[:, None]).long() for first, end in ends
    )  # [B, count + 1]
    sums = sums.gather(2, rows[:, None, :, None].expand(-1, 3, -1, sums.shape[3]))
    sums = sums.gather(3, columns[:, None, None].expand(-1, 3, count + 1, -1))
    total = sums.diff(dim=2).diff(dim=3)
    area = ((rows[:, 1:] - rows[:, :-1])[:, :, None] * (columns[:, 1:] - columns[:, :-1])[:, None]).clamp(min=1)
    area = area[:, None].int()
    return torch.div(total + area // 2, area, rounding_mode="floor").to(torch.uint8)
