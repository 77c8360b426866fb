"""Resident memory while generated heads stream to a store and from it again.

    python tests/train/generated/memory.py [--heads 2000] > docs/train/genhead_memory.txt

A generator of 64 px with weights made by rule draws the heads, so that 2,000 take minutes; --weights and --parameters
name another.
`test_memory.py` is the short form.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.train.generated.little_heads import save_little, write_tables  # noqa: E402
from triportrait.train.data.generated.draws import GeneratedConfig  # noqa: E402
from triportrait.train.data.generated.store.making import Making  # noqa: E402
from triportrait.train.data.generated.store.preparing import prepare_generated  # noqa: E402
from triportrait.train.data.generated.stored import StoredHeads  # noqa: E402
from triportrait.train.runs.weights import save_flame  # noqa: E402

BATCH = 8
Say = Callable[[str, int, float], None]


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def stream(making: Making, out: Path, heads: int, per_shard: int, say: Say) -> None:
    """Write a store of heads and read all of it as a training does; `say` hears of memory after every head or batch."""
    prepare_generated(
        out, making, heads, per_shard, workers=1, keep_model=save_flame,
        progress=lambda done, count: say("written", done, resident_mb()),
    )  # fmt: skip
    source = StoredHeads(out, seed=0)
    for place in range(0, heads - BATCH + 1, BATCH):
        source.batch(source.draw(BATCH, np.random.default_rng(0), place))
        say("read", place + BATCH, resident_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--parameters", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        weights = given.weights or save_little(place / "weights")
        tables = given.parameters or write_tables(place / "tables")
        making = Making(weights, tables, "cpu", 0, GeneratedConfig(), True, "png")
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        print(f"python tests/train/generated/memory.py {' '.join(sys.argv[1:])}".rstrip())
        print(f"commit {commit.stdout.strip()}, torch {torch.__version__}, {platform.machine()}, one thread")
        print(f"{given.heads:,} heads of {making.config.views} views with feature images, 64 to a shard")
        lines: dict[str, list[float]] = {"written": [], "read": []}
        began = time.monotonic()

        def say(what: str, done: int, memory: float) -> None:
            lines[what].append(memory)
            if done % given.every == 0:
                print(f"{what:8} {done:6,} heads   {memory:7.1f} MB   {time.monotonic() - began:6.0f} s", flush=True)

        stream(making, place / "heads", given.heads, 64, say)
        size = sum(path.stat().st_size for path in (place / "heads").rglob("*"))
        for what, memory in lines.items():
            tenth = len(memory) // 10
            grown = max(memory[-tenth:]) - max(memory[tenth : 2 * tenth])
            print(f"{what}: the last tenth's peak is {grown:+.1f} MB from that of the second tenth")
        print(f"the store has {size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
