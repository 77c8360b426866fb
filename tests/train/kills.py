"""Ten kills: a run of stage 2 on two ranks that loses a rank at any moment ends as one that nobody touched.

    python tests/train/kills.py [--kills 10] [--seed 0] > docs/train/kills.txt

Each launch is killed (SIGKILL to one rank, by turns the first and the second) after a random time; the same command
goes on until it is done. Then every number of the log is compared with that of an unbroken run, and every weight.
Minutes, so it is no part of the suite, which stops and resumes in `test_ranks.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CLOCKED = {"images_per_s", "data_share", "data_wait_s", "data_ready"}
IMAGES, SAVE_EACH = 600, 24


def work(folder: Path, name: str) -> None:
    """What each rank does."""
    from tests.train import little
    from triportrait.core.torch_threads import one_thread
    from triportrait.train import loop
    from triportrait.train.engines.build_engines import Engines
    from triportrait.train.engines.ranks import process_group
    from triportrait.train.engines.zero import ZeroConfig
    from triportrait.train.networks import InitFrom
    from triportrait.train.run_folder import Run
    from triportrait.train.run_one_stage import OneStage

    loop.LOG_EVERY = 1
    config = little.adversarial()
    config = dataclasses.replace(
        config, stage2=dataclasses.replace(config.stage2, images=IMAGES, micro_batches=2, batch=4), save_every=SAVE_EACH
    )
    init_from = InitFrom(static=str(folder / "static"), motion=str(folder / "trained"))
    with one_thread(), process_group() as ranks:
        (folder / f"rank{ranks.rank}.pid").write_text(str(os.getpid()))
        engines = Engines(ranks, ZeroConfig(2, bucket=100_000))
        run = Run(config, folder / name, OneStage("stage2", folder / "cast", init_from), engines, False)
        if ranks.first:
            (folder / "begun").touch()
        run.train()
        if ranks.first:
            (folder / f"{name}.done").touch()


def launch(folder: Path, name: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    (folder / "begun").unlink(missing_ok=True)
    return subprocess.Popen(
        [*words, "--work", str(folder), "--name", name],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def steps_of(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name / "log.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append({k: v for k, v in json.loads(line).items() if k not in CLOCKED})
        except ValueError:
            continue  # cut off by the kill
    return found


def kill_once(folder: Path, number: int, wait_s: float) -> str:
    """Launch, kill one rank after a while, wait for the others; what happened, as a line."""
    process = launch(folder, "killed")
    while not (folder / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(wait_s)
    rank = number % 2
    before = len([line for line in steps_of(folder, "killed") if "l1" in line])
    try:
        os.kill(int((folder / f"rank{rank}.pid").read_text()), signal.SIGKILL)
    except ProcessLookupError:
        return f"kill {number + 1:2}: it was done before"
    process.wait()
    half = [p.name for p in (folder / "killed" / "checkpoints").glob(".*")]
    whole = sorted(p.name for p in (folder / "killed" / "checkpoints").glob("stage2*"))
    return (
        f"kill {number + 1:2}: rank {rank} after {wait_s:4.1f} s, at step {before}; newest checkpoint "
        f"{whole[-1] if whole else 'none'}{', a half-written one beside it' if half else ''}"
    )


def compare(folder: Path) -> int:
    """Differences between the killed and the unbroken run."""
    import torch
    from safetensors.torch import load_file

    one, other = (steps_of(folder, name) for name in ("unbroken", "killed"))
    differing = sum(a != b for a, b in zip(one, other, strict=True))
    print(f"{len(one)} lines of the log, {differing} differ")
    for network in ("generator", "discriminator"):
        files = [
            next((folder / name / "checkpoints").glob(f"stage2*/{network}.safetensors"))
            for name in ("unbroken", "killed")
        ]
        a, b = map(load_file, files)
        wrong = [name for name in a if not torch.equal(a[name], b[name])]
        print(f"{network}: {len(a)} tensors, {len(wrong)} differ")
        differing += len(wrong)
    return differing


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--name")
    given = parser.parse_args()
    if given.work:
        work(given.work, given.name)
        return 0
    sys.path.insert(0, str(ROOT))
    from tests.train import little, trained
    from triportrait.core.source_commit import source_commit
    from triportrait.train.data.pictures import open_set

    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_set(folder / "cast", little.CAST, little.model())
        trained.write(folder / "trained")
        trained.write_static(folder / "static")
        begun = time.monotonic()
        launch(folder, "unbroken").wait()
        print(f"commit {source_commit()}, python tests/train/kills.py --kills {given.kills} --seed {given.seed}")
        print(
            f"stage 2 on two gloo ranks, ZeRO 2, {IMAGES} images, a checkpoint every {SAVE_EACH}, adversary and R1 on"
        )
        lasts = max(4.0, 0.6 * (time.monotonic() - begun))
        for number in range(given.kills):
            print(kill_once(folder, number, chance.uniform(0.5, lasts / 6)), flush=True)
        while not (folder / "killed.done").exists():
            launch(folder, "killed").wait()
        return int(compare(folder) > 0)


if __name__ == "__main__":
    sys.exit(main())
