"""The state of a session: its portrait, its settings, and a slot of one frame before each stage of the work."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.core.person import Person
from triportrait.core.types import Head
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.inference import Follows, Portrait
from triportrait.serve.live.latest_slot import LatestSlot
from triportrait.serve.live.messages import Parts
from triportrait.serve.live.neutral import NeutralWish
from triportrait.serve.live.raw_faces import RawFace
from triportrait.serve.live.recording import Recording
from triportrait.serve.live.settings import Settings


@dataclass(frozen=True, eq=False)
class DrivingFrame:
    """A driving frame as it arrived at `at_s`; `decode` returns it as uint8 [H, W, 3]."""

    number: int
    clock_ms: float
    decode: Callable[[], np.ndarray]
    at_s: float


@dataclass(frozen=True, eq=False)
class ReadyFace:
    """A face that is ready for the network: that of a driving frame, or the portrait's own where `frame` is None."""

    frame: DrivingFrame | None
    face: AlignedFace | RawFace
    wait_s: float
    faces_s: float
    at_s: float


@dataclass(frozen=True, eq=False)
class Computed:
    """The picture that the network has computed of a face."""

    portrait: Portrait
    ready: ReadyFace
    view: bool
    picture: np.ndarray
    wait_s: float
    compute_s: float
    at_s: float


@dataclass(frozen=True, eq=False)
class Result:
    """A marked picture, ready to be sent. `jpeg` is empty where the transport encodes pictures itself."""

    number: int
    clock_ms: float
    found: bool
    view: bool
    picture: np.ndarray
    jpeg: bytes
    parts: Parts
    at_s: float


class Slots:
    """The frames of a session between the stages of the work, at most one in each slot. Any thread may use them."""

    def __init__(self) -> None:
        self.incoming: LatestSlot[DrivingFrame] = LatestSlot()
        self.ready: LatestSlot[ReadyFace] = LatestSlot()
        self.computed: LatestSlot[Computed] = LatestSlot()
        self.results: LatestSlot[Result] = LatestSlot()

    @property
    def dropped(self) -> int:
        """Count the frames and results that newer ones have replaced."""
        return sum(slot.dropped for slot in vars(self).values())

    def clear(self) -> None:
        """Empty all slots."""
        for slot in vars(self).values():
            slot.take()


@dataclass
class PortraitChoice:
    """Which portrait a session shows. Only the event loop uses it.

    Attributes:
        requested: how many portraits the page has asked for.
        number: the number of the request whose portrait is shown.
        lock: held while a portrait is cropped and read by the network.
        upload: the task that receives and decodes a portrait.
    """

    requested: int = 0
    number: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    upload: asyncio.Task[dict[str, Any]] | None = None


@dataclass(frozen=True, eq=False)
class PersonFile:
    """The file of a portrait that a session has refined, under a name that nobody can guess.

    Attributes:
        name: under which the page fetches it.
        path: of the file, which goes when its session ends.
        size: bytes.
        thumbnail: [t, t, 3], by which its portrait is known again.
    """

    name: str
    path: Path
    size: int
    thumbnail: torch.Tensor


@dataclass
class Versions:
    """How a session can show its portrait. Only the event loop uses it.

    Attributes:
        plain, refined: what is prepared so far.
        person: what refines the portrait; None where nobody does.
        own: whether the session itself has refined it, and may save the file.
        photo: whether the page has sent it; it is not one of the package's.
    """

    plain: Portrait | None = None
    refined: Portrait | None = None
    person: Person | None = None
    own: bool = False
    photo: bool = False


@dataclass
class LastShown:
    """The last request of a session to the network. It changes under the worker's lock.

    Attributes:
        ready: the driving face that is shown, None before there is a portrait.
        at_s: when the request was made.
        stale: whether the settings have changed since.
        head: the head of a face that holds still, kept for new views of it, behind a key of all that it depends on;
            only the network's thread uses it.
    """

    ready: ReadyFace | None = None
    at_s: float = 0.0
    stale: bool = False
    head: tuple[object, Head] | None = None


class Session:
    """The session of one open page.

    Each attribute is written in one place: `settings`, `jpeg`, `choice`, `versions`, `file`, `refining` and
    `delivered_s` on the event loop;
    `portrait`, `neutral`, `neutral_wish`, `shown`, `closed`, `following` and `finishing` under the worker's lock;
    `ready_s` and `found` by the one thread that works on its face (`found` of a face that a GPU follows by the
    network's), `frames` by the one that works on its picture;
    `recording` under a lock of its own. Any thread may use `slots`.

    Args:
        follower: the session's face tracker.
        tell: sends a JSON message, of each kind the newest; any thread may call it.
        deliver: tells the transport that a result is ready; any thread may call it.
    """

    def __init__(self, follower: Follows, tell: Callable[[dict[str, Any]], None], deliver: Callable[[], None]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.began_s = time.monotonic()
        self.follower = follower
        self.tell = tell
        self.deliver = deliver
        self.slots = Slots()
        self.settings = Settings()
        self.jpeg = True  # WebRTC encodes pictures itself
        self.choice = PortraitChoice()
        self.versions = Versions()
        self.file: PersonFile | None = None  # of the portrait that this session has refined last
        self.refining: asyncio.Task[None] | None = None  # a portrait is refined, or waits for that
        self.delivered_s = time.perf_counter()  # when the transport last took a result
        self.portrait: Portrait | None = None
        self.neutral: torch.Tensor | None = None  # motion of the driving face that counts as neutral
        self.neutral_wish: NeutralWish | None = None  # waits for the driving face that will count as neutral
        self.shown = LastShown()
        self.closed = False
        self.following = self.finishing = False  # a thread works on its face, on its picture
        self.ready_s = 0.0  # when its frame began to wait for the network
        self.found = True
        self.frames = 0
        self.recording: Recording | None = None
        self.recording_lock = threading.Lock()

    def notice(self, about: str, sentence: str) -> None:
        """Show a sentence on the page; an empty one removes the last one about the same thing."""
        self.tell({"is": "notice", "about": about, "sentence": sentence})

    def tell_neutral(self, by_itself: bool = False) -> None:
        """Tell the page whether a face counts as neutral, or which face is waited for."""
        waits = "" if self.neutral_wish is None else self.neutral_wish.when
        self.tell({"is": "neutral", "on": self.neutral is not None, "waits": waits, "by_itself": by_itself})

    def check_not_recorded(self) -> None:
        """Refuse another portrait while one is recorded; the caller holds the recording's lock if it matters."""
        if self.recording is not None:  # its manifest names one source, and by whose file it is refined
            raise InputError("portrait: a recording runs, which shows one portrait; stop it first")

    def abandon_recording(self, sentence: str) -> None:
        """Remove the recording that runs and tell the page why; the caller holds its lock."""
        if self.recording is not None:
            self.recording.abandon()
            self.recording = None
        self.notice("record", sentence)
        self.tell({"is": "recording", "on": False})
