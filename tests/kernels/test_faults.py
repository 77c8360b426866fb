"""The short form of the planted faults: each text is still there, and one fault in each kernel file is seen."""

from __future__ import annotations

import re

import pytest

from tests.kernels.faults import FAULTS, OPERATORS, ROOT, SINGLE, with_faults

Fault = tuple[str, str, str, str, str]
CALLS = {"field": "triplane", "march_train": "march"}  # operator -> another whose kernels run in it
SHOWS_AT = {"importance": 1, "march/launch": 1}  # module -> the size at which its first fault shows; others: the first


def operator_of(fault: Fault) -> str:
    return fault[4].partition(" ")[0]


FIRST: dict[str, Fault] = {}  # module -> its first fault that the definition of an operator shows
for fault in FAULTS:
    if fault[4].endswith(SINGLE):
        FIRST.setdefault(fault[0], fault)
ROUNDS: list[dict[str, Fault]] = []  # operator -> fault; those of a round share no kernels, so that one copy holds all
for fault in FIRST.values():
    kernels = {operator_of(fault), CALLS.get(operator_of(fault))}
    for planted in ROUNDS:
        if not kernels & {name for operator in planted for name in (operator, CALLS.get(operator))} - {None}:
            break
    else:
        ROUNDS.append(planted := {})
    planted[operator_of(fault)] = fault


@pytest.mark.quick
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{i} {fault[0]}" for i, fault in enumerate(FAULTS)])
def test_the_text_that_a_fault_replaces_stands_there_once(fault):
    module, there, put, tests, _ = fault
    text = (ROOT / "kernels" / f"{module}.py").read_text()
    assert text.count(there) == 1
    assert there != put
    assert (ROOT / tests).exists()


@pytest.mark.parametrize("planted", ROUNDS, ids=[" ".join(sorted(planted)) for planted in ROUNDS])
def test_one_fault_in_each_kernel_file_turns_an_operator_red(planted):
    compared = " or ".join(f"{name}-{SHOWS_AT.get(fault[0], 0)}-float32" for name, fault in planted.items())
    faults = [fault[:3] for fault in planted.values()]
    ran = with_faults(faults, OPERATORS, f"agrees_with_the_definition and ({compared})")
    assert ran.returncode == 1, ran.stdout[-2000:]
    failed = set(re.findall(r"^FAILED .*\[(\w+)-\d-float32\]", ran.stdout, re.M))
    assert failed >= planted.keys(), ran.stdout[-2000:]


def test_the_short_form_knows_the_kernel_files():
    files = {fault[0] for fault in FAULTS}
    others = {"march/operator", "rasterize/fixed_point", "rasterize/operator", "rasterize/spans"}
    assert files - FIRST.keys() == others, "their faults show in other tests than those of the definition"
    assert sum(map(len, ROUNDS)) == len(FIRST)
