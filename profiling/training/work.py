"""The work of a training step, counted while it runs: pictures through each network, operations, bytes kept.

Letters: B images of a micro-batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from triportrait.core.render import volume
from triportrait.kernels.dispatch import INTERPRETED, use_backend
from triportrait.kernels.language import HAVE_TRITON
from triportrait.profiling.training.inputs import Inputs
from triportrait.profiling.training.reference import read_motions
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.stage import MicroBatch, Phase

FORWARD, BACKWARD, TEACHER, CRITIC, DATA, OPTIMISER = PARTS = (
    "generator forward", "generator backward", "teacher", "discriminator", "data", "optimiser"
)  # fmt: skip
NETWORKS = (
    "teacher: source", "teacher: planes", "teacher: render", "motion encoder", "neck field", "generator: source",
    "generator: planes", "generator: render", "discriminator", "perceptual distance", "identity",
)  # fmt: skip
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_indexing = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


@dataclass
class Work:
    """Of a step, phases counted as often as they come in one.

    Attributes:
        pictures: through each network of NETWORKS, each in its forward pass.
        flop: of products and convolutions, by part.
        kept: bytes that the forward pass of each phase keeps for the backward pass, weights and inputs aside.
        terms: of each phase, what it loses.
    """

    pictures: Counter[str] = field(default_factory=Counter)
    flop: Counter[str] = field(default_factory=Counter)
    kept: dict[str, int] = field(default_factory=dict)
    terms: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def total_flop(self) -> float:
        """Of all parts."""
        return float(sum(self.flop.values()))


@dataclass
class Watch:
    """Which part runs now, and who wants to know.

    Attributes:
        entered: is called with a part's name when it begins to be the innermost, and again when an inner one has ended.
        seen: is called with a network's name and the pictures that pass.
    """

    entered: Callable[[str], None]
    seen: Callable[[str, int], None]
    _parts: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, this part runs."""
        self._parts.append(name)
        self.entered(name)
        try:
            yield
        finally:
            self._parts.pop()
            if self._parts:
                self.entered(self._parts[-1])


def _images(arguments: Any) -> int:
    return len(arguments[0])


def _sources(arguments: Any) -> int:
    return len(arguments[0].tokens)


def _heads(arguments: Any) -> int:
    return len(arguments[0].planes)


VERBS = (("prepare", "source", _images), ("reenact", "planes", _sources), ("render", "render", _heads))


@contextmanager
def watched(inputs: Inputs, watch: Watch) -> Iterator[None]:
    """Inside, a watch is told of each use of a step's networks."""
    models = inputs.models
    with ExitStack() as stack:
        for owner, name, part in (("static", "teacher", TEACHER), ("portrait", "generator", FORWARD)):
            if (portrait := getattr(models, owner, None)) is not None:
                for verb, what, count in VERBS:
                    stack.enter_context(_told(portrait, verb, f"{name}: {what}", watch, count, part))
        stack.enter_context(_told(inputs.necks, "forward", "neck field", watch, _images, DATA))
        if (encoder := getattr(models, "motion_encoder", None)) is not None:
            stack.enter_context(_told(encoder, "forward", "motion encoder", watch, _images, TEACHER))
        for owner, name in (
            ("discriminator", "discriminator"),
            ("perceptual", "perceptual distance"),
            ("identity",) * 2,
        ):
            if (network := getattr(models, owner, None)) is not None:
                stack.enter_context(_told(network, "forward", name, watch, _images, None))
        yield


@contextmanager
def _told(
    owner: nn.Module, verb: str, name: str, watch: Watch, count: Callable[[Any], int], part: str | None
) -> Iterator[None]:
    own = getattr(owner, verb)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        watch.seen(name, count(arguments))
        with nullcontext() if part is None else watch.part(part):
            return own(*arguments, **named)

    before = owner.__dict__.get(verb)
    setattr(owner, verb, wrapped)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, verb)
        else:
            setattr(owner, verb, before)


def part_of(phase: Phase, backward: bool) -> str:
    """Where a phase's own work belongs."""
    if phase.engine == "discriminator":
        return CRITIC
    return BACKWARD if backward else FORWARD


def network_of(inputs: Inputs, phase: Phase) -> nn.Module:
    """The one that a phase moves."""
    network: nn.Module = inputs.models.discriminator if phase.engine == "discriminator" else inputs.models.portrait
    return network


@contextmanager
def moves_alone(inputs: Inputs, phase: Phase) -> Iterator[None]:
    """Inside, only the network that a phase moves takes gradients, as in the loop."""
    moved = network_of(inputs, phase)
    others = [x for x in (inputs.models.portrait, inputs.models.discriminator) if x is not None and x is not moved]
    parameters = [p for network in others for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def count(inputs: Inputs, phases: Sequence[Phase], again: bool, kernels: bool = False) -> Work:
    """Run each phase once, forward and backward; nothing moves.

    Args:
        again: necks are computed for each pass, and motions of real pictures beforehand: the reference's form.
        kernels: on tensors without memory, the launches of a GPU in the place of their definitions: what they keep.

    Raises:
        ValueError: kernels are asked for where their launches cannot be written down (see `can_count_kernels`).
    """
    work, flops = Work(), _Flops()
    share = 1.0

    def entered(part: str) -> None:
        flops.part = part

    def seen(network: str, pictures: int) -> None:
        work.pictures[network] += pictures * share  # type: ignore[assignment]

    watch = Watch(entered, seen)
    with ExitStack() as stack:
        if inputs.device.type == "meta":
            stack.enter_context(_without_memory())
        if kernels:
            if not can_count_kernels():
                raise ValueError(
                    "kernels: expected Triton in a process that does not interpret; unset TRITON_INTERPRET"
                )
            from triportrait.profiling.launches import recorded

            stack.enter_context(recorded())
            stack.enter_context(_fused_attention())
        stack.enter_context(use_backend("triton" if kernels else "reference"))
        stack.enter_context(watched(inputs, watch))
        stack.enter_context(flops)
        with watch.part(DATA):
            micro = inputs.micro(again)
        if again:
            with _unwatched(flops, work):
                read_motions(inputs, micro)
        for phase in phases:
            share, flops.share = 1 / phase.every, 1 / phase.every
            with moves_alone(inputs, phase):
                kept = _Kept(_own_storages(inputs, micro))
                with watch.part(part_of(phase, False)), kept.saving():
                    terms = dict(phase.terms(micro))
                work.kept[phase.name] = kept.total
                work.terms[phase.name] = {name: value.detach() for name, value in terms.items()}
                with watch.part(part_of(phase, True)):
                    (torch.stack([x.float() for x in terms.values()]).sum() * phase.every).backward()
            for parameter in network_of(inputs, phase).parameters():
                parameter.grad = None
    work.flop = flops.found
    return work


def can_count_kernels() -> bool:
    """Whether launches can be written down in this process."""
    return HAVE_TRITON and not INTERPRETED


@contextmanager
def _unwatched(flops: _Flops, work: Work) -> Iterator[None]:
    """What runs inside is not counted."""
    found, pictures = flops.found.copy(), work.pictures.copy()
    yield
    flops.found, work.pictures = found, pictures


class _Flops(TorchDispatchMode):
    """Adds up what products and convolutions cost, by the part that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.share, self.found = DATA, 1.0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            flop = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet is _flash:
            flop = sdpa_flop_count(*(x.shape for x in args[:3]))
        elif packet is _flash_backward:
            flop = sdpa_backward_flop_count(*(x.shape for x in args[:4]))
        else:
            return out
        self.found[self.part] += flop * self.share  # type: ignore[assignment]
        return out


class _Kept:
    """Storages that are saved for the backward pass, each once."""

    def __init__(self, known: set[int]) -> None:
        self._known, self.total, self._held = known, 0, list[Any]()

    def saving(self) -> Any:
        """Inside, what is saved is added up."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(storage)  # else another storage could take its place
            self.total += storage.nbytes()
        return tensor


def _own_storages(inputs: Inputs, micro: MicroBatch) -> set[int]:
    """What is there anyway: weights, and the batch."""
    found: set[int] = set()
    for network in vars(inputs.models).values():
        if isinstance(network, nn.Module):
            found |= {x.untyped_storage()._cdata for x in (*network.parameters(), *network.buffers())}

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            found.add(value.untyped_storage()._cdata)
        elif hasattr(value, "__dataclass_fields__"):
            for inner in vars(value).values():
                walk(inner)

    walk(micro.batch)
    return found


class _Beside(TorchDispatchMode):
    """Small tensors with numbers may be used together with those without memory: they lose them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        if not any(isinstance(x, Tensor) and x.is_meta for x in flat):
            return func(*args, **(kwargs or {}))
        if func._overloadpacket in _indexing:
            rows = [r.nonzero(as_tuple=True) if r is not None and r.dtype == torch.bool and not r.is_meta else (r,)
                    for r in args[1]]  # fmt: skip
            args = (args[0], [r for each in rows for r in each], *args[2:])
        args, kwargs = torch.utils._pytree.tree_map(_forgotten, (args, kwargs or {}))
        return func(*args, **kwargs)


def _forgotten(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value


@contextmanager
def _without_memory() -> Iterator[None]:
    """Inside, tensors without memory go through a step: autocast does not know their device, so all is float32."""
    own, at_a_time = torch.autocast, volume.RAY_CHUNK
    volume.RAY_CHUNK = 10**9  # there is no memory to be bounded
    torch.autocast = lambda device, *a, **k: nullcontext() if device == "meta" else own(device, *a, **k)  # type: ignore
    try:
        with _Beside():
            yield
    finally:
        torch.autocast, volume.RAY_CHUNK = own, at_a_time  # type: ignore[misc]


class _Fused(torch.autograd.Function):
    """What a fused attention keeps: queries, keys, values, its output, and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


@contextmanager
def _fused_attention() -> Iterator[None]:
    own = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = lambda q, k, v: _Fused.apply(q, k, v)  # type: ignore
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = own


def states_bytes(inputs: Inputs) -> int:
    """Of what stays between steps, float32: all weights; of the two trained networks their average, gradients and
    two moments of their weights that move; stage 1 moves none that reads motion."""
    elements = 0
    for network in vars(inputs.models).values():
        if isinstance(network, nn.Module):
            elements += sum(math.prod(x.shape) for x in (*network.parameters(), *network.buffers()))
            if network in (inputs.models.portrait, inputs.models.discriminator):
                left_out = inputs.stage == "stage1" and network is inputs.models.portrait
                elements += sum(
                    math.prod(p.shape) * (1 if left_out and reads_motion(name) else 4)
                    for name, p in network.named_parameters()
                )
    return 4 * elements
