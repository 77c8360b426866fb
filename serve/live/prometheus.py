"""The metrics that Prometheus reads at /metrics: latencies by part, frames, drops, sessions, memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from triportrait.serve.live.messages import Parts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_BUCKETS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_WINDOW_S = 5.0


class Metrics:
    """Counters and histograms of one server, in a registry of its own.

    Args:
        gpu_bytes: returns the memory that tensors hold on the GPU; None without one.
    """

    def __init__(self, gpu_bytes: Callable[[], float] | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
        from prometheus_client import disable_created_metrics as without_creation_times

        without_creation_times()
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        ours: Any = {"registry": self.registry, "namespace": "triportrait"}
        self._seconds = Histogram(
            "frame_seconds", "Server time of a frame by part", ["part"], buckets=_BUCKETS_S, **ours
        )
        self.frames_in = Counter("frames_received", "Driving frames that arrived", **ours)
        self.frames_out = Counter("frames_sent", "Results that were sent", ["kind"], **ours)
        self.dropped = Counter("frames_dropped", "Frames that a newer one replaced, by where", ["where"], **ours)
        self.unreadable = Counter("frames_unreadable", "Messages and frames that could not be read", **ours)
        self.sessions = Counter("sessions", "Sessions that ended, by how", ["how"], **ours)
        self.uploads = Counter("uploads", "Portraits that were sent, by status", ["status"], **ours)
        self.refinements = Counter("refinements", "Refinements of portraits that ended, by how", ["how"], **ours)
        self.refining = Gauge("refinements_running", "Portraits that are being refined", **ours)
        self.refinements_waiting = Gauge("refinements_waiting", "Portraits that wait to be refined", **ours)
        self.active = Gauge("sessions_active", "Sessions that run", **ours)
        self.waiting = Gauge("sessions_waiting", "Pages that wait for a place", **ours)
        self.capacity = Gauge("sessions_capacity", "Sessions that fit", **ours)
        self.part_seconds = Gauge("part_seconds", "Time of a part for a frame, by one thread", ["part"], **ours)
        self.part_threads = Gauge("part_threads", "Threads of a part", ["part"], **ours)
        Gauge("frames_per_second", "Results sent, mean of 5 s", **ours).set_function(self.fps)
        Gauge("threads", "Threads of the process", **ours).set_function(threading.active_count)
        self.tasks = Gauge("tasks", "Tasks of the event loop", **ours)
        if gpu_bytes is not None:
            Gauge("gpu_memory_bytes", "Memory that tensors hold on the GPU", **ours).set_function(gpu_bytes)
        self._sent: deque[float] = deque(maxlen=10_000)

    def sent(self, parts: Parts, view: bool) -> None:
        """Count a result that was sent, and its times."""
        self.frames_out.labels("view" if view else "frame").inc()
        self._sent.append(time.monotonic())
        if view:
            return
        for name, milliseconds in {**asdict(parts), "total": parts.total}.items():
            self._seconds.labels(name).observe(milliseconds / 1e3)

    def fps(self) -> float:
        """Return the results sent per second, of all sessions together, over the last seconds."""
        now = time.monotonic()
        return sum(now - moment <= _WINDOW_S for moment in list(self._sent)) / _WINDOW_S

    def text(self) -> bytes:
        """Write the text that Prometheus reads."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
