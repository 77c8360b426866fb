"""Aligns the pictures of one person, which may be folders and films, for the trainer that refines the networks."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.core.person import MOST_PICTURES
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.one_person import LeftOut, OnePerson
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.pictures.file_type import is_picture
from triportrait.serve.media.video.clips import Frame
from triportrait.serve.picture_inputs import Picture
from triportrait.serve.source_and_driving import DrivingFrames, SourcePicture

MOST_FRAMES = 1500  # of a film or a folder, from its beginning
SPARE = 4  # times as many pictures of a film are kept until it is known how often it shows the person

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def listed(sources: Picture | Iterable[Picture]) -> list[Picture]:
    """List the sources that a user gave, one or several. Raises: `InputError` where there are none, or too many."""
    if isinstance(sources, str | os.PathLike | Image.Image) or (isinstance(sources, np.ndarray) and sources.ndim == 3):
        return [sources]
    if not isinstance(sources, Iterable) or isinstance(sources, bytes | bytearray | dict):
        raise InputError(
            f"sources: expected pictures of one person, or paths of them, got {type(sources).__name__}; convert it"
        )
    found = list(islice(sources, MOST_PICTURES + 1))
    if not 1 <= len(found) <= MOST_PICTURES:
        count = "none" if not found else f"more than {MOST_PICTURES}"
        raise InputError(
            f"sources: expected 1 to {MOST_PICTURES} pictures of one person, got {count}; name as many, or a folder or "
            "a film, of which pictures are taken evenly"
        )
    return found


def holds_several(source: Picture) -> bool:
    """Tell whether a source is a folder or a film."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.is_dir() or (path.exists() and not is_picture(path))


def all_faces(
    sources: Sequence[Picture],
    portrait: SourcePicture,
    first: AlignedFace,
    read: Callable[[Picture], tuple[SourcePicture, AlignedFace]],
    tracker: Callable[[], FaceTracker],
    params: Path | None,
) -> list[AlignedFace]:
    """Align the face of every picture of one person, of long films and folders of some pictures taken evenly.

    Of a picture the largest face is taken; through a film one person is followed, see `OnePerson`, and pictures are
    taken from among the frames that show the person.

    Args:
        sources: as `listed` gives them.
        portrait, first: the picture that is the source, and its face; pictures that are it again are left out.
        read: reads one picture and aligns its face. A picture without one is left out where the portrait shows one.
        tracker: makes what finds the face of a frame, unsmoothed.
        params: the folder with the files of the faces.

    Returns:
        At most MOST_PICTURES faces, no two of the same pixels; the source is the first.
    """
    several = sum(holds_several(source) for source in sources)
    single = sum(not holds_several(source) for source in sources[1:])
    each = (MOST_PICTURES - 1 - single) // max(several, 1)
    faces: list[AlignedFace] = []
    faceless = 0
    for number, source in enumerate(sources):
        if holds_several(source):
            film = DrivingFrames.open(Path(str(source)), params, MOST_FRAMES)
            faces += _faces_of(film, portrait, number == 0, tracker, max(each, 1))
        elif number:
            picture, face = read(source)
            if picture.faces == 0:
                if first.tracking.landmarks is not None:
                    faceless += 1
                    continue
                logger.info("%s: no face; its middle square is taken, as that of the portrait is", picture.name)
            if not np.array_equal(picture.image, portrait.image):
                faces.append(face)
    if faceless:
        logger.info("%d of the pictures show%s no face, and are left out", faceless, "s" * (faceless == 1))
    return _without_copies([first, *faces])[:MOST_PICTURES]


def _without_copies(faces: Sequence[AlignedFace]) -> list[AlignedFace]:
    """Leave out faces of the same pixels: one that is kept aside must not be learned from, too."""
    different: dict[bytes, AlignedFace] = {}
    for face in faces:
        different.setdefault(hashlib.sha256(face.crop.tobytes()).digest(), face)
    if copies := len(faces) - len(different):
        logger.info("pictures that came more than once are taken once: %d left out", copies)
    return list(different.values())


def _faces_of(
    film: DrivingFrames, portrait: SourcePicture, leads: bool, tracker: Callable[[], FaceTracker], most: int
) -> list[AlignedFace]:
    """Align the faces of at most `most` frames, taken evenly; `leads`: the portrait is one of them."""
    with closing(film.clip.frames(MOST_FRAMES)) as frames:
        if film.needs_finder and not film.clip.is_pictures and (following := tracker()).provider is not None:
            start = (portrait.image, portrait.face) if leads and portrait.face is not None else None
            faces, left_out, count = _followed(frames, OnePerson(following, start), portrait, most)
            who = "them"
        else:
            stride = max(1, math.ceil(min(film.clip.frame_count or 1, MOST_FRAMES) / most))
            faces, left_out, count = _found(frames, film, tracker, portrait, most, stride)
            who = "those that were taken"
    told = "".join(f"; {number} of {who} {why.value}, and are left out" for why, number in left_out.items())
    logger.info("%s: %d pictures, taken evenly out of %d frames%s", film.name, len(faces), count, told)
    if film.clip.frame_count is not None and film.clip.frame_count > MOST_FRAMES:
        logger.info("%s: its first %d frames are looked through", film.name, MOST_FRAMES)
    for warning in film.new_warnings():
        logger.warning("%s", warning)
    return faces


def _followed(
    frames: Iterable[Frame], person: OnePerson, portrait: SourcePicture, most: int
) -> tuple[list[AlignedFace], Counter[LeftOut], int]:
    """Follow a person, and take pictures evenly from among the frames with the person, but for the portrait itself.

    Returns: the faces, why how many of all frames were left out, and how many frames there were.
    """
    kept: ThinnedOut[AlignedFace] = ThinnedOut(SPARE * most)
    left_out: Counter[LeftOut] = Counter()
    count = 0
    for frame in frames:
        count += 1
        found = person.look(frame.image, frame.time_s)  # in every frame: the next one is sought beside it
        if isinstance(found, LeftOut):
            left_out[found] += 1
            continue
        if np.array_equal(frame.image, portrait.image):
            continue
        if kept.takes_next():
            kept.add(person.cut_out(frame.image, found))
    faces = kept.items
    evenly = np.linspace(0, len(faces) - 1, min(most, len(faces))).round().astype(int)
    return [faces[i] for i in evenly], left_out, count


def _found(
    frames: Iterable[Frame], film: DrivingFrames, tracker: Callable[[], FaceTracker], portrait: SourcePicture,
    most: int, stride: int,
) -> tuple[list[AlignedFace], Counter[LeftOut], int]:  # fmt: skip
    """Align every so many frames, each by itself; where more come than expected, every other one is let go.

    Returns: the faces, why how many of the taken frames were left out, and how many frames there were.
    """
    kept: ThinnedOut[AlignedFace | None] = ThinnedOut(most, stride)
    count = 0
    for frame in frames:
        count += 1
        if kept.takes_next():
            is_portrait = np.array_equal(frame.image, portrait.image)
            kept.add(None if is_portrait else film.face(frame, tracker()))
    aligned = [face for face in kept.items if face is not None]
    faces = [face for face in aligned if face.found]
    missed = len(aligned) - len(faces)
    return faces, Counter({LeftOut.NO_FACE: missed} if missed else {}), count


class ThinnedOut(Generic[Item]):
    """Keeps items evenly out of a row whose length nobody knows: where they get too many, every other one is let go.

    Args:
        most: how many are kept at most.
        stride: of so many that come, the first is kept.

    Attributes:
        items: what is kept.
    """

    def __init__(self, most: int, stride: int = 1) -> None:
        self._most, self._stride, self._came = most, stride, 0
        self.items: list[Item] = []

    def takes_next(self) -> bool:
        """Count one more that comes, and tell whether it is to be added."""
        self._came += 1
        return (self._came - 1) % self._stride == 0

    def add(self, item: Item) -> None:
        """Keep an item."""
        self.items.append(item)
        if len(self.items) > self._most:
            self.items, self._stride = self.items[::2], 2 * self._stride
