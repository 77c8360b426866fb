"""Both launchers: a run that a scheduler stops under torchrun goes on under deepspeed, and ends as one process does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.train import little
from tests.train.logs import agree
from triportrait import cli
from triportrait.train import loop
from triportrait.train.evaluation import probe
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.runs.checkpoints import FOLDER, checkpoints_of
from triportrait.train.runs.claim import claim

pytest.importorskip("deepspeed")

ROOT = Path(__file__).parents[2]
COMMAND = str(ROOT / "tests/train/little_command.py")
IMAGES, BATCH, GRACE_S, PATIENCE_S = 32, 4, 110, 300


def words(data: Path, run: Path) -> list[str]:
    options = ["--data", data, "--out", run, "--images", IMAGES, "--batch", BATCH, "--micro-batches", 2]
    options += ["--adversarial", 0, "--save-every", 10**6, "--sample-every", 10**6, "--precision", "fp32"]
    return ["train", "stage1", *map(str, options)]


def started(launcher: list[str], data: Path, run: Path) -> subprocess.Popen[str]:
    """A launcher and its two ranks."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, COMMAND, *words(data, run)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The log's whole lines of steps, without what depends on the clock."""
    log, clocked = run / "log.jsonl", little.CLOCKED | {"lr"}
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in line.items() if k not in clocked} for line in told if "l1" in line]


@pytest.fixture(scope="module")
def data(little_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    shutil.copytree(little_folder, folder / "cast")
    return folder / "cast"


@pytest.fixture(scope="module")
def stopped(data) -> tuple[Path, int, str, float]:
    """A run whose launcher got SIGTERM after the first line of the log: folder, exit code, words, seconds to end."""
    run = data.with_name("run")
    launcher = ["torch.distributed.run", "--shutdown-timeout", str(GRACE_S), "--standalone", "--nproc_per_node", "2"]
    with started(launcher, data, run) as process:
        until = time.monotonic() + PATIENCE_S
        while not steps_of(run) and process.poll() is None and time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        said, _ = process.communicate(timeout=PATIENCE_S)
    return run, process.returncode, said, time.monotonic() - asked


def test_sigterm_to_torchrun_saves_on_all_ranks(stopped):
    run, code, said, lasted = stopped
    (checkpoint,) = checkpoints_of(run, "stage1")
    images = int(checkpoint.name.split("_")[-1])
    assert 0 < images < IMAGES
    assert f"{run}: stopped after {images} images; the same command goes on" in said
    assert not [path for path in (run / FOLDER).iterdir() if path.name.startswith(".")], "nothing half-written"
    assert lasted < GRACE_S
    assert len(steps_of(run)) == images // BATCH
    # torchrun, which was asked to end before its ranks had, raises; none of our processes does
    assert code == 1
    assert said.count("Traceback") == 1
    assert said.strip().endswith("got signal: 15")
    raised = [line for line in said[said.index("Traceback") :].splitlines() if 'File "' in line]
    assert raised
    assert not any(str(ROOT / "train") in line or "triportrait/train" in line for line in raised)
    assert "FutureWarning" not in said


def test_the_deepspeed_launcher_goes_on_with_it_to_the_end_of_an_unbroken_run(data, stopped):
    run, whole = stopped[0], data.with_name("whole")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["deepspeed.launcher.runner", "--no_local_rank", "--num_gpus", "2", "--master_port", str(port)]
    with started(launcher, data, run) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert str(run) in said.splitlines(), "the run's folder is what the job prints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.setattr(probe, "ROWS", 1)
        assert cli.main(words(data, whole)) == 0
    assert len(steps_of(run)) == IMAGES // BATCH
    agree(steps_of(run), steps_of(whole))


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_a_start_that_is_refused_is_said_by_one_of_the_ranks(data):
    run = data.with_name("refused")
    with started(TORCHRUN, data.with_name("nowhere"), run) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert not run.exists()
    ours = [line for line in said.splitlines() if line.startswith("triportrait: ")]
    assert len(ours) == 1
    assert "nowhere: a folder of heads is wanted, nothing is there" in ours[0]
    assert said.count("a folder of heads is wanted, nothing is there") == 2, (
        "said by one rank, and told again by torchrun"
    )
    assert "To enable traceback see" not in said
    assert "triportrait/train" not in said


def test_ranks_whose_launcher_was_killed_save_and_end(data):
    """Nobody asks them to: torchrun had no time for it."""
    run = data.with_name("orphaned")
    with started(TORCHRUN, data, run) as process:
        until = time.monotonic() + PATIENCE_S
        while not steps_of(run) and process.poll() is None and time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        process.kill()
        said, _ = process.communicate(timeout=PATIENCE_S)  # until the ranks, which hold the pipe, have ended
    (checkpoint,) = checkpoints_of(run, "stage1")
    images = int(checkpoint.name.split("_")[-1])
    assert 0 < images < IMAGES
    assert f"{run}: stopped as its launcher is gone after {images} images; the same command goes on" in said
    claim(run).close()  # nobody holds it
