"""A multi-view set is a folder with one .npz per head, which holds all its pictures and their truth.

Letters: E expressions of a head, V views of an expression, S side of the pictures. The arrays of a head:

    image [E, V, S, S, 3] uint8          depth [E, V, S, S] uint16, 1/8192 scene unit along the ray, 0 beside
    opacity [E, V, S, S] uint8           parts [E, V, S, S] int8, a Part
    positions [E, V, S, S, 3] uint8, where a visible point lies on the mean head at rest: 1 to 255 for the box, 0 beside
    world_from_camera [E, V, 4, 4]       intrinsics [E, V, 3, 3]
    landmarks [E, V, 68, 2] pixels       expression [E, 9], neck [E, 3]
    identity.* and light.*               the head's numbers by name

The index holds the ranges of the cameras (`cameras`); a set without them was made with those of the preset tiny.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.safe_text import literal
from triportrait.train.config_checks import check_range
from triportrait.train.data.arrays import check_finite, check_rotations, check_shapes, read_arrays
from triportrait.train.data.cameras import SET_CAMERAS, SetCameras
from triportrait.train.data.folders import open_folder, whole_folder
from triportrait.train.data.heads.population import EXPRESSION_AXES, Identity, Light, check_seed_and_count
from triportrait.train.data.heads.render import HeadRenderer, check_size
from triportrait.train.data.scene_sampling import (
    EIGHT,
    cameras,
    faces,
    population,
    take_pictures,
    to_uint8,
)
from triportrait.train.data.set_config import FaceKind
from triportrait.train.runs.flatten import rebuilt

KIND = "triportrait multi-view heads"
DEPTH_STEPS = 8192  # per scene unit
REACH = 0.65  # scene units from the middle of the box of positions to its sides
MOST_EACH = 1024
MOST_PIXELS = 1 << 27  # of the pictures that are in memory together: about 4 GB with all their maps
MOST_POSES = 10_000_000  # of a set
_COUNTED = ("count", "expressions", "views", "size", "depth_steps")
LARGEST = {"world_from_camera": 1e3, "landmarks": 1e5, "expression": 1e3, "neck": 10.0}  # what a head reaches
_AGAIN = "make the folder again"


def check_multiview(
    seed: int,
    count: int,
    expressions_each: int,
    views: int,
    size: int,
    antialias: int,
    kind: FaceKind = "random",
) -> None:
    """Check the numbers of a set. Raises: `InputError` for numbers out of range."""
    check_seed_and_count(seed, count)
    for name, value in (("expressions", expressions_each), ("views", views)):
        if not 1 <= value <= MOST_EACH:
            raise InputError(f"{name}: expected 1 to {MOST_EACH}, got {value}; choose another")
    if kind == "eight" and expressions_each > EIGHT:
        raise InputError(f"expressions: expected up to {EIGHT} of the eight, got {expressions_each}; choose fewer")
    check_size(size, antialias)
    check_pixels("expressions x views", expressions_each * views, size)
    if count * expressions_each > MOST_POSES:
        raise InputError(
            f"count x expressions: expected up to {MOST_POSES:,}, got {count * expressions_each:,}; make several sets"
        )


def check_pixels(name: str, pictures: int, size: int) -> None:
    """Check how many pictures are in memory together. Raises: `InputError` for too many."""
    if pictures * size * size > MOST_PIXELS:
        raise InputError(
            f"{name}: expected up to {MOST_PIXELS // size**2:,} pictures of {size} px at a time, got {pictures:,}; "
            "choose fewer or smaller ones"
        )


def write_multiview(
    out: Path,
    seed: int,
    count: int,
    expressions_each: int,
    views: int,
    size: int,
    antialias: int = 2,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    kind: FaceKind = "random",
    seen_from: SetCameras = SET_CAMERAS["tiny"],
) -> None:
    """Write `count` heads, each with `expressions_each` expressions seen from `views` sides; the folder appears whole.

    Args:
        progress: is called with the number of heads done.
        kind: random expressions, or the eight that show each control by itself.
        seen_from: the cameras of the views.

    Raises: `InputError` before any work for numbers out of range or a folder that cannot be made.
    """
    check_multiview(seed, count, expressions_each, views, size, antialias, kind)
    settings = {
        "seed": seed, "count": count, "expressions": expressions_each, "views": views, "size": size,
        "antialias": antialias, "faces": kind, "depth_steps": DEPTH_STEPS, "expression_axes": list(EXPRESSION_AXES),
        "cameras": dataclasses.asdict(seen_from),
    }  # fmt: skip
    with whole_folder(out, overwrite, KIND, settings) as folder:
        renderer = HeadRenderer()
        identities, lights = population(seed, count)
        all_faces = faces(kind, seed, count, expressions_each)
        all_cameras = cameras(seed, count, expressions_each, views, seen_from)
        pictures = expressions_each * views
        for head in range(count):
            face = all_faces.take(slice(head * expressions_each, (head + 1) * expressions_each))
            camera = all_cameras.take(slice(head * pictures, (head + 1) * pictures))
            rows = torch.full((pictures,), head)
            view = take_pictures(
                renderer,
                identities.take(rows),
                face.take(torch.arange(pictures) // views),
                lights.take(rows),
                camera,
                size,
                antialias,
            )
            square = (expressions_each, views, size, size)
            arrays = {
                "image": to_uint8(view.image).reshape(*square, 3),
                "depth": (view.depth * DEPTH_STEPS).round().to(torch.int32).reshape(square),
                "opacity": (view.opacity * 255).round().byte().reshape(square),
                "parts": view.parts.reshape(square),
                "positions": to_positions(view.positions).reshape(*square, 3),
                "world_from_camera": camera.world_from_camera.reshape(expressions_each, views, 4, 4),
                "intrinsics": camera.intrinsics.reshape(expressions_each, views, 3, 3),
                "landmarks": view.landmarks.reshape(expressions_each, views, 68, 2),
                "expression": face.vector,
                "neck": face.neck,
                **numbers(identities.take([head]), lights.take([head])),
            }
            stored = {name: np.asarray(value) for name, value in arrays.items()}
            stored["depth"] = stored["depth"].astype(np.uint16)
            np.savez_compressed(folder / file_name(head), **stored)  # type: ignore[arg-type]
            progress(head + 1)


def to_positions(positions: Tensor) -> Tensor:
    """Quantise positions [B, 3, S, S], scene units, 0 beside the head, to uint8 [B, S, S, 3]."""
    steps = (positions / REACH * 127).round().clamp(-127, 127) + 128
    return (steps * (positions != 0).any(1, keepdim=True)).byte().permute(0, 2, 3, 1).contiguous()


def from_positions(stored: Tensor) -> Tensor:
    """Convert stored positions to what a discriminator sees: [B, 3, S, S] in [-1, 1] in the box, -1 beside the head."""
    return ((stored.float() - 128) / 127).clamp(min=-1).permute(0, 3, 1, 2)


def numbers(identity: Identity, light: Light) -> dict[str, Any]:
    """Return the numbers of one head by name, `identity.*` and `light.*`."""
    named = {f"identity.{name}": value[0] for name, value in identity.fields().items()}
    return named | {f"light.{name}": value[0] for name, value in light.fields().items()}


def file_name(head: int) -> str:
    """Return the file name of head `head`."""
    return f"head_{head:06d}.npz"


def holds_multiview(folder: Path, settings: dict[str, Any], seen_from: SetCameras) -> bool:
    """Tell whether a folder is a whole multi-view set with these settings and cameras."""
    try:
        heads = MultiviewSet(folder)
    except InputError:
        return False
    return heads.cameras == seen_from and all(heads.index.get(name) == value for name, value in settings.items())


def _cameras_of(index: dict[str, Any], folder: Path) -> SetCameras:
    """Read the cameras of a set from its index. Raises: `InputError` where they are no ranges."""
    if "cameras" not in index:
        return SET_CAMERAS["tiny"]
    try:
        ranges: SetCameras = rebuilt(SetCameras, index["cameras"], {}, "cameras")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: expected ranges as cameras in its index, got others; {_AGAIN}") from error
    check_range(ranges.sampled, f"{folder}: cameras.sampled")
    check_range(ranges.filmed, f"{folder}: cameras.filmed")
    if type(ranges.first_filmed) is not bool or not isinstance(ranges.filmed_share, int | float):
        raise InputError(f"{folder}: expected ranges as cameras in its index, got others; {_AGAIN}")
    return ranges


class MultiviewSet:
    """A multi-view set on the disk.

    Args:
        folder: as `write_multiview` made it.
        contents: compare every file with its checksum, not only its size.

    Attributes:
        cameras: the ranges of the cameras that see the heads.

    Raises: `InputError` that names a missing or damaged file, before any is used.
    """

    def __init__(self, folder: Path, contents: bool = False) -> None:
        self.folder = folder
        self.index = open_folder(folder, KIND, contents)
        self.cameras = _cameras_of(self.index, folder)
        for name in _COUNTED:
            if type(value := self.index.get(name)) is not int or value < 1:
                raise InputError(
                    f"{folder}: expected a whole number as {name} in its index, got {literal(value)}; {_AGAIN}"
                )
        self._expected = _shapes(*(self.index[name] for name in ("expressions", "views", "size")))
        self.names = sorted(self.index["files"])
        count = self.index["count"]
        if len(self.names) != count or self.names != [file_name(head) for head in range(count)]:
            raise InputError(
                f"{folder}: its index tells of {self.index['count']} heads and lists {len(self.names)} files; {_AGAIN}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def head(self, number: int) -> dict[str, np.ndarray]:
        """Read all arrays of one head, with depth as float32 scene units and opacity as float32 in [0, 1].

        Raises: `InputError` that names the file and its array that is missing, of another shape or type, not finite,
            or of no camera.
        """
        path = self.folder / self.names[number]
        try:
            arrays = read_arrays(path)
        except ValueError as error:
            raise InputError(f"{path}: it cannot be read (damaged); {_AGAIN}") from error
        try:
            check_shapes(arrays, self._expected)
            check_finite(arrays, LARGEST)
            check_rotations(arrays["world_from_camera"][..., :3, :3].reshape(-1, 3, 3), "picture")
            if not (arrays["intrinsics"][..., (0, 1), (0, 1)] > 0).all():
                raise ValueError("a camera of intrinsics has no positive focal length")
        except ValueError as error:
            raise InputError(f"{path}: {error}; {_AGAIN}") from error
        arrays["depth"] = arrays["depth"].astype(np.float32) / self.index["depth_steps"]
        arrays["opacity"] = arrays["opacity"].astype(np.float32) / 255
        return arrays


def _shapes(poses: int, views: int, size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Return the shape and dtype of each array of a head's file."""
    square = (poses, views, size, size)
    traits = {name: np.asarray(value) for name, value in numbers(*population(0, 1)).items()}
    return {
        "image": ((*square, 3), np.uint8), "depth": (square, np.uint16), "opacity": (square, np.uint8),
        "parts": (square, np.int8), "positions": ((*square, 3), np.uint8),
        "world_from_camera": ((poses, views, 4, 4), np.float32), "intrinsics": ((poses, views, 3, 3), np.float32),
        "landmarks": ((poses, views, 68, 2), np.float32), "expression": ((poses, len(EXPRESSION_AXES)), np.float32),
        "neck": ((poses, 3), np.float32),
        **{name: (value.shape, value.dtype.type) for name, value in traits.items()},
    }  # fmt: skip
