"""The first gate of any reenactment: one head, eight expressions, and the face moves as it should in new views.

PSNR hardly notices a face that does not move, so that nothing else here would see a motion path that learned nothing.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.train.runs import lines_of
from triportrait import cli
from triportrait.train.evaluation.motion_response import responses
from triportrait.train.presets import PRESETS
from triportrait.train.run_all_stages import AllStages
from triportrait.train.run_folder import Run
from triportrait.train.runs.weights import load_trained
from triportrait.train.stages.preview_grids import reenacted

MOST_CPU_S = 25 * 60  # 20 minutes on idle cores; a thread that shares its core with another one counts for more


@pytest.fixture(scope="module")
def overfit(tmp_path_factory) -> tuple[Path, float]:
    """A run of the preset as it is, and how many seconds of CPU it took."""
    run = tmp_path_factory.mktemp("overfit") / "run"
    begun = time.process_time()
    assert cli.main(["train", "overfit", "--out", str(run)]) == 0
    return run, time.process_time() - begun


def last(run: Path, stage: str, number: str) -> dict[str, float]:
    """The last line of a run's log that tells a number of a stage."""
    lines = lines_of(run)
    return [line for line in lines if line["stage"] == stage and number in line][-1]


def test_one_head_learns_to_talk_blink_and_look_in_new_views(overfit, record_row):
    run, seconds = overfit
    static, moved = last(run, "stage1", "psnr"), last(run, "stage2", "gain jaw")
    axes = ("jaw", "blink", "gaze x")
    cells = [
        f"{axis}: gain {moved[f'gain {axis}']:.2f} correlation {moved[f'correlation {axis}']:.2f}" for axis in axes
    ]
    record_row(
        "one head, eight expressions, new views", (f"static {static['psnr']:.1f} dB", *cells, f"{seconds:.0f} s of CPU")
    )
    for axis in axes:
        assert moved[f"gain {axis}"] > 0.5, f"{axis}: {moved}"
        assert moved[f"correlation {axis}"] > 0.6, f"{axis}: {moved}"
    assert seconds < MOST_CPU_S


def test_the_weights_that_it_leaves_do_the_same(overfit):
    run, _ = overfit
    portrait, encoder = load_trained(run / "weights")
    moved = last(run, "stage2", "gain jaw")
    inputs = AllStages()
    Run(PRESETS["overfit"](), run, inputs)
    with torch.no_grad():
        found = responses(inputs.probe, partial(reenacted, portrait, encoder))
    assert {"jaw", "blink", "gaze x"} <= found.keys()
    for axis in found:
        assert found[axis].gain == pytest.approx(moved[f"gain {axis}"], abs=0.03), axis
