"""The demo's photograph and mp4 through the full-size network, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

DEMO = Path(__file__).parents[2] / "docs" / "demo"


@pytest.mark.full
def test_a_photograph_and_an_mp4_at_full_size(tmp_path):
    out = tmp_path / "out.mp4"
    command = ["reenact", str(DEMO / "portrait.jpg"), str(DEMO / "driving.mp4"), str(out)]
    options = ["--weights", "rule", "--frames", "2", "--side-by-side", "-v", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "triportrait", *command, *options], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.audio
    assert [frame.shape for frame in frames] == [(512, 3 * 512, 3)] * 2
    assert "the picture is noise" in done.stderr
    peak = re.search(r"peak memory: ([\d.]+) GB", done.stderr)
    assert peak, done.stderr
    assert float(peak[1]) < 8, done.stderr
