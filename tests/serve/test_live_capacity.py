"""What `triportrait live` advertises: no more sessions than its slowest part keeps up with."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
import torch

from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.jobs import live
from triportrait.serve.live.inference import decode_jpeg

FACES_S, DEVICE_S, THREADS = 0.025, 0.001, 4


class Engine:
    """A GPU that takes a millisecond for a frame, beside a face finder that takes 25."""

    def __init__(self, reenactor, make_finder, stamp, decode, geometry) -> None:
        self.reenactor, self.stamp, self.marks_on_device = reenactor, stamp, True
        self.decode = decode or decode_jpeg
        self.most_batch, self.gather_s, self.finds_faces, self.side_px = 8, 0.0, True, 64

    def measure(self) -> float:
        return DEVICE_S

    def follower(self):
        return self

    def follow(self, image, time_s) -> AlignedFace:
        time.sleep(FACES_S)
        return AlignedFace.middle(image, self.side_px)

    def crop_portrait(self, image) -> tuple[AlignedFace, str]:
        return AlignedFace.middle(image, self.side_px), ""


@pytest.fixture
def server(monkeypatch):
    """The server as it is before it listens."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(live, "load_weights", lambda weights: ())
    monkeypatch.setattr(live, "Reenactor", lambda device: SimpleNamespace(static=False, capture=lambda *_, **__: None))
    monkeypatch.setattr(live, "use_precision", lambda reenactor, precision: None)
    monkeypatch.setattr(live, "FirstStart", SilentStart)
    monkeypatch.setattr(live, "Engine", Engine)
    monkeypatch.setattr(live, "weights_notice", lambda weights, reenactor: None)
    monkeypatch.setattr(live, "thread_count", lambda: THREADS)
    monkeypatch.setattr("os.cpu_count", lambda: 64)  # no core is short
    yield live.Live(device="cuda")._load_and_measure()
    torch.set_num_threads(threads)


class SilentStart:
    def __init__(self, *_) -> None: ...

    def part(self, last: bool = False):
        return torch.no_grad()


def test_a_fast_device_beside_slow_faces_advertises_what_the_faces_keep_up_with(server):
    answer = asyncio.run(server._get_metrics(None))
    figures = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    capacity = float(figures["triportrait_sessions_capacity"])
    assert 1 <= capacity <= THREADS / FACES_S / 30
    assert capacity == server.admission.capacity
    assert server.admission.bottleneck == "faces"
    assert server.admission.sessions_by_part()["device"] == pytest.approx(30)
    assert float(figures['triportrait_part_seconds{part="faces"}']) >= FACES_S
    assert float(figures['triportrait_part_seconds{part="device"}']) == DEVICE_S
    for _ in range(int(capacity)):
        assert server.admission.enter() is None
    assert server.admission.enter() is not None, "one more is refused"
