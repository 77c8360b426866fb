"""Unpack the sparse constants of a TFLite file, whose last dimension lists where its numbers are."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from triportrait.core.faces.flatbuffer import Bytes, Table
from triportrait.core.faces.operators import Shape

MOST_INDICES = 1 << 24
_INDEX_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i4"), 2: np.dtype("<u2"), 3: np.dtype("u1")}


def dense(numbers: np.ndarray, shape: Shape, sparsity: Table, source: Bytes) -> np.ndarray:
    """Put the stored numbers where the file says, zeros elsewhere.

    Args:
        numbers: [stored], those that are not zero, in their order.
        shape: of the result, its size within the reader's bounds.

    Raises:
        InputError: another sparse layout, or places outside of the shape.
    """
    order, blocks = sparsity.integers(0, 8), sparsity.integers(1, 8)
    dimensions = sparsity.tables(2, 8)
    if order != tuple(range(len(shape))) or blocks or len(dimensions) != len(shape) or not shape:
        raise source.error("has sparse numbers in an order that no face network needs")
    formats = [dimension.whole(0, "b") for dimension in dimensions]
    sizes = tuple(dimension.whole(1, "i") for dimension in dimensions[:-1])
    if formats != [0] * (len(shape) - 1) + [1] or sizes != shape[:-1]:
        raise source.error("has sparse numbers in a layout that no face network needs")
    starts = _indices(dimensions[-1], 2, source)
    columns = _indices(dimensions[-1], 4, source)
    rows, width = prod(shape[:-1]), shape[-1]
    fits = (
        len(starts) == rows + 1
        and starts[0] == 0
        and starts[-1] == len(columns) == len(numbers)
        and bool((np.diff(starts) >= 0).all())
        and bool(((columns >= 0) & (columns < width)).all())
    )
    if not fits:
        raise source.error("has sparse numbers outside of their tensor")
    result = np.zeros((rows, width), numbers.dtype)
    result[np.repeat(np.arange(rows), np.diff(starts)), columns] = numbers
    return result.reshape(shape)


def _indices(dimension: Table, field: int, source: Bytes) -> np.ndarray:
    """Read one list of places, of 8, 16 or 32 bits."""
    kind, table = dimension.whole(field, "B"), dimension.table(field + 1)
    if kind not in _INDEX_TYPES or table is None:
        raise source.error("has sparse numbers without their places")
    stored = _INDEX_TYPES[kind]
    return np.frombuffer(table.vector(0, stored.itemsize, MOST_INDICES), stored).astype(np.int64)
