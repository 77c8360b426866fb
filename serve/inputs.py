"""What a job is given: the source picture and the driving frames, each with what is known of its face.

Published per-picture files win, then landmarks in files; where neither is, faces are found. Without a finder the middle
square of a picture counts as aligned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from triportrait.core.errors import InputError
from triportrait.serve.faces.alignment import align, middle_square
from triportrait.serve.faces.face import Face, FaceProvider
from triportrait.serve.faces.landmark_files import RAW_LANDMARKS, KnownFaces, LandmarkFolder, known_beside
from triportrait.serve.faces.searching import LOOK_GAP_S, MOST_LOOKED_AT, first_face
from triportrait.serve.faces.tracker import FaceTracker, Followed, chosen, cut_out
from triportrait.serve.media.clips import Clip, Frame, open_clip
from triportrait.serve.media.contents import is_picture
from triportrait.serve.media.pictures import left_out, read_picture, sorted_folder
from triportrait.serve.parameters import PICTURES, TrackedFolder, Tracking, beside

Known = TrackedFolder | KnownFaces
FEW_FRAMES = 100  # of which each is looked at
MOST_SOURCE_FRAMES = 250  # of a film that is the portrait, in which a face is looked for


def known_of(picture: Path, folder: Path | None) -> Known | None:
    """The files that say where the face of a picture, or of a video's frames, is.

    Args:
        folder: where they are; None looks beside the picture.

    Raises:
        InputError: the folder is missing or holds none, or files beside a video are damaged.
    """
    if folder is None:
        return beside(picture) or known_beside(picture)
    return LandmarkFolder(folder) if (folder / RAW_LANDMARKS).is_dir() else TrackedFolder(folder)


def aligned(image: np.ndarray, tracking: Tracking, size_px: int) -> Followed:
    """A picture that counts as aligned: its middle square."""
    square = middle_square(image)
    return Followed(square.crop(image, size_px), tracking, True, square)


@dataclass(frozen=True, eq=False)
class SourcePicture:
    """The portrait.

    Attributes:
        path: its file. image: uint8 [H, W, 3].
        tracking: of the published files, for a picture that is aligned.
        face: in a raw picture. Neither: the middle square is taken.
        faces: how many were found; None where none was looked for.
    """

    path: Path
    image: np.ndarray
    tracking: Tracking | None = None
    face: Face | None = None
    faces: int | None = None

    def cut(self, size_px: int, flame: bool) -> Followed:
        """Its aligned crop; arguments as of `FaceTracker`."""
        if self.face is None:
            return aligned(self.image, self.tracking or Tracking(), size_px)
        placed = align(self.face.alignment)
        assert placed is not None, "faces without a place are not taken"
        return cut_out(self.image, self.face, placed, size_px, flame=flame)


@dataclass(frozen=True)
class SourceFile:
    """Where the portrait is, and the files that are known of it."""

    path: Path
    known: Known | None

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [self.path, *([] if self.known is None else self.known.files(self._names()))]

    def _names(self) -> list[str]:
        if isinstance(self.known, TrackedFolder | LandmarkFolder):
            return [self.path.stem]
        return [] if self.known is None else self.known.names[:1]

    def read(
        self, finder: Callable[[], FaceProvider | None], number: int | None, must: bool, say: Callable[[str], None]
    ) -> SourcePicture:
        """The picture and its face.

        Args:
            finder: gives who finds faces; asked only where no file knows.
            number: which face, counted from the left; the largest by default.
            must: a picture without a face is refused.

        Raises:
            InputError: the picture or its files are damaged; it has no face, or not as many.
        """
        film = None
        if is_picture(self.path) or not self.path.exists():
            image = read_picture(self.path, lambda word: say(f"source: {self.path}: {word}"))
        else:
            film = open_clip(self.path)
            with closing(film.frames(1)) as frames:
                image = next(frames).image
        if film is not None and self.known is not None:
            say(f"source: the first frame of {self.path}")
        if isinstance(self.known, TrackedFolder):
            return SourcePicture(self.path, image, self.known.at(self.path.stem))
        if self.known is not None:
            known = self.known.face(self._names()[0])
            if not _lies_in(known, image):
                size = f"{image.shape[1]} x {image.shape[0]}"
                raise InputError(f"{self.path}: expected landmarks of this picture, they do not lie in its {size} px; "
                                 "track the face again")  # fmt: skip
            return SourcePicture(self.path, image, face=known)
        provider = finder()
        if film is not None:
            image = self._frame(film, image, provider, number, say)
        if provider is None:
            return SourcePicture(self.path, image)
        found = [face for face in provider.find(image) if _lies_in(face, image)]
        face = chosen(found, number)
        if face is None and (must or found):
            raise InputError(_too_few_faces(self.path, len(found), number))
        return SourcePicture(self.path, image, face=face, faces=len(found))

    def _frame(
        self, film: Clip, first: np.ndarray, provider: FaceProvider | None, number: int | None,
        say: Callable[[str], None],
    ) -> np.ndarray:  # fmt: skip
        """The frame of a film that is the portrait: the first with as many faces as are asked for, else with one."""
        for wanted in () if provider is None else dict.fromkeys((number or 1, 1)):
            assert provider is not None
            with closing(film.frames()) as frames:
                looked = first_face(frames, provider, wanted, most=MOST_SOURCE_FRAMES)
            if looked.frame is not None and looked.frame.index:
                shows = "a face" if wanted == 1 else f"{wanted} faces"
                say(
                    f"source: frame {looked.frame.index + 1} of {self.path}, at {looked.frame.time_s:.2f} s: the first "
                    f"that shows {shows}"
                )
                return looked.frame.image
            if looked.frame is not None:
                break
        say(f"source: the first frame of {self.path}")
        return first


def _lies_in(face: Face, image: np.ndarray) -> bool:
    placed = align(face.alignment)
    return placed is not None and placed.fits(image)


def _too_few_faces(path: Path, count: int, number: int | None) -> str:
    if not count:
        return f"{path}: expected a face, found none; give another picture, or --faces none if it is aligned already"
    return f"--face: expected 1 to {count}, counted from the left, got {number}; {path} shows no more faces"


def find_source(path: Path, folder: Path | None, say: Callable[[str], None]) -> SourceFile:
    """The portrait: a picture, the first of a folder, or a video.

    Raises:
        InputError: as of `known_of`, or the folder holds no picture.
    """
    if path.is_dir():
        pictures, others = sorted_folder(path / PICTURES if (path / PICTURES).is_dir() else path)
        path = pictures[0]
        say(f"source: {path}, the first picture of the folder")
        if others:
            say(f"source: {left_out(path.parent, others)}")
    return SourceFile(path, known_of(path, folder))


@dataclass(frozen=True)
class DrivingFrames:
    """The driving clip and what is known of the faces in it: `names[i]` are the files of frame i in `known`."""

    clip: Clip
    known: Known | None
    names: Sequence[str]

    @classmethod
    def open(cls, path: Path, folder: Path | None, limit: int | None) -> DrivingFrames:
        """Open a video, a folder of pictures or a picture, and read the files of its faces.

        Args:
            folder: where those are; None looks beside the clip.
            limit: only so many frames are asked for.

        Raises:
            InputError: something is missing, damaged or too few.
        """
        if path.is_dir() and (path / PICTURES).is_dir():
            path = path / PICTURES
        clip = open_clip(path)
        known = known_of(clip.files[0], folder)
        if known is None:
            return cls(clip, None, [])
        if clip.is_pictures:
            names: Sequence[str] = [picture.stem for picture in clip.files]
        else:
            names = known.names
            least = max(1, clip.least_count)
            if len(names) < (least if limit is None else min(least, limit)):
                raise _too_few(known, len(names), clip)
        # Seconds at most, before minutes of work that one damaged file in the middle would lose.
        known.check(names[:limit][: clip.frame_count])
        return cls(clip, known, names)

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.clip.files, *([] if self.known is None else self.known.files(self.names))]

    @property
    def tracked(self) -> TrackedFolder | None:
        """The published files, which count the frames as aligned."""
        return self.known if isinstance(self.known, TrackedFolder) else None

    def look(self, provider: FaceProvider, limit: int | None, must: bool, say: Callable[[str], None]) -> None:
        """See whether the clip shows a face, before any work; a long one is looked through in its beginning alone.

        Args:
            limit: only so many frames are asked for.
            must: a clip without a face is refused, else it is said.

        Raises:
            InputError: no frame shows a face, or none that is short enough to be looked through shows one.
        """
        total = min(self.clip.frame_count or MOST_LOOKED_AT, limit or MOST_LOOKED_AT, MOST_LOOKED_AT)
        few = total <= FEW_FRAMES
        with (
            closing(self.clip.frames(limit)) as frames,
            tqdm(frames, total=total, unit="frame", desc="look for a face", file=sys.stderr, disable=None, delay=2.0,
                 leave=False) as bar,
        ):  # fmt: skip
            looked = first_face(bar, provider, gap_s=0.0 if few else LOOK_GAP_S)
        if looked.frame is not None:
            return
        name, none = self.clip.path, "expected a face that drives, found none"
        if not looked.whole:
            say(f"warning: {name}: none of its first {looked.count} frames shows a face; until one comes the portrait "
                "keeps its own expression")  # fmt: skip
        elif must:
            raise InputError(
                f"{name}: {none} in {_frames(looked.count)}; give another, or --faces none if it is aligned already"
            )
        else:
            say(f"warning: {name}: {none} in {_frames(looked.count)}; the portrait will keep its own expression: give "
                "another, or --faces none if it is aligned already")  # fmt: skip

    def follow(self, frame: Frame, tracker: FaceTracker) -> Followed:
        """The face in a frame; the tracker is asked where no published file knows.

        Raises:
            InputError: its files are missing or damaged.
        """
        if self.known is not None and frame.index >= len(self.names):
            raise _too_few(self.known, len(self.names), self.clip)
        if isinstance(self.known, TrackedFolder):
            return aligned(frame.image, self.known.at(self.names[frame.index]), tracker.size_px)
        if self.known is not None:
            return tracker.follow(frame.image, frame.time_s, [self.known.face(self.names[frame.index])])
        if tracker.provider is None:
            return aligned(frame.image, Tracking(), tracker.size_px)
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
