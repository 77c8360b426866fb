"""Every metric network runs on a fake GPU, in float32 without TF32, whatever the process chose."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS
FEWEST_CONVOLUTIONS = {  # of one portion of frames
    "weights:arcface": 19, "weights:recon3d": 53, "weights:emotion": 53, "weights:inception": 3 * 94,
    "weights:lpips_alex": 5, "weights:lpips_vgg": 13, "weights:syncnet": 12,
}  # fmt: skip
FRAMES = 8


@pytest.fixture(scope="module")
def seen(ran) -> dict[str, Any]:
    """What `python -m tests.fake_gpu.evaluation` writes."""
    return ran("tests.fake_gpu.evaluation")


@pytest.mark.parametrize("need", FEWEST_CONVOLUTIONS)
def test_a_network_runs_on_the_device(need, seen):
    counts = seen["rows"][need]
    assert counts["launched"]["convolution"] >= FEWEST_CONVOLUTIONS[need], counts["launched"]
    assert {"host to device", "device to host"} <= counts["copies"].keys()


def test_its_numbers_come_back_for_each_frame(seen):
    for name in ("identity", "expression", "emotion", "inception_clean", "lpips_alex", "lpips_alex_map", "lpips_vgg"):
        assert seen["shapes"][name][0] == FRAMES, name
    assert seen["shapes"]["inception_clean"] == [FRAMES, 2048]
    assert seen["shapes"]["lips"] == [3, 1024], "the last possible window is not used"


def test_nothing_is_rounded_to_tf32(seen):
    assert seen["calls"] > 300
    assert seen["precisions"] == ["ieee"]
    assert seen["tf32 after"] == [True, True], "as the process had chosen"
