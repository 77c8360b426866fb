"""Read the options of each operator in a TFLite file, under the names that `operators.KINDS` wants."""

from __future__ import annotations

import struct

from triportrait.core.faces.flatbuffer import Bytes, Table
from triportrait.core.faces.flexbuffer import read_map
from triportrait.core.faces.operators import ACTIVATIONS, KINDS, PADDINGS, OptionValue

MOST_CUSTOM = 64 << 10  # bytes of a custom operator's options

# The options that TFLite stores as further inputs, constants of whole numbers, in their order.
CONSTANT_OPTIONS: dict[str, tuple[str, ...]] = {
    "PAD": ("paddings",), "RESIZE_BILINEAR": ("size",), "MEAN": ("axes",), "STRIDED_SLICE": ("begin", "end", "strides"),
    "SUM": ("axes",), "TRANSPOSE": ("perm",),
}  # fmt: skip
CUSTOM_OPTIONS = (
    "Landmarks2TransformMatrix", "TransformTensorBilinear", "TransformLandmarks", "Convolution2DTransposeBias",
)  # fmt: skip

# kind -> (number of the options' table in TFLite's union, option -> (field, struct kind, default))
_FIELDS: dict[str, tuple[int, dict[str, tuple[int, str, int]]]] = {
    "CONV_2D": (1, {
        "padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0), "activation": (3, "b", 0),
        "dilation_w": (4, "i", 1), "dilation_h": (5, "i", 1),
    }),
    "DEPTHWISE_CONV_2D": (2, {
        "padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0), "depth_multiplier": (3, "i", 0),
        "activation": (4, "b", 0), "dilation_w": (5, "i", 1), "dilation_h": (6, "i", 1),
    }),
    "MAX_POOL_2D": (5, {
        "padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0), "window_w": (3, "i", 0),
        "window_h": (4, "i", 0), "activation": (5, "b", 0),
    }),
    "CONCATENATION": (10, {"axis": (0, "i", 0), "activation": (1, "b", 0)}),
    "ADD": (11, {"activation": (0, "b", 0)}),
    "RESIZE_BILINEAR": (15, {"align_corners": (2, "B", 0), "half_pixel_centers": (3, "B", 0)}),
    "MUL": (21, {"activation": (0, "b", 0)}),
    "MEAN": (27, {"keep_dims": (0, "B", 0)}),
    "STRIDED_SLICE": (32, {
        "begin_mask": (0, "i", 0), "end_mask": (1, "i", 0), "ellipsis_mask": (2, "i", 0), "new_axis_mask": (3, "i", 0),
        "shrink_axis_mask": (4, "i", 0),
    }),
    "DEPTH_TO_SPACE": (94, {"block_size": (0, "i", 0)}),
    "FULLY_CONNECTED": (8, {
        "activation": (0, "b", 0), "weights_format": (1, "b", 0), "keep_num_dims": (2, "B", 0),
    }),
    "SUM": (27, {"keep_dims": (0, "B", 0)}),
    "SUB": (28, {"activation": (0, "b", 0)}),
    "DIV": (29, {"activation": (0, "b", 0)}),
}  # fmt: skip
_FIELDS["AVERAGE_POOL_2D"] = _FIELDS["MAX_POOL_2D"]
_CHOICES = {"padding": PADDINGS, "activation": ACTIVATIONS}
_CODES = {"padding": {0: "SAME", 1: "VALID"}, "activation": {0: "NONE", 1: "RELU", 3: "RELU6"}}
_MUST_BE = {
    "dilation_w": 1, "dilation_h": 1, "depth_multiplier": 1, "weights_format": 0,
    "ellipsis_mask": 0, "new_axis_mask": 0, "shrink_axis_mask": 0,
}  # fmt: skip


def read_options(kind: str, operator: Table, source: Bytes) -> dict[str, OptionValue]:
    """Read the options in an operator's table.

    Raises:
        InputError: they are missing, damaged, or ask for what no face network needs.
    """
    if kind in CUSTOM_OPTIONS:
        return _custom(kind, bytes(operator.vector(5, 1, MOST_CUSTOM)), source)
    options: dict[str, OptionValue] = {}
    if kind not in _FIELDS:
        return options
    union, fields = _FIELDS[kind]
    table = operator.table(4)
    if table is None or operator.whole(3, "B") != union:
        raise source.error(f"has a {kind} without its options")
    for name, (place, letter, default) in fields.items():
        number = table.whole(place, letter, default)
        if name in _CODES:
            if number not in _CODES[name]:
                raise source.error(f"has a {kind} with {name} {number}; known are {', '.join(_CHOICES[name])}")
            options[name] = _CODES[name][number]
        elif name in _MUST_BE:
            if number != _MUST_BE[name]:
                raise source.error(f"has a {kind} with {name} {number}, which no face network needs")
        else:
            options[name] = bool(number) if letter == "B" else number
    return options


def _custom(kind: str, data: bytes, source: Bytes) -> dict[str, OptionValue]:
    """Read the options of one of mediapipe's own operators."""
    if kind == "Convolution2DTransposeBias":
        if len(data) < 12:
            raise source.error(f"has a {kind} without its options")
        padding, stride_w, stride_h = struct.unpack("<3i", data[:12])
        if padding not in (1, 2):  # of a kernel as large as its stride both are the same
            raise source.error(f"has a {kind} with padding {padding}")
        return {"stride_h": stride_h, "stride_w": stride_w}
    wanted = KINDS[kind].options
    if not wanted:
        return {}
    options: dict[str, OptionValue] = {}
    for name, value in read_map(Bytes(memoryview(data), source.file)).items():
        options[name] = float(value) if wanted.get(name) is float and isinstance(value, int) else value
    return options
