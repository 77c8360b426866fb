"""Operations and bytes of a frame, counted while it runs on tensors without memory, and the time that no GPU can beat.

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
from triportrait.profiling.parts import PARTS, Frame, When, make_frame, told

HALF = 2  # bytes
FLAME_VERTICES, POSE_DIRECTIONS = 5023, 36
PAIR_FLOP = 135  # float64, an estimate: of a point and a triangle, its edges, its plane, and where the foot lies
COARSE_FACES = 1394
_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Ceiling:
    """What a GPU can do at most.

    Attributes:
        flops: of half-precision products, a second. bandwidth: bytes a second. double_flops: of float64 arithmetic
            without tensor cores, a second. source: where they are from.
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
    """What a part does: `operations` are (FLOP, bytes) of each product; `weight_bytes` in half precision.

    double: the operations are float64 arithmetic, not products in half precision.
    """

    when: When
    operations: list[tuple[float, float]] = field(default_factory=list)
    weight_bytes: float = 0.0
    double: bool = False

    @property
    def flop(self) -> float:
        """Of all operations; a multiplication and an addition are two."""
        return sum(flop for flop, _ in self.operations)

    def floor_s(self, ceiling: Ceiling) -> float:
        """Seconds that a GPU needs at least."""
        peak = ceiling.double_flops if self.double else ceiling.flops
        return sum(max(flop / peak, size / ceiling.bandwidth) for flop, size in self.operations)


class _Counter(TorchDispatchMode):
    """Appends what each product costs to a list."""

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
    """The work of each part of a frame of a network, batch 1."""
    with FakeTensorMode(), torch.no_grad(), use_backend("reference"):
        frame = make_frame(config, serves=False)
        parts = {name: Work(when) for name, when in PARTS.items()}
        counter, began = _Counter(), 0

        def enter(name: str) -> None:
            nonlocal began
            began = len(counter.operations)

        def leave(name: str) -> None:
            parts[name].operations += counter.operations[began:]

        with counter, told(frame, enter, leave):
            frame.render(frame.reenact(frame.prepare()))
        for name, modules in frame.modules().items():
            parts[name].weight_bytes = HALF * sum(p.numel() for m in modules for p in m.parameters())
        parts["render"].operations = [_march(frame, parts["render"].flop)]
    parts["neck field"] = _neck_field(config)  # which asks the numbers of a mesh, so that it cannot run here
    return parts


def _march(frame: Frame, flop: float) -> tuple[float, float]:
    """All of the render as one operation."""
    r = frame.portrait.config.render
    planes = 3 * r.plane_size**2 * r.plane_width
    pixels = r.neural_size**2 * (r.plane_width + 2)
    return flop, HALF * (planes + pixels)


def _neck_field(config: ModelConfig) -> Work:
    """The nearest triangle of every node of the grids, and FLAME's tables, which are read once."""
    nodes = config.neck.fine_size**3 + config.neck.coarse_size**3
    directions = config.neck.num_shape + config.neck.num_expression + POSE_DIRECTIONS
    tables = float(HALF * 3 * FLAME_VERTICES * (directions + 1))
    return Work("frame", [(float(PAIR_FLOP * nodes * COARSE_FACES), tables)], tables, double=True)


def sums(parts: dict[str, Work]) -> dict[str, dict[str, Work]]:
    """What a user waits for -> the parts that run then."""
    return {
        "frame, source cached": {n: w for n, w in parts.items() if w.when != "source"},
        "frame, nothing cached": parts,
        "new view of cached planes": {n: w for n, w in parts.items() if w.when == "view"},
    }


def measured_ceiling() -> Ceiling:
    """The two ceilings of this GPU: a bf16 product of 8192 and a copy of 1 GiB, both of random numbers."""
    from triportrait.profiling.machine import measure

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


def table(parts: dict[str, Work], ceilings: Sequence[Ceiling] = CEILINGS, taken: dict[str, float] | None = None) -> str:
    """The parts as Markdown.

    Args:
        taken: part -> milliseconds that it took; gives the distance to the last ceiling's floor.
    """
    taken = taken or {}
    head = ["part", "once per", "GFLOP", "fp16 weights MB", *(f"{c.name}: floor ms" for c in ceilings)]
    head += ["took ms", "times the floor"] if taken else []
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]

    def line(name: str, when: str, works: list[Work]) -> str:
        floors = [1e3 * sum(w.floor_s(c) for w in works) for c in ceilings]
        cells = [
            name, when, f"{sum(w.flop for w in works) / 1e9:.1f}", f"{sum(w.weight_bytes for w in works) / 1e6:.1f}",
            *(f"{floor:.3f}" for floor in floors),
        ]  # fmt: skip
        if taken:
            cells += [f"{taken[name]:.3f}", f"{taken[name] / floors[-1]:.1f}"] if name in taken else ["-", "-"]
        return "| " + " | ".join(cells) + " |"

    lines += [line(name, work.when, [work]) for name, work in parts.items()]
    lines += [line(f"**{name}**", "", list(works.values())) for name, works in sums(parts).items()]
    notes = [f"- {c.name}: {c.flops / 1e12:.0f} TFLOP/s, {c.bandwidth / 1e12:.2f} TB/s ({c.source})" for c in ceilings]
    how = (
        "Floor: for each product or convolution the larger of its operations at the peak and its operands, once, in "
        "half precision at the bandwidth; all else is free. The render counts planes in and pixels out."
    )
    return "\n".join([*lines, "", how, *notes]) + "\n"
