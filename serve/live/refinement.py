"""One refinement as the server sees it: its process is started, listened to, and ended when nobody waits any more."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from triportrait.core.errors import InputError
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.refine_process import LONGEST_LINE, Work

logger = logging.getLogger(__name__)

FAILED = "the refinement failed on this server; the portrait stays as it was"
_NO_MEMORY = "this server has too little memory for a refinement; the portrait stays as it was"
_LATE = "the refinement took far longer than it should and was ended; the portrait stays as it was"
_START_S = 240.0  # for the networks to be loaded, however busy the machine is
_LAST_LINES, _LONGEST_KEPT = 20, 500  # of what the process says on its standard error, for the log; bytes a line
_LAST_S = 2.0  # for them to arrive once the process has ended


class GivenUp(Exception):
    """Nobody waits for the refinement any more."""


class LastLines:
    """Keeps the last lines that a pipe brings, of long ones the beginning; one thread hears, any asks for the text."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._lock = threading.Lock()

    def hear(self, pipe: IO[bytes]) -> None:
        """Read a pipe to its end, so that who writes never waits, and close it."""
        with pipe, suppress(OSError):
            begins = True
            while piece := pipe.readline(_LONGEST_KEPT):
                if begins:
                    with self._lock:
                        self._lines.append(piece)
                begins = piece.endswith(b"\n")

    def text(self) -> str:
        """Return what was kept until now."""
        with self._lock:
            lines = [line.decode(errors="replace").rstrip("\n") for line in self._lines]
        return "\n".join(lines)


class Refinement:
    """One refinement. One thread calls `run`; any thread may call `give_up`.

    Args:
        work: what is to be done.
        tell: is told how far it is: the share that is done (None while the networks are loaded), the seconds left, and
            now and then a JPEG as base64 text.
    """

    def __init__(self, work: Work, tell: Callable[[float | None, float, str | None], None]) -> None:
        self._work, self._tell = work, tell
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    def run(self) -> None:
        """Refine; the person's file is there when this returns.

        Raises:
            InputError: it failed; the sentence is for the page.
            GivenUp: `give_up` was called.
        """
        process = self._begin()
        said = LastLines()
        assert process.stderr is not None
        hearing = threading.Thread(target=said.hear, args=(process.stderr,), daemon=True)
        hearing.start()
        self._say(None, 60 * self._work.minutes, None)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(2 * 60 * self._work.minutes + _START_S, end)
        timer.daemon = True
        timer.start()
        try:
            done = self._listen(process)
        finally:
            timer.cancel()
            process.kill()
            code = process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        if done:
            return
        if self._given_up:
            raise GivenUp
        hearing.join(_LAST_S)  # not for ever: who was started by the process may have it open still
        last = said.text()
        if late.is_set():
            logger.error("a refinement took too long", extra=fields(stderr=last))
            raise InputError(_LATE)
        logger.error("a refinement broke off", extra=fields(code=code, stderr=last))
        raise InputError(_NO_MEMORY if code == -9 else FAILED)  # the system kills who takes too much

    def give_up(self) -> None:
        """End it; `run` then raises `GivenUp`."""
        with self._lock:
            self._given_up = True
            if self._process is not None:
                self._process.kill()

    def _say(self, share: float | None, seconds_left: float, preview: str | None) -> None:
        with self._lock:  # nothing is told after `give_up`
            if not self._given_up:
                self._tell(share, seconds_left, preview)

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._given_up:
                raise GivenUp
            try:
                # A process group of its own: Ctrl-C in the terminal reaches the server alone, which ends the process.
                self._process = subprocess.Popen(
                    command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                logger.error("a refinement could not start", extra=fields(reason=str(error)))
                raise InputError(FAILED) from error
            return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> bool:
        """Hear the process until it ends; return whether it was done."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(pickle.dumps(self._work))
            process.stdin.flush()  # and stays open: its end would say that the server has gone
            while line := process.stdout.readline(LONGEST_LINE):
                message = json.loads(line)
                if message["told"] == "done":
                    return True
                if message["told"] == "failed":
                    logger.error("a refinement failed", extra=fields(reason=message["reason"]))
                    raise InputError(_NO_MEMORY if message["memory"] else FAILED)
                self._say(*_progress(message))
        except (OSError, KeyError, TypeError, json.JSONDecodeError):  # it was ended in the middle of a line
            pass
        return False


def _progress(message: dict[str, Any]) -> tuple[float, float, str | None]:
    return float(message["share"]), float(message["seconds_left"]), message.get("preview")


def command() -> list[str]:
    """Return the command that starts the process, which imports modules from where this one does."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from triportrait.serve.live.refine_process import main; main()"
    return [sys.executable, "-c", code]
