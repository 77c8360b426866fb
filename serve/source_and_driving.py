"""Opens the source picture and the driving clip, each with what is known of its faces.

Published per-picture files are used first, then landmarks in files; where there are neither, faces are found. Without a
face detector the middle square of a picture counts as aligned.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from triportrait.core import checksum
from triportrait.core.errors import InputError
from triportrait.core.faces.models import COMMAND
from triportrait.serve.faces.alignment import align
from triportrait.serve.faces.face import AlignedFace, Face, FaceProvider
from triportrait.serve.faces.landmark_files import RAW_LANDMARKS, KnownFaces, LandmarkFolder, known_beside
from triportrait.serve.faces.searching import LOOK_GAP_S, MOST_LOOKED_AT, first_face
from triportrait.serve.faces.tracker import FaceTracker, chosen, cut_out
from triportrait.serve.media.pictures.file_type import is_picture
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.pictures.picture_folder import left_out, sorted_folder
from triportrait.serve.media.video.clips import Clip, Frame, open_clip
from triportrait.serve.media.video.decoders import CPU_DECODES, Decoding
from triportrait.serve.tracked.fitted_frames import FittedFrames
from triportrait.serve.tracking_files import PICTURES, TrackedFolder, Tracking, beside

Known = TrackedFolder | KnownFaces


class Frames(Iterator[Frame], Protocol):
    """Frames that can be closed before their end."""

    def close(self) -> None: ...


Progress = Callable[[Frames, int], Frames]
FEW_FRAMES = 100  # of a clip with no more, each is looked at
MOST_SOURCE_FRAMES = 250  # of a video that is the portrait, in which a face is looked for

logger = logging.getLogger(__name__)


def known_of(picture: Path, folder: Path | None) -> Known | None:
    """Find the files that say where the face of a picture, or of a video's frames, is.

    Args:
        folder: where they are; None looks beside the picture.

    Raises:
        InputError: the folder is missing or holds none, or files beside a video are damaged.
    """
    if folder is None:
        return beside(picture) or known_beside(picture)
    return LandmarkFolder(folder) if (folder / RAW_LANDMARKS).is_dir() else TrackedFolder(folder)


@dataclass(frozen=True, eq=False)
class SourcePicture:
    """Holds the portrait and its face.

    Attributes:
        name: its file, or "source" where it came as pixels.
        image: uint8 [H, W, 3].
        tracking: what the published files say of an aligned picture.
        face: the face in a raw picture. Where there is neither, the middle square is taken.
        faces: how many were found; None where none was looked for.
    """

    name: Path | str
    image: np.ndarray
    tracking: Tracking | None = None
    face: Face | None = None
    faces: int | None = None

    def sha256(self) -> str:
        """Compute the SHA-256 by which a manifest names the portrait: of its file, or of its pixels without one."""
        if isinstance(self.name, Path):
            return checksum.sha256(self.name)
        return hashlib.sha256(np.ascontiguousarray(self.image).tobytes()).hexdigest()

    def aligned(self, size_px: int, flame: bool) -> AlignedFace:
        """Cut out the face; `size_px` and `flame` are those of `FaceTracker`."""
        if self.face is None:
            return AlignedFace.middle(self.image, size_px, self.tracking)
        placed = align(self.face.alignment)
        assert placed is not None, "faces without a place are not taken"
        return cut_out(self.image, self.face, placed, size_px, flame=flame)


def check_finds_faces(name: Path | str, option: str, number: int | None) -> None:
    """Refuse the number of a face where nothing finds faces. Raises: `InputError`."""
    if number is not None:
        raise InputError(
            f"{name}: expected a number of a face only where faces are found, got {option} {number} and nothing that "
            f"finds them; run `{COMMAND}` once, or leave {option} out"
        )


def find_face(
    name: Path | str, image: np.ndarray, provider: FaceProvider | None, number: int | None, required: bool
) -> SourcePicture:  # fmt: skip
    """Find the face of a portrait that no file tells.

    Args:
        name, image: as in `SourcePicture`.
        provider: what finds faces; None takes the middle square.
        number: which face, counted from the left; the largest by default.
        required: refuse a picture without a face.

    Raises:
        InputError: the picture has no face, or not as many; or a number is given and nothing finds faces.
    """
    if provider is None:
        check_finds_faces(name, "--face", number)
        return SourcePicture(name, image)
    faces = [face for face in provider.find(image) if _lies_in(face, image)]
    face = chosen(faces, number)
    if face is None and (required or faces):
        raise InputError(_too_few_faces(name, len(faces), number))
    return SourcePicture(name, image, face=face, faces=len(faces))


@dataclass(frozen=True)
class SourceFile:
    """Names the file of a portrait, and those that tell where its face is."""

    path: Path
    known: Known | None

    @property
    def files(self) -> list[Path]:
        """List every file that is read."""
        return [self.path, *([] if self.known is None else self.known.files(self._names()))]

    def _names(self) -> list[str]:
        if isinstance(self.known, TrackedFolder | LandmarkFolder):
            return [self.path.stem]
        return [] if self.known is None else self.known.names[:1]

    def read(
        self, finder: Callable[[], FaceProvider | None], number: int | None = None, required: bool = False
    ) -> SourcePicture:
        """Read the picture and find its face.

        Args:
            finder: gives what finds faces; called only where no file tells.
            number, required: as in `find_face`.

        Raises:
            InputError: the picture or its files are damaged; it has no face, or not as many.
        """
        video = None
        if is_picture(self.path) or not self.path.exists():
            image = read_picture(self.path, lambda words: logger.info("source: %s: %s", self.path, words))
        else:
            video = open_clip(self.path)
            with closing(video.frames(1)) as frames:
                image = next(frames).image
            if self.known is not None:
                logger.info("source: the first frame of %s", self.path)
        if isinstance(self.known, TrackedFolder):
            return SourcePicture(self.path, image, self.known.at(self.path.stem))
        if self.known is not None:
            face = self.known.face(self._names()[0])
            if not _lies_in(face, image):
                size = f"{image.shape[1]} x {image.shape[0]}"
                raise InputError(f"{self.path}: expected landmarks of this picture, they do not lie in its {size} px; "
                                 "track the face again")  # fmt: skip
            return SourcePicture(self.path, image, face=face)
        provider = finder()
        if video is not None:
            image = self._frame(video, image, provider, number)
        return find_face(self.path, image, provider, number, required)

    def _frame(
        self, video: Clip, first: np.ndarray, provider: FaceProvider | None, number: int | None
    ) -> np.ndarray:  # fmt: skip
        """Choose the frame of a video that is the portrait: the first with face `number`, else with any face."""
        for least_faces in () if provider is None else dict.fromkeys((number or 1, 1)):
            assert provider is not None
            with closing(video.frames()) as frames:
                looked = first_face(frames, provider, least_faces, most=MOST_SOURCE_FRAMES)
            if looked.frame is not None and looked.frame.index:
                shows = "a face" if least_faces == 1 else f"{least_faces} faces"
                logger.info(
                    "source: frame %d of %s, at %.2f s: the first that shows %s",
                    looked.frame.index + 1, self.path, looked.frame.time_s, shows,
                )  # fmt: skip
                return looked.frame.image
            if looked.frame is not None:
                break
        logger.info("source: the first frame of %s", self.path)
        return first


def _lies_in(face: Face, image: np.ndarray) -> bool:
    placed = align(face.alignment)
    return placed is not None and placed.fits(image)


def _too_few_faces(path: Path | str, count: int, number: int | None) -> str:
    if not count:
        return f"{path}: expected a face, found none; give another picture, or --faces none if it is aligned already"
    return f"--face: expected 1 to {count}, counted from the left, got {number}; {path} shows no more faces"


def find_source(path: Path, folder: Path | None) -> SourceFile:
    """Find the portrait: a picture, the first of a folder, or a video.

    Args:
        folder: holds the files of its face, see `known_of`.

    Raises:
        InputError: the folder holds no such files, or there is no picture.
    """
    if path.is_dir():
        pictures, others = sorted_folder(path / PICTURES if (path / PICTURES).is_dir() else path)
        path = pictures[0]
        logger.info("source: %s, the first picture of the folder", path)
        if others:
            logger.info("source: %s", left_out(path.parent, others))
    return SourceFile(path, known_of(path, folder))


@dataclass(eq=False)
class DrivingFrames:
    """Holds the driving clip and what is known of the faces in it.

    Attributes:
        name: what sentences call it.
        clip: its frames.
        known, names: the files that tell where its faces are; those of frame i are called `names[i]`.
        fitted: what following the face through the clip told, where that was done; it comes before the files.
    """

    name: Path | str
    clip: Clip
    known: Known | None = None
    names: Sequence[str] = ()
    fitted: FittedFrames | None = None
    _num_reported: int = 0

    @classmethod
    def open(
        cls, path: Path, folder: Path | None, limit: int | None, decoding: Decoding = CPU_DECODES
    ) -> DrivingFrames:
        """Open a video, a folder of pictures or a picture, and read the files of its faces.

        Args:
            folder: where those are; None looks beside the clip.
            limit: how many frames are asked for; None: all.
            decoding: what decodes a video.

        Raises:
            InputError: something is missing, damaged or too few.
        """
        clip = open_clip(path / PICTURES if (path / PICTURES).is_dir() else path, decoding)
        return cls.of(path, clip, known_of(clip.files[0], folder), limit)

    @classmethod
    def of(cls, name: Path | str, clip: Clip, known: Known | None, limit: int | None) -> DrivingFrames:
        """Join a clip and the files of its faces, which are checked.

        Raises:
            InputError: one is damaged, or they are too few for the frames that are asked for.
        """
        if known is None:
            return cls(name, clip)
        if clip.is_pictures:
            names: Sequence[str] = [picture.stem for picture in clip.files]
        else:
            names = known.names
            least = max(1, clip.least_count)
            if len(names) < (least if limit is None else min(least, limit)):
                raise _too_few(known, len(names), clip)
        # This takes seconds, and saves minutes of work where one file in the middle is damaged.
        known.check(names[:limit][: clip.frame_count])
        return cls(name, clip, known, names)

    @property
    def files(self) -> list[Path]:
        """List every file that is read."""
        return [*self.clip.files, *([] if self.known is None else self.known.files(self.names))]

    @property
    def needs_finder(self) -> bool:
        """Tell whether faces have to be found, as nothing says where they are."""
        return self.known is None and self.fitted is None

    @property
    def tracked(self) -> TrackedFolder | None:
        """Return the published files, beside which frames count as aligned; None where there are none."""
        return self.known if isinstance(self.known, TrackedFolder) else None

    def new_warnings(self) -> list[str]:
        """Return the clip's warnings since the last call."""
        warnings = self.clip.warnings[self._num_reported :]
        self._num_reported = len(self.clip.warnings)
        return warnings

    def look(
        self, provider: FaceProvider, limit: int | None, required: bool,
        progress: Progress = lambda frames, total: frames,
    ) -> None:  # fmt: skip
        """See whether the clip shows a face, before any work; of a long one only the beginning is looked through.

        Args:
            limit: how many frames are asked for; None: all.
            required: refuse a clip without a face; else a warning says so.
            progress: wraps the frames, whose number is at most `total`, in a bar.

        Raises:
            InputError: a face is required, the whole clip was looked through, and no frame shows one.
        """
        total = min(self.clip.frame_count or MOST_LOOKED_AT, limit or MOST_LOOKED_AT, MOST_LOOKED_AT)
        few = total <= FEW_FRAMES
        with closing(self.clip.frames(limit)) as frames, closing(progress(frames, total)) as shown:
            looked = first_face(shown, provider, gap_s=0.0 if few else LOOK_GAP_S)
        if looked.frame is not None:
            return
        name, none = self.clip.path, "expected a face that drives, found none"
        if not looked.whole:
            logger.warning(
                "%s: none of its first %d frames shows a face; until one comes the portrait keeps its own expression",
                name, looked.count,
            )  # fmt: skip
        elif required:
            raise InputError(
                f"{name}: {none} in {_frames(looked.count)}; give another, or --faces none if it is aligned already"
            )
        else:
            logger.warning(
                "%s: %s in %s; the portrait will keep its own expression: give another, or --faces none if it is "
                "aligned already", name, none, _frames(looked.count),
            )  # fmt: skip

    def face(self, frame: Frame, tracker: FaceTracker) -> AlignedFace:
        """Return the face in a frame; the tracker follows it where no published file tells.

        Raises:
            InputError: its files are missing or damaged.
        """
        if self.fitted is not None:
            return self.fitted.face(frame, tracker)
        if self.known is not None and frame.index >= len(self.names):
            raise _too_few(self.known, len(self.names), self.clip)
        if isinstance(self.known, TrackedFolder):
            return AlignedFace.middle(frame.image, tracker.size_px, self.known.at(self.names[frame.index]))
        if self.known is not None:
            return tracker.follow(frame.image, frame.time_s, [self.known.face(self.names[frame.index])])
        if tracker.provider is None:
            return AlignedFace.middle(frame.image, tracker.size_px)
        return tracker.follow(frame.image, frame.time_s)


def _frames(count: int) -> str:
    return f"{count} frames" if count != 1 else "its one frame"


def _too_few(known: Known, count: int, clip: Clip) -> InputError:
    if not count:
        return InputError(
            f"{known.root}: holds files for no frame of {clip.path}; track its face or name another folder"
        )
    return InputError(
        f"{known.root}: holds files for {count} frames, {clip.path} has more; track the rest or pass --frames {count}"
    )
