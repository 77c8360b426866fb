"""Let branches of one architecture run side by side: their steps become one, their features channels of one value.

The mesh network looks at the lips and at both eyes by branches that differ in their weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from triportrait.core.faces.fusion import CONVOLUTIONS, Step
from triportrait.core.faces.graph import Graph

_BESIDE = ("MAX_POOL_2D", "Landmarks2TransformMatrix", "TransformTensorBilinear", *CONVOLUTIONS)


@dataclass(frozen=True)
class Bundle:
    """Steps that run as one.

    Attributes:
        members: one or several, alike but for their constants.
        inputs: names of the values that they read; of several members each is a bundle, or a value that they share.
        output: name of the result, of several members of the bundle.
    """

    members: tuple[Step, ...]
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Selection:
    """Values taken out of bundles and put side by side.

    Attributes:
        inputs: names of what they are taken from.
        picks: which input, which of its members, and how many it has.
        output: name of the result.
    """

    inputs: tuple[str, ...]
    picks: tuple[tuple[int, int, int], ...]
    output: str


def without_repeats(steps: list[Step], graph: Graph) -> list[Step]:
    """Leave out steps that compute again what an earlier one gives."""
    renamed: dict[str, str] = {}
    known: dict[tuple[object, ...], list[Step]] = {}
    kept = []
    for step in steps:
        inputs = tuple(renamed.get(name, name) for name in step.inputs)
        step = Step(step.operator, inputs, step.output, step.activation, step.slopes, step.padding)
        key = (step.operator.kind, inputs, tuple(sorted(step.operator.options.items())), step.activation, step.padding)
        twin = next((other for other in known.get(key, []) if _constants_equal(step, other, graph)), None)
        if twin is not None and step.output not in graph.outputs:
            renamed[step.output] = twin.output
        else:
            known.setdefault(key, []).append(step)
            kept.append(step)
    return kept


def _constants(step: Step, graph: Graph) -> list[str]:
    names = [name for name in step.operator.inputs if name in graph.constants]
    return [*names, step.slopes] if step.slopes else names


def _constants_equal(one: Step, other: Step, graph: Graph) -> bool:
    pairs = list(zip(_constants(one, graph), _constants(other, graph), strict=False))
    same = all(
        graph.constants[a].shape == graph.constants[b].shape and torch.equal(graph.constants[a], graph.constants[b])
        for a, b in pairs
    )
    return same and len(_constants(one, graph)) == len(_constants(other, graph))


def bundled(steps: list[Step], graph: Graph, apart: Iterable[str]) -> list[Bundle | Selection]:
    """Put steps side by side that are equally deep in the network and alike but for their constants.

    Args:
        apart: results of steps that stay by themselves.
    """
    alone = {*apart, *graph.outputs}
    depth = dict.fromkeys(graph.inputs, 0)
    alike: dict[tuple[object, ...], list[Step]] = {}
    for step in steps:
        depth[step.output] = 1 + max(depth[name] for name in step.inputs)
        alike.setdefault((depth[step.output], *_likeness(step, graph, alone)), []).append(step)
    place: dict[str, tuple[str, int, int]] = {name: (name, 0, 1) for name in graph.inputs}
    available = set(graph.inputs)
    plan: list[Bundle | Selection] = []

    def together(names: tuple[str, ...]) -> str:
        """Name the value that holds these side by side; put a step before it that makes it if there is none."""
        wanted = _bundle_name(names)
        if wanted not in available:
            sources = tuple(dict.fromkeys(place[name][0] for name in names))
            picks = tuple((sources.index(place[name][0]), *place[name][1:]) for name in names)
            plan.append(Selection(sources, picks, wanted))
            available.add(wanted)
        return wanted

    for _, group in sorted(alike.items(), key=lambda item: item[0][0]):  # type: ignore[arg-type, return-value]
        members = tuple(group)
        slots = list(zip(*(step.inputs for step in members), strict=True))
        inputs: tuple[str, ...]
        if members[0].operator.kind == "TransformTensorBilinear" and len(members) > 1:
            inputs = together(slots[0][:1]), together(slots[1])
        elif members[0].operator.kind == "Landmarks2TransformMatrix":
            inputs = (together(slots[0][:1]),)
        else:
            inputs = tuple(together(slot) for slot in slots)
        output = _bundle_name(tuple(step.output for step in members))
        plan.append(Bundle(members, inputs, output))
        available.add(output)
        for k, step in enumerate(members):
            place[step.output] = (output, k, len(members))
    for name in graph.outputs:
        together((name,))
    return plan


def _likeness(step: Step, graph: Graph, alone: set[str]) -> tuple[object, ...]:
    """Describe a step so that those with one description can run side by side."""
    kind = step.operator.kind
    if kind not in _BESIDE or step.output in alone:
        return (step.output,)
    shapes = tuple(graph.shapes[name] for name in step.inputs)
    if kind == "Landmarks2TransformMatrix":
        options = {n: v for n, v in step.operator.options.items() if not n.endswith(("_idx", "_idxs"))}
        return (kind, step.inputs, tuple(sorted(options.items())))
    shared = step.inputs[0] if kind == "TransformTensorBilinear" else ""
    kernels = tuple(tuple(graph.constants[name].shape) for name in _constants(step, graph))
    options = dict(step.operator.options)
    return (kind, shapes, shared, kernels, tuple(sorted(options.items())), step.activation, step.padding)


def _bundle_name(names: tuple[str, ...]) -> str:
    return "\n".join(names)


def members_of(name: str) -> list[str]:
    """List the values that lie side by side in one of the plan."""
    return name.split("\n")
