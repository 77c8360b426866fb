"""A pool of processes that decode portraits: one that takes too long, or that nobody waits for, is killed."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.live.decode_process import ANSWER, CPU_S, REQUEST

PROCESSES = 2  # a session decodes one picture at a time, so that it never holds all of them
WALL_S = 30.0  # for a picture, however busy the processors are
_SLOW = "portrait: this picture takes more than {:g} s to decode; save it as a plain JPEG or PNG"


def command() -> list[str]:
    """Return the command that starts a process, which imports modules from where this one does."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from triportrait.serve.live.decode_process import main; main()"
    return [sys.executable, "-c", code]


class _Job:
    """The decoding of one picture, whose process is killed when nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.given_up = False

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = process
            if self.given_up:
                process.kill()

    def end(self) -> None:
        with self._lock:
            self._process = None

    def give_up(self) -> None:
        with self._lock:
            self.given_up = True
            if self._process is not None:
                self._process.kill()


class DecoderPool:
    """Decode pictures in a few processes, each of which is replaced when it dies.

    Args:
        wall_s: seconds that a picture may take.
    """

    def __init__(self, wall_s: float = WALL_S) -> None:
        self._wall_s = wall_s
        self._threads = ThreadPoolExecutor(PROCESSES, "live-decoding")
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> list[Future[None]]:
        """Start the processes; return futures that are done when they run."""
        return [self._threads.submit(self._add) for _ in range(PROCESSES)]

    async def decode(self, body: bytes, longest_px: int) -> np.ndarray:
        """Decode a portrait to uint8 [H, W, 3], reduced where it is longer than `longest_px`.

        Where this is cancelled, the process that decodes is killed.

        Raises:
            InputError: the picture cannot be decoded, or takes too long.
        """
        job = _Job()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._decode, job, body, longest_px)
        except asyncio.CancelledError:
            job.give_up()
            raise

    def stop(self) -> None:
        """Kill all processes, whatever they work on."""
        with self._lock:
            self._stopped = True
            for process in self._all:
                process.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _decode(self, job: _Job, body: bytes, longest_px: int) -> np.ndarray:
        if job.given_up:
            raise InputError("portrait: nobody waits for it any more; choose it again")
        try:
            process = self._take()
        except OSError as error:
            raise InputError("portrait: the server cannot start a decoder now; try again in a minute") from error
        began_s = time.monotonic()
        timer = threading.Timer(self._wall_s, process.kill)
        timer.daemon = True
        timer.start()
        job.begin(process)
        whole = False
        try:
            image = _ask(process, body, longest_px)
            whole = True
            return image
        except InputError:
            whole = True
            raise
        except (OSError, EOFError) as error:
            process.kill()
            late = time.monotonic() - began_s >= self._wall_s
            slow = late or process.wait() == -_xcpu()
            limit_s = self._wall_s if late else CPU_S
            sentence = _SLOW.format(limit_s) if slow else "portrait: this picture cannot be decoded; save it anew"
            raise InputError(sentence) from error
        finally:
            timer.cancel()
            job.end()
            if whole and process.poll() is None:
                self._idle.put(process)
            else:
                self._forget(process)
                with suppress(OSError):
                    self._add()

    def _take(self) -> subprocess.Popen[bytes]:
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return self._begin()
            if process.poll() is None:
                return process
            self._forget(process)

    def _add(self) -> None:
        if not self._stopped:
            self._idle.put(self._begin())

    def _begin(self) -> subprocess.Popen[bytes]:
        # A process group of its own: Ctrl-C in the terminal reaches the server alone, which kills the process.
        process = subprocess.Popen(
            command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with self._lock:
            self._all.add(process)
            if self._stopped:
                process.kill()
        return process

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        with self._lock:
            self._all.discard(process)
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _ask(process: subprocess.Popen[bytes], body: bytes, longest_px: int) -> np.ndarray:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(REQUEST.pack(len(body), longest_px))
    process.stdin.write(body)
    process.stdin.flush()
    pixels, height, width = ANSWER.unpack(_read(process.stdout, ANSWER.size))
    if not pixels:
        raise InputError(_read(process.stdout, height).decode())
    return np.frombuffer(_read(process.stdout, 3 * height * width), np.uint8).reshape(height, width, 3)


def _read(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError("the process has ended")
    return data


def _xcpu() -> int:
    import signal

    return int(getattr(signal, "SIGXCPU", 0))
