"""Guards a job against closed standard streams, and against signals that stop it at any time."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, `kill`, a closed terminal; not every system has all


class _UnfailingStream:
    """Wraps a standard stream: where writing fails, the rest is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        # What is still buffered is written when the interpreter ends, and must not fail then.
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)


@contextmanager
def streams() -> Iterator[None]:
    """Let closed, full and broken standard streams cost what is printed, never the job or its exit code."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # This takes the lowest free number, which is the stream's: else the next opened file, an output, would.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    # A stream that was closed when Python started is None.
    out = _UnfailingStream(sys.stdout or io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8"))
    err = _UnfailingStream(sys.stderr or io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8"))
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def stops() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end a job once, and let its cleaning up finish."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored already (nohup) stays so.
    ignored = (signal.SIG_IGN, None)
    known = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    handled = [s for s in known if signal.getsignal(s) not in ignored]
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        for s in handled:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {s: signal.signal(s, stop) for s in handled}
    try:
        yield
    finally:
        # After a stop the process is about to end: another must not turn that into a traceback.
        if not stopped:
            for s, handler in before.items():
                signal.signal(s, handler)
