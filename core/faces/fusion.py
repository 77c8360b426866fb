"""Join a convolution with the addition and the activation that follow it, and with the padding before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from triportrait.core.faces.graph import Graph, Operator

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
ACTIVATIONS = ("RELU", "PRELU", "HARD_SWISH", "LOGISTIC")


@dataclass(frozen=True)
class Step:
    """One operator of the graph, with those that were joined to it.

    Attributes:
        operator: the first one.
        inputs: names of the values that it reads, without constants: the picture, then what is added to the result.
        output: name of what it gives.
        activation: kind of the activation that follows, and the name of its slopes if it is a PRELU.
        padding: zeros above, below, left and right of the picture that a PAD asked for.
    """

    operator: Operator
    inputs: tuple[str, ...]
    output: str
    activation: str = "NONE"
    slopes: str = ""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


def fused(graph: Graph) -> list[Step]:
    """List the steps of a graph, the additions and activations after convolutions joined to these."""
    uses = Counter(name for operator in graph.operators for name in operator.inputs)
    uses.update(graph.outputs)
    made: dict[str, int] = {}  # value -> place of the step that gives it
    steps: list[Step | None] = []

    def joinable(name: str, without_addition: bool) -> Step | None:
        """Find the convolution whose result is used here alone and to which more can be joined."""
        step = steps[made[name]] if name in made and uses[name] == 1 else None
        if step is None or step.operator.kind not in CONVOLUTIONS or step.activation != "NONE":
            return None
        return None if without_addition and len(step.inputs) > 1 else step

    def put(step: Step, instead_of: str | None = None) -> None:
        if instead_of is not None:
            steps[made.pop(instead_of)] = None
        made[step.output] = len(steps)
        steps.append(step)

    for operator in graph.operators:
        inputs = tuple(name for name in operator.inputs if name and name not in graph.constants)
        output, source = operator.outputs[0], inputs[0] if inputs else ""
        joined: Step | None = None
        if operator.kind == "ADD" and len(inputs) == 2 and operator.options["activation"] in ("NONE", "RELU"):
            for name, other in (inputs, inputs[::-1]):
                joined = joinable(name, without_addition=True)
                if joined is not None and other != name and _fits(graph, name, other):
                    other, padded = _without_channel_padding(other, made, steps, uses)
                    if padded is not None:
                        steps[made.pop(padded)] = None
                    activation = str(operator.options["activation"])
                    put(replace(joined, inputs=(*joined.inputs, other), output=output, activation=activation), name)
                    break
                joined = None
        elif operator.kind in ACTIVATIONS:
            joined = joinable(source, without_addition=False)
            if joined is not None:
                slopes = operator.inputs[1] if operator.kind == "PRELU" else ""
                put(replace(joined, output=output, activation=operator.kind, slopes=slopes), source)
        elif operator.kind in CONVOLUTIONS:
            before = steps[made[source]] if source in made and uses[source] == 1 else None
            activation = str(operator.options["activation"])
            joined = Step(operator, inputs, output, activation)
            if before is not None and before.operator.kind == "PAD" and operator.options["padding"] == "VALID":
                sides = before.operator.options["paddings"]
                assert isinstance(sides, tuple)
                if sides[6:] == (0, 0):
                    top, bottom, left, right = sides[2:6]
                    joined = replace(joined, inputs=before.inputs, padding=(top, bottom, left, right))
                    put(joined, source)
                    continue
            put(joined)
        if joined is None:
            put(Step(operator, inputs, output))
    return [step for step in steps if step is not None]


def _fits(graph: Graph, name: str, other: str) -> bool:
    """Tell whether both values have one shape, so that nothing is repeated when they are added."""
    return graph.shapes[name] == graph.shapes[other]


def _without_channel_padding(
    name: str, made: dict[str, int], steps: list[Step | None], uses: Counter[str]
) -> tuple[str, str | None]:
    """Find what is added before channels of zeros were put behind it; the name of the padding that is not needed."""
    step = steps[made[name]] if name in made and uses[name] == 1 else None
    if step is None or step.operator.kind != "PAD":
        return name, None
    sides = step.operator.options["paddings"]
    assert isinstance(sides, tuple)
    return (step.inputs[0], name) if sides[:7] == (0,) * 7 else (name, None)
