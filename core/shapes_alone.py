"""Make networks of shapes alone, whose numbers a file brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Make modules on the device meta: no memory is taken for weights, and none are drawn at random.

    Torch imports its compiler to draw normal numbers there: two seconds of every process for nothing.
    """
    with _Undrawn(), torch.device("meta"):
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where they would be filled with random numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if func is torch.randn:
            func = torch.empty
        return func(*args, **(kwargs or {}))
