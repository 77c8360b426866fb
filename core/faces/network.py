"""The network of a graph in PyTorch: batches, on any device, in float32 or half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.faces.bundles import Selection, bundled, members_of, without_repeats
from triportrait.core.faces.cpu_layers import Part, Size
from triportrait.core.faces.cpu_program import Program, with_programs
from triportrait.core.faces.fusion import Step, fused
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.layer_making import layer_of
from triportrait.core.faces.layers import Select

_COMPILING = Lock()
Plan = list[tuple[Part | Program, list[str]]]  # parts, and the values that nothing reads after each
LARGEST_KEPT = 31 << 20  # bytes; glibc's limit is 32 MiB

# Operators after the last convolution that move points or turn them into others: they stay in float32.
_POINTS = (
    "RESHAPE", "CONCATENATION", "STRIDED_SLICE", "DEPTH_TO_SPACE", "MUL", "LOGISTIC", "Landmarks2TransformMatrix",
    "TransformLandmarks", "TransformTensorBilinear",
)  # fmt: skip


class GraphNetwork(nn.Module):
    """The network of a `Graph`; nothing in it waits for the device, so that a CUDA graph can capture it.

    Args:
        graph: from `read_tflite` or `load_graph`.
        dtype: of features and weights. In half the last convolution before each result, and what follows it, is in
            float32, so that points keep their precision.

    Raises:
        ValueError: the graph has several inputs, or one that is no image.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if len(graph.inputs) != 1 or any(len(shape) != 4 for shape in graph.inputs.values()):
            raise ValueError("expected a network of one image")
        ((self.input_name, shape),) = graph.inputs.items()
        self.input_size = shape[1], shape[2]
        self.output_names = graph.outputs
        self.dtype = dtype
        _keep_freed_memory()
        steps = without_repeats(fused(graph), graph)
        wide = _wide_steps(steps, graph)
        points = wide - {step.output for step in steps if step.operator.kind == "Landmarks2TransformMatrix"}
        plan = bundled(steps, graph, points)
        self.layers = nn.ModuleList()
        self._parts: list[Part] = []
        for part in plan:
            if isinstance(part, Selection):
                layer: nn.Module = Select(part.picks)
            else:
                layer = layer_of(part.members, graph)
                if part.members[0].output not in wide:
                    layer = layer.to(dtype)
            self.layers.append(layer)
            self._parts.append(Part(layer, part.inputs, part.output))
        self._sizes = _image_sizes(graph, [name for part in plan for name in (*part.inputs, part.output)])
        self._as_made = _with_done(self._parts, self.output_names)
        self._compiled: Plan | None = None
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Run the network.

        Args:
            images: [B, C, H, W], of the size `input_size` and in the range that the network wants.

        Returns:
            Name of each result -> [B, ...] in TFLite's layout, images [B, H, W, C].
        """
        plan = self._on_a_cpu() if images.device.type == "cpu" and self.dtype == torch.float32 else self._as_made
        values = {self.input_name: images.to(self.dtype).contiguous(memory_format=torch.channels_last)}
        for part, done in plan:
            values.update(zip(part.outputs, part.run(*[values[name] for name in part.inputs]), strict=True))
            for name in done:
                del values[name]
        results = ((name, values[name]) for name in self.output_names)
        return {name: value.permute(0, 2, 3, 1) if value.ndim == 4 else value for name, value in results}

    def _on_a_cpu(self) -> Plan:
        """Give the parts, those compiled that can be; threads that begin at the same time wait for one of them."""
        plan = self._compiled
        if plan is None:
            with _COMPILING:
                plan = self._compiled
                if plan is None:
                    parts = with_programs(self._parts, self._sizes, self.output_names)
                    plan = self._compiled = _with_done(parts, self.output_names)
        return plan

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}  # machine code cannot be copied

    def _apply(self, *args: Any, **keywords: Any) -> GraphNetwork:
        self._compiled = None
        super()._apply(*args, **keywords)
        return self


def _with_done(parts: Sequence[Part | Program], results: Sequence[str]) -> Plan:
    """Put to each part the values that nothing reads after it, so that their memory is free for the next."""
    last = {name: k for k, part in enumerate(parts) for name in (*part.inputs, *part.outputs)}
    done: list[list[str]] = [[] for _ in parts]
    for name, k in last.items():
        if name not in results:
            done[k].append(name)
    return list(zip(parts, done, strict=True))


def _image_sizes(graph: Graph, names: Iterable[str]) -> dict[str, Size]:
    """Find rows, columns and channels of all values that are images; a bundle's name is made of its members'."""
    sizes = {}
    for name in names:
        shapes = [graph.shapes.get(member, ()) for member in members_of(name)]
        if all(len(shape) == 4 for shape in shapes):
            sizes[name] = shapes[0][1], shapes[0][2], sum(shape[3] for shape in shapes)
    return sizes


def _wide_steps(steps: list[Step], graph: Graph) -> set[str]:
    """Name the results that stay in float32: from the last convolution before each result or matrix on."""
    wide = set(graph.outputs)
    for step in reversed(steps):
        if step.operator.kind in ("Landmarks2TransformMatrix", "TransformLandmarks"):
            wide.update((*step.inputs, step.output))
        elif step.output in wide and step.operator.kind in _POINTS:
            wide.update(step.inputs)
    return wide


@cache
def _keep_freed_memory() -> None:
    """Make glibc keep freed blocks for the next picture: it returns blocks that are larger than any freed before.

    Without it a batch of 8 takes twice as long on a CPU, because each result is made of fresh pages.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)
