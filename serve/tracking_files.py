"""Reads the published per-picture files: camera, shape, expression and pose as 437 numbers, and 68 landmarks.

clip/align_images/00001.png              the aligned picture
clip/3dldmks_align/00001.npy             [68, 2 or 3] landmarks, pixels of the aligned 512² picture, y down
clip/2dldmks_align/00001.npy             [98, 2] WFLW's landmarks, of which 68 are taken; where the first is missing
clip/head_model.json                     whose parameters they are, name and fingerprint; without it FLAME 2020's
clip/flame_optim_params/00001.npy        [437] camera 25, shape 300, expression 100, neck 3, jaw 3, eyes 6
clip/bfm2flame_params_simplified/...     the same, from the quick estimate; used where the first is missing
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.files import ARRAY_DAMAGE, opened, read_json
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.core.motion.motion_crop import anchors_of
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.types import Camera
from triportrait.serve.media.output_file import reason_of
from triportrait.serve.media.pictures.picture_folder import as_people_count

PICTURES, LANDMARKS = "align_images", ("3dldmks_align", "2dldmks_align")
PARAMETERS = ("flame_optim_params", "bfm2flame_params_simplified")
LENGTHS = {"camera": 25, "shape": 300, "expression": 100, "neck": 3, "jaw": 3, "eyes": 6}
HEAD_MODEL = "head_model.json"
TOTAL = sum(LENGTHS.values())
ROTATION_TOLERANCE = 1e-3
# Beyond these a file is damaged or of another kind; honest ones stay far inside.
LARGEST_COEFFICIENT = 100.0
LARGEST_TURN = 2 * math.pi
LARGEST_POSITION = 100.0  # scene units
LARGEST_FOCAL_LENGTH = 50.0  # picture widths
LARGEST_CENTRE = 5.0  # picture widths from the picture's corner
LARGEST_LANDMARK_PX = 5000.0
MOST_NUMBERS = 100_000
# Where the 68 landmarks stand among WFLW's 98.
OF_98 = [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60)]  # contour, brows, nose
OF_98 += [60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96)]  # eyes, mouth
SMALLEST_FACE_PX = 1.0  # between the farthest two of the three points that place a face


@dataclass(frozen=True)
class HeadParameters:
    """Holds the FLAME parameters and the camera of one picture.

    Attributes:
        camera: one camera, the head's full pose in it.
        shape: [1, 300]. expression: [1, 100]. neck, jaw: [1, 3] rotation vectors, radians. eyes: [1, 6].
        head_model: whose parameters they are; None where only the turn of the head was found, which is of no model.
    """

    camera: Camera
    shape: Tensor
    expression: Tensor
    neck: Tensor
    jaw: Tensor
    eyes: Tensor
    head_model: ModelIdentity | None = None


@dataclass(frozen=True)
class Tracking:
    """Holds what is known of the face in one picture; either may be missing."""

    parameters: HeadParameters | None = None
    landmarks: Tensor | None = None  # [1, 68, 2 or 3]


class TrackedFolder:
    """Reads the per-picture files beside a folder of aligned pictures, found by name or by order."""

    def __init__(self, root: Path) -> None:
        """Look at what is there.

        Raises:
            InputError: the folder is missing, or holds neither parameters nor landmarks; head_model.json is damaged.
        """
        self.root = root
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder that holds {PARAMETERS[0]}/ and {LANDMARKS[0]}/")
        self.parameters = next((root / name for name in PARAMETERS if (root / name).is_dir()), None)
        self.landmarks = next((root / name for name in LANDMARKS if (root / name).is_dir()), None)
        if self.parameters is None and self.landmarks is None:
            raise InputError(f"{root}: expected {' or '.join(PARAMETERS)} or {LANDMARKS[0]} in it, found none of them")
        self.head_model = None if self.parameters is None else read_head_model(root)

    @property
    def names(self) -> list[str]:
        """List the names without ending that have files, in the order people number them; hidden files are left out."""
        folder = self.parameters or self.landmarks
        assert folder is not None
        return files_by_name(folder)

    def files(self, names: Sequence[str]) -> list[Path]:
        """List the files of these pictures, whether they are there or not."""
        folders = [folder for folder in (self.parameters, self.landmarks) if folder is not None]
        return [folder / f"{name}.npy" for name in names for folder in folders]

    def check(self, names: Sequence[str]) -> None:
        """Read the files of all these pictures, to know before any work that they are there and whole.

        Raises:
            InputError: the first that is missing or damaged.
        """
        check_files(self.files(names))
        for name in names:
            self.at(name)

    def at(self, name: str) -> Tracking:
        """Read the files of one picture.

        Raises:
            InputError: a file is missing or damaged: a picture without its parameters would move differently unseen.
        """
        parameters = None
        if self.parameters is not None:
            parameters = replace(read_parameters(self.parameters / f"{name}.npy"), head_model=self.head_model)
        landmarks = None if self.landmarks is None else read_landmarks(self.landmarks / f"{name}.npy")
        return Tracking(parameters, landmarks)


def read_head_model(folder: Path) -> ModelIdentity:
    """Read whose parameters a folder holds: head_model.json; published folders have none, and are FLAME 2020's.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / HEAD_MODEL
    try:
        return ModelIdentity.from_dict(read_json(path), str(path))
    except FileNotFoundError:
        return PUBLISHED_MODEL
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{path}: expected the head model as JSON, it cannot be read ({reason}); make it again"
        ) from error


def beside(picture: Path) -> TrackedFolder | None:
    """Open the tracked folder of a picture that lies in a published clip folder; None for any other picture."""
    if picture.parent.name != PICTURES:
        return None
    root = picture.parent.parent
    has_files = any((root / name).is_dir() for name in (*PARAMETERS, *LANDMARKS))
    return TrackedFolder(root) if has_files else None


def files_by_name(folder: Path) -> list[str]:
    """List a folder's .npy files without ending, in the order people number them; hidden ones are left out."""
    files = [path for path in folder.glob("*.npy") if not path.name.startswith(".")]
    return [path.stem for path in sorted(files, key=as_people_count)]


def check_files(files: Sequence[Path]) -> None:
    """Check that files exist. Raises: `InputError` for the first that does not."""
    for path in files:
        if not path.exists():
            raise _missing(path)


def read_parameters(path: Path) -> HeadParameters:
    """Read a file of 437 numbers.

    Raises:
        InputError: missing, damaged, of another length, not finite, beyond what a head can be, or its camera is none.
    """
    values = torch.from_numpy(_read_array(path).reshape(-1))
    if len(values) != TOTAL:
        raise InputError(f"{path}: expected {TOTAL} numbers, got {len(values)}; make the parameters again")
    label, shape, expression, neck, jaw, eyes = values[None].split(list(LENGTHS.values()), dim=1)
    camera = camera_from_label(label)
    _check_camera(path, camera)
    for name, part, bound in (
        ("shape", shape, LARGEST_COEFFICIENT),
        ("expression", expression, LARGEST_COEFFICIENT),
        ("neck", neck, LARGEST_TURN),
        ("jaw", jaw, LARGEST_TURN),
        ("eyes", eyes, LARGEST_TURN),
    ):
        largest = part.abs().max().item()
        if largest > bound:
            raise InputError(
                f"{path}: expected {name} numbers within ±{bound:.4g}, got {largest:.4g}; make the parameters again"
            )
    return HeadParameters(camera, shape, expression, neck, jaw, eyes)


def _check_camera(path: Path, camera: Camera) -> None:
    pose, intrinsics = camera.world_from_camera[0], camera.intrinsics[0]
    rotation, position = pose[:3, :3], pose[:3, 3]
    if not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=ROTATION_TOLERANCE) or rotation.det() < 0:
        raise InputError(
            f"{path}: the camera's first three rows and columns are no rotation; make the parameters again"
        )
    if not torch.allclose(pose[3], torch.tensor([0.0, 0.0, 0.0, 1.0]), atol=ROTATION_TOLERANCE):
        raise InputError(f"{path}: expected the camera's last row to be 0 0 0 1, got {_row(pose[3])}; make it again")
    if position.abs().max() > LARGEST_POSITION:
        raise InputError(
            f"{path}: expected a camera within {LARGEST_POSITION:g} units of the head, got {_row(position)}; make the "
            "parameters again"
        )
    for focal in (intrinsics[0, 0].item(), intrinsics[1, 1].item()):
        if not 0 < focal <= LARGEST_FOCAL_LENGTH:
            raise InputError(
                f"{path}: expected a focal length in picture widths (4.757 as published), got {focal:g}; divide pixel "
                "intrinsics by the picture's width"
            )
    if intrinsics[:2, 2].abs().max() > LARGEST_CENTRE:
        raise InputError(
            f"{path}: expected the picture's centre in picture widths (0.5 0.5 as published), got "
            f"{_row(intrinsics[:2, 2])}; divide pixel intrinsics by the picture's width"
        )
    rest = torch.cat([intrinsics[1, :1], intrinsics[2]])
    if not torch.allclose(rest, torch.tensor([0.0, 0.0, 0.0, 1.0]), atol=ROTATION_TOLERANCE) or (
        intrinsics[0, 1].abs() > intrinsics[0, 0]
    ):
        raise InputError(
            f"{path}: expected intrinsics f 0 cx, 0 f cy, 0 0 1 row by row, got {_row(intrinsics.flatten())}; make the "
            "parameters again"
        )


def read_landmarks(path: Path) -> Tensor:
    """Read 68 landmarks, or WFLW's 98, as [1, 68, 2 or 3].

    Raises:
        InputError: missing, damaged, of another shape, not finite, far outside the picture, or no face.
    """
    values = _read_array(path)
    if values.ndim != 2 or values.shape[0] not in (68, 98) or values.shape[1] not in (2, 3):
        raise InputError(
            f"{path}: expected landmarks [68, 2] or [68, 3], got {list(values.shape)}; track the face again"
        )
    if len(values) == 98:
        values = values[OF_98]
    largest = float(np.abs(values).max())
    if largest > LARGEST_LANDMARK_PX:
        raise InputError(
            f"{path}: expected landmarks within ±{LARGEST_LANDMARK_PX:g} px, got {largest:.4g}; track the face again"
        )
    landmarks = torch.from_numpy(values)[None]
    anchors = anchors_of(landmarks)[0]
    if torch.cdist(anchors, anchors).max() < SMALLEST_FACE_PX:
        raise InputError(
            f"{path}: expected the landmarks of a face, the eyes and the mouth lie in one point; track the face again"
        )
    return landmarks


def _read_array(path: Path) -> np.ndarray:
    """Read a .npy file as finite float32; nothing is allocated for what its header only promises."""
    try:
        with opened(path) as file:
            whole = file.read(6) == b"\x93NUMPY"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.load(path, mmap_mode="r", allow_pickle=False) if whole else None
    except InputError:
        raise
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({reason_of(error)}); check the path and its rights") from error
    except ARRAY_DAMAGE as error:
        # What numpy says of a damaged header is advice that would run the file.
        raise _damaged(path) from error
    if not isinstance(values, np.ndarray):
        raise _damaged(path)
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected an array of numbers; make it again")
    if values.size > MOST_NUMBERS:
        raise InputError(f"{path}: expected the numbers of one picture, got {values.size:,} of them; make it again")
    with np.errstate(over="ignore"):
        values = np.array(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds numbers that are not finite; make it again")
    return values


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: no such file; every picture of a tracked folder needs one")


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: not a whole .npy file of numbers; make it again")


def _row(values: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.tolist())
