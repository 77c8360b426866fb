"""The jobs of training run on a fake GPU where --device says so, and leave whole files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_gpu.device import environment
from triportrait.kernels.language import HAVE_TRITON

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="a build of PyTorch for CUDA has a device of its own"),
    pytest.mark.skipif(not HAVE_TRITON, reason="needs Triton"),
]
ROOT = Path(__file__).parents[2]
FEWEST_CONVOLUTIONS = {"train tiny": 300, "evaluate": 100, "demo": 20}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> dict[str, Any]:
    """Counts by job, and the files that they left."""
    out = tmp_path_factory.mktemp("jobs") / "done.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fake_gpu.jobs", str(out)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("job", FEWEST_CONVOLUTIONS)
def test_its_networks_run_on_the_device(job, done):
    counts = done["rows"][job]
    assert counts["launched"]["convolution"] >= FEWEST_CONVOLUTIONS[job], counts["launched"]
    assert {"host to device", "device to host"} <= counts["copies"].keys()


def test_its_files_are_whole(done):
    made = {"demo.mp4", "evaluation/table.md", "evaluation/metrics.json", "run/log.jsonl", "run/static/portrait.json"}
    assert made | {"run/weights/motion.safetensors", "run/weights/portrait.safetensors"} <= set(done["files"])
