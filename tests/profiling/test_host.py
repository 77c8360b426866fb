"""The parts of the host that `profile roofline --pipeline` times, and what it says sets the pace."""

from __future__ import annotations

import pytest

from triportrait.core.config import PRESETS
from triportrait.profiling.host import HostPart, host_parts, table
from triportrait.profiling.roofline import count


@pytest.fixture(scope="module")
def work():
    return count(PRESETS["tiny"]())


def test_every_part_is_timed(work):
    parts = host_parts(64, frames=4)
    threads = {part.thread for part in parts}
    assert threads == {
        "film: read",
        "film: face",
        "film: drive",
        "film: write",
        "film: write, CPU",
        "live: face",
        "live: finish",
    }
    for part in parts:
        assert 0 <= part.ms < 1000, part
    assert "| watermark | film: write |" in table(parts, work, 64)


def test_the_slowest_thread_beside_a_gpu_is_named(work):
    parts = [
        HostPart("decode", "film: read", 3.0),
        HostPart("encode", "film: write, CPU", 90.0),
        HostPart("encode", "film: write", 5.0),
        HostPart("watermark", "film: write", 80.0, on_gpu=True),
        HostPart("crop", "live: face", 2.0),
        HostPart("find", "live: face", 30.0, finds_faces=True),
    ]
    text = table(parts, work, 512)
    assert "- film: the slowest is 'film: write'." in text
    assert "- live: the slowest is 'live: face'; where faces are to be found, 'live: face' takes 32.0 ms." in text
    assert "| encode | film: write | 5.00 | **no** |" in text
    assert "| encode | film: write, CPU | 90.00 | not beside a GPU |" in text
    assert "| film: write | 5.00 | 200 |" in text
