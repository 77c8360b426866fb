"""End on request: after SIGTERM (a scheduler takes the machine back), SIGINT or the death of the launcher, the step
ends and a checkpoint is saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stopped(Exception):
    """A run that was asked to stop did so, with a checkpoint of that moment."""


@dataclass
class Stopper:
    """Whether somebody asked the run to stop, or what launched it is gone: a killed launcher asks nobody.

    Attributes:
        signalled: a signal came.
        launcher: process that launched this one as one of several; None: nobody did.
    """

    signalled: bool = False
    launcher: int | None = None

    @property
    def orphaned(self) -> bool:
        """Tell whether the launcher has died; the system then gives its ranks another parent."""
        return self.launcher is not None and os.getppid() != self.launcher

    @property
    def asked(self) -> bool:
        """Tell whether the run shall stop."""
        return self.signalled or self.orphaned


@contextmanager
def stops_on_request(launcher: int | None = None) -> Iterator[Stopper]:
    """Let signals and the end of the launcher ask for a stop; a second SIGINT interrupts at once, as ever."""
    stopper = Stopper(launcher=launcher)

    def ask(number: int, frame: object) -> None:
        if stopper.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopper.signalled = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
