"""DeepSpeed's engine against the plain one, at every ZeRO stage: steps, states, averages, infinite gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")

ROOT = Path(__file__).parents[2]
CASES = [f"{stage}{offload}{clip}" for stage in range(4) for offload in ("", " offload") for clip in ("", " clipped")]
CASES = [case for case in CASES if not case.startswith("0 offload")] + [f"{stage} overlap" for stage in range(1, 4)]


@pytest.fixture(scope="module", params=[1, 2])
def found(request, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What the worker found, alone and on two ranks."""
    out = tmp_path_factory.mktemp("zero") / "found.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if request.param > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "tests/train/zero_worker.py"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert out.exists(), done.stderr[-3000:]  # gloo's threads may abort a process at its end
    return json.loads(out.read_text())


def test_all_cases_ran(found):
    assert sorted(found) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_steps_as_the_plain_engine_does(case, found):
    """Weights, moments and averages after two losses a step, one of which reaches the last layer alone."""
    assert found[case]["fresh"] < 2e-6
    assert found[case]["moments"] == 6


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_from_the_plain_engine_s_state(case, found):
    assert found[case]["loaded"] < 2e-6
    assert found[case]["averaged"] < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_an_infinite_gradient_is_refused_and_nothing_moves(case, found):
    assert found[case]["infinite"] == "a gradient is not finite after 48 images"
    assert found[case]["kept"] == 0
