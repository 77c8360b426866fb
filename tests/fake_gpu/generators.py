"""Random numbers of a GPU that does not exist are drawn by generators that are of no device, and say that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

CUDA = torch.device("cuda", 0)
DRAWS = {  # what takes a generator
    torch: ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"),
    Tensor: (
        "normal_", "uniform_", "random_", "exponential_", "bernoulli", "bernoulli_", "multinomial", "cauchy_",
        "geometric_", "log_normal_",
    ),
}  # fmt: skip


class Generator(torch.Generator):
    """A stream of random numbers, of the host or of the device, where its state is the seed and how many were drawn."""

    _device: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls)
        made._device = CUDA if torch.device(device).type == "cuda" else torch.device("cpu")
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._device

    def get_state(self) -> Tensor:
        if self._device == CUDA:
            return torch.tensor([self.initial_seed(), 0]).view(torch.uint8)
        return super().get_state()

    def set_state(self, state: Tensor) -> torch.Generator:
        if self._device != CUDA:
            return super().set_state(state)
        if len(state) != 16:
            raise RuntimeError(f"a state of {len(state)} bytes is none of a device's")
        return self.manual_seed(int(state.view(torch.int64)[0]))


def _checked(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that draws random numbers by a generator of their device alone; PyTorch's dispatcher hands on
    another object for it."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Tensor:
        result = draw(*args, **kwargs)
        generator = kwargs.get("generator")
        if isinstance(generator, Generator) and generator.device.type != result.device.type:
            raise RuntimeError(f"a generator of {generator.device} was given for numbers on {result.device}")
        return result

    return drawn


def draws_checked() -> Iterator[tuple[Any, str, Any]]:
    """Yield what takes the place of the functions that draw; PyTorch lists those with a default device beforehand."""
    with torch.device("cpu"):
        torch.empty(0)
    for owner, names in DRAWS.items():
        yield from ((owner, name, _checked(getattr(owner, name))) for name in names)
