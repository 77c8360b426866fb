"""The march of a CPU in inference mode, in plain PyTorch: it skips work that the definition may not.

The MLP's first layer is multiplied into the planes, so that looking up and summing twelve rows of a table gives its
units; only samples that show in the pixel are coloured; features stay where they were made while weights are sorted.
Letters: R rays, P points, S coarse and N fine samples, H W plane, K hidden units, E feature channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.composite import interval_weights
from triportrait.kernels.field import FEATURE_MARGIN, FieldWeights
from triportrait.kernels.importance import importance_depths_reference
from triportrait.kernels.march.launch import Rays, Warp

SKIPPED = 1e-4  # at most this share of a ray: samples that weigh less than their part of it are not coloured
CHUNK = 1 << 22  # hidden units of a piece of the image, 16 MB


def march_cpu(
    planes: Tensor, rays: Rays, depths: Tensor, num_fine: int, half_side: Tensor, weights: FieldWeights,
    warp: Warp | None, uniforms: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Render rays like `march_rays`, in float32.

    Each feature is off by at most SKIPPED, and rounding. There has to be at least one image, one ray and one fine
    sample.
    """
    if uniforms is None:
        uniforms = torch.linspace(0, 1, num_fine).expand(*rays.directions.shape[:2], -1)
    else:
        uniforms = uniforms.sort(-1).values
    images = []
    for b in range(len(planes)):
        field = _Field(planes[b].float(), float(half_side[b]), weights, None if warp is None else _Offsets(warp, b))
        chunk = max(1, CHUNK // ((depths.shape[1] + num_fine) * len(weights.hidden_bias)))
        pieces = [
            _march(field, rays.origins[b], directions, depths[b], u)
            for directions, u in zip(rays.directions[b].split(chunk), uniforms[b].split(chunk), strict=True)
        ]
        images.append([torch.cat(piece) for piece in zip(*pieces, strict=True)])
    feature, depth, opacity = (torch.stack(image) for image in zip(*images, strict=True))
    return feature, depth, opacity


def _march(
    field: _Field, origin: Tensor, directions: Tensor, coarse: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """March the rays of one image: directions [R, 3], coarse depths [S], uniforms [R, N], ascending."""
    R, S, N = len(directions), len(coarse), uniforms.shape[1]
    origin, towards = origin[:, None, None], directions.T[..., None].contiguous()
    coarse_hidden = field.hidden((origin + towards * coarse).flatten(1))
    coarse_raw = field.raw_density(coarse_hidden).view(R, S)
    coarse_weights = interval_weights(coarse_raw[None], coarse.expand(1, R, S))
    fine = importance_depths_reference(coarse.expand(1, R, S), coarse_weights, uniforms[None])[0]
    fine = fine.cummax(1).values  # rounding may swap neighbours
    fine_hidden = field.hidden((origin + towards * fine).flatten(1))
    fine_raw = field.raw_density(fine_hidden).view(R, N)
    # where each sample stands among all of its ray; where depths coincide, the coarse one comes first
    coarse_place = torch.searchsorted(fine, coarse.expand(R, S).contiguous()) + torch.arange(S)
    fine_place = torch.searchsorted(coarse, fine, right=True) + torch.arange(N)
    depths, raw = (
        fine.new_empty(R, S + N).scatter_(1, coarse_place, a).scatter_(1, fine_place, b)
        for a, b in ((coarse.expand(R, S), fine), (coarse_raw, fine_raw))
    )
    weights = interval_weights(raw[None], depths[None])[0]  # [R, S+N-1]
    sample_weights = (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2  # [R, S+N]
    opacity = weights.sum(1)
    missed = opacity == 0
    depth = ((sample_weights * depths).sum(1) / opacity.masked_fill(missed, 1)).masked_fill(missed, torch.inf)
    colour = fine.new_zeros(R, field.channels)
    threshold = SKIPPED / (S + N)
    for hidden, place in ((coarse_hidden, coarse_place), (fine_hidden, fine_place)):
        weight = sample_weights.gather(1, place).flatten()
        visible = (weight > threshold).nonzero()[:, 0]
        colour.index_add_(0, visible // place.shape[1], field.colour(hidden[visible]) * weight[visible, None])
    return colour * (1 + 2 * FEATURE_MARGIN) - FEATURE_MARGIN * opacity[:, None], depth, opacity


class _Field:
    """The field of one image, ready for many points [3, P] in units of depths."""

    def __init__(self, planes: Tensor, half_side: float, weights: FieldWeights, offsets: _Offsets | None) -> None:
        _, self.height, self.width, C = planes.shape
        self.half_side, self.weights, self.offsets = half_side, weights, offsets
        rows = (planes.reshape(-1, C) @ (weights.hidden_weight.T / 3)).view(3, self.height, self.width, -1)
        self.table = F.pad(rows, (0, 0, 1, 2, 1, 2)).flatten(0, 2)  # a ring of zeros, and one that is never weighed
        self.channels = len(weights.feature_bias)

    def hidden(self, points: Tensor) -> Tensor:
        """Compute the activated hidden units [P, K] of points [3, P]."""
        if self.offsets is not None:
            points = self.offsets.moved(points)
        u, u_share = _cells(points, self.width, self.width / (2 * self.half_side))
        v, v_share = (u, u_share) if self.width == self.height else _cells(
            points, self.height, self.height / (2 * self.half_side)
        )  # fmt: skip
        rows = torch.empty(points.shape[1], 12, dtype=torch.int32)
        shares = points.new_empty(points.shape[1], 12)
        stride = self.width + 3
        for plane in range(3):
            first, second, at = u[plane], v[(plane + 1) % 3], 4 * plane
            corner = torch.add(first, second, alpha=stride).add_(plane * stride * (self.height + 3))
            square = rows[:, at : at + 4], shares[:, at : at + 4]
            _square(*square, corner, (u_share[plane], v_share[(plane + 1) % 3]), (1, stride))
        hidden = F.embedding_bag(rows, self.table, per_sample_weights=shares, mode="sum")
        hidden.add_(self.weights.hidden_bias)
        return torch.ops.aten.softplus.out(hidden, out=hidden)

    def raw_density(self, hidden: Tensor) -> Tensor:
        """Compute raw densities [P] from hidden units [P, K]."""
        return torch.addmv(self.weights.density_bias.expand(len(hidden)), hidden, self.weights.density_weight[0])

    def colour(self, hidden: Tensor) -> Tensor:
        """Compute colours [P, E] in [0, 1] from hidden units [P, K]."""
        return torch.addmm(self.weights.feature_bias, hidden, self.weights.feature_weight.T).sigmoid_()


class _Offsets:
    """The warp of one image: both of its grids in one table, each row beside its upper neighbour along z."""

    def __init__(self, warp: Warp, image: int) -> None:
        self.warp = warp
        self.sides = warp.fine.shape[1], warp.coarse.shape[1]
        ring = (0, 0, *(1, 2) * 3)
        fine, coarse = (F.pad(grid[image].float(), ring).flatten(0, 2) for grid in (warp.fine, warp.coarse))
        rows = torch.cat([F.pad(fine, (0, 3)), F.pad(coarse, (4, 0))])  # [L, 7]: a column is of one grid
        self.table = torch.cat([rows, rows.roll(-1, 0)], 1)

    def moved(self, points: Tensor) -> Tensor:
        """Move points [3, P]."""
        rows = torch.empty(points.shape[1], 8, dtype=torch.int32)
        shares = points.new_empty(points.shape[1], 8)
        first, heights = 0, []
        for at, side in zip((0, 4), self.sides, strict=True):
            stride = side + 3
            (i, j, k), (x, y, z) = _cells(points, side, side / self.warp.side)
            corner = torch.add(k, torch.add(j, i, alpha=stride), alpha=stride).add_(first)
            _square(rows[:, at : at + 4], shares[:, at : at + 4], corner, (y, x), (stride, stride**2))
            first += stride**3
            heights.append(z)
        both = F.embedding_bag(rows, self.table, per_sample_weights=shares, mode="sum").T.contiguous()  # [14, P]
        near, far = torch.lerp(both[:4], both[7:11], heights[0]), torch.lerp(both[4:7], both[11:], heights[1])
        share = (near[3] - self.warp.near).clamp_(min=0).mul_(-self.warp.rate).exp_()
        return points + torch.lerp(far, near[:3], share)


def _square(
    rows: Tensor, shares: Tensor, corner: Tensor, shares_of_upper: tuple[Tensor, Tensor], strides: tuple[int, int]
) -> None:
    """Fill in the four rows [P, 4] around each point in two directions, and how much each of them counts."""
    (a, b), (step, stride) = shares_of_upper, strides
    both = a * b
    late = b - both
    for i, (offset, share) in enumerate(((0, 1 - a - late), (step, a - both), (stride, late), (stride + step, both))):
        torch.add(corner, offset, out=rows[:, i])
        shares[:, i] = share


def _cells(points: Tensor, size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the lower neighbour, int32, of points around 0 among `size` ringed centres, and the upper one's share.

    Beyond the ring there are only zeros; a point that is not finite gets some row.
    """
    at = (points * scale).add_((size + 1) / 2).clamp_(0, size + 1)
    low = at.to(torch.int32).clamp_(0, size + 1)
    return low, at.sub_(low)
