"""Every kernel compiled for GPUs that need not be here, at the sizes of a frame: what the compiler makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.slow_cpu import SLOW_CPU
from triportrait.profiling.cases import CASES, LAUNCHED
from triportrait.profiling.compile_table import SPILLS, Row, table
from triportrait.profiling.cubin import Program, Work, _code, _work
from triportrait.profiling.launches import Launch

COMPILE = """
import dataclasses, json, sys, traceback
from triportrait.profiling.compile_table import compile_all
made = {}
for name, dtypes in json.loads(sys.argv[1]).items():
    try:
        rows = compile_all([name], dtypes)
        made[name] = [[x.launch.name, x.dtype, dataclasses.asdict(x.program), x.faults(), x.work()[0]] for x in rows]
    except Exception:
        made[name] = traceback.format_exc()
print(json.dumps(made))
"""
VECTORS = {  # launches that read or write planes, tokens or pictures 16 bytes at a time
    "march_forward.propose", "march_forward.march", "march_backward.probe", "march_backward.mlp", "attention.value",
    "attention.score_gradient", "attention.probability", "attention.product", "dwconv.filter", "bias_act.forward",
}  # fmt: skip

HALF = ["fp16", "bf16"]
DTYPES_OF = {  # the table has all
    "march": [*HALF, "fp32"], "march_deterministic": ["fp16"], "field": ["fp16", "fp32"], "march_random": ["fp32"],
    "march_still": ["bf16"],
}  # fmt: skip
MARCHED = 1024 * 64  # rows of all programs of a frame's march, 16 rays x 4 pieces each
FLOP = {  # of a frame, or of attention's first piece: rows x trips x layers, tokens x tokens x width
    ("march", "march_forward.propose"): MARCHED * 12 * 2 * 32 * 64,
    ("march", "march_forward.march"): MARCHED * 25 * 2 * (32 * 64 + 64 * 32),
    ("attention", "attention.probability"): 2 * 2 * 4096 * 4096 * 512,
    ("attention", "attention.value"): 2 * 2 * 4096 * 4096 * 512,
}


def compile_by(code: str, *arguments: str) -> str:
    """Run code in a process that compiles kernels, and return the last line that it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.splitlines()[-1] if ran.stdout else ""


def dtypes_of(name: str) -> list[str]:
    """Those in which an operator is compiled here."""
    dtypes = DTYPES_OF.get(name, ["fp32"] if (CASES | LAUNCHED)[name].wide_only else HALF)
    return dtypes[-1:] if SLOW_CPU else dtypes


@pytest.fixture(scope="module")
def compiled(request) -> dict[str, Any]:
    """By operator its programs, or what the compiler raised; one process compiles those of all tests that are run."""
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    names = [call.params["name"] for call in asked if call and "name" in call.params]
    return json.loads(compile_by(COMPILE, json.dumps({name: dtypes_of(name) for name in names})))


@pytest.mark.parametrize("name", sorted(CASES | LAUNCHED))
def test_every_launch_compiles_without_spills_for_both_chips(name, compiled):
    rows = compiled[name]
    assert isinstance(rows, list), rows
    assert {program["chip"] for _, _, program, *_ in rows} == {80, 90}
    for launch, dtype, program, faults, flop in rows:
        assert faults == [], launch
        assert 16 <= program["registers"] <= 255
        assert program["programs"] >= 1
        assert not program["stack"] or (launch, program["chip"]) in {(name, chip) for name, _, chip in SPILLS}
        if launch in VECTORS and dtype != "fp32":
            assert program["counts"]["load 16"] > 0, f"{launch}: loads are not of 16 bytes"
        if dtype != "fp32" and (name, launch) in FLOP:
            assert flop == pytest.approx(FLOP[name, launch], rel=1e-3), f"{launch}: warps repeat each other's products"


def row(**changes):
    launch = Launch(SimpleNamespace(fn=row), (1,), {}, {}, (), {})
    values = dict(
        chip=80,
        registers=40,
        stack=0,
        spills=0,
        shared=0,
        programs=8,
        warps=4,
        counts={},
        loop=None,
        rest=Work(9, 2e9, 3e9),
    )
    return Row("composite", "fp16", launch, Program(**values | changes))


def test_faults_are_seen(monkeypatch):
    assert row().faults() == []
    assert "spills, and no reason is given" in row(spills=3).faults()[0]
    assert "shared memory are more than the chip has" in row(shared=200 << 10).faults()[0]
    assert "not one program fits" in row(programs=0).faults()[0]
    monkeypatch.setitem(SPILLS, (row().launch.name, "fp16", 80), "because")
    assert row(spills=3).faults() == []
    assert "because" in table([row(spills=3)])
    assert "| 2.00 | 3.000 |" in table([row()])
    assert "| - | - |" in table([row(loop=Work(1, 1, 1))])
    monkeypatch.setattr("triportrait.profiling.compile_table.PRODUCTS", {row().launch.name})
    assert "not on tensor cores" in row().faults()[0]
    assert row(counts={"mma": 4}).faults() == row(counts={"wgmma": 4}).faults() == []


def test_work_is_read_off_the_code():
    listing = """
        /*0000*/                   LDG.E.128 R4, [R2.64] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.U16 R4, [R2.64] ;
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*0040*/                   HGMMA.64x32x16.F32 R4, gdesc[UR4], R4 ;
        /*0050*/               @P1 BRA `(.L_x_0) ;
        /*0060*/                   EXIT ;
.L_x_1:
        /*0070*/                   BRA `(.L_x_1);
    """
    instructions, around = _code(listing)
    assert around == (1, 6)
    assert len(instructions) == 8
    loop = _work(instructions[slice(*around)], 4)
    assert loop == Work(5, 4 * 2 * 16 * 8 * (16 + 8) + 2 * 64 * 32 * 16, 2 * 128)
    assert _work(instructions[:1], 4) == Work(1, 0, 16 * 128)


def test_what_belongs_on_tensor_cores_is_launched():
    code = (
        "from triportrait.profiling.cases import CASES\n"
        "from triportrait.profiling.compile_table import DTYPES, PRODUCTS, launches_of\n"
        f"vectors = {sorted(VECTORS)!r}\n"
        "names = {x.name for n in CASES for x in launches_of(n, CASES[n].odd[0], DTYPES['fp32'], True)}\n"
        "assert names >= PRODUCTS | set(vectors), (PRODUCTS | set(vectors)) - names\n"
    )
    compile_by(code)


def test_large_pictures_are_launched_within_a_grid_s_limits():
    """Only its first axis may be longer than 65535."""
    code = (
        "import torch\n"
        "from triportrait.kernels.bias_act import bias_leaky_relu\n"
        "from triportrait.kernels.dispatch import use_backend\n"
        "from triportrait.kernels.fir import smooth_fir\n"
        "from triportrait.profiling.launches import recorded\n"
        "with recorded() as launches, use_backend('triton'):\n"
        "    for layout in (torch.contiguous_format, torch.channels_last):\n"
        "        image = torch.empty(300, 256, 513, 513, device='meta').contiguous(memory_format=layout)\n"
        "        bias_leaky_relu(smooth_fir(image), torch.empty(256, device='meta'))\n"
        "assert len(launches) == 5 and all(max((0, *x.grid[1:])) < 65536 for x in launches), launches\n"
    )
    compile_by(code)


def test_a_pointer_into_the_middle_of_memory_is_compiled_as_such():
    code = (
        "import torch\n"
        "from triportrait.kernels.bias_act import bias_leaky_relu\n"
        "from triportrait.kernels.dispatch import use_backend\n"
        "from triportrait.profiling.launches import recorded\n"
        "with recorded() as launches, use_backend('triton'):\n"
        "    for first in (0, 1, 4):\n"
        "        bias_leaky_relu(torch.empty(1, 8, 4, 4, device='meta'), torch.empty(12, device='meta')[first:][:8])\n"
        "aligned = [sum(x.signature[name] == '*fp32' for name in x.divisible) for x in launches]\n"
        "assert aligned == [3, 2, 3], aligned\n"
    )
    compile_by(code)
