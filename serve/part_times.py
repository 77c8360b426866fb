"""Measures by hooks how long each part of the network takes: the network itself knows no clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class PartTimes:
    """Seconds and calls per named part. Parts that are hooked wait for the device, so measuring slows a GPU down."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def hook(self, parts: Mapping[str, nn.Module]) -> None:
        """Measure every call of these modules from now on."""
        for name, module in parts.items():
            started: list[float] = []

            def before(module: nn.Module, inputs: Any, started: list[float] = started) -> None:
                started.append(_now(inputs))

            def after(
                module: nn.Module, inputs: Any, output: Any, name: str = name, started: list[float] = started
            ) -> None:
                self._add(name, _now(inputs) - started.pop())

            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block of host code."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - start)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.calls[name] = self.calls.get(name, 0) + 1

    def table(self) -> str:
        """Print one line a part: calls, milliseconds a call, seconds in all."""
        width = max(map(len, self.seconds), default=4)
        lines = [f"{'part':{width}}  calls   ms/call   s in all"]
        for name, seconds in self.seconds.items():
            calls = self.calls[name]
            lines.append(f"{name:{width}}  {calls:5d}  {1000 * seconds / calls:8.1f}  {seconds:9.2f}")
        return "\n".join(lines)


def _now(inputs: Any) -> float:
    first = inputs[0] if isinstance(inputs, tuple) and inputs else None
    if getattr(first, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()
