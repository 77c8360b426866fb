"""The short form of the planted faults: each text is still there, and one fault in each kernel file is seen."""

from __future__ import annotations

import re

import pytest

from tests.kernels.faults import FAULTS, OPERATORS, ROOT, SINGLE, with_faults

FIRST: dict[str, tuple[str, str, str, str, str]] = {}  # the first fault of each operator that its definition shows
for fault in FAULTS:
    if fault[4].endswith(SINGLE):
        FIRST.setdefault(fault[4].partition(" ")[0], fault)


@pytest.mark.quick
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{i} {fault[0]}" for i, fault in enumerate(FAULTS)])
def test_the_text_that_a_fault_replaces_stands_there_once(fault):
    module, there, put, tests, _ = fault
    text = (ROOT / "kernels" / f"{module}.py").read_text()
    assert text.count(there) == 1
    assert there != put
    assert (ROOT / tests).exists()


def test_one_fault_in_each_kernel_turns_its_operator_red():
    """All at once in one copy: operators share no kernels, and one test of each must fail."""
    ran = with_faults([fault[:3] for fault in FIRST.values()], OPERATORS, SINGLE)
    assert ran.returncode == 1, ran.stdout[-2000:]
    failed = set(re.findall(r"^FAILED .*\[(\w+)-\d-float32\]", ran.stdout, re.M))
    assert failed >= FIRST.keys(), ran.stdout[-2000:]
    assert len(FIRST) >= 12
