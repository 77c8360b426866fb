"""Read a TFLite file of a face network: strictly, bounded, and with a sentence for what no face network needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.faces.flatbuffer import Bytes, Table, root
from triportrait.core.faces.graph import MOST_CONSTANTS, MOST_OPERATORS, Check, Graph, Operator, check_graph
from triportrait.core.faces.operators import OptionValue, Shape
from triportrait.core.faces.sparse import dense
from triportrait.core.faces.tflite_options import CONSTANT_OPTIONS, CUSTOM_OPTIONS, read_options
from triportrait.core.files import read_bytes
from triportrait.core.safe_text import LONGEST_NAME, shown

MOST_BYTES = 32 << 20  # the largest of the face networks has 2.6 MB
MOST_TENSORS = 4096
MOST_NAMED = 64  # inputs and outputs of a network or of an operator
VERSION = 3

# TFLite's numbers of the operators that occur
BUILTINS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 22: "RESHAPE", 23: "RESIZE_BILINEAR",
    34: "PAD", 40: "MEAN", 45: "STRIDED_SLICE", 54: "PRELU", 117: "HARD_SWISH", 124: "DENSIFY",
    # of networks that take points
    9: "FULLY_CONNECTED", 28: "TANH", 39: "TRANSPOSE", 41: "SUB", 42: "DIV", 43: "SQUEEZE", 55: "MAXIMUM",
    57: "MINIMUM", 59: "NEG", 70: "EXPAND_DIMS", 74: "SUM", 75: "SQRT", 76: "RSQRT", 92: "SQUARE",
    99: "SQUARED_DIFFERENCE",
}  # fmt: skip
RESHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")  # each gives the numbers another shape, which is the result's
CUSTOM = 32
OLD_CODES = 127  # larger numbers do not fit the older of the two fields
TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("<i4")}
TYPE_NAMES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16",
)  # fmt: skip


@dataclass
class _File:
    """One file while it is read."""

    source: Bytes
    tensors: list[Table] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    buffers: list[Table] = field(default_factory=list)
    numbers_left: int = MOST_CONSTANTS
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def read_tflite(path: str | os.PathLike[str]) -> Graph:
    """Read the network of a TFLite file.

    Half-precision and sparse constants are unpacked, so that the graph has no DEQUANTIZE and no DENSIFY; what says how
    an operator works (paddings, sizes, shapes) is among its options.

    Raises:
        InputError: the file is none, is damaged, or needs an operator, a number type or a size that no face network
            has.
        OSError: the file is missing or out of reach.
    """
    return parse_tflite(read_bytes(path, MOST_BYTES), Path(path).name)


def parse_tflite(data: bytes, name: str, check: Check = check_graph) -> Graph:
    """Read the network in the bytes of a TFLite file, like `read_tflite`; `name` begins the sentences.

    Args:
        check: what may be in it, `check_graph` for networks of pictures.
    """
    source = Bytes(memoryview(data), name)
    model = root(source, b"TFL3")
    version = model.whole(0, "I")
    if version != VERSION:
        raise source.error(f"has version {version}, {VERSION} is wanted")
    codes = [_code(table, source) for table in model.tables(1, 256)]
    subgraphs = model.tables(2, 16)
    if len(subgraphs) != 1:
        raise source.error(f"has {len(subgraphs)} networks, one is wanted")
    file = _File(source, buffers=model.tables(4, MOST_TENSORS + 64))
    network = subgraphs[0]
    file.tensors = network.tables(0, MOST_TENSORS)
    for tensor in file.tensors:
        file.names.append(tensor.text(3))
        file.shapes.append(tensor.integers(0, 8))
        if not file.names[-1] or not file.names[-1].isprintable():
            raise source.error(f"has a tensor whose name is {shown(file.names[-1]) or 'empty'}")
    if len(set(file.names)) < len(file.names):
        raise source.error("gives two tensors the same name")
    inputs = {file.names[k]: file.shapes[k] for k in _places(file, network.integers(1, MOST_NAMED))}
    outputs = tuple(file.names[k] for k in _places(file, network.integers(2, MOST_NAMED)))
    declared = dict(zip(file.names, file.shapes, strict=True))
    operators = []
    for table in network.tables(3, MOST_OPERATORS):
        operator = _operator(file, table, codes)
        if operator is not None:
            operators.append(operator)
    used = {name for operator in operators for name in operator.inputs}
    constants = {n: _tensor(array) for n, array in file.constants.items() if n in used and array.dtype.kind == "f"}
    graph = check(Graph(inputs, outputs, constants, tuple(operators)), source.error)
    for value, shape in graph.shapes.items():
        if declared[value] != shape:
            raise source.error(
                f"says that {shown(value, LONGEST_NAME)} has shape {list(declared[value])}, not {list(shape)}"
            )
    return graph


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))


def _code(table: Table, source: Bytes) -> str:
    """Name an operator of the file's list."""
    code = max(table.whole(0, "b"), table.whole(3, "i"))
    if code == CUSTOM:
        kind = table.text(1)
        if kind not in CUSTOM_OPTIONS:
            raise source.error(
                f"needs the custom operator {shown(kind) or 'without a name'}; known are {', '.join(CUSTOM_OPTIONS)}"
            )
        return kind
    if code not in BUILTINS:
        raise source.error(f"needs TFLite's operator number {code}; known are {', '.join(BUILTINS.values())}")
    return BUILTINS[code]


def _places(file: _File, numbers: tuple[int, ...], optional: bool = False) -> tuple[int, ...]:
    """Check that numbers of tensors are in range; -1 is an optional one that is not there."""
    for number in numbers:
        if not (0 <= number < len(file.tensors) or (optional and number == -1)):
            raise file.source.error(f"names tensor {number} of {len(file.tensors)}")
    return numbers


def _operator(file: _File, table: Table, codes: list[str]) -> Operator | None:
    """Read one operator; None where it only unpacks a constant."""
    source = file.source
    number = table.whole(0, "I")
    if number >= len(codes):
        raise source.error(f"names operator {number} of {len(codes)}")
    kind = codes[number]
    ins = _places(file, table.integers(1, MOST_NAMED), optional=True)
    outs = _places(file, table.integers(2, MOST_NAMED))
    if kind in ("DEQUANTIZE", "DENSIFY"):
        if len(ins) != 1 or len(outs) != 1 or ins[0] < 0:
            raise source.error(f"has a {kind} of {len(ins)} values")
        value = _constant(file, ins[0])
        if value is None or value.dtype.kind != "f":
            raise source.error(
                f"has a {kind} of {shown(file.names[ins[0]], LONGEST_NAME)}, which is no floating point constant"
            )
        file.constants[file.names[outs[0]]] = value
        return None
    options = read_options(kind, table, source)
    if kind in RESHAPES:
        kind = "RESHAPE"
        # The shape is an option, a constant or both, and may have a -1 in it; that of the result has none.
        data = ins[:1]
        options["shape"] = file.shapes[outs[0]] if outs else ()
    else:
        extra = CONSTANT_OPTIONS.get(kind, ())
        data = ins[: max(0, len(ins) - len(extra))]
        if len(ins) < len(extra):
            raise source.error(f"has a {kind} of {len(ins)} inputs")
        for name, place in zip(extra, ins[len(data) :], strict=True):
            options[name] = _integers(file, kind, place)
    if kind == "STRIDED_SLICE":
        _resolve_slice(file, data, options)
    for place in data:
        if place >= 0:
            _constant(file, place)
    names = tuple("" if place < 0 else file.names[place] for place in data)
    return Operator(kind, names, tuple(file.names[k] for k in outs), options)


def _resolve_slice(file: _File, data: tuple[int, ...], options: dict[str, OptionValue]) -> None:
    """Replace masks and negative numbers of a STRIDED_SLICE by where it begins and ends."""
    begin, end, strides = (options.pop(name) for name in ("begin", "end", "strides"))
    masks = [options.pop(name) for name in ("begin_mask", "end_mask")]
    assert isinstance(begin, tuple) and isinstance(end, tuple) and isinstance(strides, tuple)
    shape = file.shapes[data[0]] if data and data[0] >= 0 else ()
    if not len(begin) == len(end) == len(strides) == len(shape) or set(strides) - {1}:
        raise file.source.error("has a STRIDED_SLICE that leaves out values between others, or of another rank")
    found: list[tuple[int, ...]] = []
    for numbers, mask, whole in ((begin, masks[0], (0,) * len(shape)), (end, masks[1], shape)):
        assert isinstance(mask, int)
        chosen = [whole[k] if mask >> k & 1 else number for k, number in enumerate(numbers)]
        found.append(tuple(number + size if number < 0 else number for number, size in zip(chosen, shape, strict=True)))
    options["begin"], options["end"] = found


def _integers(file: _File, kind: str, place: int) -> tuple[int, ...]:
    """Read a constant that holds whole numbers and says how an operator works."""
    value = None if place < 0 else _constant(file, place)
    if value is None or value.dtype.kind != "i" or value.size > 64:
        raise file.source.error(f"has a {kind} whose sizes are no constant whole numbers")
    return tuple(int(number) for number in value.reshape(-1))


def _constant(file: _File, place: int) -> np.ndarray | None:
    """Decode a tensor that has data in the file; None for one that the network computes."""
    name, tensor, source = file.names[place], file.tensors[place], file.source
    if name in file.constants:
        return file.constants[name]
    number = tensor.whole(2, "I")
    if number >= len(file.buffers):
        raise source.error(f"names buffer {number} of {len(file.buffers)}")
    buffer = file.buffers[number]
    if buffer.whole(1, "Q"):
        raise source.error("keeps numbers outside of its tables")
    data = buffer.vector(0, 1, MOST_BYTES)
    if not len(data):
        return None
    code = tensor.whole(1, "b")
    if code not in TYPES:
        type_name = TYPE_NAMES[code] if 0 <= code < len(TYPE_NAMES) else str(code)
        raise source.error(f"has numbers of type {type_name}; float32, float16 and int32 are known")
    kind, shape = TYPES[code], file.shapes[place]
    if any(size < 1 for size in shape) or len(shape) > 4:
        raise source.error(f"has a constant {shown(name, LONGEST_NAME)} of shape {list(shape)}")
    count = prod(shape)
    file.numbers_left -= count  # before they are allocated
    if file.numbers_left < 0:
        raise source.error(f"has more than {MOST_CONSTANTS:,} constant numbers")
    sparsity = tensor.table(6)
    if sparsity is not None:
        value = dense(np.frombuffer(_whole(data, kind, source), kind), shape, sparsity, source)
    elif len(data) == count * kind.itemsize:
        value = np.frombuffer(data, kind).reshape(shape)
    else:
        raise source.error(f"has {len(data)} bytes for {count} numbers of {shown(name, LONGEST_NAME)}")
    file.constants[name] = value
    return value


def _whole(data: memoryview, kind: np.dtype, source: Bytes) -> memoryview:
    if len(data) % kind.itemsize:
        raise source.error(f"has {len(data)} bytes for numbers of {kind.itemsize}")
    return data
