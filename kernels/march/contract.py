"""Rays to pixels through three feature planes in one fused pass: even samples, importance samples, compositing (Eq. 1).

Its definition is the composition of the small operators: `decode_field` at even depths, `interval_weights`,
`importance_depths`, `decode_field` again, `merge_samples`, `composite`; two grids of offsets may move the points first.
Letters: B batch, R rays, S coarse and N fine samples, H W plane, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from triportrait.kernels.checks import known_name, shapes, wide_dtype
from triportrait.kernels.composite import composite, interval_weights
from triportrait.kernels.dispatch import backend, runs_triton
from triportrait.kernels.field import FieldWeights, Precision, check_weights, decode_field
from triportrait.kernels.grid import lookup_grid
from triportrait.kernels.importance import importance_depths, merge_samples
from triportrait.kernels.language import device_of
from triportrait.kernels.march.cpu import march_plain
from triportrait.kernels.march.launch import Job, MlpPrecision, Rays, Warp, lay_out, march, march_back, propose

WIDEST = 128  # of C, K, E in the fused pass
MOST_SAMPLES = 255  # S, N


__all__ = ["MlpPrecision", "Rays", "Warp", "march_rays", "march_rays_reference", "warped"]


def march_rays(
    planes: Tensor,
    rays: Rays,
    depths: Tensor,
    num_fine: int,
    half_side: Tensor,
    weights: FieldWeights,
    warp: Warp | None = None,
    background: Tensor | None = None,
    uniforms: Tensor | None = None,
    precision: MlpPrecision = "exact",
    deterministic: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render rays.

    Args:
        planes: [B, 3, H, W, C] float32, float16 or bfloat16, as in `sample_triplane`.
        rays: where to look.
        depths: [B, S] float32, the coarse depths, ascending, shared by an image's rays; S at least 4.
        num_fine: N samples more where the coarse ones found something.
        half_side: [B] half the side of the box, in the units of depths: the planes cover it.
        weights: the MLP.
        warp: moves points first.
        background: [B, R, E] behind what is rendered; none is black.
        uniforms: [B, R, N] in [0, 1] for the fine samples; None means evenly spread, the same for every ray.
        precision: of the MLP's products in the kernel: exact float32, TF32, float16 or bfloat16 on tensor cores.
        deterministic: gradients of the planes equal from run to run to the last bit, at the price of integer sums; None
            asks `torch.are_deterministic_algorithms_enabled()`. Those of the weights always are.

    Returns:
        feature [B, R, E] float32, the background included; depth [B, R] float32, the expected depth, +inf where a ray
        met nothing at all; opacity [B, R] float32.

    Raises:
        ValueError: a shape disagrees, tensors lie on several devices, one that has no gradient here asks for one, or a
            deterministic march is asked for where the fused pass cannot run; a dtype that is not wide; an unknown name.

    Differentiable in planes, weights and background. Saves the inputs and the sorted depths; the backward pass computes
    everything else again. Without gradients it holds, beyond inputs and outputs, the planes with their ring and the
    depths: 19 MB of a frame's half planes, 32 MB of float32 ones, and 9 MB more where uniforms are given.
    """
    n = shapes(
        planes=(planes, "B 3 H W C"), origins=(rays.origins, "B 3"), directions=(rays.directions, "B R 3"),
        depths=(depths, "B S"), half_side=(half_side, "B"),
    )  # fmt: skip
    check_weights(planes, weights)
    known_name("precision", precision, MlpPrecision)
    if num_fine < 0:
        raise ValueError(f"num_fine: expected at least 0 samples more, got {num_fine}")
    if rays.width < 1:
        raise ValueError(f"rays: expected rows of at least 1, got width {rays.width}")
    if n["S"] < 4:
        raise ValueError(f"depths: expected [B, S] with S >= 4, got {list(depths.shape)}")
    if warp is not None:
        shapes(planes=(planes, "B 3 H W C"), fine=(warp.fine, "B G G G 4"), coarse=(warp.coarse, "B g g g 3"))
    if background is not None:
        shapes(directions=(rays.directions, "B R 3"), feature_weight=(weights.feature_weight, "E K"),
               background=(background, "B R E"))  # fmt: skip
    if uniforms is not None and uniforms.shape != (*rays.directions.shape[:2], num_fine):
        wanted = [*rays.directions.shape[:2], num_fine]
        raise ValueError(f"uniforms: expected [B, R, N] = {wanted}, got {list(uniforms.shape)}")
    extra = {} if warp is None else {"fine": warp.fine, "coarse": warp.coarse}
    fixed = {"origins": rays.origins, "directions": rays.directions, "depths": depths, "half_side": half_side} | extra
    for name, tensor in (fixed | ({} if uniforms is None else {"uniforms": uniforms})).items():
        if tensor.dtype != wide_dtype(planes):
            raise ValueError(
                f"{name}: expected {wide_dtype(planes)} beside {planes.dtype} planes, got {tensor.dtype}; convert it"
            )
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise ValueError(f"{name}: expected a tensor without a gradient, as none is given; detach it")
    fused = runs_triton(
        planes=planes, background=background, uniforms=uniforms, **fixed, **weights._asdict()
    ) and fuses(weights, n["S"], num_fine)  # fmt: skip
    if not fused:
        if deterministic:
            raise ValueError(
                "deterministic: expected the fused kernels (a GPU, Triton, and C, K, E powers of two from 16 to "
                f"{WIDEST}), got other sizes or another backend; the small operators add in no order"
            )
        if _is_plain(planes, rays, num_fine, weights):
            feature, depth, opacity = march_plain(planes, rays, depths, num_fine, half_side, weights, warp, uniforms)
            if background is not None:
                feature = feature + (1 - opacity)[..., None] * background.float()
            return feature, depth, opacity
        # the small operators know two kinds of products: half precision is multiplied in TF32 there
        small: Precision = "exact" if precision == "exact" else "tf32"
        return march_rays_reference(
            planes, rays, depths, num_fine, half_side, weights, warp, background, uniforms, small
        )
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    with device_of(planes):
        with torch.no_grad():
            job = lay_out(planes, rays, half_side, weights, warp, precision)
            samples = propose(job, depths, num_fine, uniforms)
        kept = _Kept(rays.width, precision, deterministic, None if warp is None else (warp.side, warp.near, warp.rate))
        return _March.apply(job, kept, samples, background, planes, *weights, *_fixed(rays, half_side, warp))  # type: ignore[no-any-return]


def _is_plain(planes: Tensor, rays: Rays, num_fine: int, weights: FieldWeights) -> bool:
    """Whether `march_plain` takes these: single precision on a CPU in inference mode, no backend asked for.

    What it leaves out hangs on the last digits, which a frozen network that others learn from must not: under `no_grad`
    the definition is run. A compiler gets it too, and joins it as it likes.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    plain = planes.device.type == "cpu" and all(x.dtype == torch.float32 for x in (rays.directions, *weights))
    return backend() == "auto" and plain and min(*rays.directions.shape[:2], num_fine) > 0


def march_rays_reference(
    planes: Tensor, rays: Rays, depths: Tensor, num_fine: int, half_side: Tensor, weights: FieldWeights,
    warp: Warp | None = None, background: Tensor | None = None, uniforms: Tensor | None = None,
    precision: Precision = "exact",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The definition: the small operators, one after the other."""
    origins, directions, _ = rays
    (B, R), N = directions.shape[:2], num_fine

    def at(t: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, L] -> raw density [B, R, L], feature [B, R, L, E]
        points = (origins[:, None, None] + t[..., None] * directions[:, :, None]).flatten(1, 2)
        points = warped(points, warp) * (1 / half_side)[:, None, None]
        raw_density, feature = decode_field(planes, points, weights, precision)
        return raw_density.view(t.shape), feature.unflatten(1, t.shape[1:])

    coarse = depths[:, None].expand(-1, R, -1)  # [B, R, S]
    coarse_density, coarse_feature = at(coarse)
    if uniforms is None:
        uniforms = torch.linspace(0, 1, N, dtype=depths.dtype, device=depths.device).expand(B, R, -1)
    found = interval_weights(coarse_density.detach(), coarse)
    fine = importance_depths(coarse.contiguous(), found, uniforms)
    fine_density, fine_feature = at(fine)
    t, raw_density, feature = merge_samples(
        (coarse, fine), (coarse_density, fine_density), (coarse_feature, fine_feature)
    )
    pixel, depth, opacity = composite(raw_density, feature, t)
    pixel = pixel.to(opacity.dtype)
    if background is not None:
        pixel = pixel + (1 - opacity)[..., None] * background.to(opacity.dtype)
    return pixel, depth, opacity


def warped(points: Tensor, warp: Warp | None) -> Tensor:
    """Points [B, P, 3] moved by a warp, or as they are."""
    if warp is None:
        return points
    near, far = (lookup_grid(grid, points / _outermost(grid, warp.side)) for grid in (warp.fine, warp.coarse))
    share = torch.exp(-warp.rate * (near[..., 3:] - warp.near).clamp(min=0))
    return points + share * near[..., :3] + (1 - share) * far


def _outermost(grid: Tensor, side: float) -> float:
    """Where the centres of the outermost cells lie."""
    return side / 2 * (1 - 1 / grid.shape[1])


def fuses(weights: FieldWeights, num_coarse: int, num_fine: int) -> bool:
    """Whether the fused pass takes these sizes: tensor-core tiles, and searches of at most eight steps."""
    widths = (*weights.hidden_weight.shape, weights.feature_weight.shape[0])
    tiles = all(16 <= width <= WIDEST and width & (width - 1) == 0 for width in widths)
    return tiles and num_coarse <= MOST_SAMPLES and 1 <= num_fine <= MOST_SAMPLES


class _Kept(NamedTuple):
    """What the backward pass needs beside tensors; the numbers of the warp are side, near and rate."""

    width: int
    precision: MlpPrecision
    deterministic: bool
    warp: tuple[float, float, float] | None


def _fixed(rays: Rays, half_side: Tensor, warp: Warp | None) -> tuple[Tensor, ...]:
    """The tensors that have no gradient."""
    return rays.origins, rays.directions, half_side, *(() if warp is None else (warp.fine, warp.coarse))


class _March(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: Job, kept: _Kept, samples: Tensor, background: Tensor | None, planes: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        behind = None if background is None else background.contiguous()
        feature, depth, opacity = march(job, samples, behind)
        ctx.kept = kept
        ctx.save_for_backward(samples, behind, depth, opacity, planes, *others)
        return feature, depth, opacity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        samples, background, depth, opacity, planes, *others = ctx.saved_tensors
        count, kept = len(FieldWeights._fields), ctx.kept
        weights, (origins, directions, half_side, *grids) = FieldWeights(*others[:count]), others[count:]
        warp = None if kept.warp is None else Warp(*grids, *kept.warp)
        job = lay_out(planes, Rays(origins, directions, kept.width), half_side, weights, warp, kept.precision)
        # gradients of a mean over a picture are below what float16 can tell from 0
        scale = _power_of_two(d_out) if kept.precision == "fp16" else None
        scaled = [(d if scale is None else d * scale.view(-1, *(1,) * (d.dim() - 1))).contiguous() for d in d_out]
        found = march_back(
            job, samples, background, (depth, opacity), (scaled[0], scaled[1], scaled[2]), kept.deterministic,
            with_planes=ctx.needs_input_grad[4], scale=scale,
        )  # fmt: skip
        d_background = None if background is None else ((1 - opacity)[..., None] * d_out[0]).to(background.dtype)
        own = found.w_h.T / 3, found.b_h, found.w_d, found.b_d, found.w_f.T, found.b_f
        d_weights = [d.to(w.dtype) for d, w in zip(own, weights, strict=True)]
        d_planes = None if found.planes is None else found.planes.to(planes.dtype)
        return None, None, None, d_background, d_planes, *d_weights, *(None for _ in others[count:])


def _power_of_two(gradients: Sequence[Tensor]) -> Tensor:
    """[B] what brings the largest gradient of an image to between 32 and 64: float16 is far from both its ends."""
    if not gradients[0].numel():
        return torch.ones(len(gradients[0]), device=gradients[0].device)
    largest = torch.stack([d.abs().flatten(1).amax(1) for d in gradients]).amax(0)
    exponent = torch.where((largest > 0) & largest.isfinite(), 6 - torch.frexp(largest).exponent, 0)
    return ((exponent.clamp(-100, 100).to(torch.int32) + 127) << 23).view(torch.float32)  # its bits: pow may round
