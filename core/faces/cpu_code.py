"""Write loops over vectors of numbers in LLVM's language."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What a CPU has.

    Attributes:
        lanes: float32 numbers of a vector.
        registers: vectors that it holds.
    """

    lanes: int
    registers: int

    @property
    def vector(self) -> str:
        """Return the type."""
        return f"<{self.lanes} x float>"


@dataclass(frozen=True)
class Place:
    """Where the pictures of one value begin in memory.

    Attributes:
        pointer: LLVM's name of the address of this picture's first number.
        stride: numbers from one pixel to the next.
        wide: pixels from one row to the next.
    """

    pointer: str
    stride: int
    wide: int


class Code:
    """Lines of one function."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lines: list[str] = []
        self._names = 0
        self._block = "entry"

    def put(self, text: str) -> str:
        """Add an instruction; give the name of its result."""
        self._names += 1
        self.lines.append(f"  %v{self._names} = {text}")
        return f"%v{self._names}"

    def do(self, text: str) -> None:
        """Add an instruction without a result."""
        self.lines.append(f"  {text}")

    def at(self, pointer: str, *terms: tuple[str, int], offset: int = 0) -> str:
        """Find an address: numbers from a pointer, the sum of index * factor and of an offset."""
        for index, factor in terms:
            if index == "0" or factor == 0:
                continue
            moved = index if factor == 1 else self.put(f"mul nuw nsw i64 {index}, {factor}")
            pointer = self.put(f"getelementptr float, ptr {pointer}, i64 {moved}")
        return self.put(f"getelementptr float, ptr {pointer}, i64 {offset}") if offset else pointer

    def load(self, pointer: str) -> str:
        """Load a vector."""
        return self.put(f"load {self.machine.vector}, ptr {pointer}, align 4")

    def store(self, value: str, pointer: str) -> None:
        """Store a vector."""
        self.do(f"store {self.machine.vector} {value}, ptr {pointer}, align 4")

    def everywhere(self, pointer: str) -> str:
        """Load one number into all places of a vector."""
        vector, lanes = self.machine.vector, self.machine.lanes
        one = self.put(f"load float, ptr {pointer}, align 4")
        first = self.put(f"insertelement {vector} poison, float {one}, i64 0")
        return self.put(f"shufflevector {vector} {first}, {vector} poison, <{lanes} x i32> zeroinitializer")

    def call(self, function: str, *values: str) -> str:
        """Call one of LLVM's functions of vectors."""
        vector = self.machine.vector
        given = ", ".join(f"{vector} {value}" for value in values)
        return self.put(f"call {vector} @llvm.{function}.v{self.machine.lanes}f32({given})")

    def number(self, value: float) -> str:
        """Write a vector of one number."""
        bits = struct.unpack("<Q", struct.pack("<d", struct.unpack("<f", struct.pack("<f", value))[0]))[0]
        return f"splat (float 0x{bits:016X})"

    def larger(self, one: str, other: str) -> str:
        """Take the larger of two vectors, place by place."""
        return self._chosen("ogt", one, other)

    def smaller(self, one: str, other: str) -> str:
        """Take the smaller of two vectors, place by place."""
        return self._chosen("olt", one, other)

    def _chosen(self, order: str, one: str, other: str) -> str:
        vector = self.machine.vector
        which = self.put(f"fcmp {order} {vector} {one}, {other}")
        return self.put(f"select <{self.machine.lanes} x i1> {which}, {vector} {one}, {vector} {other}")

    def loop(
        self, count: int, body: Callable[[str, list[str]], Sequence[str]], carried: Sequence[str] = ()
    ) -> list[str]:
        """Repeat a body; it gets its turn's number and the vectors that are carried on, and gives the next ones."""
        if count == 1:
            return list(body("0", list(carried)))
        self._names += 1
        before, label = self._block, f"loop{self._names}"
        self.do(f"br label %{label}")
        self.lines.append(f"{label}:")
        self._block = label
        place = len(self.lines)
        index = f"%i{self._names}"
        inside = [f"%c{self._names}.{k}" for k in range(len(carried))]
        after = list(body(index, inside))
        following = self.put(f"add nuw nsw i64 {index}, 1")
        phis = [f"  {index} = phi i64 [ 0, %{before} ], [ {following}, %{self._block} ]"]
        phis += [
            f"  {now} = phi {self.machine.vector} [ {first}, %{before} ], [ {then}, %{self._block} ]"
            for now, first, then in zip(inside, carried, after, strict=True)
        ]
        self.lines[place:place] = phis
        again = self.put(f"icmp ult i64 {following}, {count}")
        self.do(f"br i1 {again}, label %{label}, label %{label}.end")
        self.lines.append(f"{label}.end:")
        self._block = f"{label}.end"
        return after
