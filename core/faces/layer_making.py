"""Make the PyTorch module of one step of a graph, or of several that run side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from triportrait.core.faces.convolution import Convolution, TransposedConvolution, same_padding
from triportrait.core.faces.fusion import CONVOLUTIONS, Step
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.layers import (
    Activation,
    CropImage,
    CropMatrix,
    Elementwise,
    Pool,
    Rearrange,
    Resize,
    TransformLandmarks,
)
from triportrait.core.faces.operators import Options


def layer_of(members: Sequence[Step], graph: Graph) -> nn.Module:
    """Make the module of steps that are alike but for their constants."""
    step = members[0]
    operator, options = step.operator, step.operator.options
    size = graph.shapes[step.inputs[0]][1:3]
    constants = [name for name in operator.inputs if name in graph.constants]
    match operator.kind:
        case kind if kind in CONVOLUTIONS:
            return _convolution(members, graph)
        case "Convolution2DTransposeBias":
            kernel = graph.constants[constants[0]].float().permute(3, 0, 1, 2)
            return TransposedConvolution(kernel, _constant(graph, constants[1:]))
        case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
            window, stride = _pair(options, "window_h", "window_w"), _pair(options, "stride_h", "stride_w")
            same = options["padding"] == "SAME"
            padding = same_padding((size[0], size[1]), window, stride) if same else (0, 0, 0, 0)
            return Pool(operator.kind, window, stride, padding, str(options["activation"]))
        case "ADD" | "MUL":
            constant = _constant(graph, constants)
            if constant is not None and len(graph.shapes[step.inputs[0]]) == 4:
                constant = constant.reshape((1,) * (4 - constant.ndim) + constant.shape).permute(0, 3, 1, 2)
            return Elementwise(operator.kind, str(options["activation"]), constant)
        case "RELU" | "PRELU" | "HARD_SWISH" | "LOGISTIC":
            return Activation(operator.kind, _constant(graph, constants))
        case "RESIZE_BILINEAR":
            size_after = options["size"]
            assert isinstance(size_after, tuple)
            return Resize(
                (size_after[0], size_after[1]), bool(options["align_corners"]), bool(options["half_pixel_centers"])
            )
        case "Landmarks2TransformMatrix":
            return CropMatrix([member.operator.options for member in members])
        case "TransformTensorBilinear":
            return CropImage(_pair(options, "output_height", "output_width"), len(members))
        case "TransformLandmarks":
            return TransformLandmarks()
        case kind:
            return Rearrange(kind, options, graph.shapes[step.output])


def _convolution(members: Sequence[Step], graph: Graph) -> Convolution:
    """Make one convolution of several with kernels of one shape; each sees its own channels."""
    step, options = members[0], members[0].operator.options
    size = graph.shapes[step.inputs[0]][1:3]
    depthwise = step.operator.kind == "DEPTHWISE_CONV_2D"
    kernels, biases, slopes = [], [], []
    for member in members:
        names = [name for name in member.operator.inputs if name in graph.constants]
        stored = graph.constants[names[0]].float()
        kernels.append(stored.permute(3, 0, 1, 2) if depthwise else stored.permute(0, 3, 1, 2))
        biases += [graph.constants[name].float() for name in names[1:]]
        slopes += [graph.constants[member.slopes].float().reshape(-1)] if member.slopes else []
    kernel = torch.cat(kernels)
    stride, padding = _pair(options, "stride_h", "stride_w"), step.padding
    if options["padding"] == "SAME":
        padding = same_padding((size[0], size[1]), (kernel.shape[2], kernel.shape[3]), stride)
    return Convolution(
        kernel,
        torch.cat(biases) if biases else None,
        kernel.shape[0] if depthwise else len(members),
        stride,
        padding,
        step.activation,
        torch.cat(slopes) if slopes else None,
        len(members),
    )


def _pair(options: Options, rows: str, columns: str) -> tuple[int, int]:
    high, wide = options[rows], options[columns]
    assert isinstance(high, int) and isinstance(wide, int)
    return high, wide


def _constant(graph: Graph, names: Sequence[str]) -> Tensor | None:
    return graph.constants[names[0]].float() if names else None
