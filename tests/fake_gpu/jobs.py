"""Run the jobs of training that take --device on a fake GPU: python -m tests.fake_gpu.jobs OUT.json"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fake_gpu.device import start_again_with_library, unwatched


def main() -> None:
    """Train all stages of a little network, measure the package's weights and film them, and write the counts.

    Heads are drawn, and surfaces compared, on the host, of which the fake GPU is not told; few are drawn: of those that
    no training sees two, and of those along axes what shows the jaw.
    """
    from tests.fake_gpu.runs import running
    from tests.train import little
    from triportrait.train import run_all_stages
    from triportrait.train.config import STAGES
    from triportrait.train.data.heads.render import HeadRenderer
    from triportrait.train.evaluation import geometry_measure
    from triportrait.train.evaluation.protocol import Plan
    from triportrait.train.jobs import evaluate
    from triportrait.train.jobs.evaluate import Evaluate
    from triportrait.train.jobs.procedural_demo import Demo
    from triportrait.train.jobs.train import Tiny
    from triportrait.train.presets import PRESETS
    from triportrait.train.runs import weights

    folder = Path(tempfile.mkdtemp(prefix="fake-gpu-jobs-"))
    jobs: dict[str, Callable[[], Any]] = {
        "train tiny": Tiny(folder / "run", device="cuda").run,
        "evaluate": Evaluate("demo", folder / "evaluation", heads=1, axes_heads=1, device="cuda").run,
        "demo": Demo(folder / "demo.mp4", characters=1, seconds=0.04, device="cuda").run,
    }
    rows = {}
    short = {name: replace(getattr(little.config(), name), images=4) for name in STAGES}
    with (
        mock.patch.dict(PRESETS, tiny=lambda: little.config(**short)),
        mock.patch.object(HeadRenderer, "render", unwatched(HeadRenderer.render)),
        mock.patch.object(weights, "mean_neck", unwatched(weights.mean_neck)),
        mock.patch.object(geometry_measure, "compare_surfaces", unwatched(geometry_measure.compare_surfaces)),
        mock.patch.object(run_all_stages, "HELD_OUT", 2),
        mock.patch.object(evaluate, "Plan", partial(Plan, axes=("jaw",))),
    ):
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
