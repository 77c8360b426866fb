"""The plain PyTorch engine of one process: backward, step, save, load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.train.config import OptimizerConfig
from triportrait.train.schedule import averaging, learning_rate


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate.

    Attributes:
        parameters: what is trained.
        factor: on the rate.
    """

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0


class PlainEngine:
    """AdamW over one module, with a moving average of its weights.

    Args:
        module: what is trained.
        groups: its parameters by rate.
        config: rates and decays.
        images: length of the schedule.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], config: OptimizerConfig, images: int) -> None:
        self.module, self.config, self.images = module, config, images
        self._factors = [g.factor for g in groups]
        self._parameters = [p for g in groups for p in g.parameters]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters)} for g in groups],
            lr=config.rate,
            betas=config.betas,
            weight_decay=config.decay,
        )
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}
        self.images_seen, self.steps = 0, 0

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss is {loss.item()} after {self.images_seen} images")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def step(self, images: int) -> float:
        """Move the weights after a batch of `images`; returns the rate.

        Raises:
            FloatingPointError: a gradient is not finite; nothing has moved.
        """
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        if not bool(norm.isfinite()):
            raise FloatingPointError(f"a gradient is {norm.item()} after {self.images_seen} images")
        rate = learning_rate(self.config, self.images_seen, self.images)
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        share = 1 - averaging(self.config, self.steps)
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                self.average[name].lerp_(parameter, share)
        self.images_seen += images
        self.steps += 1
        return rate

    def averaged(self) -> dict[str, Tensor]:
        """The module's state with the averaged weights."""
        return {**self.module.state_dict(), **self.average}

    def save(self) -> dict[str, Any]:
        """All that a later `load` needs to go on as if nothing had happened."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self.average,
            "images_seen": self.images_seen,
            "steps": self.steps,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave."""
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, value in state["average"].items():
                self.average[name].copy_(value)
        self.images_seen, self.steps = int(state["images_seen"]), int(state["steps"])
