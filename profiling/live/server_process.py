"""`triportrait live` as a process of its own, started and stopped as a user would."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from triportrait.core.errors import InputError

START_S, STOP_S = 180.0, 15.0


@dataclass(frozen=True)
class ServerProcess:
    """A running server.

    Attributes:
        address: the one that it printed.
        process: its process.
        lines: the end of its log.
    """

    address: str
    process: subprocess.Popen[str]
    lines: deque[str]


@contextmanager
def live_server(options: Sequence[str]) -> Iterator[ServerProcess]:
    """Start `triportrait live` on a free port, wait for its address, and stop it at the end.

    Args:
        options: those of `triportrait live`, except for its port.

    Raises:
        InputError: the server ended instead of serving; its last line says why.
    """
    words = [sys.executable, "-m", "triportrait", "live", "--port", "0", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: deque[str] = deque(maxlen=400)
    assert process.stdout is not None and process.stderr is not None
    reading = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
    reading.start()
    killer = threading.Timer(START_S, process.kill)
    killer.start()
    try:
        line = process.stdout.readline()
        killer.cancel()
        address = re.search(r"http://\S+", line)
        if address is None:
            process.wait()
            reading.join(5)
            raise InputError(f"live: the server did not start ({lines[-1].strip() if lines else 'it said nothing'})")
        yield ServerProcess(address[0], process, lines)
    finally:
        killer.cancel()
        stop(process)
        reading.join(5)
        process.stdout.close()
        process.stderr.close()


def stop(process: subprocess.Popen[str]) -> float:
    """End a server politely, and return the seconds that took."""
    started = time.monotonic()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return time.monotonic() - started
