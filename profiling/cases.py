"""Make inputs of any size for every operator of `kernels`: tests compare them and the bench times them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.kernels.attention import attend_wide
from triportrait.kernels.bias_act import bias_leaky_relu
from triportrait.kernels.composite import composite
from triportrait.kernels.dispatch import backend
from triportrait.kernels.dwconv import depthwise_gelu
from triportrait.kernels.field import FieldWeights, decode_field
from triportrait.kernels.fir import downsample_fir, smooth_fir, upsample_fir
from triportrait.kernels.grid import lookup_grid
from triportrait.kernels.importance import importance_depths, merge_samples
from triportrait.kernels.march import march_rays
from triportrait.kernels.march.launch import MlpPrecision, Rays, Warp
from triportrait.kernels.nearest_face import Edges, nearest_face
from triportrait.kernels.rasterize import rasterize
from triportrait.kernels.triplane import sample_triplane

Sizes = dict[str, int]
Inputs = tuple[Tensor | None, ...]
Random = torch.Generator
WARP_SIDE, WARP_NEAR, WARP_RATE = 2.4, 0.01, 20.0
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_MLP_PRECISION: dict[torch.dtype, MlpPrecision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Case:
    """An operator and its inputs.

    Attributes:
        op: takes the inputs, returns a tensor or several.
        make: sizes, dtype and random numbers -> inputs; what stays wide in half precision is float32 or float64.
        odd: sizes for tests; the first is the smallest that shows everything, and one has an empty batch.
        paper: the sizes of a frame of the published network.
        also: other sizes of a frame or of a training's step, for which Triton compiles other programs.
        differentiable: whether the operator has a backward pass.
        wide_only: the inputs are positions and depths, which stay wide, so that there is no half precision.
        dtypes: names of the dtypes in which it is launched; the others are another case's.
        rivals: other implementations of the operator, by name.
        floor: the error that `assert_agrees` allows in any case, in float32.
        half_floor: the same in half precision.
        bf16_floor: the same in bfloat16, where it differs from float16's.
    """

    op: Callable[..., Any]
    make: Callable[[Sizes, torch.dtype, Random], Inputs]
    odd: tuple[Sizes, ...]
    paper: Sizes
    also: tuple[Sizes, ...] = ()
    differentiable: bool = True
    wide_only: bool = False
    dtypes: tuple[str, ...] = tuple(DTYPES)
    rivals: dict[str, Callable[..., Any]] = field(default_factory=dict)
    floor: float = 2e-6
    half_floor: float = 2e-6
    bf16_floor: float | None = None

    def floor_in(self, dtype: torch.dtype) -> float:
        """Return the error that `assert_agrees` allows in any case for planes, pictures or tokens of this dtype."""
        if dtype == torch.bfloat16 and self.bf16_floor is not None:
            return self.bf16_floor
        return self.half_floor if dtype in (torch.float16, torch.bfloat16) else self.floor


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _normal(rng: Random, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)


def _uniform(rng: Random, dtype: torch.dtype, low: float, high: float, *shape: int) -> Tensor:
    return (low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)).to(dtype)


def _triplane(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    planes = _normal(rng, dtype, n["B"], 3, n["H"], n["W"], n["C"])
    return planes, _uniform(rng, _wide(dtype), -1.3, 1.3, n["B"], n["P"], 3)  # some beside the planes


def _mlp(n: Sizes, dtype: torch.dtype, rng: Random) -> tuple[Tensor, ...]:
    C, K, E = n["C"], n["K"], n["E"]
    wide = _wide(dtype)
    return (
        2 * _normal(rng, wide, K, C) / C**0.5, _normal(rng, wide, K), 2 * _normal(rng, wide, 1, K) / K**0.5,
        _normal(rng, wide, 1), 2 * _normal(rng, wide, E, K) / K**0.5, _normal(rng, wide, E),
    )  # fmt: skip


def _field(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    return *_triplane(n, dtype, rng), *_mlp(n, dtype, rng)


def _decode_field(planes: Tensor, points: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    return decode_field(planes, points, FieldWeights(*weights))


def _ascending(rng: Random, dtype: torch.dtype, *shape: int) -> Tensor:
    """Draw depths from 2 to 4 in ascending order; the third and the fourth coincide."""
    depths = _uniform(rng, dtype, 2, 4, *shape).sort(-1).values
    if shape[-1] > 3:
        depths[..., 3] = depths[..., 2]
    return depths


def _composite(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    wide, shape = _wide(dtype), (n["B"], n["R"], n["S"])
    raw_density = 3 * _normal(rng, wide, *shape)
    return raw_density, _uniform(rng, dtype, 0, 1, *shape, n["E"]), _ascending(rng, wide, *shape)


def _importance(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    wide, B, R, S = _wide(dtype), n["B"], n["R"], n["S"]
    weights = _uniform(rng, wide, 0, 1, B, R, S - 1) ** 4 / S
    return _ascending(rng, wide, B, R, S), weights, _uniform(rng, wide, 0, 1, B, R, n["N"])


def _merge(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    wide, B, R, S, N, E = _wide(dtype), n["B"], n["R"], n["S"], n["N"], n["E"]
    return (
        _ascending(rng, wide, B, R, S), _uniform(rng, wide, 2, 4, B, R, N), _normal(rng, dtype, B, R, S, E),
        _normal(rng, dtype, B, R, N, E),
    )  # fmt: skip


def _merge_samples(depths: Tensor, more: Tensor, values: Tensor, more_values: Tensor) -> tuple[Tensor, ...]:
    return merge_samples((depths, more), (values, more_values))


def _grid(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    grid = _normal(rng, dtype, n["B"], n["X"], n["Y"], n["Z"], n["C"])
    return grid, _uniform(rng, _wide(dtype), -1.6, 1.6, n["B"], n["P"], 3)


def _image(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    return (_normal(rng, dtype, n["B"], n["C"], n["H"], n["W"]),)


def _bias_act(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    return *_image(n, dtype, rng), _normal(rng, _wide(dtype), n["C"])


def _dwconv(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    C = n["C"]
    x = _normal(rng, dtype, n["B"], n["H"], n["W"], C)
    return x, _normal(rng, dtype, C, 1, 3, 3) / 3, _normal(rng, dtype, C)


def _dwconv_autocast(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    x, weight, bias = _dwconv(n, _wide(dtype), rng)
    assert x is not None
    return x.to(dtype), weight, bias


def _bias_act_half(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    return *_image(n, dtype, rng), _normal(rng, dtype, n["C"])


def _mesh(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    """Draw random triangles, no two of them alike."""
    wide, B, U = _wide(dtype), n["B"], n["U"]
    sampler = random.Random(0)
    faces: list[tuple[int, ...]] = []
    while len(faces) < n["F"]:
        face = tuple(sorted(sampler.sample(range(U), 3)))
        faces += [face] if face not in faces else []
    edges: dict[tuple[int, int], int] = {}
    for i, (a, b, c) in enumerate(faces):
        for edge in ((a, b), (b, c), (a, c)):
            edges.setdefault(edge, i)
    ends, first_face = torch.tensor(list(edges)), torch.tensor(list(edges.values()))
    return _normal(rng, wide, B, n["P"], 3), _normal(rng, wide, B, U, 3), torch.tensor(faces), ends, first_face


def _nearest_face(points: Tensor, vertices: Tensor, faces: Tensor, *edges: Tensor) -> tuple[Tensor, Tensor]:
    return nearest_face(points.detach(), vertices.detach(), faces, 0.5, Edges(*edges))


def _globe(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    """Draw a globe of rings and sectors, uneven, that stands out of the picture; its last two faces repeat others."""
    rings, sectors, side = n["rings"], n["sectors"], max(n["H"], n["W"])
    down, around = torch.meshgrid(
        torch.linspace(0, torch.pi, rings + 1, dtype=torch.float64),
        torch.arange(sectors, dtype=torch.float64) * (2 * torch.pi / sectors), indexing="ij",
    )  # fmt: skip
    globe = torch.stack([down.sin() * around.cos(), down.cos(), down.sin() * around.sin()], -1).flatten(0, 1)
    x, y, z = (globe * _uniform(rng, torch.float64, 0.9, 1.1, n["B"], len(globe), 1)).unbind(-1)
    points = torch.stack([n["W"] / 2 + 2.5 * side * x / (4 - z), n["H"] / 2 - 1.7 * side * y / (4 - z), 4 - z], -1)
    row, column = torch.arange(rings)[:, None] * sectors, torch.arange(sectors)
    following = (column + 1) % sectors
    corners = (row + column, row + following, row + sectors + column, row + sectors + following)
    a, b, c, d = (corner.flatten() for corner in corners)
    faces = torch.stack([torch.stack([a, c, b], -1), torch.stack([b, c, d], -1)], 1).flatten(0, 1)
    faces = torch.cat([faces, faces[-3:-1]])
    return points.to(_wide(dtype)), faces, torch.tensor(n["H"]), torch.tensor(n["W"])


def _rasterize(points: Tensor, faces: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
    return rasterize(points.detach(), faces, int(height), int(width))


def _march(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    """Cast rays from a pinhole camera into a box of side 2 that is half full: neighbours see nearly the same."""
    wide, B, R, width = _wide(dtype), n["B"], n["R"], n["width"]
    rows = -(-R // width)
    across, down = torch.meshgrid(
        torch.linspace(-0.3, 0.3, width, dtype=wide), torch.linspace(-0.3, 0.3, rows, dtype=wide), indexing="xy"
    )
    directions = torch.stack([across, down, -torch.ones_like(across)], -1).reshape(-1, 3)[:R].expand(B, -1, -1)
    origins = torch.tensor([0.0, 0.0, 4.0], dtype=wide) + 0.1 * _normal(rng, wide, B, 3)
    depths = torch.linspace(3, 5, n["S"], dtype=wide).expand(B, -1)
    fine = 0.1 * _normal(rng, wide, B, n["G"], n["G"], n["G"], 4)
    coarse = 0.1 * _normal(rng, wide, B, n["g"], n["g"], n["g"], 3)
    return (
        _normal(rng, dtype, B, 3, n["H"], n["W"], n["C"]), origins, torch.nn.functional.normalize(directions, dim=-1),
        depths.contiguous(), _uniform(rng, wide, 0.9, 1.1, B), fine, coarse,
        *_mlp(n, dtype, rng), torch.tensor(n["N"]), torch.tensor(n["width"]),
    )  # fmt: skip


def _march_rays(
    planes: Tensor, *others: Tensor, warps: bool = True, float32: MlpPrecision = "exact",
    deterministic: bool | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """March the inputs of `_march`, or of `_march_random`; gradients reach the planes and the weights alone."""
    origins, directions, depths, half_side, fine, coarse = (x.detach() for x in others[:6])
    *weights, num_fine, width = others[6:14]
    precision = "exact" if planes.dtype == torch.float64 else _MLP_PRECISION.get(planes.dtype, float32)
    return march_rays(
        planes, Rays(origins, directions, int(width)), depths, int(num_fine), half_side, FieldWeights(*weights),
        Warp(fine, coarse, WARP_SIDE, WARP_NEAR, WARP_RATE) if warps else None,
        others[14].detach() if len(others) > 14 else None, precision=precision, deterministic=deterministic,
    )  # fmt: skip


def _march_random(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    """Make the inputs of a march with the random uniforms that training draws."""
    return *_march(n, dtype, rng), _uniform(rng, _wide(dtype), 0, 1, n["B"], n["R"], n["N"])


def _march_training(planes: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """March as training does: with TF32 products."""
    return _march_rays(planes, *others, float32="tf32")


def _march_still(planes: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """March without a warp at random depths, as the canonical head of a training is seen."""
    return _march_rays(planes, *others, warps=False)


def _march_deterministic(planes: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """March without a warp, with sums of integers."""
    return _march_rays(planes, *others, warps=False, deterministic=None if backend() == "reference" else True)


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend by the best path of PyTorch's own."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _chunked(query: Tensor, key: Tensor, value: Tensor, rows: int = 4096) -> Tensor:
    """Attend by two library products and a softmax between them, for some queries at a time."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5
    parts = [((piece * scale) @ k.mT).softmax(-1) @ v for piece in q.split(rows, 2)]
    return torch.cat(parts, 2).transpose(1, 2)


def _attention(n: Sizes, dtype: torch.dtype, rng: Random) -> Inputs:
    B, N, K, heads, D = n["B"], n["N"], n["K"], n["heads"], n["D"]
    return (
        _normal(rng, dtype, B, N, heads, D), _normal(rng, dtype, B, K, heads, D), _normal(rng, dtype, B, K, heads, D)
    )  # fmt: skip


_FILTERED = (
    dict(B=1, C=2, H=3, W=4), dict(B=2, C=5, H=7, W=9), dict(B=0, C=3, H=4, W=4), dict(B=1, C=20, H=2, W=33),
    dict(B=1, C=2, H=25, W=47),
)  # fmt: skip
_EVEN = tuple({**n, "H": n["H"] + n["H"] % 2, "W": n["W"] + n["W"] % 2} for n in _FILTERED)
_TF32 = 2e-3  # floor of products that a GPU rounds to 10 bits
_SAMPLED = dict(B=1, R=16384, S=48, N=48, E=32)

CASES: dict[str, Case] = {
    "triplane": Case(
        sample_triplane, _triplane,
        (dict(B=1, P=6, H=4, W=4, C=3), dict(B=2, P=37, H=5, W=9, C=20), dict(B=0, P=4, H=4, W=4, C=3),
         dict(B=2, P=0, H=4, W=4, C=3), dict(B=3, P=65, H=1, W=2, C=1), dict(B=1, P=130, H=8, W=8, C=32)),
        dict(B=1, P=16384 * 96, H=256, W=256, C=32),
    ),
    "field": Case(
        _decode_field, _field,
        (dict(B=1, P=5, H=4, W=4, C=3, K=4, E=2), dict(B=2, P=37, H=5, W=9, C=20, K=24, E=7),
         dict(B=0, P=4, H=4, W=4, C=3, K=8, E=3), dict(B=2, P=130, H=8, W=8, C=32, K=64, E=32)),
        dict(B=1, P=16384 * 96, H=256, W=256, C=32, K=64, E=32), half_floor=_TF32,
    ),
    "composite": Case(
        composite, _composite,
        (dict(B=1, R=3, S=5, E=2), dict(B=2, R=37, S=9, E=20), dict(B=0, R=3, S=4, E=2), dict(B=1, R=40, S=1, E=3),
         dict(B=1, R=1, S=2, E=33)),
        dict(B=1, R=16384, S=96, E=32),
    ),
    "importance": Case(
        importance_depths, _importance,
        (dict(B=1, R=3, S=4, N=1), dict(B=2, R=17, S=8, N=5), dict(B=0, R=3, S=6, N=4), dict(B=1, R=9, S=48, N=48),
         dict(B=1, R=5, S=5, N=33)),
        _SAMPLED, differentiable=False, wide_only=True, floor=2e-5,
    ),
    "merge": Case(
        _merge_samples, _merge,
        (dict(B=1, R=3, S=4, N=2, E=2), dict(B=2, R=17, S=8, N=5, E=7), dict(B=0, R=3, S=6, N=4, E=2),
         dict(B=1, R=9, S=33, N=48, E=1)),
        _SAMPLED,
    ),
    "grid": Case(
        lookup_grid, _grid,
        (dict(B=1, P=5, X=3, Y=3, Z=4, C=2), dict(B=2, P=137, X=5, Y=6, Z=7, C=4), dict(B=1, P=0, X=3, Y=3, Z=3, C=3),
         dict(B=1, P=3, X=2, Y=2, Z=2, C=1)),
        dict(B=1, P=16384 * 96, X=24, Y=24, Z=24, C=4), (dict(B=4, P=4000, X=8, Y=8, Z=8, C=3),),
    ),
    "bias_act": Case(bias_leaky_relu, _bias_act, _FILTERED, dict(B=1, C=128, H=512, W=512)),
    "fir_smooth": Case(
        smooth_fir, _image, _FILTERED, dict(B=1, C=128, H=513, W=513), (dict(B=4, C=64, H=514, W=514),)
    ),
    "fir_up": Case(upsample_fir, _image, _FILTERED, dict(B=1, C=3, H=256, W=256)),
    "fir_down": Case(
        downsample_fir, _image, _EVEN, dict(B=1, C=64, H=512, W=512),
        tuple(dict(B=4, C=512, H=side, W=side) for side in (16, 8)),
    ),
    "dwconv": Case(
        depthwise_gelu, _dwconv,
        (dict(B=1, H=3, W=2, C=3), dict(B=2, H=5, W=7, C=70), dict(B=0, H=3, W=3, C=4), dict(B=1, H=1, W=1, C=1)),
        dict(B=1, H=128, W=128, C=2048),
    ),
    "nearest_face": Case(
        _nearest_face, _mesh,
        (dict(B=1, P=5, U=5, F=3), dict(B=2, P=70, U=9, F=20), dict(B=0, P=4, U=5, F=3), dict(B=1, P=3, U=12, F=90)),
        dict(B=1, P=14336, U=699, F=697), differentiable=False, wide_only=True,
    ),
    "rasterize": Case(
        _rasterize, _globe,
        (dict(B=1, rings=3, sectors=4, H=9, W=12), dict(B=2, rings=3, sectors=5, H=17, W=9),
         dict(B=0, rings=3, sectors=4, H=9, W=12), dict(B=1, rings=2, sectors=3, H=1, W=1)),
        dict(B=1, rings=26, sectors=27, H=512, W=512), differentiable=False, wide_only=True,
    ),
    "march": Case(
        _march_rays, _march,
        (dict(B=1, R=6, width=3, S=5, N=4, H=4, W=5, C=16, K=16, E=16, G=3, g=2),
         dict(B=2, R=35, width=7, S=6, N=9, H=8, W=6, C=32, K=64, E=32, G=6, g=3),
         dict(B=0, R=4, width=2, S=5, N=4, H=4, W=5, C=16, K=16, E=16, G=3, g=2),
         dict(B=1, R=0, width=2, S=5, N=4, H=4, W=5, C=16, K=16, E=16, G=3, g=2)),
        dict(B=1, R=16384, width=128, S=48, N=48, H=256, W=256, C=32, K=64, E=32, G=24, g=8),
        floor=2e-5, half_floor=2e-3, bf16_floor=4e-3,  # taps are blended in float16; products in half precision
    ),
    "march_train": Case(
        _march_training, _march_random,
        (dict(B=1, R=20, width=5, S=5, N=4, H=4, W=5, C=16, K=16, E=16, G=3, g=2),
         dict(B=2, R=27, width=9, S=9, N=8, H=6, W=8, C=16, K=16, E=16, G=3, g=2)),
        dict(B=4, R=16384, width=128, S=48, N=48, H=256, W=256, C=32, K=64, E=32, G=24, g=8),
        floor=2e-3, half_floor=2e-3, bf16_floor=1e-2,  # products in TF32 or half precision, taps blended in float16
    ),
    "march_deterministic": Case(
        _march_deterministic, _march,
        (dict(B=1, R=6, width=3, S=5, N=4, H=4, W=5, C=16, K=16, E=16, G=3, g=2),
         dict(B=2, R=18, width=6, S=6, N=5, H=6, W=5, C=16, K=32, E=16, G=3, g=2)),
        dict(B=1, R=16384, width=128, S=48, N=48, H=256, W=256, C=32, K=64, E=32, G=2, g=2),
        floor=2e-5, half_floor=2e-3, bf16_floor=4e-3,
    ),
    "attention": Case(
        attend_wide, _attention,
        (dict(B=1, N=2, K=3, heads=1, D=16), dict(B=2, N=130, K=300, heads=2, D=48), dict(B=0, N=3, K=4, heads=1, D=16),
         dict(B=1, N=5, K=7, heads=1, D=512)),
        dict(B=1, N=16384, K=4096, heads=2, D=512), rivals={"sdpa": _sdpa, "chunked": _chunked},
    ),
}  # fmt: skip

LAUNCHED: dict[str, Case] = {  # what a frame or a step launches besides: compiled and compared, not timed
    "dwconv_autocast": Case(
        depthwise_gelu, _dwconv_autocast, (dict(B=2, H=5, W=7, C=70),), CASES["dwconv"].paper, dtypes=("fp16", "bf16")
    ),
    "bias_act_half": Case(
        bias_leaky_relu, _bias_act_half, _FILTERED[:2], CASES["bias_act"].paper, dtypes=("fp16", "bf16")
    ),
    "march_random": Case(
        _march_rays, _march_random, CASES["march_train"].odd[:1], CASES["march_train"].paper, dtypes=("fp32",),
        floor=2e-5,
    ),
    "march_still": Case(
        _march_still, _march_random, CASES["march_train"].odd[:1], CASES["march_train"].paper, dtypes=("bf16", "fp32"),
        floor=2e-5, bf16_floor=1e-2,
    ),
}  # fmt: skip


def chosen(operators: Sequence[str], cases: Mapping[str, Case] = CASES) -> list[str]:
    """Check the names of operators; no names mean all of them.

    Raises:
        InputError: there is no such operator.
    """
    for name in operators:
        if name not in cases:
            raise InputError(f"op: expected some of {', '.join(cases)}, got {name!r}; choose among them")
    return list(operators) or list(cases)


def make_inputs(name: str, sizes: Sizes, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Make the inputs of a case on the CPU; the seed alone decides."""
    return (CASES | LAUNCHED)[name].make(sizes, dtype, torch.Generator().manual_seed(seed))


def moved(inputs: Inputs, device: str) -> Inputs:
    """Copy the inputs to a device; numbers without axes, which the host reads, stay where they are."""
    return tuple(x if x is None or x.dim() == 0 else x.to(device) for x in inputs)
