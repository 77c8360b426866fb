"""Serving on a fake GPU: planes are padded once a head, a first start says what it does, nothing is captured later."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_gpu.device import environment
from triportrait.kernels.language import HAVE_TRITON

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="a build of PyTorch for CUDA has a device of its own"),
    pytest.mark.skipif(not HAVE_TRITON, reason="needs Triton"),
]
ROOT = Path(__file__).parents[2]
BEFORE, AFTER = "first start on this GPU: Triton compiles up to 20 programs", "Triton has compiled its programs: "
GRAPHS = 13  # planes, a view, a turned view of 1, 2, 4, 8 heads; a neck
OF_GEOMETRY = 8  # a view, a turned view of 1, 2, 4, 8 heads


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def seen(folder) -> dict[str, Any]:
    """What `python -m tests.fake_gpu.serving` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fake_gpu.serving", str(folder / "seen.json"), str(folder)],
        cwd=ROOT, env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "seen.json").read_text())


def test_planes_are_padded_once_for_all_views_of_a_head(seen):
    """Two views, twice: of the launches of a head, and of the graphs, which copy a new head into their own memory."""
    launched, replayed = seen["planes made"]["launches"], seen["planes made"]["graphs"]
    assert launched.pop("head") == ["contiguous", "pad"]
    assert all(made == [] for made in launched.values()), launched
    assert replayed.pop("head") == ["clone"]
    assert replayed.pop("first views") == replayed.pop("first static frame") == ["copy_"]
    assert all(made == [] for made in replayed.values()), replayed


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_picture_is_copied_to_have_its_channels_last(seen, precision):
    count, copied = seen["pictures copied"][precision]
    assert count > 20
    assert copied == []


def test_a_first_start_tells_once_that_kernels_are_compiled_and_what_it_took(seen, folder):
    starts = {f"reenact, {name}": said for name, said in seen["reenact"].items()}
    starts |= {f"live, {name}": seen["live"][name] for name in ("first", "second")}
    for start, said in starts.items():
        lines = [line for line in said if line.startswith((BEFORE, AFTER))]
        if start.endswith("second"):
            assert lines == [], "Triton has them on the disk"
            continue
        before, after = lines
        cache = folder / {"reenact, timed": "b", "live, first": "live"}.get(start, "a")
        assert before.startswith(BEFORE) and f"it keeps them in {cache}, and later starts do not wait" in before
        assert after.startswith(AFTER), start
        assert said.index(before) < said.index(after)


def test_all_is_captured_before_anybody_is_served(seen):
    live = seen["live"]
    assert live["captures before it listens"] == {"without": GRAPHS, "with": GRAPHS + OF_GEOMETRY}
    assert live["captures while it serves"] == 0
    assert live["said while it serves"] == []
    assert not [line for said in seen["reenact"].values() for line in said if line.startswith("no graph holds")]


def test_a_second_capture_has_the_neck_too(seen):
    first, second = seen["captured twice"]
    assert first == second >= 3, "planes, view, neck"


def test_geometry_is_captured_when_it_is_first_asked_for_and_pictures_are_as_before(seen):
    """One graph shows depth and normals: planes and a view are replayed, for whatever is shown."""
    assert seen["geometry when it is asked for"] == [[0, 2], [1, 2], [0, 2], [0, 2]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_refined_source_leaves_the_graphs_to_the_others(seen, precision):
    """Of a mixed batch the others' planes and all views are replayed; of a refined one alone, the view."""
    done = seen["refined beside others"][precision]
    assert done["captures"] == [0, 0]
    assert done["replays"] == [2, 1]
    assert done["said"] == [], "launch by launch is what it is meant to run"
    assert done["residual"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision]


def test_what_was_not_captured_runs_launch_by_launch_and_is_named_once(seen):
    done = seen["batch without graph"]
    assert (done["captures"], done["replays"]) == (0, 0)
    assert done["said"] == [
        f"no graph holds '{name}' for a batch of 4: it runs launch by launch, slower" for name in ("planes", "view")
    ]
