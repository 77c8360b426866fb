"""The first gate of any reenactment: one head, eight expressions, and its mouth moves as it should in new views.

PSNR hardly notices a face that does not move, so that nothing else here would see a motion path that learned nothing.
This is the short form: as many images as the jaw needs. Lids and eyes take the whole run, `train overfit` as it is.
"""

from __future__ import annotations

import dataclasses
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

IMAGES = ("--stage1-images", "500", "--stage2-images", "800")


@pytest.fixture(scope="module")
def overfit(tmp_path_factory) -> Path:
    """A run of the preset with fewer images."""
    run = tmp_path_factory.mktemp("overfit") / "run"
    assert cli.main(["train", "overfit", "--out", str(run), *IMAGES]) == 0
    return run


def last(run: Path, stage: str, number: str) -> dict[str, float]:
    """The last line of a run's log that tells a number of a stage."""
    lines = lines_of(run)
    return [line for line in lines if line["stage"] == stage and number in line][-1]


def test_one_head_learns_to_talk_in_new_views(overfit, record_row):
    static, moved = last(overfit, "stage1", "psnr"), last(overfit, "stage2", "gain jaw")
    gain, correlation = moved["gain jaw"], moved["correlation jaw"]
    record_row(
        "one head, eight expressions, new views",
        (f"static {static['psnr']:.1f} dB", f"jaw: gain {gain:.2f} correlation {correlation:.2f}"),
    )
    assert static["psnr"] > 23
    assert gain > 0.2, moved
    assert correlation > 0.5, moved


def test_the_weights_that_it_leaves_do_the_same(overfit):
    portrait, encoder = load_trained(overfit / "weights")
    moved = last(overfit, "stage2", "gain jaw")
    inputs = AllStages()
    images = dict(zip(("stage1", "stage2"), IMAGES[1::2], strict=True))
    preset = PRESETS["overfit"]()
    changed = {name: dataclasses.replace(getattr(preset, name), images=int(count)) for name, count in images.items()}
    Run(dataclasses.replace(preset, **changed), overfit, inputs)
    with torch.no_grad():
        found = responses(inputs.probe, partial(reenacted, portrait, encoder))
    assert {"jaw", "blink", "gaze x"} <= found.keys()
    for axis in found:
        assert found[axis].gain == pytest.approx(moved[f"gain {axis}"], abs=0.03), axis
