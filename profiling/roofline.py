"""Count the operations and bytes of a frame while it runs on tensors without memory; the time no GPU can beat.

The floor of an operation (a product or a convolution) is the larger of two times: its operations at the GPU's peak, and
its operands, read or written once in half precision, at the GPU's bandwidth. Everything else is free. The render is one
operation, as the march keeps its samples to itself: planes in, pixels out. Floors of the operations of a part add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from triportrait.core.config import ModelConfig
from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.frame_parts import PARTS, Frame, When, make_frame, part_hooks
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.measurement import measure

HALF = 2  # bytes
FLAME_VERTICES, POSE_DIRECTIONS = 5023, 36
PAIR_FLOP = 135  # an estimate, float64: the distances of a point to a triangle's edges and plane, and which counts
COARSE_FACES = 1394
_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Ceiling:
    """What a GPU can do at most.

    Attributes:
        name: the GPU's.
        flops: operations a second of half-precision products.
        bandwidth: bytes a second.
        double_flops: operations a second of float64 arithmetic without tensor cores.
        source: where the numbers are from.
    """

    name: str
    flops: float
    bandwidth: float
    double_flops: float
    source: str


CEILINGS = (
    Ceiling("A100 SXM 80 GB", 312e12, 2.039e12, 9.7e12, "data sheet"),
    Ceiling("H200 SXM", 989e12, 4.8e12, 34e12, "data sheet"),
)


@dataclass
class Work:
    """The work of a part.

    Attributes:
        when: how often it runs.
        operations: (FLOP, bytes) of each product.
        weight_bytes: the size of its weights in half precision.
        double: whether the operations are float64 arithmetic instead of products in half precision.
    """

    when: When
    operations: list[tuple[float, float]] = field(default_factory=list)
    weight_bytes: float = 0.0
    double: bool = False

    @property
    def flop(self) -> float:
        """Add the operations of all products; a multiplication and an addition are two."""
        return sum(flop for flop, _ in self.operations)

    def floor_s(self, ceiling: Ceiling) -> float:
        """Add the seconds that a GPU needs at least."""
        peak = ceiling.double_flops if self.double else ceiling.flops
        return sum(max(flop / peak, size / ceiling.bandwidth) for flop, size in self.operations)


class _Counter(TorchDispatchMode):
    """Append what each product costs to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            flop = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet is _attention:
            flop = sdpa_flop_count(*(x.shape for x in args[:3]))
        else:
            return out
        result = out[0] if isinstance(out, tuple) else out
        elements = sum(x.numel() for x in (*args, result) if isinstance(x, Tensor))
        self.operations.append((float(flop), float(HALF * elements)))
        return out


def count(config: ModelConfig) -> dict[str, Work]:
    """Count the work of each part of one frame of a network."""
    with FakeTensorMode(), torch.no_grad(), use_backend("reference"):
        frame = make_frame(config, served=False)
        parts = {name: Work(when) for name, when in PARTS.items()}
        counter, first = _Counter(), 0

        def enter(name: str) -> None:
            nonlocal first
            first = len(counter.operations)

        def leave(name: str) -> None:
            parts[name].operations += counter.operations[first:]

        with counter, part_hooks(frame, enter, leave):
            frame.render(frame.reenact(frame.prepare()))
        for name, modules in frame.modules().items():
            parts[name].weight_bytes = HALF * sum(p.numel() for m in modules for p in m.parameters())
        parts["render"].operations = [_march(frame, parts["render"].flop)]
    parts["neck field"] = _neck_field(config)  # it reads the numbers of a mesh, so it cannot run here
    return parts


def _march(frame: Frame, flop: float) -> tuple[float, float]:
    """Count the render as one operation."""
    r = frame.portrait.config.render
    planes = 3 * r.plane_size**2 * r.plane_width
    pixels = r.neural_size**2 * (r.plane_width + 2)
    return flop, HALF * (planes + pixels)


def _neck_field(config: ModelConfig) -> Work:
    """Count the search of the nearest triangle of every grid node, and FLAME's tables, which are read once."""
    nodes = config.neck.fine_size**3 + config.neck.coarse_size**3
    directions = config.neck.num_shape + config.neck.num_expression + POSE_DIRECTIONS
    tables = float(HALF * 3 * FLAME_VERTICES * (directions + 1))
    return Work("frame", [(float(PAIR_FLOP * nodes * COARSE_FACES), tables)], tables, double=True)


def sums(parts: dict[str, Work]) -> dict[str, dict[str, Work]]:
    """Group the parts that run by what a user waits for."""
    return {
        "frame, source cached": {n: w for n, w in parts.items() if w.when != "source"},
        "frame, nothing cached": parts,
        "new view of cached planes": {n: w for n, w in parts.items() if w.when == "view"},
    }


def measured_ceiling() -> Ceiling:
    """Measure this GPU: a bf16 product of side 8192 and a copy of 1 GiB, both of random numbers."""
    n, device = 8192, "cuda"
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = measure([lambda: a @ b], device)
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    copy = measure([lambda: target.copy_(source)], device)
    moved = 2 * source.numel() * source.element_size()
    name = torch.cuda.get_device_name(0)
    double = next((c.double_flops for c in CEILINGS if c.name.split()[0] in name), CEILINGS[0].double_flops)
    return Ceiling(
        name, 2 * n**3 / product.p50 * 1e3, moved / copy.p50 * 1e3, double,
        f"measured: a product of {n}, a copy of 1 GiB; float64 by the data sheet",
    )  # fmt: skip


def table(
    parts: dict[str, Work], ceilings: Sequence[Ceiling] = CEILINGS, measured_ms: dict[str, float] | None = None
) -> str:
    """Tabulate the parts.

    Args:
        parts: their work.
        ceilings: the GPUs whose floors are shown.
        measured_ms: milliseconds that parts took, to be compared with the last ceiling's floor.
    """
    measured_ms = measured_ms or {}
    head = ["part", "once per", "GFLOP", "fp16 weights MB", *(f"{c.name}: floor ms" for c in ceilings)]
    head += ["took ms", "times the floor"] if measured_ms else []

    def cells_of(name: str, when: str, works: list[Work]) -> list[str]:
        floors = [1e3 * sum(w.floor_s(c) for w in works) for c in ceilings]
        cells = [
            name, when, f"{sum(w.flop for w in works) / 1e9:.1f}", f"{sum(w.weight_bytes for w in works) / 1e6:.1f}",
            *(f"{floor:.3f}" for floor in floors),
        ]  # fmt: skip
        if measured_ms:
            ms = measured_ms.get(name)
            cells += ["-", "-"] if ms is None else [f"{ms:.3f}", f"{ms / floors[-1]:.1f}"]
        return cells

    rows = [cells_of(name, work.when, [work]) for name, work in parts.items()]
    rows += [cells_of(f"**{name}**", "", list(works.values())) for name, works in sums(parts).items()]
    notes = [f"- {c.name}: {c.flops / 1e12:.0f} TFLOP/s, {c.bandwidth / 1e12:.2f} TB/s ({c.source})" for c in ceilings]
    legend = (
        "Floor: for each product or convolution the larger of its operations at the peak and its operands, once, in "
        "half precision at the bandwidth; all else is free. The render counts planes in and pixels out."
    )
    return "\n".join([markdown_table(head, rows), legend, *notes]) + "\n"
