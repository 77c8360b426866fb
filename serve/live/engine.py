"""All that turns a driving frame into a picture for the page: face, network, watermark, JPEG; measured at the start."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.types import Head
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import Face, FaceProvider
from triportrait.serve.faces.tracker import FaceTracker, Followed
from triportrait.serve.live.decode_process import shrunk
from triportrait.serve.live.settings import Settings
from triportrait.serve.live.uploads import MOST_RATIO
from triportrait.serve.media.picture_bounds import bare_jpeg, jpeg_work
from triportrait.serve.media.pictures import decode_picture, read_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.parameters import Tracking
from triportrait.serve.reenactor import Asked, Prepared, Reenactor

EXAMPLES = Path(__file__).parent / "page" / "examples"
JPEG_QUALITY = 90
LARGEST_DRIVING_PX = 4096 * 2160
PORTRAIT_PX = 1280  # faces of portraits are looked for at this size
_MOST_SCANS = 4  # of a driving frame: one, or one for each channel
_LEAST_TIMED, _TIMED_S = 5, 1.0


class Follows(Protocol):
    """Cuts the face out of frame after frame."""

    def follow(self, image: np.ndarray, time_s: float) -> Followed: ...


@dataclass(frozen=True, eq=False)
class Portrait:
    """A source, ready for a session.

    Attributes:
        prepared: what the network keeps of it.
        at_rest: the portrait itself, as its own driving frame.
        sentence: what its user should know.
        stamp: of this portrait.
    """

    prepared: Prepared
    at_rest: Followed
    sentence: str
    stamp: Stamp


@dataclass(frozen=True, eq=False)
class Wanted:
    """A picture that a session asks of the network."""

    prepared: Prepared
    followed: Followed
    settings: Settings
    rest: torch.Tensor | None
    time_s: float

    @property
    def strength(self) -> float:
        """Of the motion; 0 before the first face, when what is before the camera is none."""
        return self.settings.motion_strength if shows_face(self.followed) else 0.0


class Engine:
    """The network and what stands around it. `compute`, `prepare` and `rest` run in one thread, the rest in any.

    Args:
        reenactor: the network.
        find: makes a finder of faces for one thread; None where nobody finds them: middle squares are then taken.
        stamp: marks pictures and signs recordings.
    """

    def __init__(
        self,
        reenactor: Reenactor,
        find: Callable[[], FaceProvider] | None,
        stamp: Stamp,
    ) -> None:
        self.reenactor = reenactor
        self._finder = None if find is None else _OnePerThread(find)
        self.stamp = stamp
        self._flame = isinstance(reenactor.portrait.neck, NeckField)
        self.most_batch = 8 if reenactor.device.type == "cuda" else 1
        # A batch pays on a GPU: how long its first frame may wait for the others'.
        self.gather_s = 0.004 if reenactor.device.type == "cuda" else 0.0

    @property
    def side_px(self) -> int:
        """Of the pictures."""
        return self.reenactor.image_size

    @property
    def finds_faces(self) -> bool:
        return self._finder is not None

    def open_finder(self) -> None:
        """Make the calling thread's finder of faces now, so that no session waits for it."""
        if self._finder is not None:
            self._finder.open()

    def follower(self) -> Follows:
        """A face tracker for one session."""
        return (
            _Middle(self.side_px)
            if self._finder is None
            else FaceTracker(self._finder, self.side_px, flame=self._flame, spread=True)
        )

    def crop_portrait(self, image: np.ndarray) -> tuple[Followed, str]:
        """The face of a portrait, uint8 [H, W, 3], and what to say about it."""
        if self._finder is None:
            return _Middle(self.side_px).follow(image, 0.0), "its middle square is taken, as nothing finds faces here"
        image = shrunk(image, PORTRAIT_PX)
        faces = self._finder.find(image)
        followed = FaceTracker(self._finder, self.side_px, smooth=False, flame=self._flame).follow(image, 0.0, faces)
        if not faces:
            return followed, "no face was found in this portrait: its middle square is taken; another one may do better"
        return followed, "" if len(
            faces
        ) == 1 else f"{len(faces)} faces were found in this portrait: the largest is taken"

    def prepare(self, followed: Followed) -> Prepared:
        """Read a portrait once."""
        return self.reenactor.prepare(followed.crop, followed.tracking)

    def rest(self, followed: Followed) -> torch.Tensor:
        """The motion of a face that counts as neutral from now on."""
        return self.reenactor.motion(followed.crop, followed.tracking)

    def compute(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """One picture, uint8 [S, S, 3], for each."""
        asked = [
            Asked(
                w.prepared, w.followed.crop, w.followed.tracking, [w.settings.camera(w.time_s)], w.settings.neck,
                w.strength, (w.settings.gaze_x, w.settings.gaze_y), w.rest,
            )
            for w in wanted
        ]  # fmt: skip
        return [pictures[0] for pictures in self.reenactor.reenact_many(asked)]

    def view(self, wanted: Wanted, head: Head | None) -> tuple[np.ndarray, Head]:
        """A picture of a face that holds still, and its head for the next view; `head` is that of the last one."""
        if head is None:
            s = wanted.settings
            head = self.reenactor.head(
                wanted.prepared, wanted.followed.crop, wanted.followed.tracking, s.neck, wanted.strength,
                (s.gaze_x, s.gaze_y), wanted.rest,
            )  # fmt: skip
        return self.reenactor.views(head, [wanted.settings.camera(wanted.time_s)])[0], head

    def measure(self) -> float:
        """Seconds of the device per frame, in the largest batches that sessions make; warms up, too."""
        followed, _ = self.crop_portrait(example_picture())
        prepared = self.prepare(followed)
        wanted = [Wanted(prepared, followed, Settings(yaw_deg=i), None, 0.0) for i in range(self.most_batch)]
        self.compute(wanted[:1])
        self.compute(wanted)
        taken: list[float] = []
        while len(taken) < _LEAST_TIMED or sum(taken) < _TIMED_S:
            began = time.perf_counter()
            self.compute(wanted)
            taken.append(time.perf_counter() - began)
        return float(np.median(taken)) / len(wanted)

    def close(self) -> None:
        """Let go of the finders."""
        if self._finder is not None:
            self._finder.close()


def shows_face(followed: Followed) -> bool:
    """Whether its face, or the one whose pose is held, has been seen."""
    return followed.found or followed.tracking.landmarks is not None


def examples() -> list[str]:
    """The names of the portraits in the package, without their ending."""
    return sorted(path.stem for path in EXAMPLES.glob("*.jpg"))


def example_picture(name: str | None = None) -> np.ndarray:
    """A portrait of the package: one of `examples()`, the first by default."""
    return read_picture(EXAMPLES / f"{name or examples()[0]}.jpg")


def check_jpeg(data: bytes) -> None:
    """Walk a driving frame, of which nothing is decoded: only what browsers make is taken, whose pixels tell its cost.

    Raises:
        InputError: for what is no JPEG of one scan, or of a scan for each channel.
    """
    if data[:2] != b"\xff\xd8":
        raise InputError("driving frame: this is not a picture that can be read; send a JPEG")
    work = jpeg_work("driving frame", data)
    if work.scans > _MOST_SCANS or not work.baseline:
        raise InputError(
            "driving frame: a JPEG of one scan is wanted, a progressive one or one of another kind came; "
            "save it as a baseline JPEG"
        )


def decode_jpeg(data: bytes) -> np.ndarray:
    """A driving frame, uint8 [H, W, 3]; a colour profile in it is not followed.

    It is decoded in a thread, which cannot be ended.

    Raises:
        InputError: as of `check_jpeg`, or it is damaged or too large.
    """
    check_jpeg(data)
    return decode_picture(bare_jpeg(data), "driving frame", LARGEST_DRIVING_PX, MOST_RATIO)


def encode_jpeg(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> JPEG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


class _Middle:
    """Takes the middle square of every picture."""

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px

    def follow(self, image: np.ndarray, time_s: float) -> Followed:
        square = middle_square(image)
        return Followed(square.crop(image, self._side_px), Tracking(), True, square)


class _OnePerThread:
    """A finder for each thread that asks: one lets its threads only take turns."""

    def __init__(self, make: Callable[[], FaceProvider]) -> None:
        self._make = make
        self._own = threading.local()
        self._all: list[FaceProvider] = []

    def open(self) -> FaceProvider:
        """This thread's own."""
        finder: FaceProvider | None = getattr(self._own, "finder", None)
        if finder is None:
            finder = self._own.finder = self._make()
            self._all.append(finder)
        return finder

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        return self.open().find(image, near, quick)

    def close(self) -> None:
        for finder in self._all:
            finder.close()
