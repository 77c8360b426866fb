"""The network of a graph in PyTorch: batches, on any device, in float32 or half."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triportrait.core.faces.fusion import CONVOLUTIONS, Step, fused
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.layers import (
    Activation,
    Convolution,
    CropImage,
    CropMatrix,
    Elementwise,
    Pool,
    Rearrange,
    Resize,
    TransformLandmarks,
    TransposedConvolution,
    same_padding,
)

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
        steps = fused(graph)
        wide = _wide_steps(steps, graph)
        self.layers = nn.ModuleList()
        self._inputs: list[tuple[str, ...]] = []
        self._outputs: list[str] = []
        for step in steps:
            layer = _layer(step, graph)
            self.layers.append(layer if step.output in wide else layer.to(dtype))
            self._inputs.append(step.inputs)
            self._outputs.append(step.output)
        last = {name: place for place, names in enumerate(self._inputs) for name in names}
        kept = set(graph.outputs)
        self._unused: list[tuple[str, ...]] = [
            tuple({name for name in names if last[name] == place and name not in kept})
            for place, names in enumerate(self._inputs)
        ]
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Run the network.

        Args:
            images: [B, C, H, W], of the size `input_size` and in the range that the network wants.

        Returns:
            Name of each result -> [B, ...] in TFLite's layout, images [B, H, W, C].
        """
        first = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        values = {self.input_name: first}
        for layer, inputs, output, unused in zip(self.layers, self._inputs, self._outputs, self._unused, strict=True):
            values[output] = layer(*[values[name] for name in inputs])
            for name in unused:
                del values[name]
        results = ((name, values[name]) for name in self.output_names)
        return {name: value.permute(0, 2, 3, 1) if value.ndim == 4 else value for name, value in results}


def _wide_steps(steps: list[Step], graph: Graph) -> set[str]:
    """Name the results that stay in float32: from the last convolution before each result or matrix on."""
    wide = set(graph.outputs)
    for step in reversed(steps):
        if step.operator.kind in ("Landmarks2TransformMatrix", "TransformLandmarks"):
            wide.update((*step.inputs, step.output))
        elif step.output in wide and step.operator.kind in _POINTS:
            wide.update(step.inputs)
    return wide


def _constant(graph: Graph, name: str | None) -> Tensor | None:
    return graph.constants[name].float() if name else None


def _layer(step: Step, graph: Graph) -> nn.Module:
    """Make the module of one step."""
    operator, options = step.operator, step.operator.options
    size = graph.shapes[step.inputs[0]][1:3]
    constants = [name for name in operator.inputs if name in graph.constants]
    stride: tuple[int, int] = (int(options.get("stride_h", 1)), int(options.get("stride_w", 1)))  # type: ignore[arg-type]
    match operator.kind:
        case kind if kind in CONVOLUTIONS:
            stored = graph.constants[constants[0]].float()
            padding = step.padding
            if options["padding"] == "SAME":
                padding = same_padding((size[0], size[1]), (stored.shape[1], stored.shape[2]), stride)
            depthwise = kind == "DEPTHWISE_CONV_2D"
            kernel = stored.permute(3, 0, 1, 2) if depthwise else stored.permute(0, 3, 1, 2)
            bias = _constant(graph, constants[1] if len(constants) > 1 else None)
            slopes = _constant(graph, step.slopes)
            groups = kernel.shape[0] if depthwise else 1
            return Convolution(kernel, bias, groups, stride, padding, step.activation, slopes)
        case "Convolution2DTransposeBias":
            kernel = graph.constants[constants[0]].float().permute(3, 0, 1, 2)
            return TransposedConvolution(kernel, _constant(graph, constants[1] if len(constants) > 1 else None))
        case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
            window = (int(options["window_h"]), int(options["window_w"]))  # type: ignore[arg-type]
            padding = (0, 0, 0, 0)
            if options["padding"] == "SAME":
                padding = same_padding((size[0], size[1]), window, stride)
            return Pool(operator.kind, window, stride, padding, str(options["activation"]))
        case "ADD" | "MUL":
            constant = _constant(graph, constants[0] if constants else None)
            if constant is not None and constant.ndim == 4:
                constant = constant.permute(0, 3, 1, 2)
            return Elementwise(operator.kind, str(options["activation"]), constant)
        case "RELU" | "PRELU" | "HARD_SWISH" | "LOGISTIC":
            return Activation(operator.kind, _constant(graph, constants[0] if constants else None))
        case "RESIZE_BILINEAR":
            rows, columns = options["size"]  # type: ignore[misc]
            return Resize((rows, columns), bool(options["align_corners"]), bool(options["half_pixel_centers"]))
        case "Landmarks2TransformMatrix":
            return CropMatrix(options)
        case "TransformTensorBilinear":
            return CropImage((int(options["output_height"]), int(options["output_width"])))  # type: ignore[arg-type]
        case "TransformLandmarks":
            return TransformLandmarks()
        case kind:
            return Rearrange(kind, options, graph.shapes[step.output])
