"""Keep networks from taking gradients for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Keep gradients from these networks inside the context; else the loss of another one would add to theirs."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
