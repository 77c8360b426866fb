"""Methods made by another program rank as docs/evaluation/sanity says; a fault in the scorer breaks an order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.face_models import needs_face_models
from triportrait import cli

METHODS = ("truth", "noise", "warp", "copy", "shuffled")
FRAMES, SIZE_PX, PACE, STILL_S = 24, 96, 2.0, 0.04  # one still frame: equal frames count as 100 dB
# by chance a little correlation is left in another order of so few frames; so few pixels show a warp's lids badly
SHORT = {"0.3 > shuffled > -0.3", "truth > warp > shuffled"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of clips with a protocol, and beside it the methods' results of it."""
    from docs.evaluation.sanity import clips, other_methods

    folder = tmp_path_factory.mktemp("ranks")
    clips.write(folder / "clips", 2, FRAMES, SIZE_PX, PACE, STILL_S)
    assert cli.main(["evaluate", "protocol", str(folder / "clips"), "--size", str(SIZE_PX)]) == 0
    other_methods.make(folder / "clips" / "p4d-table1.jsonl", folder / "methods", METHODS)
    return folder


def checked(made: Path, folder: Path, *more: str) -> tuple[list[str], list[str], list[str]]:
    """Score a copy of the results through the command line; return the orders that hold, are broken, are unmeasured."""
    from docs.evaluation.sanity import ranks

    shutil.copytree(made / "methods", folder, dirs_exist_ok=True)
    protocol = str(made / "clips" / "p4d-table1.jsonl")
    for name in METHODS:
        words = ["evaluate", "score", str(folder / name), "--protocol", protocol, "--cache", str(made / "cache")]
        assert cli.main([*words, *more]) == 0
    held, broken, unmeasured = ranks.checked(
        ranks.values_of({name: folder / name for name in METHODS}), {*METHODS}, SHORT
    )
    return held, broken, [line for line in unmeasured if "ms_ssim" not in line]


def test_pictures_rank(made, tmp_path):
    held, broken, _ = checked(made, tmp_path / "m", "--faces", "none")
    assert not broken, broken
    assert len(held) >= 20, held
    assert any("self psnr" in line and "noise 30" in line and "> warp" in line for line in held), held


@needs_face_models
def test_faces_rank(made, tmp_path):
    held, broken, _ = checked(made, tmp_path / "m")
    assert not broken, broken
    assert len(held) >= 75, held


def next_frame(frames, count):
    return [*frames[1:], frames[0]]


def source_for_truth(frames, count):
    return [frames[0]] * count


def another_crop(frames, count):
    return [np.roll(frame, 2, 1) for frame in frames]


@pytest.mark.parametrize("fault", [next_frame, source_for_truth, another_crop])
def test_a_fault_in_the_scorer_breaks_an_order(fault, made, tmp_path, monkeypatch):
    from triportrait.train.evaluation.protocols import scoring

    right = scoring.clip_frames

    def wrong(protocol, clip, first, count):
        frames = list(right(protocol, clip, first, count))
        return iter(frames if count == 1 else fault(frames, count))

    monkeypatch.setattr(scoring, "clip_frames", wrong)
    _, broken, _ = checked(made, tmp_path / "m", "--faces", "none")
    assert any("self psnr" in line for line in broken), broken
    assert any("self ssim" in line for line in broken), broken
