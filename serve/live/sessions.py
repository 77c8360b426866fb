"""What a session is to the worker: a portrait, sliders, and slots of one for frames on their way."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from triportrait.core.types import Head
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.engine import Follows, Portrait
from triportrait.serve.live.messages import Parts
from triportrait.serve.live.neutral import NeutralWish
from triportrait.serve.live.newest import Newest
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


class Session:
    """One page that is open.

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
        self.settings = Settings()
        self.portrait: Portrait | None = None
        self.asked = self.portrait_number = 0  # portraits so far, and which is shown: the last one that came
        self.portrait_lock = asyncio.Lock()
        self.upload: asyncio.Task[dict[str, Any]] | None = None  # a portrait that is being sent and decoded
        self.neutral: torch.Tensor | None = None  # v of the face that counts as neutral
        self.neutral_wish: NeutralWish | None = None  # for a face that has not come yet
        self.jpeg = True
        self.closed = False
        self.incoming: Newest[Arrived] = Newest()
        self.ready: Newest[Ready] = Newest()
        self.computed: Newest[Computed] = Newest()
        self.results: Newest[Result] = Newest()
        self.following = self.finishing = False  # a worker is at it
        self.ready_s = 0.0  # since when its frame waits for the network
        self.last: Ready | None = None  # what is shown
        self.shown_s = 0.0  # when the network was last asked
        self.taken_s = time.perf_counter()  # when a result last left
        self.stale = False  # what is shown no longer is what the sliders say
        self.head: tuple[object, Head] | None = None  # of a face that holds still, and what it follows from
        self.found = True
        self.frames = 0
        self.recording: Recording | None = None
        self.recording_lock = threading.Lock()

    @property
    def dropped(self) -> int:
        """Frames and results that a newer one replaced."""
        return sum(slot.dropped for slot in (self.incoming, self.ready, self.computed, self.results))

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
