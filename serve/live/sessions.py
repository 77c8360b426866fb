"""What a session is to the worker: a portrait, sliders, and slots of one for frames on their way."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from triportrait.core.types import Head
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.inference import Follows, Portrait
from triportrait.serve.live.latest_slot import LatestSlot
from triportrait.serve.live.messages import Parts
from triportrait.serve.live.neutral import NeutralWish
from triportrait.serve.live.recording import Recording
from triportrait.serve.live.settings import Settings


@dataclass(frozen=True, eq=False)
class Arrived:
    """A driving frame that has come: `decode` gives uint8 [H, W, 3]."""

    number: int
    clock_ms: float
    decode: Callable[[], np.ndarray]
    at_s: float


@dataclass(frozen=True, eq=False)
class Ready:
    """The face of a driving frame, ready for the network; where none has `arrived` it is the portrait's own."""

    arrived: Arrived | None
    face: AlignedFace
    wait_s: float
    faces_s: float
    at_s: float


@dataclass(frozen=True, eq=False)
class Computed:
    """The network's picture of it."""

    portrait: Portrait
    ready: Ready
    view: bool
    picture: np.ndarray
    wait_s: float
    compute_s: float
    at_s: float


@dataclass(frozen=True, eq=False)
class Result:
    """What goes out. `jpeg` is empty where the transport encodes pictures itself."""

    number: int
    clock_ms: float
    found: bool
    view: bool
    picture: np.ndarray
    jpeg: bytes
    parts: Parts
    at_s: float


class Slots:
    """A session's frames on their way, at most one in each place: a newer one replaces it. Any thread may use them."""

    def __init__(self) -> None:
        self.incoming: LatestSlot[Arrived] = LatestSlot()
        self.ready: LatestSlot[Ready] = LatestSlot()
        self.computed: LatestSlot[Computed] = LatestSlot()
        self.results: LatestSlot[Result] = LatestSlot()

    @property
    def dropped(self) -> int:
        """Frames and results that a newer one replaced."""
        return sum(slot.dropped for slot in vars(self).values())

    def clear(self) -> None:
        """Let go of all that is on its way."""
        for slot in vars(self).values():
            slot.take()


@dataclass
class PortraitChoice:
    """Which portrait a session shows. The event loop alone uses it.

    Attributes:
        asked: how many portraits were asked for.
        number: which of them is shown: the last one that came.
        lock: held while one of them is cut out and read.
        upload: the one that is being sent and decoded.
    """

    asked: int = 0
    number: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    upload: asyncio.Task[dict[str, Any]] | None = None


@dataclass
class LastShown:
    """What the network was last asked for. It changes under the worker's lock.

    Attributes:
        ready: the driving face that is shown, None before there is a portrait.
        at_s: when the network was asked.
        stale: whether the picture no longer is what the sliders say.
        head: the head of a face that holds still, and what it follows from; the network's thread alone uses it.
    """

    ready: Ready | None = None
    at_s: float = 0.0
    stale: bool = False
    head: tuple[object, Head] | None = None


class Session:
    """One page that is open.

    Each part is written in one place: `settings`, `jpeg`, `choice` and `taken_s` on the event loop; `portrait`,
    `neutral`, `neutral_wish`, `shown`, `closed`, `following` and `finishing` under the worker's lock; `ready_s` and
    `found` by the thread that finds its face, and `frames` by the one that finishes its picture, of which there is one
    at a time; `recording` under a lock of its own. `slots` may be used from everywhere.

    Args:
        follower: its face tracker.
        tell: sends a JSON message, the newest of each kind; from any thread.
        deliver: says that a result is ready; from any thread.
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
        self.taken_s = time.perf_counter()  # when a result last left
        self.portrait: Portrait | None = None
        self.neutral: torch.Tensor | None = None  # v of the face that counts as neutral
        self.neutral_wish: NeutralWish | None = None  # for a face that has not come yet
        self.shown = LastShown()
        self.closed = False
        self.following = self.finishing = False  # a thread is at its face, at its picture
        self.ready_s = 0.0  # since when its frame waits for the network
        self.found = True
        self.frames = 0
        self.recording: Recording | None = None
        self.recording_lock = threading.Lock()

    def notice(self, about: str, sentence: str) -> None:
        """A sentence for the page; an empty one takes the last about this back."""
        self.tell({"is": "notice", "about": about, "sentence": sentence})

    def tell_neutral(self, by_itself: bool = False) -> None:
        """Whether a face counts as neutral, or which is waited for."""
        waits = "" if self.neutral_wish is None else self.neutral_wish.when
        self.tell({"is": "neutral", "on": self.neutral is not None, "waits": waits, "by_itself": by_itself})

    def give_recording_up(self, sentence: str) -> None:
        """Leave nothing of the recording that runs, and say why; its lock is held."""
        if self.recording is not None:
            self.recording.abandon()
            self.recording = None
        self.notice("record", sentence)
        self.tell({"is": "recording", "on": False})
