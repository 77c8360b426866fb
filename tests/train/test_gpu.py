"""What only a GPU can show of a training: `pytest -m gpu tests/train`. Each test is a command that a user gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import little
from tests.train.runs import lines_of
from triportrait import cli
from triportrait.serve.media.video.writer import write_video
from triportrait.train.data.clip_store.frames import DaliDecoder, decode

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
IMAGES = 40  # ten steps, one line of the log


@pytest.fixture(scope="module")
def cast(tmp_path_factory) -> Path:
    """Two heads of the demo's size; beside them `static`, a synthesizer that a step of stage 1 has moved."""
    folder = tmp_path_factory.mktemp("gpu") / "cast"
    sizes = ["--count", "2", "--expressions", "3", "--views", "2", "--size", "128"]
    assert cli.main(["prepare", "heads", "--out", str(folder), *sizes]) == 0
    run, static = folder.parent / "stage1", folder.parent / "static"
    numbers = ["--images", "4", "--batch", "4", "--adversarial", "0"]
    assert cli.main(["train", "stage1", "--data", str(folder), "--out", str(run), *numbers]) == 0
    assert cli.main(["train", "export", str(run), str(static)]) == 0
    return folder


def trained(
    cast: Path, run: Path, *more: str, ranks: int = 0, gpu: bool = True, host_draws: bool = False
) -> dict[str, Any]:
    """Ten steps of stage 2 with adversary and R1; the line of the log that tells their losses.

    With `host_draws` the rays' random numbers are a CPU's, as a GPU draws others.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name in ("TRITON_INTERPRET", "DS_ACCELERATOR"):
        environment.pop(name, None)
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    start = [sys.executable, "-m"]
    if ranks:
        start += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m"]
    command = "tests.train.host_draws_command" if host_draws else "triportrait"
    numbers = ["--images", IMAGES, "--batch", 4, "--micro-batches", 2, "--adversarial-from", 0]
    given = ["--data", cast, "--static", cast.parent / "static", "--out", run]
    words = [*start, command, "train", "stage2", *given, *numbers, *more]
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = lines_of(run)
    (told,) = [line for line in lines if "l1" in line]
    return told


@pytest.fixture(scope="module")
def on_one_gpu(cast, tmp_path_factory) -> dict[str, Any]:
    return trained(cast, tmp_path_factory.mktemp("one") / "run", "--precision", "fp32")


def agree(one: dict[str, Any], other: dict[str, Any], within: float) -> None:
    assert one.keys() - little.CLOCKED == other.keys() - little.CLOCKED
    for name in one.keys() - little.CLOCKED - {"stage"}:
        assert one[name] == pytest.approx(other[name], rel=within, abs=1e-3), name


def test_a_gpu_loses_what_a_cpu_loses(cast, tmp_path):
    on_gpu = trained(cast, tmp_path / "gpu", "--precision", "fp32", host_draws=True)
    assert on_gpu["gpu_gb"] > 0
    agree(on_gpu, trained(cast, tmp_path / "cpu", "--precision", "fp32", gpu=False), 0.02)


def test_half_precision_loses_about_as_much(cast, on_one_gpu, tmp_path):
    agree(on_one_gpu, trained(cast, tmp_path / "run", "--precision", "bf16"), 0.1)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nccl_ranks_lose_what_one_process_loses(stage, cast, on_one_gpu, tmp_path):
    pytest.importorskip("deepspeed")
    ranks = min(2, torch.cuda.device_count())
    told = trained(cast, tmp_path / "run", "--precision", "fp32", "--zero", str(stage), ranks=ranks)
    agree(on_one_gpu, told, 0.01)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_moments_on_the_cpu_change_no_loss(stage, cast, on_one_gpu, tmp_path):
    pytest.importorskip("deepspeed")
    told = trained(cast, tmp_path / "run", "--precision", "fp32", "--zero", str(stage), "--offload")
    agree(on_one_gpu, told, 0.01)


def test_recomputing_takes_less_memory_and_changes_no_loss(cast, on_one_gpu, tmp_path):
    told = trained(cast, tmp_path / "run", "--precision", "fp32", "--recompute")
    agree(on_one_gpu, told, 0.01)
    assert told["gpu_gb"] < on_one_gpu["gpu_gb"]


def test_nvdec_sees_what_pyav_sees(tmp_path):
    pytest.importorskip("nvidia.dali")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (17, 16, 16, 3), dtype=np.uint8)
    frames = colours.repeat(16, 1).repeat(16, 2)
    path = tmp_path / "clip.mp4"
    write_video(path, frames, 25, 8, tagged=False)
    rows = [0, 9, 16]
    (found,) = DaliDecoder(torch.device("cuda"))([(path, rows)])
    assert isinstance(found, torch.Tensor)
    off = np.abs(found.numpy().astype(int) - decode(path, rows).astype(int))
    assert off.max() <= 2
