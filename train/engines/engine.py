"""The engine of one process, and what every engine does: backward, step, save, load.

`PlainEngine` is plain PyTorch and the truth in tests; `zero.ZeroEngine` does the same over many processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.schedule import averaging, corrected, learning_rate

INFINITY_BECOMES = 1e5  # of a gradient, where they are cleaned (as published)
MOMENTS = ("exp_avg", "exp_avg_sq")
State = dict[str, Any]  # module, exp_avg, exp_avg_sq, average: tensors by name; images_seen, steps, updates: numbers


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate.

    Attributes:
        parameters: what is trained.
        factor: on the rate.
        frozen_until: images seen before they move.
        name: for the log, where their rate may be another than the network's.
    """

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0
    frozen_until: int = 0
    name: str = ""


class Engine(Protocol):
    """What moves the weights of one network.

    Attributes:
        module: the network.
        config: how it is moved. groups: what of it.
        rates: of its last step, of the groups that have a name.
        images_seen: by steps that said so. steps: those steps. updates: all steps.
    """

    module: nn.Module
    config: OptimizerConfig
    groups: Sequence[Group]
    rates: dict[str, float]
    images_seen: int
    steps: int
    updates: int

    def working(self) -> AbstractContextManager[None]:
        """Around every use of the module in a phase, and its `backward`, but not its `step`."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss, a scalar; the mean over a step's micro-batches counts.

        Raises:
            FloatingPointError: the loss is not finite, and gradients are not to be cleaned.
        """
        ...

    def step(self, images: int) -> float:
        """Move the weights; returns the rate.

        Args:
            images: newly seen by all ranks; 0 for a second step on the same ones, which the average does not follow.

        Raises:
            FloatingPointError: a gradient is not finite and is not to be cleaned; nothing has moved.
        """
        ...

    def averaged_in_place(self) -> AbstractContextManager[None]:
        """The averaged weights in the module, until the end of the context."""
        ...

    def averaged(self) -> dict[str, Tensor]:
        """The module's state with the averaged weights; every rank calls it, all have it."""
        ...

    def save(self) -> State:
        """All that a later `load` needs to go on as if nothing had happened; every rank calls it, the first has it."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave, whichever engine and however many ranks saved it; every rank calls it."""
        ...


class PlainEngine:
    """AdamW over one module, with a moving average of its weights. See `Engine`.

    Args:
        module: what is trained.
        groups: its parameters by rate; what is in no group stays as it is.
        config: rates and decays.
        images: length of the schedule.
        micros: micro-batches of a step.
        batch: images of a step, for the average's half-life.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        config: OptimizerConfig,
        images: int,
        micros: int = 1,
        batch: int = 1,
    ) -> None:
        self.module, self.config, self.images, self.micros, self.batch = module, config, images, micros, batch
        self.groups = groups
        self._parameters = [p for g in groups for p in g.parameters]
        self._optimizer = adam(groups, config)
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}
        self.images_seen, self.steps, self.updates, self._added = 0, 0, 0, 0
        self.rates: dict[str, float] = {}
        if config.clean:
            clean_gradients(self._parameters)

    def working(self) -> AbstractContextManager[None]:
        """See `Engine`."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        refuse_infinite(loss, self)
        if self._added % self.micros == 0:
            self._optimizer.zero_grad(set_to_none=True)
        self._added += 1
        (loss / self.micros).backward()

    def step(self, images: int) -> float:
        """See `Engine`."""
        self._added = 0
        for parameter in self._parameters:  # Adam skips what has no gradient, and ZeRO cannot
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.config.clip:
            norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        else:
            norm = torch.stack([p.grad.sum() for p in self._parameters if p.grad is not None]).sum()
        if not bool(norm.isfinite()):
            raise FloatingPointError(f"a gradient is {norm.item()} after {self.images_seen} images")
        rate = set_rates(self._optimizer, self.groups, self)
        self._optimizer.step()
        self.updates += 1
        if images:
            follow(self.average, dict(self.module.named_parameters()), self)
            self.images_seen += images
            self.steps += 1
        return rate

    @contextmanager
    def averaged_in_place(self) -> Iterator[None]:
        """See `Engine`."""
        with swapped(dict(self.module.named_parameters()), self.average):
            yield

    def averaged(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {**self.module.state_dict(), **self.average}

    def save(self) -> State:
        """See `Engine`."""
        moments: dict[str, dict[str, Tensor]] = {key: {} for key in MOMENTS}
        for name, parameter in self.module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if key in moments:
                    moments[key][name] = value
        return {"module": self.module.state_dict(), **moments, "average": self.average, **counts(self)}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        self.module.load_state_dict(state["module"])
        self._optimizer.state.clear()
        trained = {id(p) for p in self._parameters}
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                self.average[name].copy_(state["average"][name])
                if name in state[MOMENTS[0]] and id(parameter) in trained:
                    kept = {key: state[key][name].clone().to(parameter.device) for key in MOMENTS}
                    self._optimizer.state[parameter] = {"step": torch.tensor(float(state["updates"])), **kept}
        set_counts(self, state)


def adam(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Adam where nothing decays) with the corrections of lazy regularisation."""
    rate, betas = corrected(config)
    return torch.optim.AdamW(
        [{"params": list(g.parameters)} for g in groups],
        lr=rate,
        betas=betas,
        eps=config.eps,
        weight_decay=config.decay,
    )


def set_rates(optimizer: Any, groups: Sequence[Group], engine: Any) -> float:
    """Set the rates of this moment; returns that of factor 1."""
    rate = learning_rate(engine.config, engine.images_seen, engine.images)
    for its, group in zip(optimizer.param_groups, groups, strict=True):
        its["lr"] = rate * group.factor if engine.images_seen >= group.frozen_until else 0.0
        if group.name:
            engine.rates[group.name] = its["lr"]
    return rate


@torch.no_grad()
def follow(average: dict[str, Tensor], weights: Mapping[str, Tensor], engine: Any) -> None:
    """Move the averages towards the weights."""
    share = 1 - averaging(engine.config, engine.steps, engine.images_seen, engine.batch)
    for name, value in average.items():
        value.lerp_(weights[name].detach(), share)


@contextmanager
def swapped(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The values in the place of the weights, tensor by tensor, until the end of the context."""
    own = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(values[name])
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name])


def clean(gradient: Tensor) -> Tensor:
    """The gradient with 0 for NaN, and 1e5 of its sign for infinity."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=INFINITY_BECOMES, neginf=-INFINITY_BECOMES)


def clean_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Clean what each micro-batch adds, before it is added: a bad one takes nothing from the others of its step."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_hook(clean)


def refuse_infinite(loss: Tensor, engine: Engine) -> None:
    """Raises: `FloatingPointError` for a loss that is not finite, where gradients are not cleaned."""
    if not engine.config.clean and not bool(loss.isfinite()):
        raise FloatingPointError(f"the loss is {loss.item()} after {engine.images_seen} images")


def counts(engine: Engine) -> dict[str, int]:
    """The numbers of an engine's state."""
    return {"images_seen": engine.images_seen, "steps": engine.steps, "updates": engine.updates}


def set_counts(engine: Engine, state: Mapping[str, Any]) -> None:
    """Go on counting from a state."""
    engine.images_seen, engine.steps = int(state["images_seen"]), int(state["steps"])
    engine.updates = int(state["updates"])
