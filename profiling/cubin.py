"""Compile a kernel for a GPU that need not be there, and read registers, spills, memory and instructions.

Run it in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import collections
import contextlib
import io
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triportrait.profiling.launches import Launch
from triportrait.profiling.measurement import cpu_seconds

CHIPS = (80, 90)
SHARED_PER_SM = {80: 164 << 10, 90: 228 << 10}
SHARED_PER_PROGRAM = {80: 163 << 10, 90: 227 << 10}
RESERVED = 1 << 10  # of shared memory, for each program
REGISTERS, WARPS, MAX_PROGRAMS = 65536, 64, 32
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_LABEL, _BRANCH = re.compile(r"(\.L_x_\d+):"), re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
_MMA, _WGMMA = re.compile(r"\.168(4|8|16)\b"), re.compile(r"\.(\d+)x(\d+)x(\d+)")  # m16n8k..; m, n, k of four warps


@dataclass(frozen=True)
class Work:
    """The work of a piece of code: instructions of a warp, FLOP of tensor cores, bytes asked of the caches."""

    instructions: int
    flop: float
    bytes: float


@dataclass(frozen=True)
class Program:
    """A compiled launch.

    Attributes:
        chip: 80 or 90.
        registers: how many a thread has.
        stack: bytes of a thread.
        spills: loads and stores of local memory in the code.
        shared: bytes of shared memory of a program.
        programs: how many fit on a multiprocessor at once.
        warps: of a program.
        counts: instructions by family: mma, wgmma, load, load 16 (of 16 bytes), local.
        loop: the longest loop, once around; None where there is none.
        rest: the code outside of that loop.
        cpu_seconds: what compiling it took; little where Triton had it in its cache.
    """

    chip: int
    registers: int
    stack: int
    spills: int
    shared: int
    programs: int
    warps: int
    counts: dict[str, int]
    loop: Work | None
    rest: Work
    cpu_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Tell whether its shared memory is within the chip's limit."""
        return self.shared <= SHARED_PER_PROGRAM[self.chip]


def compile_launch(launch: Launch, chip: int) -> Program:
    """Compile a launch for a chip and read the binary.

    Raises: whatever Triton raises for a kernel that the chip cannot run.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature={name: launch.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in launch.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in launch.divisible},
    )
    began = cpu_seconds()
    with contextlib.redirect_stdout(io.StringIO()):  # on an error Triton prints the whole program
        compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=dict(launch.options))
    took = cpu_seconds() - began
    binary = compiled.asm["cubin"]
    usage = {
        key: int(value)
        for key, value in re.findall(r"\b(REG|STACK):(\d+)", _tool("cuobjdump", "--dump-resource-usage", binary))
    }
    instructions, around = _code(_tool("nvdisasm", "-c", binary))
    counts = _families(instructions)
    registers, warps, shared = usage.get("REG", 0), compiled.metadata.num_warps, compiled.metadata.shared
    return Program(
        chip, registers, usage.get("STACK", 0), counts.get("local", 0), shared,
        _resident(registers, warps, shared, chip), warps, counts,
        _work(instructions[slice(*around)], warps) if around else None,
        _work(instructions[: around[0]] + instructions[around[1] :] if around else instructions, warps), took,
    )  # fmt: skip


def _code(listing: str) -> tuple[list[str], tuple[int, int] | None]:
    """Read the instructions off a listing, and the first and the last one of the longest loop."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    longest: tuple[int, int] | None = None
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := _INSTRUCTION.match(line):
            instructions.append(instruction[1])
            branch = _BRANCH.search(line)
            first = labels.get(branch[1]) if branch else None  # forward branches have no label yet
            end = len(instructions)
            if first is not None and end - first > max(1, longest[1] - longest[0] if longest else 0):
                longest = first, end  # the last instruction of a program branches to itself
    return instructions, longest


def _work(instructions: list[str], warps: int) -> Work:
    flop = size = 0.0
    for name in instructions:
        if name.startswith("HMMA") and (k := _MMA.search(name)):
            flop += 2 * 16 * 8 * int(k[1]) * warps
        elif name.startswith("HGMMA") and (mnk := _WGMMA.search(name)):
            flop += 2 * int(mnk[1]) * int(mnk[2]) * int(mnk[3]) * warps / 4
        elif name.startswith(("LDG", "LDGSTS")):
            width = next((w for w in (".128", ".64", ".U16", ".U8") if w in name), ".32")
            size += {".128": 16, ".64": 8, ".32": 4, ".U16": 2, ".U8": 1}[width] * 32 * warps
    return Work(len(instructions), flop, size)


def _resident(registers: int, warps: int, shared: int, chip: int) -> int:
    """How many programs fit on a multiprocessor; registers are given to warps by the 256."""
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps) if registers else MAX_PROGRAMS
    return min(by_registers, SHARED_PER_SM[chip] // (shared + RESERVED), WARPS // warps, MAX_PROGRAMS)


def _families(instructions: list[str]) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    for name in instructions:
        family = name.split(".")[0]
        if family in ("LDG", "LDGSTS"):
            counts["load"] += 1
            counts["load 16"] += ".128" in name
        elif family in ("HMMA", "IMMA", "DMMA"):
            counts["mma"] += 1
        elif family in ("HGMMA", "QGMMA"):
            counts["wgmma"] += 1
        elif family in ("LDL", "STL"):
            counts["local"] += 1
    return dict(counts)


def _tool(name: str, option: str, binary: bytes) -> str:
    """Run one of the CUDA tools that come with Triton on a binary, and return what it prints."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        words: list[Any] = [folder / name, option, file.name]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
