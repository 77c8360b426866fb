"""The first tests on a GPU run on a fake one: they reach every kernel and verb, and compile few programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_gpu.conditions import NEEDS, ROOT
from tests.first import FORWARD, MARCHES
from triportrait.profiling.cases import CASES

pytestmark = NEEDS
FILES = {"tests/test_first_on_gpu.py", "tests/serve/test_first_on_gpu.py"}
TESTS = 13
MOST_PROGRAMS = 80  # a second each for sm_90, one after the other: the rest of two minutes is for the work itself
FORWARD_LAUNCHES = """
import json
from triportrait.profiling.cases import CASES, DTYPES
from triportrait.profiling.launches import launches_of
print(json.dumps(sorted({x.name for n, c in CASES.items() for x in launches_of(n, c.paper, DTYPES["bf16"], False)})))
"""


@pytest.fixture(scope="module")
def report(ran: Callable[..., Any]) -> dict[str, Any]:
    """What each of them launches, and how many programs all of them compile."""
    return ran("tests.fake_gpu.first")


def collected() -> list[str]:
    """The ids of the tests with the mark."""
    words = [sys.executable, "-m", "pytest", "-m", "first", "--collect-only", "-q", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TRITON"))}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_the_mark_takes_about_twelve_tests_of_a_gpu():
    found = collected()
    assert len(found) == TESTS, found
    assert {one.partition("::")[0] for one in found} == {
        "tests/test_first_on_gpu.py",
        "tests/serve/test_first_on_gpu.py",
    }


def test_every_kernel_is_launched_forward_and_a_march_backward(report):
    assert {*FORWARD, *MARCHES} == CASES.keys()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", FORWARD_LAUNCHES], env=environment, capture_output=True, text=True)
    launched = set().union(*report["launched"].values())
    assert set(json.loads(done.stdout)) <= launched
    assert {f"march_backward.{name}" for name in ("probe", "scan", "mlp", "splat")} <= set(report["launched"]["march"])


@pytest.mark.parametrize(
    "work, launch",
    [
        ("attention, wide heads", "attention.probability"), ("a frame of the published sizes", "march_forward.march"),
        ("a step of stage1", "march_backward.mlp"), ("a step of stage2", "fir.filter"),
        ("demo's frame", "march_forward.march"), ("a captured frame", "march_forward.march"),
        ("a live batch", "march_forward.march"),
    ],
)  # fmt: skip
def test_every_verb_reaches_its_kernels(work, launch, report):
    assert launch in report["launched"][work]


def test_few_programs_are_compiled(report):
    assert sum(report["programs"].values()) <= MOST_PROGRAMS, report["programs"]
