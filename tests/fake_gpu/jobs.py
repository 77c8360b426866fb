"""Run the jobs of training that take --device on a fake GPU: python -m tests.fake_gpu.jobs OUT.json"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fake_gpu.device import start_again_with_library


def main() -> None:
    """Train all stages of a little network, measure the package's weights and film them, and write the counts."""
    from tests.fake_gpu.runs import running
    from tests.train import little
    from triportrait.train.config import STAGES
    from triportrait.train.jobs.evaluate import Evaluate
    from triportrait.train.jobs.procedural_demo import Demo
    from triportrait.train.jobs.train import Tiny
    from triportrait.train.presets import PRESETS

    folder = Path(tempfile.mkdtemp(prefix="fake-gpu-jobs-"))
    jobs: dict[str, Callable[[], Any]] = {
        "train tiny": Tiny(folder / "run", device="cuda").run,
        "evaluate": Evaluate("demo", folder / "evaluation", heads=1, axes_heads=1, device="cuda").run,
        "demo": Demo(folder / "demo.mp4", characters=1, seconds=0.04, device="cuda").run,
    }
    rows = {}
    short = {name: replace(getattr(little.config(), name), images=4) for name in STAGES}
    with mock.patch.dict(PRESETS, tiny=lambda: little.config(**short)):
        for name, job in jobs.items():
            with running(name, {}) as run:
                run.gpu.number = 1  # a mean of flags is 1, too
                job()
                run.count(name)
            rows |= run.rows
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    Path(sys.argv[1]).write_text(json.dumps({"rows": rows, "files": files}, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
