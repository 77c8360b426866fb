"""A long run of the live server with sessions that misbehave: `python -m tests.serve.soak --minutes 10 --sessions 4`.

One session behaves all the time, alone at the beginning and at the end; meanwhile others come, go and misbehave in
every way known here. Printed are memory, files, threads and tasks of the server and the latency of the one that
behaves, row by row, and what has to hold, as "met" or "missed". The exit code is 1 when something is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import math
import os
import random
import shlex
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.serve import bombs
from tests.serve.live_in_process import moving
from triportrait.core.errors import InputError
from triportrait.profiling.live.client import Client, driving_frames, get, metrics, url_of
from triportrait.profiling.live.server_process import live_server, stop
from triportrait.profiling.measurement import describe
from triportrait.serve.live.inference import EXAMPLES, encode_jpeg
from triportrait.serve.live.messages import write_frame

SHORT_S = 300  # a run below this shares its machine with other tests, and its fifths are too short for quiet medians
MOST_GROWTH, MOST_GROWTH_SHORT = 0.05, 0.10  # of memory, after warming up; short runs waver between -1 and +8 %
MOST_SLOWER_ALONE = 1.2  # median latency, before the others came and after they had gone
MOST_SLOWER = 1.3  # likewise beside others
MOST_SLOWER_SHORT = 3.0  # both of them in a short run
ALONE_S, SETTLE_S = 30.0, 5.0
CLOSED_WITHIN_S = 50  # a connection that is half open
HUGE = 100 << 20
STOPPED_WITHIN_S = 8.0
IDLE_TASKS = 4  # of a server without sessions, one of which answers who asks for the number


@dataclass(frozen=True)
class Row:
    """What was seen at a moment: seconds, megabytes, counts; latency (median, 99th) and fps of the last window."""

    at_s: float
    memory_MB: float
    files: int
    threads: int
    tasks: int
    sessions: int
    p50: float
    p99: float
    fps: float


class Soak:
    """One run.

    Args:
        address, sessions: of the server.
        seconds: how long.
        seed: of who does what.
    """

    def __init__(self, address: str, sessions: int, seconds: float, seed: int = 0) -> None:
        self.address, self.sessions, self.seconds = address, sessions, seconds
        self.random = random.Random(seed)
        self.jpegs = [encode_jpeg(frame) for frame in moving()]
        self.bomb = bombs.scans(2000)
        self.did: Counter[str] = Counter()
        self.faults: list[str] = []
        self.alone_s = min(ALONE_S, seconds / 6)
        self.before_crowd = self.after_crowd = math.nan
        self.rows: list[Row] = []
        self.half_open: list[tuple[float, socket.socket]] = []

    async def run(self, tell: Callable[[str], None]) -> None:
        """Everybody at the same time, until the time is over; then all leave."""
        self.began = time.monotonic()
        self.steady = Client(self.address, driving_frames(EXAMPLES / "driving.mp4"), 30.0)
        await self._warm(tell)
        steady = asyncio.create_task(self.steady.run(self.seconds))
        watching = asyncio.create_task(self._watch(tell))
        await asyncio.wait([steady], timeout=self.alone_s)
        self.before_crowd = self._alone(self.alone_s)
        crowd = [asyncio.create_task(self._misbehave(i)) for i in range(self.sessions - 1)]
        await asyncio.wait([steady], timeout=self.seconds - 2 * self.alone_s)
        for task in crowd:
            task.cancel()
        left_s = time.monotonic()  # the server loses them now; that they close their own ends can take seconds more
        await asyncio.gather(*crowd, return_exceptions=True)
        try:
            await steady
        except InputError as error:
            self.faults.append(f"the session that behaves was ended: {error}")
        self.after_crowd = self._alone(time.monotonic() - left_s)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._check_half_open()

    def _alone(self, for_s: float) -> float:
        """The median latency of the last seconds, in which nobody else was there; ms."""
        since_s = time.monotonic() - for_s + SETTLE_S
        return statistics.median([s.total for s in self.steady.record.samples if s.at_s >= since_s] or [math.nan])

    async def _warm(self, tell: Callable[[str], None]) -> None:
        """Once everything, one after the other, then twice all at once: what is made at first use is there when
        measuring begins, the largest batch of frames included."""
        for act in self._acts():
            if act != self.silent:
                await self._guarded(act)
        for _ in range(2):
            everybody = [act for act in self._acts() if act != self.silent]
            await asyncio.gather(*(self._guarded(act) for act in (*everybody, self.behaves)))
        self.before = await self._when_all_have_gone(lambda row: row.tasks <= IDLE_TASKS)
        tell(f"# once everything, {time.monotonic() - self.began:.0f} s: {dict(self.did)}")
        self.did.clear()
        self.began = time.monotonic()

    def _acts(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.behaves, self.breaks_off, self.never_reads, self.garbage, self.bombs, self.uploads, self.records,
                self.calls, self.silent]  # fmt: skip

    async def _misbehave(self, number: int) -> None:
        acts = self._acts()
        until = time.monotonic() + self.seconds - 2 * self.alone_s - CLOSED_WITHIN_S
        for turn in itertools.count(number):
            # Silent ones hold a place for half a minute: one of the crowd is enough, and none at the end.
            silent = number == 0 and turn % 6 == 1 and time.monotonic() < until
            act = self.silent if silent else self.random.choice(acts[:-1])
            await self._guarded(act)
            await asyncio.sleep(0.2)

    async def _guarded(self, act: Callable[[], Awaitable[None]]) -> None:
        name = act.__name__  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(90):
                await act()
            self.did[name] += 1
        except (ConnectionClosed, InvalidStatus, OSError, TimeoutError, EOFError) as error:
            closed = error.rcvd if isinstance(error, ConnectionClosed) else None
            if closed is not None and closed.code == 1013:
                self.did["refused"] += 1
                return
            self.faults.append(f"{name}: {type(error).__name__} {error}")
            await asyncio.sleep(1)
        except _Full:
            self.did["refused"] += 1
            await asyncio.sleep(1)

    def _connect(self) -> connect:
        return connect(url_of(self.address, "/session", "ws"), max_size=None, compression=None)

    async def _begin(self, line: ClientConnection) -> str:
        hello = json.loads(await line.recv())
        with contextlib.suppress(TimeoutError):
            while hello["is"] == "waiting":
                hello = json.loads(await asyncio.wait_for(line.recv(), 25))
        if hello["is"] != "hello":
            raise _Full
        await line.send(json.dumps({"do": "example", "name": self.random.choice(hello["examples"])}))
        while True:
            message = await line.recv()
            if isinstance(message, str) and json.loads(message)["is"] == "portrait":
                return str(hello["session"])

    async def _drive(self, line: ClientConnection, seconds: float) -> None:
        for number in range(1, int(seconds * 15)):
            await line.send(write_frame(number, 0.0, self.jpegs[number % len(self.jpegs)]))
            await asyncio.sleep(1 / 15)

    async def behaves(self) -> None:
        """Drives for some seconds, moves sliders, leaves."""
        async with self._connect() as line:
            await self._begin(line)
            for yaw in (20, -20):
                await line.send(json.dumps({"do": "settings", "yaw_deg": yaw, "orbit": yaw < 0}))
                await self._drive(line, 2)

    async def breaks_off(self) -> None:
        """Leaves without a goodbye, in the middle of a message."""
        async with self._connect() as line:
            await self._begin(line)
            await self._drive(line, 1)
            raw = line.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.transport.write(b"\x82\x7e\xff\xff half")
            line.transport.abort()

    async def never_reads(self) -> None:
        """Sends frames and takes nothing."""
        async with self._connect() as line:
            await self._begin(line)
            line.transport.pause_reading()
            await self._drive(line, 4)
            line.transport.abort()

    async def garbage(self) -> None:
        """Bytes that are no messages, messages that are no pictures."""
        async with self._connect() as line:
            await self._begin(line)
            for i in range(60):
                noise = self.random.randbytes(self.random.randrange(600))
                message = (noise, noise.decode("latin-1"), write_frame(i, 0.0, b"\xff\xd8\xff\xe0" + noise))[i % 3]
                await line.send(message)
        async with asyncio.timeout(20):  # what is no HTTP at all
            reader, writer = await asyncio.open_connection(*self._where())
            writer.write(self.random.randbytes(4000) + b"\r\n\r\n")
            await reader.read(1 << 16)
            writer.close()

    async def bombs(self) -> None:
        """Pictures that would take minutes to decode, as frames and as a portrait."""
        async with self._connect() as line:
            session = await self._begin(line)
            for number in range(1, 6):
                await line.send(write_frame(number, 0.0, self.bomb))
            reader, writer = await asyncio.open_connection(*self._where())
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(self.bomb)}\r\nConnection: close"
            writer.write(f"POST /portrait?session={session} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\n".encode())
            writer.write(self.bomb)
            answer = await asyncio.wait_for(reader.readline(), 20)
            writer.close()
            if b" 422 " not in answer:
                self.faults.append(f"bombs: a JPEG of 2,000 scans was answered with {answer!r}")

    async def uploads(self) -> None:
        """100 MB as a portrait, once said beforehand and once not."""
        async with self._connect() as line:
            session = await self._begin(line)
            for head in (f"Content-Length: {HUGE}", "Transfer-Encoding: chunked"):
                await self._upload(session, head)

    async def _upload(self, session: str, head: str) -> None:
        reader, writer = await asyncio.open_connection(*self._where())
        start = (
            f"POST /portrait?session={session} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n{head}\r\n\r\n"
        )
        writer.write(start.encode())
        chunk = b"\0" * (1 << 20)
        if "chunked" in head:
            chunk = b"100000\r\n" + chunk + b"\r\n"
        answering = asyncio.create_task(reader.readline())
        with contextlib.suppress(OSError):
            for _ in range(HUGE >> 20):
                writer.write(chunk)
                await writer.drain()
                if answering.done():
                    break
        with contextlib.suppress(OSError):
            answer = await asyncio.wait_for(answering, 20)
            if answer and b" 413 " not in answer:
                self.faults.append(f"uploads: 100 MB were answered with {answer!r}")
        writer.transport.abort()

    async def records(self) -> None:
        """Records for two seconds; the file decodes."""
        async with self._connect() as line:
            await self._begin(line)
            await line.send(json.dumps({"do": "record", "on": True}))
            await self._drive(line, 2)
            await line.send(json.dumps({"do": "record", "on": False}))
            while True:
                message = await line.recv()
                if not isinstance(message, str):
                    continue
                event = json.loads(message)
                if event["is"] == "recorded":
                    break
                if event.get("about") == "wish":
                    self.faults.append(f"records: {event['sentence']}")
                    return
            data = await asyncio.to_thread(get, self.address, event["address"])
            with av.open(io.BytesIO(data)) as file:
                if sum(1 for _ in file.decode(video=0)) != event["frames"]:
                    self.faults.append("records: frames are missing")

    async def calls(self) -> None:
        """WebRTC: pictures both ways for some seconds, then it hangs up, or just goes."""
        from tests.serve.rtc_visit import visit

        pictures, *_ = await visit(self._where()[1])
        if not pictures:
            self.faults.append("calls: no picture came")

    async def silent(self) -> None:
        """Connections that stay open and say nothing: before a request, and in the middle of a session."""
        for session in (False, True):
            line = socket.create_connection(self._where(), 10)
            if session:
                key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
                line.sendall(
                    "GET /session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    f"{key}\r\n\r\n".encode()
                )
            self.half_open.append((time.monotonic(), line))

    async def _check_half_open(self) -> None:
        for opened_s, line in self.half_open:
            await asyncio.sleep(max(0.0, opened_s + CLOSED_WITHIN_S - time.monotonic()))
            line.setblocking(False)
            try:
                while line.recv(1 << 16):
                    pass
            except BlockingIOError:
                self.faults.append(f"silent: a connection was still open after {CLOSED_WITHIN_S} s")
            except OSError:
                pass
            line.close()

    def _where(self) -> tuple[str, int]:
        parts = urlsplit(self.address)
        return parts.hostname or "", parts.port or 80

    async def _watch(self, tell: Callable[[str], None]) -> None:
        every = max(5.0, self.seconds / 60)
        tell("time s  memory MB  files  threads  tasks  sessions  latency ms p50  p99    fps")
        while True:
            await asyncio.sleep(every)
            row = await asyncio.to_thread(self._row, every)
            self.rows.append(row)
            tell(
                f"{row.at_s:6.0f}  {row.memory_MB:9.1f}  {row.files:5d}  {row.threads:7d}  {row.tasks:5d}  "
                f"{row.sessions:8d}  {row.p50:14.0f}  {row.p99:5.0f}  {row.fps:5.1f}"
            )

    def _row(self, window_s: float = 5.0) -> Row:
        figures = metrics(self.address)
        now = time.monotonic()
        recent = [s.total for s in list(self.steady.record.samples) if now - s.at_s <= window_s]
        middle = statistics.median(recent) if recent else float("nan")
        worst = sorted(recent)[int(0.99 * (len(recent) - 1))] if recent else float("nan")
        return Row(
            now - self.began, figures["process_resident_memory_bytes"] / 1e6, int(figures["process_open_fds"]),
            int(figures["triportrait_threads"]), int(figures["triportrait_tasks"]),
            int(figures["triportrait_sessions_active"]),
            middle, worst, len(recent) / window_s,
        )  # fmt: skip

    async def _when_all_have_gone(self, quiet: Callable[[Row], bool]) -> Row:
        """What is seen then, or after twenty seconds."""
        until = time.monotonic() + 20
        while (row := await asyncio.to_thread(self._row)).sessions or not quiet(row):
            if time.monotonic() > until:
                break
            await asyncio.sleep(1)
        return row

    async def verdicts(self) -> list[tuple[str, bool]]:
        """What has to hold, and whether it does, when everybody has left."""
        after = await self._when_all_have_gone(lambda row: row.tasks <= self.before.tasks)
        crowded = [r for r in self.rows if self.alone_s + SETTLE_S < r.at_s <= self.seconds - self.alone_s] or self.rows
        tenth = max(1, len(crowded) // 10)
        first, last = crowded[tenth : 3 * tenth] or crowded, crowded[-2 * tenth :]
        memory = [statistics.median(row.memory_MB for row in rows) for rows in (first, last)]
        delays = [statistics.median(row.p50 for row in rows if row.p50 == row.p50) for rows in (first, last)]
        growth = memory[1] / memory[0] - 1
        short = self.seconds < SHORT_S
        most_growth = MOST_GROWTH_SHORT if short else MOST_GROWTH
        slower, slower_alone = (MOST_SLOWER_SHORT,) * 2 if short else (MOST_SLOWER, MOST_SLOWER_ALONE)
        seen, health = self.steady.record, json.loads(get(self.address, "/healthz"))
        return [
            (f"memory of the last fifth: {100 * growth:+.1f} % over the first, at most "
             f"{100 * most_growth:+.0f}", growth <= most_growth),
            (f"median latency after the others had gone: {self.after_crowd:.0f} ms, before they came "
             f"{self.before_crowd:.0f} ms, at most {slower_alone:g} times",
             self.after_crowd <= slower_alone * self.before_crowd),
            (f"beside them, last fifth: {delays[1]:.0f} ms, first {delays[0]:.0f} ms, at most {slower:g} times",
             delays[1] <= slower * delays[0]),
            (f"sessions left when all had gone: {after.sessions}", not after.sessions),
            (f"tasks: {after.tasks}, before {self.before.tasks}", after.tasks <= self.before.tasks),
            (f"threads: {after.threads}, before {self.before.threads}", after.threads <= self.before.threads + 1),
            (f"open files: {after.files}, before {self.before.files}", after.files <= self.before.files + 2),
            (f"the session that behaves: {len(seen.samples)} results of {seen.sent} frames, the others replaced by "
             "newer ones", len(seen.samples) > self.seconds / 2),
            (f"healthy at the end: {health}", health["ok"]),
            (f"faults: {len(self.faults)}" + "".join(f"; {fault}" for fault in self.faults[:5]), not self.faults),
        ]  # fmt: skip


class _Full(Exception):
    """The server had no place."""


def soak(minutes: float, sessions: int, tell: Callable[[str], None]) -> bool:
    """Start a server, let everybody at it, stop it; whether all held."""
    for name, value in describe(shlex.join(["python", "-m", "tests.serve.soak", *sys.argv[1:]])).items():
        if name in ("command", "commit", "date", "torch", "python", "machine"):
            tell(f"# {name}: {value}{f', {os.cpu_count()} cores' if name == 'machine' else ''}")
    with live_server(["--weights", "demo", "--sessions", str(sessions)]) as server:
        run = Soak(server.address, sessions, 60 * minutes)

        async def everything() -> list[tuple[str, bool]]:
            await run.run(tell)
            return await run.verdicts()

        verdicts = asyncio.run(everything())
        seconds = stop(server.process)
        code = server.process.returncode
        verdicts.append((f"stopped by SIGTERM in {seconds:.1f} s with the exit code {code}",
                         seconds <= STOPPED_WITHIN_S and code == 0))  # fmt: skip
        broken = [line for line in server.lines if "traceback" in line]
        verdicts.append((f"tracebacks in the log: {len(broken)}" + "".join(f"; {b}" for b in broken[:1]), not broken))
    tell(f"# what the others did: {dict(sorted(run.did.items()))}")
    for sentence, met in verdicts:
        tell(f"{'met   ' if met else 'missed'}  {sentence}")
    return all(met for _, met in verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=4)
    options = parser.parse_args()
    return 0 if soak(options.minutes, options.sessions, lambda line: print(line, flush=True)) else 1


if __name__ == "__main__":
    sys.exit(main())
