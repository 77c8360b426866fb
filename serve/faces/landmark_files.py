"""Reads faces whose landmarks lie in files: any tracker's, or those beside a procedural head's clip.

FOLDER/landmarks/00001.npy    [68 or 98, 2 or 3] pixels of the raw picture or frame, y down; one file per frame
clip_000003.npz               beside clip_000003.mp4, as `triportrait prepare head-videos` writes it
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import ARRAY_DAMAGE, check_regular
from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.serve.faces.alignment import align, alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.head_pose import matrix_of, vector_of
from triportrait.serve.tracking_files import check_files, files_by_name, read_landmarks

RAW_LANDMARKS = "landmarks"
_CLIP_ARRAYS = {"landmarks": (68, 2), "neck": (3,)}
_LARGEST_CLIP = 100_000  # frames
_DAMAGE = (OSError, *ARRAY_DAMAGE)


class KnownFaces(ABC):
    """Gives faces that need not be found.

    Attributes:
        root: the file or the folder that they are read from.
    """

    root: Path

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """List the names of the faces, in the order of the frames."""

    @abstractmethod
    def files(self, names: Sequence[str]) -> list[Path]:
        """List the files of these faces, whether they are there or not."""

    @abstractmethod
    def face(self, name: str) -> Face:
        """Read the face of that name.

        Raises:
            InputError: its file is missing or damaged, or its points are those of no face.
        """

    def check(self, names: Sequence[str]) -> None:
        """Read all these faces. Raises: `InputError` for the first file that is missing or damaged."""
        check_files(self.files(names))
        for name in names:
            self.face(name)


class LandmarkFolder(KnownFaces):
    """Reads a folder of any tracker's landmarks of raw pictures.

    Raises:
        InputError: the folder is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / RAW_LANDMARKS).is_dir():
            raise InputError(f"{root}: expected {RAW_LANDMARKS}/ in it, found none; give the folder that holds it")

    @property
    def names(self) -> list[str]:
        return files_by_name(self.root / RAW_LANDMARKS)

    def files(self, names: Sequence[str]) -> list[Path]:
        return [self.root / RAW_LANDMARKS / f"{name}.npy" for name in names]

    def face(self, name: str) -> Face:
        (path,) = self.files([name])
        points = read_landmarks(path)[0].numpy()
        if points.shape[1] == 2:
            points = np.concatenate([points, np.zeros((68, 1), np.float32)], 1)
        return _checked(path, Face(points, alignment_points(points)))


class HeadClip(KnownFaces):
    """Reads the numbers beside a clip of a procedural head.

    Raises:
        InputError: the file is damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.root = path
        try:
            check_regular(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], np.float64) for name in (*_CLIP_ARRAYS, "world_from_camera")}
        except _DAMAGE as error:
            raise _no_clip(path) from error
        count = len(arrays["landmarks"])
        shapes = {"world_from_camera": (4, 4), **{name: (count, *shape) for name, shape in _CLIP_ARRAYS.items()}}
        fits = all(arrays[name].shape == shape and np.isfinite(arrays[name]).all() for name, shape in shapes.items())
        if not fits or not 1 <= count <= _LARGEST_CLIP:
            raise _no_clip(path)
        self._landmarks, self._necks = arrays["landmarks"], arrays["neck"]
        self._camera = arrays["world_from_camera"][:3, :3]

    @property
    def names(self) -> list[str]:
        return [str(i) for i in range(len(self._landmarks))]

    def files(self, names: Sequence[str]) -> list[Path]:
        return [self.root]

    def face(self, name: str) -> Face:
        i = int(name)
        points = np.zeros((68, 3), np.float32)
        points[:, :2] = self._landmarks[i] - 0.5  # the generator counts from the picture's corner
        # To the camera the head is turned by its neck and by where the camera stands.
        turn = vector_of(self._camera.T @ matrix_of(self._necks[i])).astype(np.float32)
        return _checked(self.root, Face(points, alignment_points(points), turn))


def aligned_face(path: Path, side_px: int) -> Face:
    """Read the landmarks of an aligned picture, which are in pixels of its 512² version, as a face in it.

    Args:
        side_px: of the picture as it is.

    Raises:
        InputError: the file is missing or damaged, or its points are those of no face.
    """
    flat = read_landmarks(path)[0, :, :2].numpy().astype(np.float64)
    scale = side_px / ALIGNED_SIZE
    points = np.concatenate([(flat + 0.5) * scale - 0.5, np.zeros((68, 1))], 1).astype(np.float32)
    return _checked(path, Face(points, alignment_points(points)))


def known_beside(path: Path) -> HeadClip | None:
    """Open the numbers beside a procedural head's clip; None where there are none of a head.

    Raises:
        InputError: they are damaged.
    """
    numbers = path.with_suffix(".npz")
    if path.suffix.lower() != ".mp4" or not numbers.is_file():
        return None
    try:
        with zipfile.ZipFile(numbers) as archive:
            names = set(archive.namelist())
    except _DAMAGE as error:
        raise _no_clip(numbers) from error
    return HeadClip(numbers) if names & {f"{name}.npy" for name in _CLIP_ARRAYS} else None


def _checked(path: Path, face: Face) -> Face:
    if align(face.alignment) is None:
        raise InputError(f"{path}: expected the landmarks of a face, they lie in one place; track the face again")
    return face


def _no_clip(path: Path) -> InputError:
    return InputError(f"{path}: expected the numbers of a procedural head's clip, got another file or a damaged one; "
                      "write the clip again or move the file away")  # fmt: skip
