"""Rays to pixels through three feature planes in one fused pass: even samples, importance samples, compositing (Eq. 1).

The definition is the composition of the small operators: `decode_field` at even depths, `interval_weights`,
`importance_depths`, `decode_field` again, `merge_samples`, `composite`; two grids of offsets may move the points first.
Letters: B batch, R rays, S coarse and N fine samples, H W plane, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from triportrait.kernels.checks import check_choice, shapes, wide_dtype
from triportrait.kernels.composite import composite, interval_weights
from triportrait.kernels.dispatch import backend, runs_triton
from triportrait.kernels.field import FieldWeights, Precision, check_weights, decode_field
from triportrait.kernels.grid import lookup_grid
from triportrait.kernels.importance import importance_depths, merge_samples
from triportrait.kernels.language import device_of
from triportrait.kernels.march.cpu import march_cpu
from triportrait.kernels.march.launch import (
    Arguments,
    MlpPrecision,
    Rays,
    Warp,
    inside_ring,
    march,
    march_backward,
    pack,
    propose,
    ringed,
)

MAX_WIDTH = 128  # the largest C, K, E of the fused pass
MAX_SAMPLES = 255  # the largest S, N
RAY_CHUNK = 4096  # rays of the whole batch at a time where nothing is fused; bounds the memory, changes no ray

__all__ = [
    "MlpPrecision", "Rays", "Warp", "inside_ring", "march_rays", "march_rays_reference", "ringed", "warped",
]  # fmt: skip


def march_rays(
    planes: Tensor,
    rays: Rays,
    depths: Tensor,
    num_fine: int,
    half_side: Tensor,
    weights: FieldWeights,
    warp: Warp | None = None,
    uniforms: Tensor | None = None,
    precision: MlpPrecision = "exact",
    deterministic: bool | None = None,
    ringed_planes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render rays through the planes.

    Args:
        planes: [B, 3, H, W, C] float32, float16 or bfloat16, as in `sample_triplane`.
        rays: where to look.
        depths: [B, S] float32, the coarse depths, ascending, shared by an image's rays; S at least 4.
        num_fine: N samples more where the coarse ones found something.
        half_side: [B] half the side of the box, in the units of depths: the planes cover it.
        weights: the MLP.
        warp: moves points first.
        uniforms: [B, R, N] in [0, 1] for the fine samples; None means evenly spread, the same for every ray.
        precision: how the kernel multiplies in the MLP: exact float32, TF32, float16 or bfloat16 on tensor cores.
        deterministic: make the gradients of the planes equal from run to run to the last bit, at the price of integer
            sums; None asks `torch.are_deterministic_algorithms_enabled()`. Those of the weights always are.
        ringed_planes: [B, 3, H + 4, W + 4, C], what `ringed` gives for these planes, kept for many marches: the fused
            pass reads it, and copies nothing. None makes it for this march.

    Returns:
        feature [B, R, E] float32, without background; depth [B, R] float32, the expected depth, +inf where a ray
        met nothing at all; opacity [B, R] float32.

    Raises:
        ValueError: a shape disagrees, tensors lie on several devices, one that has no gradient here asks for one, or a
            deterministic march is asked for where the fused pass cannot run; a dtype that is not wide; an unknown name.

    Differentiable in planes and weights. Saves the inputs and the sorted depths; the backward pass computes
    everything else again. Without gradients it holds, beyond inputs and outputs, the planes with their ring and the
    depths: 19 MB of a frame's half planes, 32 MB of float32 ones, and 9 MB more where uniforms are given.
    """
    n = shapes(
        planes=(planes, "B 3 H W C"), origins=(rays.origins, "B 3"), directions=(rays.directions, "B R 3"),
        depths=(depths, "B S"), half_side=(half_side, "B"),
    )  # fmt: skip
    check_weights(planes, weights)
    check_choice("precision", precision, MlpPrecision)
    if num_fine < 0:
        raise ValueError(f"num_fine: expected at least 0 samples more, got {num_fine}")
    if rays.width < 1:
        raise ValueError(f"rays: expected rows of at least 1, got width {rays.width}")
    if n["S"] < 4:
        raise ValueError(f"depths: expected [B, S] with S >= 4, got {list(depths.shape)}")
    if warp is not None:
        shapes(planes=(planes, "B 3 H W C"), fine=(warp.fine, "B G G G 4"), coarse=(warp.coarse, "B g g g 3"))
    if ringed_planes is not None:
        _check_ringed(planes, ringed_planes)
    if uniforms is not None and uniforms.shape != (*rays.directions.shape[:2], num_fine):
        expected = [*rays.directions.shape[:2], num_fine]
        raise ValueError(f"uniforms: expected [B, R, N] = {expected}, got {list(uniforms.shape)}")
    grids = {} if warp is None else {"fine": warp.fine, "coarse": warp.coarse}
    fixed = {"origins": rays.origins, "directions": rays.directions, "depths": depths, "half_side": half_side} | grids
    for name, tensor in (fixed | ({} if uniforms is None else {"uniforms": uniforms})).items():
        if tensor.dtype != wide_dtype(planes):
            raise ValueError(
                f"{name}: expected {wide_dtype(planes)} beside {planes.dtype} planes, got {tensor.dtype}; convert it"
            )
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise ValueError(f"{name}: expected a tensor without a gradient, as none is given; detach it")
    tensors = {"planes": planes, "ringed_planes": ringed_planes, "uniforms": uniforms, **fixed, **weights._asdict()}
    widths = (*weights.hidden_weight.shape, weights.feature_weight.shape[0])
    fused = runs_triton(**tensors) and fuses(widths, n["S"], num_fine)
    if not fused:
        if deterministic:
            raise ValueError(
                "deterministic: expected the fused kernels (a GPU, Triton, and C, K, E powers of two from 16 to "
                f"{MAX_WIDTH}), got other sizes or another backend; the small operators add in no order"
            )
        return _march_in_chunks(planes, rays, depths, num_fine, half_side, weights, warp, uniforms, precision)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    with device_of(planes):
        with torch.no_grad():
            arguments = pack(planes, rays, half_side, weights, warp, precision, ringed_planes)
            samples = propose(arguments, depths, num_fine, uniforms)
        warp_numbers = None if warp is None else (warp.side, warp.near, warp.rate)
        options = _Options(rays.width, precision, deterministic, warp_numbers)
        return _March.apply(arguments, options, samples, planes, *weights, *_fixed(rays, half_side, warp))  # type: ignore[no-any-return]


def _check_ringed(planes: Tensor, ringed_planes: Tensor) -> None:
    """Raises: `ValueError` where the planes within a ring cannot be those of `ringed`."""
    expected = inside_ring(ringed_planes).shape == planes.shape
    if not (expected and ringed_planes.dtype == planes.dtype and ringed_planes.is_contiguous()):
        raise ValueError(
            f"ringed_planes: expected what `ringed` gives for planes {list(planes.shape)} of {planes.dtype}, got "
            f"{list(ringed_planes.shape)} of {ringed_planes.dtype}; make them anew"
        )


def _march_in_chunks(
    planes: Tensor, rays: Rays, depths: Tensor, num_fine: int, half_side: Tensor, weights: FieldWeights,
    warp: Warp | None, uniforms: Tensor | None, precision: MlpPrecision,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """March without the fused kernels, a chunk of the rays at a time."""
    B, R = rays.directions.shape[:2]
    size = max(1, RAY_CHUNK // max(1, B))
    # the small operators know two kinds of products: half precision is multiplied in TF32 there
    small: Precision = "exact" if precision == "exact" else "tf32"
    on_cpu = _takes_cpu_march(planes, rays, num_fine, weights)
    chunks = []
    for start in range(0, max(1, R), size):
        piece = slice(start, start + size)
        chunk_rays = Rays(rays.origins, rays.directions[:, piece], min(rays.width, size))
        u = None if uniforms is None else uniforms[:, piece]
        arguments = planes, chunk_rays, depths, num_fine, half_side, weights, warp, u
        chunks.append(march_cpu(*arguments) if on_cpu else march_rays_reference(*arguments, small))
    feature, depth, opacity = (torch.cat(parts, 1) for parts in zip(*chunks, strict=True))
    return feature, depth, opacity


def _takes_cpu_march(planes: Tensor, rays: Rays, num_fine: int, weights: FieldWeights) -> bool:
    """Tell whether `march_cpu` runs: single precision on a CPU in inference mode, and no backend chosen by name.

    Which samples it skips depends on last digits, and a frozen network that others learn from must not: under `no_grad`
    the definition runs. A compiler gets the definition, too, and fuses it as it likes.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    single = planes.device.type == "cpu" and all(x.dtype == torch.float32 for x in (rays.directions, *weights))
    return backend() == "auto" and single and min(*rays.directions.shape[:2], num_fine) > 0


def march_rays_reference(
    planes: Tensor, rays: Rays, depths: Tensor, num_fine: int, half_side: Tensor, weights: FieldWeights,
    warp: Warp | None = None, uniforms: Tensor | None = None, precision: Precision = "exact",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the definition: the small operators, one after the other."""
    origins, directions, _ = rays
    (B, R), N = directions.shape[:2], num_fine

    def field_at(t: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, L] -> raw density [B, R, L], feature [B, R, L, E]
        points = (origins[:, None, None] + t[..., None] * directions[:, :, None]).flatten(1, 2)
        points = warped(points, warp) * (1 / half_side)[:, None, None]
        raw_density, feature = decode_field(planes, points, weights, precision)
        return raw_density.view(t.shape), feature.unflatten(1, t.shape[1:])

    coarse = depths[:, None].expand(-1, R, -1)  # [B, R, S]
    coarse_density, coarse_feature = field_at(coarse)
    if uniforms is None:
        uniforms = torch.linspace(0, 1, N, dtype=depths.dtype, device=depths.device).expand(B, R, -1)
    coarse_weights = interval_weights(coarse_density.detach(), coarse)
    fine = importance_depths(coarse.contiguous(), coarse_weights, uniforms)
    fine_density, fine_feature = field_at(fine)
    t, raw_density, feature = merge_samples(
        (coarse, fine), (coarse_density, fine_density), (coarse_feature, fine_feature)
    )
    pixel, depth, opacity = composite(raw_density, feature, t)
    return pixel.to(opacity.dtype), depth, opacity


def warped(points: Tensor, warp: Warp | None) -> Tensor:
    """Move points [B, P, 3] by a warp; None leaves them where they are."""
    if warp is None:
        return points
    near, far = (lookup_grid(grid, points / _outermost(grid, warp.side)) for grid in (warp.fine, warp.coarse))
    share = torch.exp(-warp.rate * (near[..., 3:] - warp.near).clamp(min=0))
    return points + share * near[..., :3] + (1 - share) * far


def _outermost(grid: Tensor, side: float) -> float:
    """Return the coordinate of the centres of the outermost cells."""
    return side / 2 * (1 - 1 / grid.shape[1])


def fuses(widths: Sequence[int], num_coarse: int, num_fine: int) -> bool:
    """Tell whether the fused pass takes these sizes: tensor-core tiles, and searches of at most eight steps.

    Args:
        widths: K, C and E.
        num_coarse, num_fine: S and N.
    """
    tiles = all(16 <= width <= MAX_WIDTH and width & (width - 1) == 0 for width in widths)
    return tiles and num_coarse <= MAX_SAMPLES and 1 <= num_fine <= MAX_SAMPLES


class _Options(NamedTuple):
    """What the backward pass needs beside tensors; the numbers of the warp are side, near and rate."""

    width: int
    precision: MlpPrecision
    deterministic: bool
    warp: tuple[float, float, float] | None


def _fixed(rays: Rays, half_side: Tensor, warp: Warp | None) -> tuple[Tensor, ...]:
    """List the tensors that have no gradient."""
    return rays.origins, rays.directions, half_side, *(() if warp is None else (warp.fine, warp.coarse))


class _March(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, arguments: Arguments, options: _Options, samples: Tensor, planes: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        feature, depth, opacity = march(arguments, samples)
        ctx.options = options
        ctx.save_for_backward(samples, depth, opacity, planes, *others)
        return feature, depth, opacity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        samples, depth, opacity, planes, *others = ctx.saved_tensors
        count, options = len(FieldWeights._fields), ctx.options
        weights, (origins, directions, half_side, *grids) = FieldWeights(*others[:count]), others[count:]
        warp = None if options.warp is None else Warp(*grids, *options.warp)
        rays = Rays(origins, directions, options.width)
        arguments = pack(planes, rays, half_side, weights, warp, options.precision)
        # gradients of a mean over a picture would underflow in float16
        scale = _power_of_two(d_out) if options.precision == "fp16" else None
        scaled = [(d if scale is None else d * scale.view(-1, *(1,) * (d.dim() - 1))).contiguous() for d in d_out]
        gradients = march_backward(
            arguments, samples, (depth, opacity), (scaled[0], scaled[1], scaled[2]), options.deterministic,
            with_planes=ctx.needs_input_grad[3], scale=scale,
        )  # fmt: skip
        g = gradients
        d_weights = [
            d.to(w.dtype) for d, w in zip((g.w_h.T / 3, g.b_h, g.w_d, g.b_d, g.w_f.T, g.b_f), weights, strict=True)
        ]
        d_planes = None if g.planes is None else g.planes.to(planes.dtype)
        return None, None, None, d_planes, *d_weights, *(None for _ in others[count:])


def _power_of_two(gradients: Sequence[Tensor]) -> Tensor:
    """Return the factors [B] that bring each image's largest gradient to between 32 and 64, where float16 is safe."""
    if not gradients[0].numel():
        return torch.ones(len(gradients[0]), device=gradients[0].device)
    largest = torch.stack([d.abs().flatten(1).amax(1) for d in gradients]).amax(0)
    exponent = torch.where((largest > 0) & largest.isfinite(), 6 - torch.frexp(largest).exponent, 0)
    return ((exponent.clamp(-100, 100).to(torch.int32) + 127) << 23).view(torch.float32)  # made of bits: pow may round
