"""Measure the live server: latency end to end and in parts, frames per second, drops and memory."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.profiling.live.client import Client, Sample, SessionRecord, driving_frames, metrics
from triportrait.profiling.measurement import describe

PARTS = ("total", "capture", "network", "queue", "compute", "encode")
WARM_UP_S = 3.0
ROW_S = 60.0  # of the table over time, where there are two
MOST_GROWTH = 1.1  # of the median latency and of memory, from the first fifth to the last
_MEMORY_EVERY_S = 1.0

logger = logging.getLogger(__name__)


def measure(address: str, driving: Path, sessions: int, seconds: float, fps: float, command: str) -> dict[str, Any]:
    """Drive a server with some sessions at a time, and return the figures of what they saw.

    Args:
        address: the server's.
        driving: the video that drives.
        sessions: how many drive at a time.
        seconds: how long, after warming up.
        fps: frames that each session sends per second.
        command: the command that stands beside the figures.

    Raises:
        InputError: the server refuses a session, or ends one.
    """
    frames = driving_frames(driving)
    clients = [Client(address, frames, fps) for _ in range(sessions)]
    memory = _Memory(address)
    logger.info("%d session%s for %g s at %g frames per second", sessions, "s" * (sessions != 1), seconds, fps)
    with memory:
        records = asyncio.run(_all(clients, seconds + WARM_UP_S))
    warm = sorted((sample for record in records for sample in _warm(record)), key=lambda sample: sample.at_s)
    where = describe(command)
    if where.pop("note", None):  # it is about kernels: a CPU's figures of the demo weights are what its user gets
        where["machine"] += f", {os.cpu_count()} cores"
    return {
        **where,
        "sessions": sessions, "seconds": seconds, "fps_sent": fps, "driving": driving.name,
        "picture_px": clients[0].hello.get("side_px"), "transport": "WebSocket, loopback or as --url says",
        "sessions_seen": [_figures_of(record) for record in records],
        "latency_ms": _percentiles(warm),
        "server_MB": memory.host_MB, "gpu_MB": memory.gpu_MB,
        "utilisation": _utilisation(metrics(address), sum(_figures_of(record)["fps"] for record in records)),
        "over_time": _over_time(warm, memory.samples),
        "growth": {"latency": _growth([(x.at_s, x.total) for x in warm]), "memory": _growth(memory.samples)},
    }  # fmt: skip


async def _all(clients: Sequence[Client], seconds: float) -> list[SessionRecord]:
    return list(await asyncio.gather(*(client.run(seconds) for client in clients)))


def _warm(record: SessionRecord) -> list[Sample]:
    if not record.samples:
        return []
    return [sample for sample in record.samples if sample.at_s - record.samples[0].at_s >= WARM_UP_S]


def _figures_of(record: SessionRecord) -> dict[str, Any]:
    warm = _warm(record)
    if len(warm) < 2:
        why = record.sentences[-1] if record.sentences else "nothing was said"
        raise InputError(f"live: {len(record.samples)} results came back, too few to measure ({why})")
    span = warm[-1].at_s - warm[0].at_s
    return {
        "fps": round((len(warm) - 1) / span, 2), "results": len(record.samples), "sent": record.sent,
        "dropped": record.dropped,
    }  # fmt: skip


def _utilisation(numbers: dict[str, float], fps: float) -> dict[str, float]:
    """Estimate the share of its time that each part of the server is busy at a rate of results, all sessions together.

    The times of parts are those that the server measured when it started, the device's in full batches. The parts that
    are for WebRTC, which this client does not use, are left out.
    """
    pattern = re.compile(r'triportrait_part_seconds\{part="(\w+)"\}')
    seconds = {found[1]: value for name, value in numbers.items() if (found := pattern.fullmatch(name))}
    seconds = {part: seconds[part] for part in ("device", "faces", "finishing") if part in seconds}
    threads = {part: numbers[f'triportrait_part_threads{{part="{part}"}}'] for part in seconds}
    return {part: round(fps * seconds[part] / threads[part], 3) for part in seconds}


def _over_time(samples: Sequence[Sample], memory: Sequence[tuple[float, float]]) -> list[dict[str, float | None]]:
    """Summarise each whole minute, all sessions together."""
    started = samples[0].at_s
    rows: list[dict[str, float | None]] = []
    for number in range(int((samples[-1].at_s - started + 1.0) // ROW_S)):  # the last result may lie before the end
        least, most = started + number * ROW_S, started + (number + 1) * ROW_S
        totals = [x.total for x in samples if least <= x.at_s < most]
        sizes_MB = [MB for at_s, MB in memory if least <= at_s < most]
        p50, p99 = (round(float(p), 1) for p in np.percentile(totals, (50, 99))) if totals else (None, None)
        rows.append(
            {
                "minute": number + 1, "p50": p50, "p99": p99, "fps": round(len(totals) / ROW_S, 2),
                "server_MB": round(max(sizes_MB), 1) if any(sizes_MB) else None,
            }
        )  # fmt: skip
    return rows


def _growth(timed: Sequence[tuple[float, float]]) -> float | None:
    """Divide the median of the last fifth of the time by that of the first; None where nothing was measured."""
    if not any(value for _, value in timed):
        return None
    times, values = np.array(sorted(timed)).T
    fifth = (times[-1] - times[0]) / 5
    first, last = values[times <= times[0] + fifth], values[times >= times[-1] - fifth]
    return round(float(np.median(last) / np.median(first)), 3)


def _percentiles(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    values = {part: [getattr(sample, part) for sample in samples] for part in PARTS}
    # what the server and the line cost beyond computing, and waiting for that
    values["network + encode"] = [sample.network + sample.encode for sample in samples]
    return {part: {f"p{p}": round(float(np.percentile(of, p)), 1) for p in (50, 90, 99)} for part, of in values.items()}


class _Memory:
    """Watches the memory that the server reports while it is driven: each sample, and the most."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[tuple[float, float]] = []
        self.host_MB = 0.0
        self.gpu_MB: float | None = None

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_MEMORY_EVERY_S):
            try:
                numbers = metrics(self._address)
            except OSError:
                continue
            MB = numbers.get("process_resident_memory_bytes", 0.0) / 1e6
            self.samples.append((time.monotonic(), MB))
            self.host_MB = max(self.host_MB, round(MB, 1))
            if (gpu := numbers.get("triportrait_gpu_memory_bytes")) is not None:
                self.gpu_MB = max(self.gpu_MB or 0.0, round(gpu / 1e6, 1))


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| ms | p50 | p90 | p99 |", "| --- | --- | --- | --- |"]
    for part, at in figures["latency_ms"].items():
        name = "end to end" if part == "total" else part
        lines.append(f"| {name} | {at['p50']} | {at['p90']} | {at['p99']} |")
    fps = [s["fps"] for s in figures["sessions_seen"]]
    dropped, sent = (sum(s[name] for s in figures["sessions_seen"]) for name in ("dropped", "sent"))
    rate = f"{fps[0]:g}" if len(fps) == 1 else f"{min(fps):g} to {max(fps):g} each"
    gpu = "" if figures["gpu_MB"] is None else f", {figures['gpu_MB']:g} MB on the GPU"
    where = ", ".join(str(figures[name]) for name in ("machine", "date", "commit", "command") if figures.get(name))
    lines += [
        "",
        f"{len(fps)} session{'s' * (len(fps) != 1)} for {figures['seconds']:g} s, {figures['fps_sent']:g} frames per"
        f" second sent, {figures['picture_px']} px: {rate} frames per second come back, {dropped} of {sent} were"
        f" replaced by newer ones; the server holds {figures['server_MB']:g} MB{gpu}.",
    ]
    if busy := figures["utilisation"]:
        shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in busy.items())
        lines += ["", f"Busy at this rate, estimated: {shares}; the bottleneck is {max(busy, key=busy.__getitem__)}."]
    if len(figures["over_time"]) > 1:
        lines += [
            "",
            "| minute | p50, ms | p99, ms | frames per second | server, MB |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = [["–" if value is None else f"{value:g}" for value in row.values()] for row in figures["over_time"]]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        growth = [figures["growth"][of] for of in ("latency", "memory")]
        grown = ["not measured" if g is None else f"{100 * g - 100:+.1f} %" for g in growth]
        met = all(g is None or g <= MOST_GROWTH for g in growth)
        lines += [
            "",
            f"From the first fifth to the last: median latency {grown[0]}, memory {grown[1]};"
            f" at most {100 * MOST_GROWTH - 100:+.0f} %: {'met' if met else 'missed'}.",
        ]
    lines += [f"Where: {where}."]
    return "\n".join(lines) + "\n"
