"""DeepSpeed's engine against the plain one, at every ZeRO stage: steps, states, averages, infinite gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from triportrait.train.config import OptimizerConfig
from triportrait.train.engines import deepspeed_private
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.zero import ZeroConfig, ZeroEngine

deepspeed = pytest.importorskip("deepspeed")

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


@pytest.mark.parametrize("stage", range(4))
def test_nothing_runs_beside_the_backward_pass_on_a_gpu_unless_it_is_asked_for(stage):
    """Its streams are what no CPU runs."""
    ranks = Ranks(0, 2, torch.device("cuda"))

    def settings(zero: ZeroConfig) -> Any:
        engine: Any = SimpleNamespace(zero=zero, ranks=ranks, batch=4, micro_batches=1, config=OptimizerConfig(lr=0.1))
        return ZeroEngine._settings(engine)["zero_optimization"]

    assert settings(ZeroConfig(stage))["overlap_comm"] is False
    assert settings(ZeroConfig(stage, overlap=True))["overlap_comm"] is True


@pytest.mark.parametrize(("accelerator", "asked"), [("cpu", ["deepspeed_shm_comm"]), ("cuda", [])])
def test_a_gpu_s_ranks_do_not_look_for_a_compiler(accelerator, asked, monkeypatch):
    """To ask DeepSpeed which of its extensions can be built makes it try all of them."""
    changed: list[str] = []

    class Table(dict[str, bool]):
        def __setitem__(self, name: str, value: bool) -> None:
            changed.append(name)

    monkeypatch.setenv("DS_ACCELERATOR", accelerator)
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", Table())
    monkeypatch.setattr(deepspeed.comm, "is_initialized", lambda: True)
    deepspeed_private.load_deepspeed()
    assert changed == asked
