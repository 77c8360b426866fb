"""The operators of networks that take points: what goes through them may have any shape, of one face.

They are TensorFlow's common ones for dense layers, mixing layers and normalisation. Their options are those that
`tflite_options` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from triportrait.core.errors import InputError
from triportrait.core.faces.graph import Graph, Refusal, check_outputs, given_shapes, short
from triportrait.core.faces.operators import OptionValue, Shape
from triportrait.core.safe_text import shown

MOST_VALUES = 1 << 20  # numbers of one intermediate result
MOST_WORK = 1 << 28  # multiplications for one face
MOST_RANK = 6

Options = Mapping[str, OptionValue]
Shapes = Sequence[Shape]

PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ADD": torch.add, "SUB": torch.sub, "MUL": torch.mul, "DIV": torch.div, "MAXIMUM": torch.maximum,
    "MINIMUM": torch.minimum, "SQUARED_DIFFERENCE": lambda a, b: (a - b).square(),
}  # fmt: skip
SINGLES: dict[str, Callable[[Tensor], Tensor]] = {
    "RELU": torch.relu, "LOGISTIC": torch.sigmoid, "TANH": torch.tanh, "SQRT": torch.sqrt, "RSQRT": torch.rsqrt,
    "NEG": torch.neg, "SQUARE": torch.square, "HARD_SWISH": F.hardswish,
}  # fmt: skip
REDUCTIONS = ("MEAN", "SUM")
LAYERS = ("FULLY_CONNECTED", "CONV_2D")
KINDS = (*PAIRS, *SINGLES, *REDUCTIONS, *LAYERS, "TRANSPOSE", "RESHAPE", "CONCATENATION", "STRIDED_SLICE")


def shape_and_work(kind: str, inputs: Shapes, options: Options) -> tuple[Shape, int]:
    """Find the shape of an operator's result, and how many multiplications it takes.

    Raises:
        ValueError: in words that follow "a SUB that": inputs or options do not fit.
    """
    least, most = (2, 2) if kind in PAIRS else (2, 3) if kind in LAYERS else (1, 8 if kind == "CONCATENATION" else 1)
    if not least <= len(inputs) <= most:
        raise ValueError(f"has {len(inputs)} inputs")
    first = inputs[0]
    if kind in PAIRS:
        return _broadcast(first, inputs[1]), 0
    if kind in LAYERS:
        return _layer(kind, inputs, options)
    match kind:
        case kind if kind in REDUCTIONS:
            axes = _axes(options["axes"], len(first))
            kept = [1 if k in axes else size for k, size in enumerate(first)]
            return tuple(kept if options["keep_dims"] else [n for k, n in enumerate(kept) if k not in axes]), 0
        case "TRANSPOSE":
            order = _axes(options["perm"], len(first))
            if len(order) != len(first):
                raise ValueError(f"orders {len(order)} of {len(first)} dimensions")
            return tuple(first[k] for k in order), 0
        case "RESHAPE":
            shape = _whole(options["shape"])
            if prod(shape) != prod(first):
                raise ValueError(f"has {prod(first)} numbers for the shape {list(shape)}")
            return shape, 0
        case "CONCATENATION":
            return _concatenated(inputs, options), 0
        case "STRIDED_SLICE":
            begin, end = _whole(options["begin"]), _whole(options["end"])
            sides = zip(begin, end, first, strict=True)
            if any(not 0 <= low < high <= size for low, high, size in sides):
                raise ValueError(f"takes {list(begin)} to {list(end)} of the shape {list(first)}")
            return tuple(high - low for low, high in zip(begin, end, strict=True)), 0
    return first, 0


def result_of(kind: str, options: Options, values: Sequence[Tensor]) -> Tensor:
    """Compute an operator for one face; what it is called with was checked by `check_point_graph`."""
    first = values[0]
    if kind in PAIRS:
        return _activated(PAIRS[kind](first, values[1]), options)
    if kind in SINGLES:
        return SINGLES[kind](first)
    match kind:
        case "FULLY_CONNECTED":
            rows = first if options["keep_num_dims"] else first.reshape(-1, values[1].shape[1])
            return _activated(F.linear(rows, *values[1:]), options)
        case "CONV_2D":
            return _activated(F.linear(first, values[1].flatten(1), *values[2:]), options)
        case "MEAN" | "SUM":
            axes, keep = _axes(options["axes"], first.ndim), bool(options["keep_dims"])
            if not axes:
                return first
            return first.mean(axes, keepdim=keep) if kind == "MEAN" else first.sum(axes, keepdim=keep)
        case "TRANSPOSE":
            return first.permute(_axes(options["perm"], first.ndim))
        case "RESHAPE":
            return first.reshape(_whole(options["shape"]))
        case "CONCATENATION":
            return torch.cat(list(values), _axes((options["axis"],), first.ndim)[0])
        case "STRIDED_SLICE":
            begin, end = _whole(options["begin"]), _whole(options["end"])
            return first[tuple(slice(low, high) for low, high in zip(begin, end, strict=True))]
    raise AssertionError(kind)


def check_point_graph(graph: Graph, refuse: Refusal) -> Graph:
    """Check that a network of points can be run, and that this takes a bounded amount of memory and time.

    Like `graph.check_graph`, for values of any rank up to 6, scalars too.

    Raises:
        InputError: `refuse`'s.
    """
    shapes = given_shapes(graph, refuse, _bounded)
    work = 0
    for operator in graph.operators:
        kind = operator.kind
        if kind not in KINDS:
            raise refuse(f"needs the operator {short(kind)}, which is not among {', '.join(KINDS)}")
        names = [name for name in operator.inputs if name]
        for name in names:
            if name not in shapes:
                raise refuse(f"uses {short(name)} in {kind} before it is made")
        if len(names) < len(operator.inputs) and (kind not in LAYERS or "" in operator.inputs[:2]):
            raise refuse(f"has a {kind} without an input that it needs")
        if all(name in graph.constants for name in names):
            raise refuse(f"has a {kind} of constants alone")
        if kind in LAYERS and not all(name in graph.constants for name in names[1:]):
            raise refuse(f"has a {kind} whose weights are no constants")
        try:
            found, effort = shape_and_work(kind, [shapes[name] for name in names], operator.options)
        except (ValueError, KeyError, TypeError) as error:
            raise refuse(f"has a {kind} that {error if type(error) is ValueError else 'lacks an option'}") from error
        if len(operator.outputs) != 1 or operator.outputs[0] in shapes:
            raise refuse(f"has a {kind} whose result has no name of its own")
        shapes[operator.outputs[0]] = _bounded(operator.outputs[0], found, refuse)
        work += max(effort, prod(found))
        if work > MOST_WORK:
            raise refuse(f"needs more than {MOST_WORK:,} multiplications for a face")
    check_outputs(graph, shapes, refuse)
    values = {name: shape for name, shape in shapes.items() if name not in graph.constants}
    return replace(graph, shapes=values)


def _layer(kind: str, inputs: Shapes, options: Options) -> tuple[Shape, int]:
    first, weights = inputs[:2]
    if kind == "CONV_2D":
        if len(first) != 4 or len(weights) != 4 or weights[1:3] != (1, 1):
            raise ValueError("has a window of more than one place")
        if (options["stride_h"], options["stride_w"]) != (1, 1):
            raise ValueError("leaves out places")
    elif len(weights) != 2:
        raise ValueError(f"has weights of shape {list(weights)}")
    out, channels = weights[0], weights[-1]
    keeps = kind == "CONV_2D" or options["keep_num_dims"] is True
    if not first or (first[-1] != channels if keeps else prod(first) % channels):
        raise ValueError(f"has weights for {channels} numbers on the shape {list(first)}")
    if len(inputs) == 3 and inputs[2] != (out,):
        raise ValueError(f"has a bias of shape {list(inputs[2])} for {out} numbers")
    rows = first[:-1] if keeps else (prod(first) // channels,)
    return (*rows, out), prod(rows) * out * channels


def _broadcast(first: Shape, second: Shape) -> Shape:
    try:
        return tuple(torch.broadcast_shapes(first, second))
    except RuntimeError as error:
        raise ValueError(f"has inputs of shapes {list(first)} and {list(second)}") from error


def _concatenated(inputs: Shapes, options: Options) -> Shape:
    first = inputs[0]
    (axis,) = _axes((options["axis"],), len(first))
    if options["activation"] != "NONE":
        raise ValueError("has an activation")
    for shape in inputs:
        if len(shape) != len(first) or shape[:axis] != first[:axis] or shape[axis + 1 :] != first[axis + 1 :]:
            raise ValueError(f"has inputs of shapes {list(first)} and {list(shape)}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def _axes(value: object, rank: int) -> tuple[int, ...]:
    """Number axes from the front; each may be there once."""
    axes = tuple(axis + rank if axis < 0 else axis for axis in _whole(value))
    if len(set(axes)) < len(axes) or not all(0 <= axis < rank for axis in axes):
        raise ValueError(f"names the axes {list(axes)} of {rank}")
    return axes


def _whole(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(number) is int for number in value):
        raise TypeError("no whole numbers")
    return value


def _activated(value: Tensor, options: Options) -> Tensor:
    match options.get("activation", "NONE"):
        case "NONE":
            return value
        case "RELU":
            return torch.relu(value)
        case "RELU6":
            return F.relu6(value)
    raise AssertionError(options)


def _bounded(name: str, shape: Shape, refuse: Callable[[str], InputError]) -> Shape:
    if len(shape) > MOST_RANK or any(size < 1 for size in shape) or prod(shape) > MOST_VALUES:
        raise refuse(f"has a value {short(name)} of shape {shown(list(shape))}")
    return shape
