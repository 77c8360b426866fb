"""This module defines what every engine does (backward, step, save, load) and the engine of one process.

`PlainEngine` is plain PyTorch and the truth in tests; `zero.ZeroEngine` does the same over many processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.schedule import ema_decay_at, lazy_corrected, learning_rate

INFINITY_BECOMES = 1e5  # in a gradient, where gradients are cleaned (as published)
MOMENTS = ("exp_avg", "exp_avg_sq")
State = dict[str, Any]  # module, exp_avg, exp_avg_sq, ema: tensors by name; images_seen, steps, updates: numbers


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        parameters: what is trained.
        lr_factor: multiplies the learning rate.
        frozen_until: images seen before they move.
        name: for the log, where their learning rate may be another than the network's.
    """

    parameters: Sequence[nn.Parameter]
    lr_factor: float = 1.0
    frozen_until: int = 0
    name: str = ""


class HasParamGroups(Protocol):
    """An optimizer of PyTorch, or DeepSpeed's wrapper of one."""

    param_groups: list[dict[str, Any]]


class Engine(ABC):
    """What moves the weights of one network: AdamW with a schedule, and an EMA of the weights.

    Attributes:
        module: the network.
        groups: its parameters by learning rate; what is in no group stays as it is.
        config: how it is moved.
        images, batch: length of the schedule, and of a step.
        micro_batches: those of a step on this rank.
        ema: the EMA of each parameter, or of the part that this rank holds.
        group_lrs: learning rates of its last step, of the groups that have a name.
        images_seen: by steps that counted images. steps: those steps. updates: all steps.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        config: OptimizerConfig,
        images: int,
        micro_batches: int = 1,
        batch: int = 1,
    ) -> None:
        self.module, self.groups, self.config = module, groups, config
        self.images, self.micro_batches, self.batch = images, micro_batches, batch
        self.images_seen, self.steps, self.updates = 0, 0, 0
        self.group_lrs: dict[str, float] = {}
        self.ema = {name: p.detach().clone() for name, p in module.named_parameters()}
        self._parameters = [p for g in groups for p in g.parameters]
        self._added = 0  # micro-batches since the last step
        self._make_optimizer()
        if config.zero_nan_grads:
            zero_nan_grads(self._parameters)

    @abstractmethod
    def _make_optimizer(self) -> None:
        """Make the optimizer of the groups."""

    def full_params(self) -> AbstractContextManager[None]:
        """Return the context that every use of the module in a phase needs, and `backward`, but not `step`."""
        return nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss, a scalar; the mean over a step's micro-batches counts.

        Raises:
            FloatingPointError: the loss is not finite, and gradients are not to be cleaned.
        """

    @abstractmethod
    def step(self, images: int) -> float:
        """Move the weights; returns the learning rate.

        Args:
            images: newly seen by all ranks; 0 for a second step on the same ones, which the EMA does not follow.

        Raises:
            FloatingPointError: a gradient is not finite and is not to be cleaned; nothing has moved.
        """

    @abstractmethod
    def ema_in_place(self) -> AbstractContextManager[None]:
        """Put the EMA into the module, until the end of the context."""

    @abstractmethod
    def ema_state_dict(self) -> dict[str, Tensor]:
        """Return the module's state with the EMA of its weights; every rank calls it, all have it."""

    @abstractmethod
    def save(self) -> State:
        """Return all that a later `load` needs to go on exactly; every rank calls it, the first has it."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave, whichever engine and however many ranks saved it; every rank calls it."""

    def _check_finite_loss(self, loss: Tensor) -> None:
        """Raises: `FloatingPointError` for a loss that is not finite, where gradients are not cleaned."""
        if not self.config.zero_nan_grads and not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss is {loss.item()} after {self.images_seen} images")

    def _set_lrs(self, optimizer: HasParamGroups) -> float:
        """Set the learning rates of this step; returns that of factor 1."""
        lr = learning_rate(self.config, self.images_seen, self.images)
        for param_group, group in zip(optimizer.param_groups, self.groups, strict=True):
            param_group["lr"] = lr * group.lr_factor if self.images_seen >= group.frozen_until else 0.0
            if group.name:
                self.group_lrs[group.name] = param_group["lr"]
        return lr

    @torch.no_grad()
    def _count_step(self, weights: Mapping[str, Tensor], images: int) -> None:
        """Count a step; where it saw images, the EMA follows the weights."""
        self.updates += 1
        if images:
            share = 1 - ema_decay_at(self.config, self.steps, self.images_seen, self.batch)
            for name, value in self.ema.items():
                value.lerp_(weights[name].detach(), share)
            self.images_seen += images
            self.steps += 1

    def _progress(self) -> dict[str, int]:
        """Return the numbers of the state."""
        return {"images_seen": self.images_seen, "steps": self.steps, "updates": self.updates}

    def _set_progress(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a state."""
        self.images_seen, self.steps = int(state["images_seen"]), int(state["steps"])
        self.updates = int(state["updates"])


class PlainEngine(Engine):
    """AdamW over one module on one process. See `Engine`."""

    def _make_optimizer(self) -> None:
        self._optimizer = adam(self.groups, self.config)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self._check_finite_loss(loss)
        if self._added % self.micro_batches == 0:
            self._optimizer.zero_grad(set_to_none=True)
        self._added += 1
        (loss / self.micro_batches).backward()

    def step(self, images: int) -> float:
        """See `Engine`."""
        self._added = 0
        for parameter in self._parameters:  # Adam skips what has no gradient, and ZeRO cannot
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.config.max_grad_norm:
            norm = nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        else:
            norm = torch.stack([p.grad.sum() for p in self._parameters if p.grad is not None]).sum()
        if not bool(norm.isfinite()):
            raise FloatingPointError(f"a gradient is {norm.item()} after {self.images_seen} images")
        lr = self._set_lrs(self._optimizer)
        self._optimizer.step()
        self._count_step(dict(self.module.named_parameters()), images)
        return lr

    @contextmanager
    def ema_in_place(self) -> Iterator[None]:
        """See `Engine`."""
        with swapped(dict(self.module.named_parameters()), self.ema):
            yield

    def ema_state_dict(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {**self.module.state_dict(), **self.ema}

    def save(self) -> State:
        """See `Engine`."""
        moments: dict[str, dict[str, Tensor]] = {key: {} for key in MOMENTS}
        for name, parameter in self.module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if key in moments:
                    moments[key][name] = value
        return {"module": self.module.state_dict(), **moments, "ema": self.ema, **self._progress()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        self.module.load_state_dict(state["module"])
        self._optimizer.state.clear()
        trained = {id(p) for p in self._parameters}
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                self.ema[name].copy_(state["ema"][name])
                if name in state[MOMENTS[0]] and id(parameter) in trained:
                    moments = {key: state[key][name].clone().to(parameter.device) for key in MOMENTS}
                    self._optimizer.state[parameter] = {"step": torch.tensor(float(state["updates"])), **moments}
        self._set_progress(state)


def adam(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW (Adam where nothing decays) with the corrections of lazy regularisation."""
    lr, betas = lazy_corrected(config)
    return torch.optim.AdamW(
        [{"params": list(g.parameters)} for g in groups],
        lr=lr,
        betas=betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


@contextmanager
def swapped(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put values in the place of the weights, tensor by tensor, until the end of the context."""
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(values[name])
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])


def zero_nan_grads(parameters: Sequence[nn.Parameter]) -> None:
    """Replace NaN by 0 and infinity by 1e5 of its sign in the gradients of each micro-batch, before they are added.

    A bad micro-batch takes nothing from the others of its step.
    """
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_hook(_zero_nan)


def _zero_nan(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=INFINITY_BECOMES, neginf=-INFINITY_BECOMES)
