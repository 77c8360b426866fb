"""Recordings of sessions: signed mp4 files in a temporary folder, offered for download for a while."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.encoders import Encoder
from triportrait.serve.media.video.writer import VideoWriter

LONGEST_S = 300.0
MOST_KEPT = 16  # in all; the session with most recordings loses its oldest
KEPT_S = 900.0
_NOMINAL_FPS = 25


@dataclass(frozen=True)
class Recorded:
    """A finished recording, under a name that nobody can guess."""

    name: str
    path: Path
    frames: int
    seconds: float
    made_s: float
    session: str = ""


class Recording:
    """Write the pictures of a session into a file. One thread at a time calls the methods.

    Args:
        path: the file, ending in .mp4.
        side_px: side of the square pictures.
        stamp: signs the file; that of the portrait that is shown.
        encoder: who makes H.264, see `chosen_encoder`.
    """

    def __init__(self, path: Path, side_px: int, stamp: Stamp, encoder: Encoder) -> None:
        self.path = path
        self._stamp = stamp
        self.frames = 0
        self.seconds = 0.0
        self._began_s: float | None = None
        self._writer = VideoWriter(path, size_px=(side_px, side_px), fps=_NOMINAL_FPS, encoder=encoder).open()

    def write(self, picture: np.ndarray, now_s: float) -> bool:
        """Add a picture; return whether the longest time is not over.

        Raises:
            InputError: the disk is full.
        """
        if self._began_s is None:
            self._began_s = now_s
        self.seconds = now_s - self._began_s
        if self.seconds > LONGEST_S:
            return False
        self._writer.write(picture, self.seconds)
        self.frames += 1
        return True

    def finish(self) -> None:
        """Close and sign the file, which then appears.

        Raises:
            InputError: nothing was recorded, or the disk is full.
        """
        if not self.frames:
            self.abandon()
            raise InputError("recording: no picture came while it ran; start the camera or a driving video first")
        self._writer.close()
        self._stamp.sign(self.path)

    def abandon(self) -> None:
        """Stop writing, and remove the file."""
        self._writer.abandon()


class Recordings:
    """Keep recordings in a temporary folder under random names; old ones are removed to make room.

    Args:
        encoder: who makes H.264, see `chosen_encoder`.
    """

    def __init__(self, encoder: Encoder = "x264") -> None:
        self._encoder = encoder
        self._folder = tempfile.TemporaryDirectory(prefix="triportrait-live-", ignore_cleanup_errors=True)
        self._kept: dict[str, Recorded] = {}
        self._lock = threading.Lock()

    def begin(self, side_px: int, stamp: Stamp) -> Recording:
        """Begin a recording."""
        return Recording(Path(self._folder.name) / f"{secrets.token_urlsafe(16)}.mp4", side_px, stamp, self._encoder)

    def finish(self, recording: Recording, session: str = "") -> Recorded:
        """Close a recording and keep it.

        Args:
            recording: the recording that ran.
            session: the id of its session.

        Raises:
            InputError: nothing was recorded, or it cannot be written.
        """
        recording.finish()
        recorded = Recorded(
            recording.path.stem, recording.path, recording.frames, recording.seconds, time.monotonic(), session
        )
        with self._lock:
            self._kept[recorded.name] = recorded
        self.sweep()
        return recorded

    def find(self, name: str) -> Recorded | None:
        """Look a recording up by its name, which never becomes a path."""
        with self._lock:
            return self._kept.get(name)

    def sweep(self) -> None:
        """Remove recordings that are too old or too many."""
        with self._lock:
            late = time.monotonic() - KEPT_S
            removed = [recorded for recorded in self._kept.values() if recorded.made_s < late]
            remaining = sorted(
                (r for r in self._kept.values() if r.made_s >= late), key=lambda recorded: recorded.made_s
            )
            while len(remaining) > MOST_KEPT:
                count = Counter(recorded.session for recorded in remaining)
                most = max(count.values())
                removed.append(next(recorded for recorded in remaining if count[recorded.session] == most))
                remaining.remove(removed[-1])
            for recorded in removed:
                del self._kept[recorded.name]
        for recorded in removed:
            recorded.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with all recordings."""
        self._folder.cleanup()
