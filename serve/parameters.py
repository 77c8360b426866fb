"""The published per-picture files: camera, shape, expression and pose as 437 numbers, and 68 landmarks.

clip/align_images/00001.png              the aligned picture
clip/3dldmks_align/00001.npy             [68, 2 or 3] landmarks, pixels of the aligned 512² picture, y down
clip/flame_optim_params/00001.npy        [437] camera 25, shape 300, expression 100, neck 3, jaw 3, eyes 6
clip/bfm2flame_params_simplified/...     the same, from the quick estimate; used where the first is missing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.types import Camera

PICTURES, LANDMARKS = "align_images", "3dldmks_align"
PARAMETERS = ("flame_optim_params", "bfm2flame_params_simplified")
LENGTHS = {"camera": 25, "shape": 300, "expression": 100, "neck": 3, "jaw": 3, "eyes": 6}
TOTAL = sum(LENGTHS.values())
ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class HeadParameters:
    """FLAME parameters and camera of one picture.

    Attributes:
        camera: one camera, the head's full pose in it.
        shape: [1, 300]. expression: [1, 100]. neck, jaw: [1, 3] rotation vectors, radians. eyes: [1, 6].
    """

    camera: Camera
    shape: Tensor
    expression: Tensor
    neck: Tensor
    jaw: Tensor
    eyes: Tensor


@dataclass(frozen=True)
class Tracking:
    """What is known of the face in one picture: either may be missing."""

    parameters: HeadParameters | None = None
    landmarks: Tensor | None = None  # [1, 68, 2 or 3]


class TrackedFolder:
    """The per-picture files beside a folder of aligned pictures, found by name or by order."""

    def __init__(self, root: Path) -> None:
        """Look at what is there.

        Raises:
            InputError: the folder is missing, or holds neither parameters nor landmarks.
        """
        self.root = root
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder that holds {PARAMETERS[0]}/ and {LANDMARKS}/")
        self.parameters = next((root / name for name in PARAMETERS if (root / name).is_dir()), None)
        self.landmarks = root / LANDMARKS if (root / LANDMARKS).is_dir() else None
        if self.parameters is None and self.landmarks is None:
            raise InputError(f"{root}: expected {' or '.join(PARAMETERS)} or {LANDMARKS} in it, found none of them")

    @property
    def names(self) -> list[str]:
        """The names without ending that have files, in order."""
        folder = self.parameters or self.landmarks
        assert folder is not None
        return sorted(path.stem for path in folder.glob("*.npy"))

    def at(self, name: str) -> Tracking:
        """The files of one picture.

        Raises:
            InputError: a file is missing or damaged: a picture without its parameters would move differently unseen.
        """
        parameters = None if self.parameters is None else read_parameters(self.parameters / f"{name}.npy")
        landmarks = None if self.landmarks is None else read_landmarks(self.landmarks / f"{name}.npy")
        return Tracking(parameters, landmarks)


def beside(picture: Path) -> TrackedFolder | None:
    """The tracked folder of a picture that lies in a published clip folder, else None."""
    if picture.parent.name != PICTURES:
        return None
    root = picture.parent.parent
    known = any((root / name).is_dir() for name in (*PARAMETERS, LANDMARKS))
    return TrackedFolder(root) if known else None


def read_parameters(path: Path) -> HeadParameters:
    """Read a file of 437 numbers.

    Raises:
        InputError: missing, damaged, of another length, not finite, or its camera is not a rotation.
    """
    values = torch.from_numpy(_read_array(path).astype(np.float32).reshape(-1))
    if len(values) != TOTAL:
        raise InputError(f"{path}: expected {TOTAL} numbers, got {len(values)}; make the parameters again")
    label, shape, expression, neck, jaw, eyes = values[None].split(list(LENGTHS.values()), dim=1)
    camera = camera_from_label(label)
    rotation = camera.world_from_camera[0, :3, :3]
    if not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=ROTATION_TOLERANCE) or rotation.det() < 0:
        raise InputError(
            f"{path}: the camera's first three rows and columns are no rotation; make the parameters again"
        )
    if camera.intrinsics[0, 0, 0] <= 0 or camera.intrinsics[0, 0, 0] > 50:
        raise InputError(
            f"{path}: expected a focal length in picture widths (4.757 as published), got "
            f"{camera.intrinsics[0, 0, 0]:g}; divide pixel intrinsics by the picture's width"
        )
    return HeadParameters(camera, shape, expression, neck, jaw, eyes)


def read_landmarks(path: Path) -> Tensor:
    """Read 68 landmarks as [1, 68, 2 or 3].

    Raises:
        InputError: missing, damaged, of another shape, or not finite.
    """
    values = _read_array(path)
    if values.ndim != 2 or values.shape[0] != 68 or values.shape[1] not in (2, 3):
        raise InputError(
            f"{path}: expected landmarks [68, 2] or [68, 3], got {list(values.shape)}; track the face again"
        )
    return torch.from_numpy(values.astype(np.float32))[None]


def _read_array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; every picture of a tracked folder needs one") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a whole .npy file ({error}); make it again") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected an array of numbers; make it again")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds numbers that are not finite; make it again")
    return values
