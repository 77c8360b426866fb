"""How evenly faces move: how far a frame of a film may lie from where its neighbours lead, at any frame rate.

A frame is compared with the point between its neighbours that even movement would reach at its time. Between pictures
that follow twice as slowly it may be off by 2^1.5 as much, as a path whose acceleration is white noise.
Letters: N clips, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.errors import InputError

RATE = 25.0  # frames/s at which `Bends` are stated
SLOWEST_FILM_S = 1 / 12  # between frames; those of slower films do not follow each other evenly


@dataclass(frozen=True)
class Bends:
    """How far a frame of a film lies from where its neighbours' movement leads, as standard deviations at 25 frames/s.

    Attributes:
        rotation: radians. translation: scene units. angles: radians of jaw and eyes. expression: deviations of betas.
    """

    rotation: float = 0.01
    translation: float = 0.006
    angles: float = 0.06
    expression: float = 0.4


def second_differences(frames: int, times: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make the matrix that says how far each frame is off, in units of what 25 frames/s allow.

    Args:
        frames: T. times: [T] or [N, T] seconds, rising; None is 25 frames/s. like: gives dtype and device.

    Returns:
        before and after, [N or 1, T - 2, 1]: how much the change to and from the middle frame counts; and the matrix
        [N or 1, T - 2, T] that takes frames to after * (next - this) - before * (this - last).
    """
    if times is None:
        steps = like.new_ones(1, max(frames - 1, 0))
    else:
        steps = times.to(like).reshape(-1, frames).diff(dim=-1) * RATE
    first, second = steps[:, :-1], steps[:, 1:]
    both = first + second
    allowed = 2 * first * second / both * (both / 2).sqrt()
    before, after = (2 * other / both / allowed for other in (second, first))
    row = torch.arange(max(frames - 2, 0), device=like.device)
    matrix = like.new_zeros(len(steps), len(row), frames)
    matrix[:, row, row], matrix[:, row, row + 1], matrix[:, row, row + 2] = before, -(before + after), after
    return before[..., None], after[..., None], matrix


def moves_evenly(times: Tensor) -> bool:
    """Tell whether frames at times [T], seconds, follow each other as those of a film does; else they are stills."""
    return len(times) > 1 and bool(times.diff().median() <= SLOWEST_FILM_S)


def check_times(times: Tensor, frames: int) -> None:
    """Refuse times [T] that do not rise.

    Raises:
        InputError: their number is not that of the frames, or one is not finite or not after the one before.
    """
    if tuple(times.shape) != (frames,):
        raise InputError(f"times: expected one for each of {frames} frames, got {list(times.shape)}")
    if not bool(torch.isfinite(times).all()) or bool((times.diff() <= 0).any()):
        raise InputError("times: expected finite seconds, each after the one before, got others; leave such frames out")
