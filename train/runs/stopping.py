"""Ending on request: SIGTERM (a scheduler that takes the machine back) and SIGINT let the step end, then save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stopped(Exception):
    """A run that was asked to stop did so, with a checkpoint of that moment."""


@dataclass
class Stopper:
    """Whether somebody asked the run to stop."""

    asked: bool = False


@contextmanager
def stops_on_request() -> Iterator[Stopper]:
    """Signals ask; a second SIGINT interrupts at once, as ever."""
    stopper = Stopper()

    def ask(number: int, frame: object) -> None:
        if stopper.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopper.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
