"""Latency of the live server end to end and in parts, frames per second, drops and memory, as a table."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.profiling.live.client import Client, Seen, driving_frames, figures
from triportrait.profiling.machine import describe

PARTS = ("total", "capture", "network", "queue", "compute", "encode")
WARM_UP_S = 3.0
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
    where = describe(command)
    if where.pop("note", None):  # of kernels: a session of the demo weights on a CPU is what its user gets
        where["machine"] += f", {os.cpu_count()} cores"
    return {
        **where,
        "sessions": sessions, "seconds": seconds, "fps_sent": fps, "driving": driving.name,
        "picture_px": clients[0].hello.get("side_px"), "transport": "WebSocket, loopback or as --url says",
        "sessions_seen": [_figures_of(s, seconds) for s in seen],
        "latency_ms": _percentiles([sample for s in seen for sample in _warm(s)]),
        "server_MB": memory.host_MB, "gpu_MB": memory.gpu_MB,
    }  # fmt: skip


async def _all(clients: Sequence[Client], seconds: float) -> list[Seen]:
    return list(await asyncio.gather(*(client.run(seconds) for client in clients)))


def _warm(seen: Seen) -> list[Any]:
    if not seen.samples:
        return []
    return [sample for sample in seen.samples if sample.at_s - seen.samples[0].at_s >= WARM_UP_S]


def _figures_of(seen: Seen, seconds: float) -> dict[str, Any]:
    warm = _warm(seen)
    if len(warm) < 2:
        said = seen.sentences[-1] if seen.sentences else "nothing was said"
        raise InputError(f"live: {len(seen.samples)} results came back, too few to measure ({said})")
    span = warm[-1].at_s - warm[0].at_s
    half = len(warm) // 2
    return {
        "fps": round((len(warm) - 1) / span, 2), "results": len(seen.samples), "sent": seen.sent,
        "dropped": seen.dropped,
        "p50_first_half": round(float(np.median([s.total for s in warm[:half]])), 1),
        "p50_second_half": round(float(np.median([s.total for s in warm[half:]])), 1),
    }  # fmt: skip


def _percentiles(samples: Sequence[Any]) -> dict[str, dict[str, float]]:
    return {
        part: {
            f"p{p}": round(float(np.percentile([getattr(sample, part) for sample in samples], p)), 1)
            for p in (50, 90, 99)
        }
        for part in PARTS
    }


class _Memory:
    """The most memory that the server says it holds, while it is driven."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
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
            self.host_MB = max(self.host_MB, round(found.get("process_resident_memory_bytes", 0.0) / 1e6, 1))
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
        f"Where: {where}.",
    ]
    return "\n".join(lines) + "\n"
