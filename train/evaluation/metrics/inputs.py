"""Names the arrays that metrics read, with their shapes, and refuses those that no metric can be computed from.

An input is called `role.field`, for example `result.landmarks`. Roles: `result` is what a method made, `truth` the
picture that it should have made, `driving` the frame that gave the motion, `source` the portrait. In self-reenactment
truth and driving are one. An input of `pair` compares result and truth and was computed by a network from both.
Letters: N frames of one call, H, W height and width of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triportrait.core.errors import InputError

ROLES = ("result", "truth", "driving", "source", "pair")


@dataclass(frozen=True)
class Field:
    """Describes one kind of array.

    Attributes:
        row: the shape of one frame's part; None stands for any length of at least 1.
        sentence: what it holds and in which unit.
        kinds: the kinds of its numbers, as `numpy.dtype.kind` names them.
    """

    row: tuple[int | None, ...]
    sentence: str
    kinds: str = "f"


FIELDS = {
    "frames": Field((None, None, 3), "uint8 [N, H, W, 3], RGB", "u"),
    "landmarks": Field((68, None), "[N, 68, 2 or 3], the 68 points of a face in pixels, x right, y down"),
    "turn": Field((3, 3), "[N, 3, 3], the head's rotation, of `serve.faces.head_pose.turn_of`"),
    "identity": Field((None,), "[N, D], ArcFace's embedding of the face, of any length"),
    "expression": Field((64,), "[N, 64], the expression coefficients of the 3DMM reconstructor"),
    "angles": Field((3,), "[N, 3], the head's angles of the 3DMM reconstructor, radians"),
    "translation": Field((3,), "[N, 3], the head's translation of the 3DMM reconstructor, decimetres"),
    "emotion": Field((None,), "[N, 2048], the feature of the emotion network before its last layer"),
    "inception_legacy_pytorch": Field((None,), "[N, 2048], Inception's pooled feature, resized as pytorch-fid does"),
    "inception_legacy_tensorflow": Field((None,), "[N, 2048], the same, resized as StyleGAN's and EG3D's scripts do"),
    "inception_clean": Field((None,), "[N, 2048], the same, resized as clean-fid's `clean` mode does"),
    "lip_embedding": Field((None,), "[n, 1024], SyncNet's face tower, a row for each window of five frames"),
    "sound_embedding": Field((None,), "[n, 1024], SyncNet's audio tower, a row for each of the same windows"),
    "lpips_alex": Field((), "[N], LPIPS 0.1 with AlexNet between result and truth"),
    "lpips_vgg": Field((), "[N], LPIPS 0.1 with VGG-16 between result and truth"),
    "lpips_alex_map": Field((None, None), "[N, H, W], the same per pixel: the package's `spatial=True`"),
    "lpips_alex_of_heads": Field((), "[N], LPIPS 0.1 with AlexNet between both pictures after `black_beyond`"),
    "head_mask": Field((None, None), "bool [N, H, W], where the head is: `head_mask` of the truth's landmarks", "b"),
    "seconds": Field((), "[N], how long the making of each frame took, from the manifest of the results"),
}


def field_of(name: str) -> Field:
    """Return what an input's name stands for; a name that is none of ours is a fault in a definition."""
    role, _, field = name.partition(".")
    assert role in ROLES and field in FIELDS, name
    return FIELDS[field]


def checked(name: str, array: np.ndarray) -> np.ndarray:
    """Return an input as it is, or as float64 where it holds numbers with a fraction.

    Raises:
        InputError: it is empty, has another shape or another kind of numbers, or one of them is not finite.
    """
    field, array = field_of(name), np.asarray(array)
    shape_fits = array.ndim == 1 + len(field.row) and all(
        (got > 0 if wanted is None else got == wanted) for got, wanted in zip(array.shape[1:], field.row, strict=True)
    )
    if field is FIELDS["landmarks"]:
        shape_fits = shape_fits and array.shape[2] in (2, 3)
    if not shape_fits or array.dtype.kind not in field.kinds:
        raise InputError(
            f"{name}: expected {field.sentence}, got {array.dtype} {list(array.shape)}; give what the name stands for"
        )
    if len(array) == 0:
        raise InputError(f"{name}: expected {field.sentence}, got no frame at all; leave out clips without frames")
    if array.dtype.kind != "f":
        return array
    rows = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if rows.any():
        raise InputError(
            f"{name}: expected finite numbers, got others in {int(rows.sum())} of {len(array)} frames, the first in"
            f" frame {int(rows.argmax())} of this call; mark frames without a face as not found instead"
        )
    return array.astype(np.float64, copy=False)


def checked_found(found: np.ndarray | None, count: int) -> np.ndarray:
    """Return what was found of `count` frames, bool [count]; None stands for all of them.

    Raises:
        InputError: it has another length, or is not boolean.
    """
    if found is None:
        return np.ones(count, bool)
    if found.dtype != bool or found.shape != (count,):
        raise InputError(
            f"found: expected bool [{count}], a value for each frame, got {found.dtype} {list(found.shape)}; say of"
            " each frame whether its faces were found"
        )
    return found


def checked_all(names: Sequence[str], arrays: Sequence[np.ndarray], found: np.ndarray | None) -> list[np.ndarray]:
    """Check the inputs of one call together, and keep the frames that were found.

    Args:
        arrays: one for each name; an input of the source may have a single row, which stands for all frames.
        found: bool [N], the frames that can be measured; None: all. Rows of others are not looked at.

    Returns:
        The inputs, each with one row for each found frame; without any frame they have no rows.
    """
    assert len(names) == len(arrays), names
    arrays = [np.asarray(array) for array in arrays]
    count = max((len(array) if array.ndim else 0) for array in arrays)
    found = None if found is None else checked_found(found, count)
    rows = []
    for name, array in zip(names, arrays, strict=True):
        if array.ndim and len(array) == 1 < count and name.startswith("source."):
            array = np.broadcast_to(array, (count, *array.shape[1:]))
        if array.ndim == 0 or len(array) != count:
            raise InputError(
                f"{name}: expected {count} rows, as many as the other inputs of the metric, got"
                f" {list(array.shape)}; give the same frames of each"
            )
        if found is not None and not found.any() and count:
            rows.append(array[:0])
        else:
            rows.append(checked(name, array if found is None else array[found]))
    return rows
