"""Latency of the live server end to end and in parts, frames per second, drops and memory, as a table."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.profiling.live.client import Client, Sample, Seen, driving_frames, figures
from triportrait.profiling.machine import describe

PARTS = ("total", "capture", "network", "queue", "compute", "encode")
WARM_UP_S = 3.0
ROW_S = 60.0  # of the table over time, where there are two
MOST_GROWTH = 1.1  # of the median latency and of memory, from the first fifth to the last
_MEMORY_EVERY_S = 1.0


def measure(
    address: str, driving: Path, sessions: int, seconds: float, fps: float, command: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Drive the server at `address` with so many sessions at a time, and say what they saw.

    Raises:
        InputError: the server refuses a session, or ends one.
    """
    frames = driving_frames(driving)
    clients = [Client(address, frames, fps) for _ in range(sessions)]
    memory = _Memory(address)
    tell(f"{sessions} session{'s' * (sessions != 1)} for {seconds:g} s at {fps:g} frames per second")
    with memory:
        seen = asyncio.run(_all(clients, seconds + WARM_UP_S))
    warm = sorted((sample for s in seen for sample in _warm(s)), key=lambda sample: sample.at_s)
    where = describe(command)
    if where.pop("note", None):  # of kernels: a session of the demo weights on a CPU is what its user gets
        where["machine"] += f", {os.cpu_count()} cores"
    return {
        **where,
        "sessions": sessions, "seconds": seconds, "fps_sent": fps, "driving": driving.name,
        "picture_px": clients[0].hello.get("side_px"), "transport": "WebSocket, loopback or as --url says",
        "sessions_seen": [_figures_of(s, seconds) for s in seen],
        "latency_ms": _percentiles(warm),
        "server_MB": memory.host_MB, "gpu_MB": memory.gpu_MB,
        "over_time": _over_time(warm, memory.seen),
        "growth": {"latency": _growth([(x.at_s, x.total) for x in warm]), "memory": _growth(memory.seen)},
    }  # fmt: skip


async def _all(clients: Sequence[Client], seconds: float) -> list[Seen]:
    return list(await asyncio.gather(*(client.run(seconds) for client in clients)))


def _warm(seen: Seen) -> list[Sample]:
    if not seen.samples:
        return []
    return [sample for sample in seen.samples if sample.at_s - seen.samples[0].at_s >= WARM_UP_S]


def _figures_of(seen: Seen, seconds: float) -> dict[str, Any]:
    warm = _warm(seen)
    if len(warm) < 2:
        said = seen.sentences[-1] if seen.sentences else "nothing was said"
        raise InputError(f"live: {len(seen.samples)} results came back, too few to measure ({said})")
    span = warm[-1].at_s - warm[0].at_s
    return {
        "fps": round((len(warm) - 1) / span, 2), "results": len(seen.samples), "sent": seen.sent,
        "dropped": seen.dropped,
    }  # fmt: skip


def _over_time(samples: Sequence[Sample], memory: Sequence[tuple[float, float]]) -> list[dict[str, float | None]]:
    """What each minute saw, all sessions together; without the last one where it is not whole."""
    began = samples[0].at_s
    rows: list[dict[str, float | None]] = []
    for number in range(int((samples[-1].at_s - began + 1.0) // ROW_S)):  # the last result may lie just before its end
        least, most = began + number * ROW_S, began + (number + 1) * ROW_S
        totals = [x.total for x in samples if least <= x.at_s < most]
        held = [MB for at_s, MB in memory if least <= at_s < most]
        p50, p99 = (round(float(p), 1) for p in np.percentile(totals, (50, 99))) if totals else (None, None)
        rows.append(
            {
                "minute": number + 1, "p50": p50, "p99": p99, "fps": round(len(totals) / ROW_S, 2),
                "server_MB": round(max(held), 1) if any(held) else None,
            }
        )  # fmt: skip
    return rows


def _growth(timed: Sequence[tuple[float, float]]) -> float | None:
    """The median of the last fifth of the time over that of the first; None where nothing was seen."""
    if not any(value for _, value in timed):
        return None
    times, values = np.array(sorted(timed)).T
    fifth = (times[-1] - times[0]) / 5
    first, last = values[times <= times[0] + fifth], values[times >= times[-1] - fifth]
    return round(float(np.median(last) / np.median(first)), 3)


def _percentiles(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    values = {part: [getattr(sample, part) for sample in samples] for part in PARTS}
    # What the server and the line cost beyond computing and waiting for it.
    values["network + encode"] = [sample.network + sample.encode for sample in samples]
    return {part: {f"p{p}": round(float(np.percentile(of, p)), 1) for p in (50, 90, 99)} for part, of in values.items()}


class _Memory:
    """The memory that the server says it holds, while it is driven: MB at a time, and the most."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, float]] = []
        self.host_MB = 0.0
        self.gpu_MB: float | None = None

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_MEMORY_EVERY_S):
            try:
                found = figures(self._address)
            except OSError:
                continue
            MB = found.get("process_resident_memory_bytes", 0.0) / 1e6
            self.seen.append((time.monotonic(), MB))
            self.host_MB = max(self.host_MB, round(MB, 1))
            if (gpu := found.get("triportrait_gpu_memory_bytes")) is not None:
                self.gpu_MB = max(self.gpu_MB or 0.0, round(gpu / 1e6, 1))


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| ms | p50 | p90 | p99 |", "| --- | --- | --- | --- |"]
    for part, at in found["latency_ms"].items():
        name = "end to end" if part == "total" else part
        lines.append(f"| {name} | {at['p50']} | {at['p90']} | {at['p99']} |")
    fps = [s["fps"] for s in found["sessions_seen"]]
    dropped, sent = (sum(s[name] for s in found["sessions_seen"]) for name in ("dropped", "sent"))
    rate = f"{fps[0]:g}" if len(fps) == 1 else f"{min(fps):g} to {max(fps):g} each"
    gpu = "" if found["gpu_MB"] is None else f", {found['gpu_MB']:g} MB on the GPU"
    where = ", ".join(str(found[name]) for name in ("machine", "date", "commit", "command") if found.get(name))
    lines += [
        "",
        f"{len(fps)} session{'s' * (len(fps) != 1)} for {found['seconds']:g} s, {found['fps_sent']:g} frames per second"
        f" sent, {found['picture_px']} px: {rate} frames per second come back, {dropped} of {sent} were replaced by"
        f" newer ones; the server holds {found['server_MB']:g} MB{gpu}.",
    ]
    if len(found["over_time"]) > 1:
        lines += [
            "",
            "| minute | p50, ms | p99, ms | frames per second | server, MB |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = [["–" if value is None else f"{value:g}" for value in row.values()] for row in found["over_time"]]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        growth = [found["growth"][of] for of in ("latency", "memory")]
        grown = ["not measured" if g is None else f"{100 * g - 100:+.1f} %" for g in growth]
        kept = all(g is None or g <= MOST_GROWTH for g in growth)
        lines += [
            "",
            f"From the first fifth to the last: median latency {grown[0]}, memory {grown[1]};"
            f" at most {100 * MOST_GROWTH - 100:+.0f} %: {'met' if kept else 'missed'}.",
        ]
    lines += [f"Where: {where}."]
    return "\n".join(lines) + "\n"
