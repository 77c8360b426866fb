"""Make stored pictures of raw ones: find the face, align, fit the head model, cut the person out, and judge.

Everything here happens to a few pictures at a time, in a process of its own if there are several; what comes out does
not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.faces.models import load_model
from triportrait.core.faces.segmentation import PersonSegmentation
from triportrait.core.motion.encoder import MotionEncoder, encoder_fingerprint
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.motion.motion_crop import ALIGNED_SIZE, motion_crop
from triportrait.core.tracking.clip_fit import fit_stills
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.core.tracking.network_landmarks import for_networks, weights_for_networks
from triportrait.core.tracking.records import RECORD_WIDTH, columns_of
from triportrait.serve.faces.alignment import Alignment, align
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.faces.landmark_files import RAW_LANDMARKS, LandmarkFolder, aligned_face
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.train.data.films.judging import face_of
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.picture_encoder import load_picture_encoder
from triportrait.train.data.picture_quality import blur
from triportrait.train.data.picture_store.layout import ENDINGS, check_picture
from triportrait.train.data.picture_store.listing import ALIGNED
from triportrait.train.data.picture_store.writing import Dropped, StoredPicture, encoded_picture

AT_A_TIME = 16  # pictures that are fitted together
ALIGNED_LANDMARKS = "3dldmks_align"  # beside `ALIGNED`: pixels of the 512² picture
SMALLEST_SIZE, LARGEST_SIZE = 64, 2048
UNREADABLE, NO_FACE, TOO_SMALL, OTHERS = "unreadable", "no face", "too small", "two people"
CUT_OFF, BLURRED, TURNED, OCCLUDED, MISFIT = "cut off", "blurred", "turned away", "occluded", "bad fit"
MOST_OUTSIDE = 0.15  # share of the landmarks that may lie beyond the picture


@dataclass(frozen=True)
class Wanted:
    """Says how pictures are taken, and which are dropped.

    Attributes:
        size: S, side of an aligned picture, px.
        format: of the stored pictures: png is without loss, jpeg and webp have quality 95.
        face: which face, counted from the left; None: the largest.
        head_model: what is fitted, as `load_head_model` takes it.
        motion: folder of the motion encoder; None: no motion is stored.
        most_enlarged: how much larger than in the raw picture a face may come out, by its side.
        other_face: share of the face's size from which on another one in the square makes two people.
        most_blur: of `blur`, 0 to 1, of the square at 512 px whatever `size` is.
        most_turned_deg: between where the head looks and where the camera is.
        most_hidden: share of the face that the segmentation takes for something else than a person.
        most_error_px: of the fit, px at 512.
    """

    size: int = 512
    format: str = "png"
    face: int | None = None
    head_model: str = "open-head"
    motion: str | None = None
    most_enlarged: float = FilmOptions.most_enlarged
    other_face: float = FilmOptions.other_face
    most_blur: float = FilmOptions.most_blur
    most_turned_deg: float = FilmOptions.most_turned_deg
    most_hidden: float = FilmOptions.most_hidden
    most_error_px: float = FilmOptions.most_error_px

    def check(self) -> None:
        """Check every number before any work. Raises: `InputError` for one out of range."""
        for name, least, most in (
            ("size", SMALLEST_SIZE, LARGEST_SIZE), ("most_enlarged", 0.1, 100), ("other_face", 0.1, 10),
            ("most_blur", 0, 1), ("most_turned_deg", 1, 180), ("most_hidden", 0, 1), ("most_error_px", 0, 1e4),
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value <= most:
                option = name.replace("_", "-")
                raise InputError(f"{option}: expected {least:g} to {most:g}, got {value:g}; choose another")
        if self.face is not None and self.face < 1:
            raise InputError(f"face: expected 1 or more, counted from the left, got {self.face}; choose another")
        if self.format not in ENDINGS:
            raise InputError(f"format: expected one of {', '.join(ENDINGS)}, got {self.format!r}; choose one")

    def settings(self) -> dict[str, Any]:
        """Return what a store is told of this: plain JSON values, with the identity of the head model.

        Raises: `InputError` where the head model or the motion encoder cannot be loaded.
        """
        names = (
            "size", "format", "face", "most_enlarged", "other_face", "most_blur", "most_turned_deg",
            "most_hidden", "most_error_px",
        )  # fmt: skip
        said = {name: getattr(self, name) for name in names}
        said |= {"head_model": _head_model(self.head_model).identity.to_dict(), "motion_encoder": None}
        if self.motion is not None:
            encoder = _encoder(self.motion)
            said["motion_encoder"] = encoder.name
            said["motion"] = {"width": encoder.motion_width, "fingerprint": encoder_fingerprint(encoder)}
        return said


@dataclass(frozen=True)
class Batch:
    """A few pictures that follow each other in the list.

    Attributes:
        root: the folder that was listed.
        paths: relative to it. first: the number of the first in the list.
    """

    root: Path
    paths: tuple[str, ...]
    first: int
    wanted: Wanted


@dataclass(frozen=True)
class _Seen:
    """A picture with a face that is to be fitted."""

    number: int
    source: str
    crop: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    by_networks: bool


def take(batch: Batch) -> list[StoredPicture | Dropped]:
    """Make stored pictures of raw ones, each in its place or dropped with a reason."""
    looked = [_look(batch, k) for k in range(len(batch.paths))]
    seen = [one for one in looked if isinstance(one, _Seen)]
    judged = iter(_fitted(seen, batch.wanted) if seen else ())
    return [next(judged) if isinstance(one, _Seen) else one for one in looked]


def _look(batch: Batch, k: int) -> _Seen | Dropped:
    source, wanted = batch.paths[k], batch.wanted
    path = batch.root / source
    try:
        image = read_picture(path)
        face, others = _face(path, image, wanted)
    except InputError as error:
        return Dropped(source, UNREADABLE, str(error).removeprefix(f"{path}: "))
    if isinstance(face, str):
        return Dropped(source, NO_FACE, face)
    placed = align(face.alignment)
    if placed is None or not placed.fits(image):
        return Dropped(source, NO_FACE, "its points are those of no face")
    if (enlarged := wanted.size / placed.side) > wanted.most_enlarged:
        said = f"its square has {placed.side:.0f} px, {wanted.size} are {enlarged:.1f} times of it"
        return Dropped(source, TOO_SMALL, f"{said}, more than {wanted.most_enlarged:g}")
    if (outside := _share_outside(face, image)) > MOST_OUTSIDE:
        return Dropped(source, CUT_OFF, f"{outside:.0%} of the face lies beyond the picture")
    largest = max((other.size_px for other in others if _inside(placed, other)), default=0.0) / face.size_px
    if largest > wanted.other_face:
        return Dropped(source, OTHERS, f"another face has {largest:.0%} of its size")
    crop = placed.crop(image, wanted.size)
    at_512 = crop if wanted.size == ALIGNED_SIZE else placed.crop(image, ALIGNED_SIZE)
    if (blurred := blur(at_512)) > wanted.most_blur:
        return Dropped(source, BLURRED, f"{blurred:.2f} of {wanted.most_blur:g}")
    return _Seen(batch.first + k, source, crop, *fit_points(face, placed), by_networks=face.mesh is not None)


def _face(path: Path, image: np.ndarray, wanted: Wanted) -> tuple[Face | str, list[Face]]:
    """Return the face that is wanted, or why there is none, and the other faces; a file's where one is beside it."""
    known = _known(path, image)
    if known is not None:
        return known, []
    faces = _provider().find(image)
    if not faces:
        return "none was found", []
    if wanted.face is not None:
        faces = sorted(faces, key=lambda face: float(face.centre[0]))
        if wanted.face > len(faces):
            return f"face {wanted.face} of {len(faces)}", []
    chosen = faces[0 if wanted.face is None else wanted.face - 1]
    return chosen, [face for face in faces if face is not chosen]


def _known(path: Path, image: np.ndarray) -> Face | None:
    """Read the landmarks beside a picture. Raises: `InputError` for a damaged file."""
    if (path.parent / RAW_LANDMARKS / f"{path.stem}.npy").exists():
        return LandmarkFolder(path.parent).face(path.stem)
    aligned = path.parent.parent / ALIGNED_LANDMARKS / f"{path.stem}.npy"
    if path.parent.name != ALIGNED or not aligned.exists():
        return None
    return aligned_face(aligned, image.shape[1])


def _inside(placed: Alignment, face: Face) -> bool:
    x, y = face.centre
    return bool(0 <= x - placed.left <= placed.side and 0 <= y - placed.top <= placed.side)


def _share_outside(face: Face, image: np.ndarray) -> float:
    x, y = face.points[:, :2].T
    inside = (x >= -0.5) & (y >= -0.5) & (x <= image.shape[1] - 0.5) & (y <= image.shape[0] - 0.5)
    return 1 - float(inside.mean())


@torch.inference_mode()
def _fitted(seen: Sequence[_Seen], wanted: Wanted) -> list[StoredPicture | Dropped]:
    points = torch.from_numpy(np.stack([one.points for one in seen]))
    records, errors = _fit(_head_model(wanted.head_model), seen)  # [N, 437], [N]
    parts = columns_of(records)
    turns = rotation_matrices(parts["neck"].double())[:, 2, 2].clamp(-1, 1).acos().rad2deg()
    images = torch.from_numpy(np.stack([one.crop for one in seen])).permute(0, 3, 1, 2)  # [N, 3, S, S]
    masks = _segmentation()(images)[:, 0] > 0.5
    columns = {
        "camera": parts["camera"],
        "shape": parts["shape"],
        "expression": parts["expression"],
        "pose": torch.cat([parts["neck"], parts["jaw"]], 1),
        "eyes": parts["eyes"],
        "error_px": errors.float(),
    }
    if wanted.motion is not None:
        encoder = _encoder(wanted.motion)
        assert encoder.crop_size is not None, "it reads pictures"
        crops = motion_crop(images.float() / 127.5 - 1, points[:, :68].float(), encoder.crop_size)
        columns["motion"] = encoder(crops)
    result: list[StoredPicture | Dropped] = []
    for k, one in enumerate(seen):
        numbers = {name: column[k].numpy() for name, column in columns.items()}
        mask = masks[k].numpy()
        hidden = 1 - float(mask[face].mean()) if (face := face_of(one.points[:68], wanted.size)).any() else 0.0
        wrong = _judged(numbers, float(turns[k]), hidden, wanted)
        if wrong is not None:
            result.append(Dropped(one.source, *wrong))
            continue
        image, seg = encoded_picture(one.crop, wanted.format), encoded_picture(mask.astype(np.uint8) * 255, "png")
        result.append(StoredPicture(one.number, one.source, image, seg, wanted.format, numbers))
    return result


def _judged(
    numbers: Mapping[str, np.ndarray], turn_deg: float, hidden: float, wanted: Wanted
) -> tuple[str, str] | None:
    """Return why a fitted picture is dropped, None where it is not."""
    if not np.isfinite(numbers["error_px"]):
        return MISFIT, "the fit found no numbers"
    try:
        check_picture(numbers)
    except ValueError as fault:
        return MISFIT, str(fault)
    if turn_deg > wanted.most_turned_deg:
        return TURNED, f"{turn_deg:.0f} degrees of {wanted.most_turned_deg:g}"
    if hidden > wanted.most_hidden:
        return OCCLUDED, f"{hidden:.0%} of the face is no person"
    if (error := float(numbers["error_px"])) > wanted.most_error_px:
        return MISFIT, f"{error:.1f} px of {wanted.most_error_px:g}"
    return None


def _fit(model: HeadModel, seen: Sequence[_Seen]) -> tuple[Tensor, Tensor]:
    """Fit pictures of N people: records [N, 437], and the landmarks' error [N], px.

    The networks put some landmarks elsewhere than other trackers; the head model knows where.
    """
    records, errors = torch.empty(len(seen), RECORD_WIDTH), torch.empty(len(seen), dtype=torch.float64)
    for by_networks in (True, False):
        rows = [k for k, one in enumerate(seen) if one.by_networks is by_networks]
        if rows:
            points, weights = (
                torch.from_numpy(np.stack([getattr(seen[k], name) for k in rows])) for name in ("points", "weights")
            )
            if by_networks:
                weights = weights_for_networks(model, weights)
            fit = fit_stills(for_networks(model) if by_networks else model, points, weights)
            records[rows], errors[rows] = fit.records, fit.error_px
    return records, errors


@lru_cache(maxsize=1)
def _provider() -> NetworkFaces:
    return NetworkFaces()


@lru_cache(maxsize=1)
def _segmentation() -> PersonSegmentation:
    return PersonSegmentation(load_model("segmentation")).eval()


@lru_cache(maxsize=1)
def _head_model(name: str) -> HeadModel:
    return load_head_model(name)


@lru_cache(maxsize=1)
def _encoder(folder: str) -> MotionEncoder:
    return load_picture_encoder(folder)
