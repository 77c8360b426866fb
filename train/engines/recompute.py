"""Activation checkpointing: what a forward pass keeps for the backward pass is computed again instead."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from triportrait.core.portrait import Portrait4D
from triportrait.core.reconstruct.attention import CrossBlock, SelfBlock
from triportrait.core.render.volume import VolumeRenderer


def recompute(portrait: Portrait4D) -> int:
    """Let the transformer's blocks and the renderer compute their insides again, in place; returns how many do.

    Names of weights stay as they are, and so do results: what is random comes from outside.
    """
    parts = [part for part in portrait.modules() if isinstance(part, CrossBlock | SelfBlock | VolumeRenderer)]
    for part in parts:
        part.forward = _again(part.forward)  # type: ignore[method-assign]
    return len(parts)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)

    return wrapped
