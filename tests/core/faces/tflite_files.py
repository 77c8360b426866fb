"""Write TFLite files of small networks, and the numbers that their operators should give."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from triportrait.core.faces.tflite import BUILTINS, CUSTOM
from triportrait.core.faces.tflite_options import _FIELDS as OPTION_FIELDS
from triportrait.core.faces.tflite_options import CONSTANT_OPTIONS, CUSTOM_OPTIONS

CODES = {name: number for number, name in BUILTINS.items()}
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3}
Table = dict[int, Any]


@dataclass
class Scalar:
    kind: str
    value: int


@dataclass
class Vector:
    kind: str
    values: Sequence[int]


def flatbuffer(root: Table, identifier: bytes = b"TFL3") -> bytes:
    """Lay out tables: field -> Scalar, Vector, text, bytes, table or list of tables; each behind what points to it."""
    data = bytearray(4) + identifier

    def align(size: int) -> None:
        data.extend(bytes(-len(data) % size))

    def put(place: int, value: Any) -> None:
        """Write a value at the end, and at `place` the offset to it."""
        if isinstance(value, dict):
            align(4)
            last = max(value, default=-1)
            fields_at = len(data)
            data.extend(bytes(4 + 2 * (last + 1)))
            align(8)
            start = len(data)
            data.extend(struct.pack("<i", start - fields_at))
            waiting = []
            for number, one in sorted(value.items()):
                size = struct.calcsize(one.kind) if isinstance(one, Scalar) else 4
                align(size)
                struct.pack_into("<H", data, fields_at + 4 + 2 * number, len(data) - start)
                if isinstance(one, Scalar):
                    data.extend(struct.pack("<" + one.kind, one.value))
                else:
                    waiting.append((len(data), one))
                    data.extend(bytes(4))
            struct.pack_into("<HH", data, fields_at, 4 + 2 * (last + 1), len(data) - start)
            struct.pack_into("<I", data, place, start - place)
            for at, one in waiting:
                put(at, one)
            return
        align(4)
        if isinstance(value, bytes):
            align(16)
            data.extend(bytes(12))  # so that the numbers behind the count are aligned to 16
        struct.pack_into("<I", data, place, len(data) - place)
        if isinstance(value, str):
            text = value.encode()
            data.extend(struct.pack("<I", len(text)) + text + b"\0")
        elif isinstance(value, bytes):
            data.extend(struct.pack("<I", len(value)) + value)
        elif isinstance(value, Vector):
            data.extend(
                struct.pack("<I", len(value.values)) + struct.pack(f"<{len(value.values)}{value.kind}", *value.values)
            )
        else:
            data.extend(struct.pack("<I", len(value)))
            places = [len(data) + 4 * k for k in range(len(value))]
            data.extend(bytes(4 * len(value)))
            for at, one in zip(places, value, strict=True):
                put(at, one)

    put(0, root)
    return bytes(data)


def flexbuffer(options: dict[str, int | float | list[int]]) -> bytes:
    """Write a FlexBuffers map of 32-bit values."""
    data = bytearray()
    names, values = {}, []
    for name in sorted(options):
        names[name] = len(data)
        data.extend(name.encode() + b"\0")
    data.extend(bytes(-len(data) % 4))
    lists = {}
    for name, value in options.items():
        if isinstance(value, list):
            data.extend(struct.pack("<I", len(value)))
            lists[name] = len(data)
            data.extend(struct.pack(f"<{len(value)}i", *value))
    data.extend(struct.pack("<I", len(options)))
    keys = len(data)
    for name in sorted(options):
        data.extend(struct.pack("<I", len(data) - names[name]))
    data.extend(struct.pack("<3I", len(data) - keys, 4, len(options)))
    start = len(data)
    for name in sorted(options):
        value = options[name]
        if isinstance(value, list):
            data.extend(struct.pack("<I", len(data) - lists[name]))
            values.append(11 << 2 | 2)
        elif isinstance(value, float):
            data.extend(struct.pack("<f", value))
            values.append(3 << 2 | 2)
        else:
            data.extend(struct.pack("<i", value))
            values.append(1 << 2 | 2)
    data.extend(bytes(values))
    data.extend(bytes([len(data) - start, 9 << 2 | 2, 1]))
    return bytes(data)


@dataclass
class Writer:
    """A network while it is written; tensors are named and have shapes, constants have numbers.

    Attributes:
        changed: called with the model's table before it is laid out, to put a fault in it.
    """

    tensors: dict[str, Table] = field(default_factory=dict)
    buffers: list[Table] = field(default_factory=lambda: [{}])
    operators: list[Table] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def value(self, name: str, shape: Sequence[int], kind: str = "float32", data: bytes | None = None) -> str:
        """Add a tensor; with data it is a constant."""
        if data is not None:
            self.buffers.append({0: data})
        self.tensors[name] = {
            0: Vector("i", list(shape)),
            1: Scalar("b", TYPES[kind]),
            2: Scalar("I", 0 if data is None else len(self.buffers) - 1),
            3: name,
        }
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        return self.value(name, array.shape, str(array.dtype), array.tobytes())

    def operator(self, kind: str, inputs: Sequence[str], output: str, options: dict[str, Any] | None = None) -> str:
        """Add an operator; `output` is a tensor already."""
        options = dict(options or {})
        names = list(inputs)
        for name in CONSTANT_OPTIONS.get(kind, ()):
            numbers = np.array(options.pop(name), np.int32)
            names.append(self.constant(f"{output}/{name}", numbers.reshape(-1, 2) if name == "paddings" else numbers))
        if kind not in self.codes:
            self.codes.append(kind)
        order = list(self.tensors)
        table: Table = {
            0: Scalar("I", self.codes.index(kind)),
            1: Vector("i", [order.index(name) if name else -1 for name in names]),
            2: Vector("i", [order.index(output)]),
        }
        if kind in OPTION_FIELDS:
            union, fields = OPTION_FIELDS[kind]
            written = {}
            for name, (place, letter, _) in fields.items():
                written[place] = Scalar(letter, number_of(name, options.get(name)))
            table |= {3: Scalar("B", union), 4: written}
        elif kind == "Convolution2DTransposeBias":
            table[5] = struct.pack("<3i", 1, options["stride_w"], options["stride_h"])
        elif kind in CUSTOM_OPTIONS and options:
            table[5] = flexbuffer(options)
        self.operators.append(table)
        return output

    def model(self) -> Table:
        """Make the table of the model."""
        order = list(self.tensors)
        codes = []
        for kind in self.codes:
            number = CODES.get(kind, CUSTOM)
            code: Table = {0: Scalar("b", min(number, 127)), 3: Scalar("i", number)}
            codes.append(code | ({1: kind} if number == CUSTOM else {}))
        network = {
            0: list(self.tensors.values()),
            1: Vector("i", [order.index(name) for name in self.inputs]),
            2: Vector("i", [order.index(name) for name in self.outputs]),
            3: self.operators,
        }
        return {0: Scalar("I", 3), 1: codes, 2: [network], 4: self.buffers}

    def file(self) -> bytes:
        return flatbuffer(self.model())


def number_of(name: str, value: Any) -> int:
    """An option as TFLite numbers it; what is not said is what all face networks have."""
    if name == "padding":
        return {"SAME": 0, "VALID": 1}[value]
    if name == "activation":
        return {None: 0, "NONE": 0, "RELU": 1, "RELU6": 3}[value]
    if value is None:
        return 1 if name.startswith(("dilation", "depth_multiplier", "stride")) else 0
    return int(value)


def one_operator(
    kind: str,
    image: Sequence[int],
    constants: Sequence[np.ndarray] = (),
    options: dict[str, Any] | None = None,
    result: Sequence[int] = (),
) -> bytes:
    """A file with one operator on an image of this shape [1, H, W, C]."""
    file = Writer()
    names = [file.value("image", image)]
    names += [file.constant(f"constant {k}", array) for k, array in enumerate(constants)]
    file.value("result", result)
    file.operator(kind, names, "result", options)
    file.inputs, file.outputs = ["image"], ["result"]
    return file.file()


RNG = np.random.default_rng(19)


def numbers(*shape: int, kind: str = "float32") -> np.ndarray:
    """Numbers at random, the same in each run."""
    return RNG.normal(size=shape).astype(kind)


def block(file: Writer, source: str, name: str, size: int, channels: int, out: int) -> str:
    """A block as in the mesh: a depthwise and a pointwise convolution, the block's input added, a PRELU."""
    stride = 2 if out > channels else 1
    shape = (1, size // stride, size // stride, out)
    kernel = file.constant(f"{name}/k", numbers(1, 3, 3, channels))
    bias = file.constant(f"{name}/b", numbers(channels))
    points = file.constant(f"{name}/p", numbers(out, 1, 1, channels))
    point_bias = file.constant(f"{name}/q", numbers(out))
    slopes = file.constant(f"{name}/s", numbers(1, 1, out))
    for suffix, one in (("d", (*shape[:3], channels)), ("c", shape), ("a", shape), ("r", shape)):
        file.value(f"{name}/{suffix}", one)
    same = {"padding": "SAME", "stride_h": stride, "stride_w": stride}
    file.operator("DEPTHWISE_CONV_2D", [source, kernel, bias], f"{name}/d", same)
    once = {"padding": "VALID", "stride_h": 1, "stride_w": 1}
    file.operator("CONV_2D", [f"{name}/d", points, point_bias], f"{name}/c", once)
    added = source
    if stride == 2:
        file.value(f"{name}/m", (*shape[:3], channels))
        file.value(f"{name}/z", shape)
        window = {"window_h": 2, "window_w": 2, "padding": "VALID", "stride_h": 2, "stride_w": 2}
        file.operator("MAX_POOL_2D", [source], f"{name}/m", window)
        added = file.operator("PAD", [f"{name}/m"], f"{name}/z", {"paddings": [0] * 7 + [out - channels]})
    file.operator("ADD", [added, f"{name}/c"], f"{name}/a")
    return file.operator("PRELU", [f"{name}/a", slopes], f"{name}/r")


def branches(tails: int = 3) -> Writer:
    """A trunk, branches of one architecture from it, the last of them twice."""
    file = Writer(inputs=["image"])
    file.value("image", (1, 16, 16, 4))
    trunk = block(file, "image", "trunk", 16, 4, 4)
    for k in range(tails):
        one = block(file, trunk, f"one {k}", 16, 4, 6)
        two = block(file, one, f"two {k}", 8, 6, 6)
        file.outputs.append(block(file, two, f"three {k}", 8, 6, 9))
        if k == tails - 1:
            file.outputs.append(block(file, two, "other", 8, 6, 9))
    return file


def sparse_convolution() -> tuple[Writer, np.ndarray, np.ndarray]:
    """A convolution with a sparse kernel of half precision, its kernel [3, 6] and its bias."""
    bias = numbers(3)
    kernel = (numbers(3, 1, 1, 6) * (RNG.random((3, 1, 1, 6)) < 0.5)).astype(np.float16)
    rows = kernel.reshape(3, 6)
    starts = np.concatenate([[0], np.cumsum((rows != 0).sum(1))])
    columns = np.concatenate([np.flatnonzero(row) for row in rows])
    file = Writer(inputs=["image"], outputs=["result"])
    file.value("image", (1, 4, 4, 6))
    file.value("sparse", kernel.shape, "float16", rows[rows != 0].tobytes())
    dense = [{0: Scalar("b", 0), 1: Scalar("i", size)} for size in (3, 1, 1)]
    listed = {
        0: Scalar("b", 1),
        2: Scalar("B", 2),
        3: {0: Vector("H", starts)},
        4: Scalar("B", 3),
        5: {0: Vector("B", columns)},
    }
    file.tensors["sparse"][6] = {0: Vector("i", [0, 1, 2, 3]), 2: [*dense, listed]}
    for name in ("dense", "kernel"):
        file.value(name, kernel.shape)
    file.constant("bias", bias)
    file.value("result", (1, 4, 4, 3))
    file.operator("DENSIFY", ["sparse"], "dense")
    file.operator("DEQUANTIZE", ["dense"], "kernel")
    options = {"padding": "VALID", "stride_h": 1, "stride_w": 1}
    file.operator("CONV_2D", ["image", "kernel", "bias"], "result", options)
    return file, rows, bias
