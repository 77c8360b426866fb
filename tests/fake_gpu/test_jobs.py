"""The jobs of training run on a fake GPU where --device says so, and leave whole files."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS
FEWEST_CONVOLUTIONS = {"train tiny": 300, "evaluate": 100, "demo": 20}


@pytest.fixture(scope="module")
def done(ran) -> dict[str, Any]:
    """Counts by job, and the files that they left."""
    return ran("tests.fake_gpu.jobs")


@pytest.mark.parametrize("job", FEWEST_CONVOLUTIONS)
def test_its_networks_run_on_the_device(job, done):
    counts = done["rows"][job]
    assert counts["launched"]["convolution"] >= FEWEST_CONVOLUTIONS[job], counts["launched"]
    assert {"host to device", "device to host"} <= counts["copies"].keys()


def test_its_files_are_whole(done):
    made = {"demo.mp4", "evaluation/table.md", "evaluation/metrics.json", "run/log.jsonl", "run/static/portrait.json"}
    assert made | {"run/weights/motion.safetensors", "run/weights/portrait.safetensors"} <= set(done["files"])
