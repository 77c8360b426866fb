"""What a TFLite file says of one network: its constants and its operators in their order, checked and within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.faces.operators import KINDS, OptionValue, Shape, shape_and_work
from triportrait.core.safe_text import LONGEST_NAME, shown

MOST_OPERATORS = 2048
MOST_CONSTANTS = 1 << 24  # numbers, all constants together; the largest of the six files has 1.4 million
MOST_VALUES = 1 << 24  # numbers of one intermediate result
MOST_VALUES_TOGETHER = 1 << 27  # numbers of all intermediate results; segmentation, the largest, has 6 million
MOST_WORK = 1 << 34  # multiplications of one picture; the largest of the six networks needs 0.5 billion


@dataclass(frozen=True)
class Operator:
    """One operator, by TFLite's name for it.

    Attributes:
        kind: a key of `KINDS`, such as CONV_2D.
        inputs, outputs: names of values; an optional input that is not there is empty.
        options: name -> value, exactly those that `KINDS` wants.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """One network for one picture, in TFLite's layout: rank-4 values are [1, H, W, C].

    Attributes:
        inputs: name -> shape of what goes in.
        outputs: names of what comes out, in the file's order.
        constants: name -> tensor on the CPU, float32 or float16; kernels are [out, H, W, in] and [1, H, W, C].
        operators: in an order in which each finds its inputs.
        shapes: name -> shape of each value that is no constant, found by `check_graph`.
    """

    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    shapes: Mapping[str, Shape] = field(default_factory=dict)


Refusal = Callable[[str], InputError]
Bound = Callable[[str, Shape, Refusal], Shape]  # a value's name and shape -> that shape, if it is small enough
Check = Callable[[Graph, Refusal], Graph]


def given_shapes(graph: Graph, refuse: Refusal, bounded: Bound) -> dict[str, Shape]:
    """Check what a graph has before its first operator, and give the shapes of its constants and inputs.

    Args:
        bounded: checks the shape of an input.
    """
    if not graph.inputs or not graph.outputs or not graph.operators:
        raise refuse("has no inputs, no outputs or no operators")
    if len(graph.operators) > MOST_OPERATORS:
        raise refuse(f"has {len(graph.operators):,} operators, {MOST_OPERATORS:,} at most make sense")
    if sum(tensor.numel() for tensor in graph.constants.values()) > MOST_CONSTANTS:
        raise refuse(f"has more than {MOST_CONSTANTS:,} constant numbers")
    shapes: dict[str, Shape] = {}
    for name, tensor in graph.constants.items():
        if tensor.dtype not in (torch.float32, torch.float16) or not bool(tensor.isfinite().all()):
            raise refuse(f"has a constant {short(name)} that is not of finite floating point numbers")
        shapes[name] = tuple(tensor.shape)
    for name, shape in graph.inputs.items():
        if name in shapes:
            raise refuse(f"has two values named {short(name)}")
        shapes[name] = bounded(name, shape, refuse)
    return shapes


def check_outputs(graph: Graph, shapes: Mapping[str, Shape], refuse: Refusal) -> None:
    """Check that a graph computes each of its outputs, and names it once."""
    for name in graph.outputs:
        if name not in shapes or name in graph.constants or name in graph.inputs:
            raise refuse(f"does not compute its output {short(name)}")
    if len(set(graph.outputs)) < len(graph.outputs):
        raise refuse("names an output twice")


def check_graph(graph: Graph, refuse: Refusal) -> Graph:
    """Check that a graph can be run, and that this takes a bounded amount of memory and time.

    Args:
        refuse: makes the error from what is wrong, such as "has two values named x".

    Returns:
        The graph with the shapes of all its values.

    Raises:
        InputError: `refuse`'s, for an unknown operator, an option that is missing, shapes that do not fit, constants
            that are not finite, a value that is used before it is made, or sizes beyond the bounds above.
    """
    shapes = given_shapes(graph, refuse, _bounded)
    work = together = 0
    for operator in graph.operators:
        wanted = KINDS.get(operator.kind)
        if wanted is None:
            raise refuse(f"needs the operator {short(operator.kind)}, which is not among {', '.join(KINDS)}")
        for name in operator.inputs:
            if name and name not in shapes:
                raise refuse(f"uses {short(name)} in {operator.kind} before it is made")
        try:
            found, effort = shape_and_work(
                operator.kind, [shapes[name] if name else None for name in operator.inputs], operator.options
            )
        except ValueError as error:
            raise refuse(f"has a {operator.kind} that {error}") from error
        ranks = {len(shapes[name]) for name in operator.inputs if name and name not in graph.constants}
        if not ranks or (len(ranks) > 1 and operator.kind in ("ADD", "MUL", "CONCATENATION")):
            raise refuse(f"has a {operator.kind} of constants alone, or of values of different ranks")
        if operator.kind in ("ADD", "MUL") and {len(found)} != ranks:
            raise refuse(f"has a {operator.kind} with a constant of more dimensions than the value")
        for place, name in enumerate(operator.inputs):
            if place in wanted.constant_inputs:
                if name and name not in graph.constants:
                    raise refuse(f"has a {operator.kind} whose input {place + 1} is no constant")
            elif name in graph.constants and operator.kind not in ("ADD", "MUL"):
                raise refuse(f"has a {operator.kind} whose input {place + 1} is a constant")
        if len(operator.outputs) != 1 or operator.outputs[0] in shapes:
            raise refuse(f"has a {operator.kind} whose result has no name of its own")
        shapes[operator.outputs[0]] = _bounded(operator.outputs[0], found, refuse)
        work += effort
        together += prod(found)
        if together > MOST_VALUES_TOGETHER:
            raise refuse(f"has intermediate results of more than {MOST_VALUES_TOGETHER:,} numbers")
        if work > MOST_WORK:
            raise refuse(f"needs more than {MOST_WORK:,} multiplications for a picture")
    check_outputs(graph, shapes, refuse)
    values = {name: shape for name, shape in shapes.items() if name not in graph.constants}
    return Graph(graph.inputs, graph.outputs, graph.constants, graph.operators, values)


def _bounded(name: str, shape: Shape, refuse: Refusal) -> Shape:
    """Check the shape of a value of one picture."""
    count = 1
    for size in shape:
        count *= size
        if size < 1 or count > MOST_VALUES:
            raise refuse(f"has a value {short(name)} of {' x '.join(map(str, shape))} numbers")
    if not shape or shape[0] != 1 or len(shape) > 4:
        raise refuse(f"has a value {short(name)} of shape {shown(list(shape))}, which is not that of one picture")
    return shape


def short(name: str) -> str:
    return shown(name, LONGEST_NAME)
