"""The operators that occur in the face networks: their options, and the shape and work of what they compute.

Kinds are TFLite's names; the four in capital and small letters are mediapipe's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
OptionValue = int | float | bool | str | tuple[int, ...]
Options = Mapping[str, OptionValue]
Shapes = Sequence[Shape]

PADDINGS = ("SAME", "VALID")
ACTIVATIONS = ("NONE", "RELU", "RELU6")
MOST_SIDE = 4096  # of a kernel, a stride or a pooling window


@dataclass(frozen=True)
class Kind:
    """What an operator needs.

    Attributes:
        inputs: the numbers of inputs that it takes.
        options: name -> type; `tuple` is a list of whole numbers.
        rule: gives the shape and the multiplications of the result; raises ValueError, in words, where they do not fit.
        constant_inputs: places of inputs that must be constants.
    """

    inputs: range
    options: Mapping[str, type]
    rule: Callable[[Shapes, Options], tuple[Shape, int]]
    constant_inputs: tuple[int, ...] = ()


def shape_and_work(kind: str, inputs: Sequence[Shape | None], options: Options) -> tuple[Shape, int]:
    """Find the shape of an operator's result, and how many multiplications it takes, about.

    Args:
        inputs: shapes of its inputs; None for an optional one that is not there.
        options: exactly those of its `Kind`.

    Raises:
        ValueError: in words that follow "a CONV_2D that": inputs or options are missing, too many or do not fit.
    """
    wanted = KINDS[kind]
    given = [shape for shape in inputs if shape is not None]
    if len(given) not in wanted.inputs or None in inputs[: len(given)]:
        raise ValueError(f"has {len(given)} inputs")
    if options.keys() != wanted.options.keys():
        raise ValueError(f"has the options {', '.join(options) or 'none'}, not {', '.join(wanted.options) or 'none'}")
    for name, type_ in wanted.options.items():
        value = options[name]
        fits = type(value) is type_ and (type_ is not tuple or all(type(k) is int for k in tuple(value)))  # type: ignore[arg-type]
        if not fits:
            raise ValueError(f"has an option {name} of the wrong type")
    shape, work = wanted.rule(given, options)
    return shape, max(work, prod(shape))


def _int(options: Options, name: str, least: int = 1, most: int = MOST_SIDE) -> int:
    value = options[name]
    assert isinstance(value, int)
    if not least <= value <= most:
        raise ValueError(f"has a {name} of {value}")
    return value


def _ints(options: Options, name: str, count: int | None = None) -> tuple[int, ...]:
    value = options[name]
    assert isinstance(value, tuple)
    if count is not None and len(value) != count:
        raise ValueError(f"has {len(value)} numbers in {name}, {count} are wanted")
    return value


def _choice(options: Options, name: str, choices: Sequence[str]) -> str:
    value = options[name]
    if value not in choices:
        raise ValueError(f"has an unknown {name}; known are {', '.join(choices)}")
    return str(value)


def _rank(shape: Shape, rank: int) -> Shape:
    if len(shape) != rank:
        raise ValueError(f"has an input of {len(shape)} dimensions, {rank} are wanted")
    return shape


def _spatial(size: int, window: int, stride: int, padding: str) -> int:
    out = -(-size // stride) if padding == "SAME" else -(-(size - window + 1) // stride)
    if out < 1:
        raise ValueError(f"has a window of {window} on {size} pixels")
    return out


def _windows(shape: Shape, high: int, wide: int, options: Options) -> tuple[int, int]:
    """Count the rows and columns of the result of a window that moves over an image."""
    padding = _choice(options, "padding", PADDINGS)
    _choice(options, "activation", ACTIVATIONS)
    rows = _spatial(shape[1], high, _int(options, "stride_h"), padding)
    return rows, _spatial(shape[2], wide, _int(options, "stride_w"), padding)


def _bias(inputs: Shapes, place: int, channels: int) -> None:
    if len(inputs) > place and inputs[place] != (channels,):
        raise ValueError(f"has a bias of shape {list(inputs[place])} for {channels} channels")


def _conv(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, kernel = _rank(inputs[0], 4), _rank(inputs[1], 4)
    out, high, wide, channels = kernel
    if channels != image[3] or not max(high, wide) <= MOST_SIDE:
        raise ValueError(f"has a kernel for {channels} channels on {image[3]}")
    _bias(inputs, 2, out)
    rows, columns = _windows(image, high, wide, options)
    return (image[0], rows, columns, out), rows * columns * prod(kernel)


def _depthwise(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, kernel = _rank(inputs[0], 4), _rank(inputs[1], 4)
    one, high, wide, channels = kernel
    if one != 1 or channels != image[3] or not max(high, wide) <= MOST_SIDE:
        raise ValueError(f"has a kernel of shape {list(kernel)} on {image[3]} channels")
    _bias(inputs, 2, channels)
    rows, columns = _windows(image, high, wide, options)
    return (image[0], rows, columns, channels), rows * columns * prod(kernel)


def _transposed_conv(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, kernel = _rank(inputs[0], 4), _rank(inputs[1], 4)
    out, high, wide, channels = kernel
    stride_h, stride_w = _int(options, "stride_h"), _int(options, "stride_w")
    if channels != image[3] or (high, wide) != (stride_h, stride_w):
        raise ValueError("has a kernel that is not as large as its stride, or is for other channels")
    _bias(inputs, 2, out)
    return (image[0], image[1] * high, image[2] * wide, out), prod(image) * out * high * wide


def _pool(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image = _rank(inputs[0], 4)
    high, wide = _int(options, "window_h"), _int(options, "window_w")
    rows, columns = _windows(image, high, wide, options)
    return (image[0], rows, columns, image[3]), rows * columns * image[3] * high * wide


def _average_pool(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    if options["padding"] != "VALID":
        raise ValueError("pads, which no face network needs")
    return _pool(inputs, options)


def _elementwise(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    _choice(options, "activation", ACTIVATIONS)
    first, second = inputs
    rank = max(len(first), len(second))
    pairs = zip(
        *((1,) * (rank - len(shape)) + shape for shape in (first, second)), strict=True
    )  # fmt: skip
    shape = []
    for one, other in pairs:
        if one != other and 1 not in (one, other):
            raise ValueError(f"has inputs of shapes {list(first)} and {list(second)}")
        shape.append(max(one, other))
    return tuple(shape), 0


def _same(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    return inputs[0], 0


def _prelu(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, slope = _rank(inputs[0], 4), inputs[1]
    if slope not in ((image[3],), (1, 1, image[3])):
        raise ValueError(f"has slopes of shape {list(slope)} for {image[3]} channels")
    return image, 0


def _pad(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image = _rank(inputs[0], 4)
    before_after = _ints(options, "paddings", 8)
    if min(before_after) < 0 or max(before_after) > MOST_SIDE or before_after[:2] != (0, 0):
        raise ValueError(f"has paddings of {list(before_after)}")
    return tuple(size + before_after[2 * k] + before_after[2 * k + 1] for k, size in enumerate(image)), 0


def _reshape(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    shape, count = _ints(options, "shape"), prod(inputs[0])
    if not 1 <= len(shape) <= 4 or min(shape) < 1 or prod(shape) != count or shape[0] != 1:
        raise ValueError(f"has {count} numbers for the shape {list(shape)}")
    return shape, 0


def _concatenation(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    first = inputs[0]
    axis = _int(options, "axis", 1, len(first) - 1)
    _choice(options, "activation", ("NONE",))
    for shape in inputs:
        if len(shape) != len(first) or any(
            a != b for k, (a, b) in enumerate(zip(shape, first, strict=True)) if k != axis
        ):
            raise ValueError(f"has inputs of shapes {list(first)} and {list(shape)}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :]), 0


def _resize(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, (rows, columns) = _rank(inputs[0], 4), _ints(options, "size", 2)
    if options["align_corners"] and options["half_pixel_centers"]:
        raise ValueError("aligns both corners and pixel centres")
    if not (1 <= rows <= MOST_SIDE and 1 <= columns <= MOST_SIDE):
        raise ValueError(f"has a size of {rows} x {columns}")
    return (image[0], rows, columns, image[3]), 4 * rows * columns * image[3]


def _mean(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image = _rank(inputs[0], 4)
    if sorted(_ints(options, "axes")) != [1, 2] or not options["keep_dims"]:
        raise ValueError("is not over all pixels of each channel")
    return (image[0], 1, 1, image[3]), prod(image)


def _depth_to_space(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, block = _rank(inputs[0], 4), _int(options, "block_size", 1, 16)
    if image[3] % block**2:
        raise ValueError(f"has {image[3]} channels for blocks of {block} x {block}")
    return (image[0], image[1] * block, image[2] * block, image[3] // block**2), 0


def _slice(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image = inputs[0]
    begin, end = _ints(options, "begin", len(image)), _ints(options, "end", len(image))
    if any(not 0 <= first < last <= size for first, last, size in zip(begin, end, image, strict=True)):
        raise ValueError(f"takes {list(begin)} to {list(end)} of the shape {list(image)}")
    return tuple(last - first for first, last in zip(begin, end, strict=True)), 0


def _landmarks_to_matrix(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    _, count, dimensions = _rank(inputs[0], 3)
    subset = _ints(options, "subset_idxs")
    ends = [_int(options, name, 0, count - 1) for name in ("left_rotation_idx", "right_rotation_idx")]
    if dimensions < 2 or not subset or min(subset) < 0 or max(subset) >= count or ends[0] == ends[1]:
        raise ValueError(f"names landmarks that are not among {count}")
    for name, least, most in (("scale_x", 0.01, 100), ("scale_y", 0.01, 100), ("target_rotation_radians", 0, 0)):
        number = options[name]
        assert isinstance(number, float)
        if not least <= number <= most:
            raise ValueError(f"has a {name} of {number}")
    _int(options, "output_height", 2)
    _int(options, "output_width", 2)
    return (inputs[0][0], 4, 4), len(subset)


def _transformed_image(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    image, matrix = _rank(inputs[0], 4), inputs[1]
    if matrix != (1, 4, 4):
        raise ValueError(f"has a matrix of shape {list(matrix)}")
    rows, columns = _int(options, "output_height", 2), _int(options, "output_width", 2)
    return (image[0], rows, columns, image[3]), 4 * rows * columns * image[3]


def _transformed_landmarks(inputs: Shapes, options: Options) -> tuple[Shape, int]:
    landmarks, matrix = _rank(inputs[0], 3), inputs[1]
    if matrix != (1, 4, 4) or landmarks[2] not in (2, 3):
        raise ValueError(f"has a matrix of shape {list(matrix)} for landmarks of {landmarks[2]} numbers")
    return landmarks, prod(landmarks) * 4


_WINDOW: dict[str, type] = {"padding": str, "stride_h": int, "stride_w": int, "activation": str}
_POOL: dict[str, type] = {"window_h": int, "window_w": int, **_WINDOW}
_CROP: dict[str, type] = {"output_height": int, "output_width": int}
_MATRIX: dict[str, type] = {
    "subset_idxs": tuple, "left_rotation_idx": int, "right_rotation_idx": int, "scale_x": float, "scale_y": float,
    "target_rotation_radians": float,
}  # fmt: skip

KINDS: dict[str, Kind] = {
    "CONV_2D": Kind(range(2, 4), _WINDOW, _conv, (1, 2)),
    "DEPTHWISE_CONV_2D": Kind(range(2, 4), _WINDOW, _depthwise, (1, 2)),
    "MAX_POOL_2D": Kind(range(1, 2), _POOL, _pool),
    "AVERAGE_POOL_2D": Kind(range(1, 2), _POOL, _average_pool),
    "ADD": Kind(range(2, 3), {"activation": str}, _elementwise),
    "MUL": Kind(range(2, 3), {"activation": str}, _elementwise),
    "RELU": Kind(range(1, 2), {}, _same),
    "PRELU": Kind(range(2, 3), {}, _prelu, (1,)),
    "HARD_SWISH": Kind(range(1, 2), {}, _same),
    "LOGISTIC": Kind(range(1, 2), {}, _same),
    "PAD": Kind(range(1, 2), {"paddings": tuple}, _pad),
    "RESHAPE": Kind(range(1, 2), {"shape": tuple}, _reshape),
    "CONCATENATION": Kind(range(1, 9), {"axis": int, "activation": str}, _concatenation),
    "RESIZE_BILINEAR": Kind(
        range(1, 2), {"size": tuple, "align_corners": bool, "half_pixel_centers": bool}, _resize
    ),
    "MEAN": Kind(range(1, 2), {"axes": tuple, "keep_dims": bool}, _mean),
    "DEPTH_TO_SPACE": Kind(range(1, 2), {"block_size": int}, _depth_to_space),
    "STRIDED_SLICE": Kind(range(1, 2), {"begin": tuple, "end": tuple}, _slice),
    "Landmarks2TransformMatrix": Kind(range(1, 2), {**_MATRIX, **_CROP}, _landmarks_to_matrix),
    "TransformTensorBilinear": Kind(range(2, 3), _CROP, _transformed_image),
    "TransformLandmarks": Kind(range(2, 3), {}, _transformed_landmarks),
    "Convolution2DTransposeBias": Kind(range(2, 4), {"stride_h": int, "stride_w": int}, _transposed_conv, (1, 2)),
}  # fmt: skip
