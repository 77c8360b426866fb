"""Tables of figures from a GPU, on figures made up here."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.profiling import figures
from triportrait.profiling.cases import CASES
from triportrait.profiling.figures import BEGIN, END, report

TIMES = {"p20": 1.0, "p50": 1.5, "p80": 1.6, "p90": 1.7, "p99": 2.0, "repetitions": 20, "peak_MB": 10.0}
FRAMES = ("frame, source cached", "frame, nothing cached", "new view of cached planes")
PARTS = ("render", "super-resolution")
FIGURES = {
    "machine": {"machine": "a GPU", "chip": "sm_90", "commit": "abc", "command": "triportrait profile all x.json"},
    "work": {"render": {"floor_ms": 0.013}, "super-resolution": {"floor_ms": 0.224}, "neck field": {"floor_ms": 0.01}},
    "frame": [
        {"way": way, "psnr_dB": 61.0, **dict.fromkeys(FRAMES, TIMES), "parts": dict.fromkeys(PARTS, TIMES)}
        for way in ("eager fp32", "ours")
    ],
    "kernels": [
        {"operator": "march", "dtype": "fp16", "pass": "forward", "eager": {**TIMES, "p50": 30.0}, "ours": TIMES}
    ],
}  # fmt: skip


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "CASES", {"march": CASES["march"]})
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    return tmp_path / "figures.json", tmp_path / "README.md", tmp_path / "chart.png"


def test_tables_stand_between_the_markers_and_nothing_else_changes(files):
    report(*files)
    text = files[1].read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| march | fp16 | forward | 30.000 | - | - | 1.500 | 20.0 |" in text
    assert "| ours | 1.50 / 1.70 / 2.00 |" in text
    assert "commit abc" in text
    report(*files)
    assert files[1].read_text() == text


def test_the_chart_has_a_bar_for_each_part_and_way(files):
    report(*files)
    picture = np.asarray(Image.open(files[2]))
    blue = (picture == (72, 128, 200)).all(-1)
    assert blue.any()
    assert (picture == (200, 60, 50)).all(-1).any()
    rows = np.flatnonzero(blue[60:].any(1))
    assert len(np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)) == 2, "two parts"


def _red(figures):
    figures["kernels"][0] = {"operator": "march", "dtype": "fp16", "pass": "forward", "red": "off by 3"}
    return "1 rows have no figure, the first: off by 3"


def _no_frame(figures):
    figures["frame"] = []
    return "frame not measured yet; go on by `triportrait profile all --resume`"


def _cpu(figures):
    figures["machine"]["chip"] = ""
    return "these are of a CPU and no performance"


@pytest.mark.parametrize("damage", [_red, _cpu, _no_frame])
def test_figures_that_are_none_are_not_written(damage, files):
    damaged = copy.deepcopy(FIGURES)
    message = damage(damaged)
    files[0].write_text(json.dumps(damaged))
    before = files[1].read_text()
    with pytest.raises(InputError, match=message):
        report(*files)
    assert files[1].read_text() == before


def test_a_readme_without_markers_is_refused(files):
    files[1].write_text("nothing here")
    with pytest.raises(InputError, match=f"expected {BEGIN} and then {END}, each once"):
        report(*files)
    assert files[1].read_text() == "nothing here"
