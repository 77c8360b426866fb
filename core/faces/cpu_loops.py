"""Write the layers of a face network for a CPU: dense and depthwise convolutions, pooling, sums and products.

Every size is known when the code is written. Images are [H, W, C] in memory; C is a whole number of vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from triportrait.core.faces.convolution import Sides
from triportrait.core.faces.cpu_code import Code, Machine, Place

CHANNELS = 16  # channels of every value inside are a multiple of it: the vectors of all CPUs divide it


@dataclass(frozen=True)
class Ending:
    """What follows a convolution.

    Attributes:
        activation: NONE, RELU, RELU6, PRELU or HARD_SWISH.
        bias, slopes: pointers to one number for each channel.
        added: what is added to the result, if anything, and to how many channels of each part.
    """

    activation: str
    bias: str
    slopes: str
    added: Place | None
    added_channels: int


ACTIVATIONS = ("NONE", "RELU", "RELU6", "PRELU", "HARD_SWISH", "LOGISTIC")
# 2 to the power of a number from -1/2 to 1/2, by its series
POWER = tuple(math.log(2) ** k / math.factorial(k) for k in range(8))


def _activated(code: Code, value: str, activation: str, slope: str) -> str:
    vector = code.machine.vector
    match activation:
        case "RELU":
            return code.larger(value, "zeroinitializer")
        case "RELU6":
            return code.smaller(code.larger(value, "zeroinitializer"), code.number(6))
        case "PRELU":
            lower = code.put(f"fmul {vector} {value}, {slope}")
            above = code.put(f"fcmp ogt {vector} {value}, zeroinitializer")
            return code.put(f"select <{code.machine.lanes} x i1> {above}, {vector} {value}, {vector} {lower}")
        case "HARD_SWISH":
            moved = code.put(f"fadd {vector} {value}, {code.number(3)}")
            held = code.smaller(code.larger(moved, "zeroinitializer"), code.number(6))
            share = code.put(f"fmul {vector} {held}, {code.number(1 / 6)}")
            return code.put(f"fmul {vector} {value}, {share}")
        case "LOGISTIC":
            return _sigmoid(code, value)
    return value


def _sigmoid(code: Code, value: str) -> str:
    """Write 1 / (1 + 2 ** (-value / log 2)); the power's whole part goes to the exponent of the number."""
    vector, whole = code.machine.vector, f"<{code.machine.lanes} x i32>"
    power = code.put(f"fmul {vector} {value}, {code.number(-1 / math.log(2))}")
    power = code.smaller(code.larger(power, code.number(-126)), code.number(126))
    nearest = code.call("rint", power)
    rest = code.put(f"fsub {vector} {power}, {nearest}")
    series = code.number(POWER[-1])
    for factor in POWER[-2::-1]:
        series = code.call("fmuladd", series, rest, code.number(factor))
    exponent = code.put(f"shl {whole} {code.put(f'fptosi {vector} {nearest} to {whole}')}, splat (i32 23)")
    bits = code.put(f"add {whole} {code.put(f'bitcast {vector} {series} to {whole}')}, {exponent}")
    below = code.put(f"fadd {vector} {code.put(f'bitcast {whole} {bits} to {vector}')}, {code.number(1)}")
    return code.put(f"fdiv {vector} {code.number(1)}, {below}")


@dataclass(frozen=True)
class Panel:
    """Neighbouring channels of a result that are computed together, and further ones like it.

    Attributes:
        first: channel. vectors: of each. count: how many follow each other. weights: where they begin. added: whether
            something is added to them.
    """

    first: int
    vectors: int
    count: int
    weights: int
    added: bool


@dataclass(frozen=True)
class Dense:
    """A convolution over all channels of each of its parts.

    Attributes:
        size: rows and columns of the result. kernel: rows and columns. stride: of rows and columns.
        channels, out: of one part. parts: side by side.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    channels: int
    out: int
    parts: int

    @property
    def work(self) -> int:
        """Count the products of one result."""
        return self.kernel[0] * self.kernel[1] * self.channels

    def tile(self, machine: Machine, contiguous: bool) -> tuple[int, int, int, int]:
        """Choose how many pixels and vectors are computed together; rows and pixels of a row that are looped over."""
        rows, row = (1, self.size[0] * self.size[1]) if contiguous else self.size
        most = (machine.registers - 6) // 2
        pixels = -(-row // -(-row // most))
        vectors = 2 if pixels >= 5 else 4 if pixels >= 3 else 8
        return pixels, min(vectors, self.out // machine.lanes), rows, row

    def panels(self, machine: Machine, vectors: int, added: int) -> list[Panel]:
        """Split the channels of a part."""
        found, lanes, weights = [], machine.lanes, 0
        for begin, end in ((0, added), (added, self.out)):
            while begin < end:
                each = min(vectors, (end - begin) // lanes)
                count = (end - begin) // (each * lanes)
                found.append(Panel(begin, each, count, weights, end == added))
                begin += count * each * lanes
                weights += count * each * lanes * self.work
        return found


def dense(code: Code, spec: Dense, image: Place, weights: str, ending: Ending, result: Place) -> None:
    """Write a dense convolution of a picture that has its padding."""
    machine, lanes = code.machine, code.machine.lanes
    contiguous = spec.kernel == spec.stride == (1, 1) and image.wide == spec.size[1]
    pixels, vectors, rows, row = spec.tile(machine, contiguous)
    step, across = spec.stride[1] * image.stride, spec.kernel[1]
    reach = spec.channels
    if spec.channels == image.stride:  # neighbours lie side by side
        across, reach = 1, across * reach
    tiles = -(-row // pixels)

    def part(number: str, _: list[str]) -> Sequence[str]:
        source = code.at(image.pointer, (number, spec.channels))
        kernel = code.at(weights, (number, spec.out * spec.work))
        bias, slopes = (code.at(at, (number, spec.out)) for at in (ending.bias, ending.slopes))
        target = code.at(result.pointer, (number, spec.out))
        addend = None
        if ending.added is not None:
            addend = code.at(ending.added.pointer, (number, ending.added_channels))

        for panel in spec.panels(machine, vectors, ending.added_channels):
            width = panel.vectors * lanes

            def channels(turn: str, _: list[str], panel: Panel = panel, width: int = width) -> Sequence[str]:
                here = code.at(kernel, (turn, width * spec.work), offset=panel.weights)
                moved = [code.at(at, (turn, width), offset=panel.first) for at in (bias, slopes, target)]
                starts = [code.load(code.at(moved[0], offset=k * lanes)) for k in range(panel.vectors)]
                prelu = ending.activation == "PRELU"
                slope = [code.load(code.at(moved[1], offset=k * lanes)) if prelu else "" for k in range(panel.vectors)]
                plus = code.at(addend, (turn, width), offset=panel.first) if addend and panel.added else None

                def line(y: str, _: list[str]) -> Sequence[str]:
                    begin = code.at(source, (y, spec.stride[0] * image.wide * image.stride))

                    def tile(t: str, _: list[str]) -> Sequence[str]:
                        x = t if t == "0" else code.put(f"mul nuw nsw i64 {t}, {pixels}")
                        if row % pixels and x != "0":  # the last tile overlaps the one before
                            x = code.put(f"call i64 @llvm.umin.i64(i64 {x}, i64 {row - pixels})")
                        corner = code.at(begin, (x, step))

                        def down(ky: str, sums: list[str]) -> Sequence[str]:
                            def sideways(kx: str, sums: list[str]) -> Sequence[str]:
                                seen = code.at(corner, (ky, image.wide * image.stride), (kx, image.stride))
                                used = code.at(
                                    here, (ky, spec.kernel[1] * spec.channels * width), (kx, spec.channels * width)
                                )

                                def product(k: str, sums: list[str]) -> Sequence[str]:
                                    column = code.at(used, (k, width))
                                    loaded = [
                                        code.load(code.at(column, offset=v * lanes)) for v in range(panel.vectors)
                                    ]
                                    point = code.at(seen, (k, 1))
                                    after = []
                                    for m in range(pixels):
                                        factor = code.everywhere(code.at(point, offset=m * step))
                                        for v, weight in enumerate(loaded):
                                            so_far = sums[m * panel.vectors + v]
                                            after.append(code.call("fmuladd", factor, weight, so_far))
                                    return after

                                return code.loop(reach, product, sums)

                            return code.loop(across, sideways, sums)

                        sums = code.loop(spec.kernel[0], down, starts * pixels)
                        to = code.at(moved[2], (y, row * result.stride), (x, result.stride))
                        extra = None
                        if plus is not None and ending.added is not None:
                            extra = code.at(plus, (y, row * ending.added.stride), (x, ending.added.stride))
                        for m in range(pixels):
                            for v in range(panel.vectors):
                                value = sums[m * panel.vectors + v]
                                if extra is not None and ending.added is not None:
                                    more = code.load(code.at(extra, offset=m * ending.added.stride + v * lanes))
                                    value = code.put(f"fadd {machine.vector} {value}, {more}")
                                value = _activated(code, value, ending.activation, slope[v])
                                code.store(value, code.at(to, offset=m * result.stride + v * lanes))
                        return []

                    return code.loop(tiles, tile)

                return code.loop(rows, line)

            code.loop(panel.count, channels)
        return []

    code.loop(spec.parts, part)


def zones(count: int, pixels: int, window: int, stride: int, before: int) -> Iterator[tuple[int, int, int, int]]:
    """Find neighbouring results that see the same part of a window: first, how many, and the part's begin and end."""
    seen = [(max(0, before - k * stride), min(window, pixels + before - k * stride)) for k in range(count)]
    first = 0
    for k in range(1, count + 1):
        if k == count or seen[k] != seen[first]:
            yield first, k - first, *seen[first]
            first = k


@dataclass(frozen=True)
class Windowed:
    """A depthwise convolution, or the largest of each window.

    Attributes:
        size: rows and columns of the result. image: those of the picture. kernel, stride: rows and columns.
        padding: zeros on each side. channels: of all parts.
    """

    size: tuple[int, int]
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    channels: int


def windowed(code: Code, spec: Windowed, image: Place, weights: str, ending: Ending | None, result: Place) -> None:
    """Write a depthwise convolution with weights [vectors of channels, H, W, channels of a vector].

    Without an ending it is the largest value of each window.
    """
    lanes, (high, wide) = code.machine.lanes, spec.kernel

    def block(turn: str, _: list[str]) -> Sequence[str]:
        source, target = (code.at(at.pointer, (turn, lanes)) for at in (image, result))
        taps: dict[tuple[int, int], str] = {}
        bias, slope, plus = "", "", None
        if ending is not None:
            here = code.at(weights, (turn, high * wide * lanes))
            for ky in range(high):
                for kx in range(wide):
                    taps[ky, kx] = code.load(code.at(here, offset=(ky * wide + kx) * lanes))
            bias, slope = (code.load(code.at(at, (turn, lanes))) for at in (ending.bias, ending.slopes))
            plus = code.at(ending.added.pointer, (turn, lanes)) if ending.added is not None else None
        for row in zones(spec.size[0], spec.image[0], high, spec.stride[0], spec.padding[0]):

            def line(y: str, _: list[str], row: tuple[int, int, int, int] = row) -> Sequence[str]:
                top = (row[0] * spec.stride[0] - spec.padding[0]) * image.wide * image.stride
                begin = code.at(source, (y, spec.stride[0] * image.wide * image.stride), offset=top)
                for column in zones(spec.size[1], spec.image[1], wide, spec.stride[1], spec.padding[2]):

                    def pixel(x: str, _: list[str], column: tuple[int, int, int, int] = column) -> Sequence[str]:
                        left = (column[0] * spec.stride[1] - spec.padding[2]) * image.stride
                        corner = code.at(begin, (x, spec.stride[1] * image.stride), offset=left)
                        value = bias
                        for ky in range(*row[2:]):
                            for kx in range(*column[2:]):
                                seen = code.load(code.at(corner, offset=(ky * image.wide + kx) * image.stride))
                                if ending is None:
                                    value = code.larger(value, seen) if value else seen
                                else:
                                    value = code.call("fmuladd", seen, taps[ky, kx], value)
                        if ending is not None:
                            if plus is not None and ending.added is not None:
                                where = (row[0] * ending.added.wide + column[0]) * ending.added.stride
                                terms = (y, ending.added.wide * ending.added.stride), (x, ending.added.stride)
                                more = code.load(code.at(plus, *terms, offset=where))
                                value = code.put(f"fadd {code.machine.vector} {value}, {more}")
                            value = _activated(code, value, ending.activation, slope)
                        where = (row[0] * result.wide + column[0]) * result.stride
                        code.store(
                            value, code.at(target, (y, result.wide * result.stride), (x, result.stride), offset=where)
                        )
                        return []

                    code.loop(column[1], pixel)
                return []

            code.loop(row[1], line)
        return []

    code.loop(spec.channels // lanes, block)


def combined(
    code: Code,
    kind: str,
    activation: str,
    size: tuple[int, int, int],
    one: Place,
    other: Place,
    same: bool,
    result: Place,
) -> None:
    """Write the sum (ADD) or the product of two pictures; the other may be one pixel that counts for all."""
    lanes, vector = code.machine.lanes, code.machine.vector

    def block(turn: str, _: list[str]) -> Sequence[str]:
        first, second, target = (code.at(at.pointer, (turn, lanes)) for at in (one, other, result))
        pixel = "" if same else code.load(second)

        def each(x: str, _: list[str]) -> Sequence[str]:
            left = code.load(code.at(first, (x, one.stride)))
            right = code.load(code.at(second, (x, other.stride))) if same else pixel
            value = code.put(f"{'fadd' if kind == 'ADD' else 'fmul'} {vector} {left}, {right}")
            code.store(_activated(code, value, activation, ""), code.at(target, (x, result.stride)))
            return []

        return code.loop(size[0] * size[1], each)

    code.loop(size[2] // lanes, block)


def mean(code: Code, size: tuple[int, int, int], image: Place, result: Place) -> None:
    """Write the mean of all pixels of a picture, in eight sums so that none waits for the one before."""
    lanes, vector, pixels = code.machine.lanes, code.machine.vector, size[0] * size[1]
    sums = math.gcd(pixels, 8)

    def block(turn: str, _: list[str]) -> Sequence[str]:
        source = code.at(image.pointer, (turn, lanes))

        def each(x: str, so_far: list[str]) -> Sequence[str]:
            at = code.at(source, (x, sums * image.stride))
            return [
                code.put(f"fadd {vector} {old}, {code.load(code.at(at, offset=k * image.stride))}")
                for k, old in enumerate(so_far)
            ]

        total, *more = code.loop(pixels // sums, each, ["zeroinitializer"] * sums)
        for one in more:
            total = code.put(f"fadd {vector} {total}, {one}")
        share = code.put(f"fmul {vector} {total}, {code.number(1 / pixels)}")
        code.store(share, code.at(result.pointer, (turn, lanes)))
        return []

    code.loop(size[2] // lanes, block)


def copied(code: Code, size: tuple[int, int], numbers: int, image: Place, result: Place) -> None:
    """Write the copying of the first numbers of each pixel of a picture; neighbours that lie side by side at once."""
    high, wide = size
    if image.stride == result.stride == numbers:
        wide, numbers = 1, wide * numbers

    def line(y: str, _: list[str]) -> Sequence[str]:
        def pixel(x: str, _: list[str]) -> Sequence[str]:
            source = code.at(image.pointer, (y, image.wide * image.stride), (x, image.stride))
            target = code.at(result.pointer, (y, result.wide * result.stride), (x, result.stride))
            code.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {4 * numbers}, i1 false)")
            return []

        return code.loop(wide, pixel)

    code.loop(high, line)
