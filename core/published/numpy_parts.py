"""Stand in for numpy's pickling functions: make plain arrays of numbers, of objects only where asked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from triportrait.core.published.reading import Reading

NUMBER = re.compile(r"[biufc]\d{1,2}|\?|bool")
OBJECTS = ("O", "O4", "O8")
MAX_DIMENSIONS = 16


@dataclass(eq=False)
class DType:
    """A numpy dtype of the file: its name such as 'f8' and, once its state is set, its byte order."""

    name: str
    order: str = "="

    @property
    def value(self) -> np.dtype[Any]:
        """Return the real dtype. Raises TypeError where numpy has none of that name."""
        return np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]


def dtype(reading: Reading, name: Any, *_: Any) -> DType:
    """Stand in for `numpy.dtype`. Raises InputError unless the dtype is of numbers or truth values."""
    if reading.objects and name in OBJECTS:
        return DType("O")
    if type(name) is not str or not NUMBER.fullmatch(name):
        raise reading.error("has a numpy array of something other than numbers")
    return DType(name)


def set_dtype_state(reading: Reading, target: DType, state: Any) -> None:
    """Take the byte order from the state of a dtype; refuse fields, sub-arrays and flags."""
    plain = type(state) is tuple and len(state) >= 5 and state[2] is None and state[3] is None and state[4] is None
    if not plain or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
        raise reading.error("has a numpy array of something other than numbers")
    target.order = state[1]


def _values(reading: Reading, data: Any, kind: Any) -> np.ndarray:
    """Make a new flat array, in this machine's byte order, of the values in the file."""
    if type(kind) is not DType or kind.name == "O":
        raise reading.error("has a numpy array without a number format")
    if type(data) is str:  # Python 2 kept bytes in its texts
        data = data.encode("latin-1")
    if type(data) not in (bytes, bytearray):
        raise reading.error("has a numpy array whose values are not bytes")
    reading.spend(len(data))
    dtype = kind.value
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")) if len(data) else np.empty(0, dtype)


def _shape(reading: Reading, shape: Any, count: int) -> tuple[int, ...]:
    """Check that a shape from the file has exactly `count` elements."""
    plain = type(shape) is tuple and len(shape) <= MAX_DIMENSIONS
    if not plain or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or math.prod(shape) != count:
        raise reading.error(f"has a numpy array whose shape does not hold its {count} values")
    return shape


def reconstruct(*_: Any) -> np.ndarray:
    """Stand in for `numpy.core.multiarray._reconstruct` with an empty array, which gets its state next."""
    return np.empty(0, np.int8)


def set_array_state(reading: Reading, target: np.ndarray, state: Any) -> None:
    """Fill an array, in place, from (version, shape, dtype, column-major?, bytes)."""
    if type(state) is not tuple or len(state) != 5 or target.shape != (0,):
        raise reading.error("sets the state of a numpy array wrongly")
    _, shape, kind, column_major, data = state
    if reading.objects and type(kind) is DType and kind.name == "O":
        return _set_objects(reading, target, shape, data)
    values = _values(reading, data, kind)
    if type(column_major) not in (bool, int):
        raise reading.error("sets the state of a numpy array wrongly")
    # numpy's own way to fill an array in place, which checks the bytes against the shape as well
    filled: Any = (1, _shape(reading, shape, values.size), values.dtype, bool(column_major), values.tobytes())
    target.__setstate__(filled)


def _set_objects(reading: Reading, target: np.ndarray, shape: Any, data: Any) -> None:
    """Fill an array, in place, with the objects of a list; in the order of the file, whichever that is."""
    if type(data) is not list:
        raise reading.error("has an array of objects that is not made of a list")
    reading.spend(8 * len(data))
    filled: Any = (1, _shape(reading, shape, len(data)), np.dtype(object), False, list(data))
    target.__setstate__(filled)


def frombuffer(reading: Reading, data: Any, kind: Any, shape: Any, order: Any = "C", *_: Any) -> np.ndarray:
    """Stand in for `numpy.core.numeric._frombuffer`, which pickle protocol 5 uses."""
    values = _values(reading, data, kind)
    shape = _shape(reading, shape, values.size)
    return values.reshape(shape, order="F" if order == "F" else "C")


def scalar(reading: Reading, kind: Any, data: Any = b"") -> Any:
    """Stand in for `numpy.core.multiarray.scalar` with a plain Python number."""
    values = _values(reading, data, kind)
    if values.size != 1:
        raise reading.error("has a numpy number that is not one number")
    return values[0].item()
