"""The threads that turn driving frames into pictures: a pool finds faces, one thread runs the network, a second pool
marks and encodes its pictures. On a GPU the network follows faces, too, and the pool searches where none is followed.

A session has at most one frame in each of four slots: incoming, ready, computed, to be sent. A newer one replaces it.
Sessions whose frames are ready share a batch; the first waits for the others no longer than a few milliseconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.admission import Admission
from triportrait.serve.live.inference import Engine, Portrait, encode_jpeg, on_host
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.messages import Parts
from triportrait.serve.live.neutral import NeutralWish
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.raw_faces import RawFace
from triportrait.serve.live.sessions import Computed, DrivingFrame, LastShown, ReadyFace, Result, Session

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

VIEW_S = 1 / 25  # between new views of a face that holds still
_LEARN = 0.1  # weight of one frame in the running means of times
# Work on a face begins so late that it is ready at 0.9 of the network's batch if it takes 1.3 times its mean time: what
# waits for the network gets old. Measured with sleeps in the place of both (network 67 ms, face 18 ms, each +-15 %,
# 30 frames per second in): 0 and 1.3 give 14.8 results per second of a median age of 149 ms; 0.9 and 1.3 give 14.6 and
# 115 ms; 1.0 and 1.0 give 14.1 and 105 ms. Where the network is faster than the frames come, it makes no difference.
_EARLY, _SLACK = 0.9, 1.3
# Chosen, not measured: a page that takes no result for _STALLED_S gets a frame a second; a driving face counts as still
# after _STILL_S, some eight frames of a camera.
_STALLED_S = 1.0
_STILL_S = 0.25


def thread_count() -> int:
    """Count the threads that find faces; as many finish pictures."""
    return max(1, (os.cpu_count() or 2) // 4)


class Worker:
    """Turn the driving frames of all sessions into pictures.

    Args:
        engine: finds faces and runs the network.
        admission: is told how long frames take.
        metrics: counts frames.
    """

    def __init__(self, engine: Engine, admission: Admission, metrics: Metrics) -> None:
        self._engine, self._admission, self._metrics = engine, admission, metrics
        self._changed = threading.Condition()
        self._sessions: dict[str, Session] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._busy_since: float | None = None  # when the network began its batch, None while it has none
        self._compute_s = self._faces_s = 0.0  # running means of the time of a batch and of a face
        self._torch_threads = torch.get_num_threads()
        self._faces = ThreadPoolExecutor(thread_count(), "live-faces")
        self._finish = ThreadPoolExecutor(thread_count(), "live-finish")
        self._thread = threading.Thread(target=self._run, name="live-network", daemon=True)

    def start(self) -> None:
        """Start the network's thread."""
        self._thread.start()

    def stop(self, within_s: float) -> bool:
        """Stop the threads, wait for them so many seconds, and return whether they have ended.

        A thread cannot be ended from outside: one that decodes for ever stays, and the process ends without it.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        pools_ended = shut_down([self._faces, self._finish], within_s)
        if self._thread.is_alive():
            self._thread.join(within_s)
        return pools_ended and not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Return whether the network's thread runs."""
        return self._thread.is_alive()

    def join(self, session: Session) -> None:
        """Add a session that has begun."""
        with self._changed:
            self._sessions[session.id] = session

    def leave(self, session: Session) -> None:
        """Remove a session that has ended, and all that it holds."""
        with self._changed:
            session.closed = True
            self._sessions.pop(session.id, None)
            session.slots.clear()
            session.portrait = session.neutral = session.neutral_wish = None
            session.shown = LastShown()

    def add_frame(self, session: Session, frame: DrivingFrame) -> None:
        """Queue a driving frame, on the event loop, which this does not block."""
        self._metrics.frames_in.inc()
        if session.portrait is None:
            return
        if session.slots.incoming.put(frame):
            self._metrics.dropped.labels("waiting").inc()
        self._follow_next()

    def delivered(self, session: Session) -> None:
        """Note that the transport has taken a result, which makes room for the next."""
        session.delivered_s = time.perf_counter()
        self._follow_next()

    def settings_changed(self, session: Session) -> None:
        """Note that the last picture no longer is what the settings say."""
        with self._changed:
            session.shown.stale = True
            self._changed.notify_all()

    def on_network(self, work: Callable[[], Value]) -> Future[Value]:
        """Run a function on the network's thread before its next batch."""
        future: Future[Value] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # raised again where the future is awaited
                    future.set_exception(error)

        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        return future

    def show(self, session: Session, portrait: Portrait) -> None:
        """Show a session's portrait at rest, then as frames come."""
        with self._changed:
            if session.closed:
                return
            session.portrait, session.neutral = portrait, None
            at_rest = ReadyFace(None, portrait.source.face, 0.0, 0.0, time.perf_counter())
            session.shown = LastShown(at_rest, stale=True)
            self._changed.notify_all()

    def swap(self, session: Session, portrait: Portrait) -> None:
        """Show the same portrait otherwise prepared: what drives it stays, and so does what counts as neutral."""
        with self._changed:
            if not session.closed:
                session.portrait, session.shown.stale = portrait, True
                self._changed.notify_all()

    def set_neutral(self, session: Session, neutral: torch.Tensor | None, wish: NeutralWish | None) -> None:
        """Set the motion that counts as neutral, or the wish for a face that is still to come, or neither."""
        with self._changed:
            if not session.closed:
                session.neutral, session.neutral_wish, session.shown.stale = neutral, wish, True
                self._changed.notify_all()

    def _follow_next(self) -> None:
        """Find the faces of the network's next batches and no more: a frame that is not decoded yet can be replaced."""
        with self._changed:
            if self._stopping:
                return
            room = 2 * self._engine.most_batch - sum(
                s.following or bool(s.slots.ready) for s in self._sessions.values()
            )
            waiting = [
                s
                for s in self._sessions.values()
                if s.slots.incoming and not s.following and not s.slots.ready and not _is_stalled(s)
            ]
            waiting.sort(key=lambda s: s.shown.at_s)
            for session in waiting[: max(0, room)]:
                session.following = True
                self._faces.submit(self._follow, session)

    def _follow(self, session: Session) -> None:
        try:
            self._wait_for_network()
            frame = session.slots.incoming.take()
            if frame is not None:
                began = time.perf_counter()
                face = session.follower.follow(frame.decode(), frame.at_s)
                now = time.perf_counter()
                self._faces_s += _LEARN * (now - began - self._faces_s)
                session.ready_s = now
                session.slots.ready.put(ReadyFace(frame, face, began - frame.at_s, now - began, now))
                if isinstance(face, AlignedFace):  # of others it is not known yet
                    self._note_face(session, face, frame.at_s)
        except InputError as error:
            self._metrics.unreadable.inc()
            session.notice("frame", str(error))
        except Exception:
            logger.exception("a frame failed", extra=fields(session=session.id[:6]))
            session.notice("frame", "a driving frame could not be used; the next one is tried")
        finally:
            with self._changed:
                session.following = False
                if session.closed:
                    session.slots.ready.take()
                self._changed.notify_all()
            self._follow_next()

    def _wait_for_network(self) -> None:
        """Wait so long that the face will be ready just when the network is, and the frame is as new as it can be."""
        with self._changed:
            if self._busy_since is not None:
                spare_s = _EARLY * self._compute_s - _SLACK * self._faces_s - (time.perf_counter() - self._busy_since)
                self._changed.wait_for(lambda: self._stopping or self._busy_since is None, max(0.0, spare_s))

    def _note_face(self, session: Session, face: AlignedFace | RawFace, at_s: float) -> None:
        """Tell the page whether the face is there, and see whether it is the one that will count as neutral."""
        if face.found != session.found:
            session.found = face.found
            sentence = "no face in the driving picture: the last pose is held; come back into the picture"
            session.notice("face", "" if face.found else sentence)
        wish = session.neutral_wish
        if wish is not None and wish.is_met_by(on_host(face), at_s):
            self.on_network(partial(self._take_neutral, session, wish, face))

    def _take_neutral(self, session: Session, wish: NeutralWish, face: AlignedFace | RawFace) -> None:
        neutral = self._engine.motion(face)
        with self._changed:
            if session.closed or session.neutral_wish is not wish:  # the user has taken it back meanwhile
                return
            session.neutral_wish, session.neutral, session.shown.stale = None, neutral, True
        session.tell_neutral(by_itself=True)

    def _run(self) -> None:
        torch.set_num_threads(self._torch_threads)  # else it has one, should faces be found at the same time
        frames_first = False  # after each job, so that a session with endless jobs does not stop the others' frames
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._jobs or self._due(), VIEW_S)
                if self._stopping:
                    return
                waits = not self._jobs or (frames_first and self._due())
                job = None if waits else self._jobs.popleft()
                batch = [] if job else self._gather()
            frames_first = job is not None
            if job is not None:
                job()
            elif batch:
                self._compute(batch)

    def _due(self) -> list[tuple[float, Session]]:
        """List the sessions with work for the network, the one that waits longest first."""
        now = time.perf_counter()
        ready = [(s.ready_s, s) for s in self._sessions.values() if s.slots.ready]
        # New views of faces that hold still come when nothing else does, or have waited long.
        patience_s = _STILL_S if ready else VIEW_S
        views = [(s.shown.at_s + _STILL_S, s) for s in self._sessions.values() if self._wants_view(s, now - patience_s)]
        return sorted([*ready, *views], key=lambda entry: entry[0])[: self._engine.most_batch]

    def _wants_view(self, session: Session, shown_before_s: float) -> bool:
        if session.shown.ready is None or session.slots.ready or not (session.shown.stale or session.settings.orbit):
            return False
        still = session.shown.ready.frame is None or session.shown.ready.at_s < time.perf_counter() - _STILL_S
        return still and not session.slots.results and session.shown.at_s <= shown_before_s

    def _gather(self) -> list[tuple[Session, Portrait, ReadyFace, bool]]:
        if len(self._due()) < self._engine.most_batch and self._engine.gather_s:
            # A face that is being found now may be ready in time for this batch.
            self._changed.wait_for(
                lambda: self._stopping or not any(s.following for s in self._sessions.values()), self._engine.gather_s
            )
        batch = []
        for _, session in self._due():
            fresh = session.slots.ready.take()
            if fresh is not None and self._must_be_searched(session, fresh):
                continue
            ready = fresh or session.shown.ready
            if ready is not None and session.portrait is not None:
                session.shown.ready, session.shown.stale, session.shown.at_s = ready, False, time.perf_counter()
                batch.append((session, session.portrait, ready, fresh is None))
        if len(batch) == 0:
            self._follow_next()  # of frames that went back
        return batch

    def _must_be_searched(self, session: Session, ready: ReadyFace) -> bool:
        """Give a frame back whose face was lost in the frame before, so that it is searched, or a newer one is."""
        face = ready.face
        if not isinstance(face, RawFace) or face.of.takes(face):
            return False
        if ready.frame is not None and session.slots.incoming.put_back(ready.frame):
            self._metrics.dropped.labels("waiting").inc()
        return True

    def _compute(self, batch: list[tuple[Session, Portrait, ReadyFace, bool]]) -> None:
        began = time.perf_counter()
        with self._changed:
            self._busy_since = began
        self._follow_next()  # the next faces are found while the network works
        try:
            pictures = self._pictures(batch)
            for session, _, ready, view in batch:
                if isinstance(ready.face, RawFace) and ready.frame is not None and not view:
                    self._note_face(session, ready.face, ready.frame.at_s)
        except Exception as error:
            logger.exception("the network failed", extra=fields(sessions=[s.id[:6] for s, *_ in batch]))
            sentence = str(error) if isinstance(error, InputError) else "the network failed on a frame; see the log"
            for session, _, ready, _ in batch:
                session.notice("network", sentence)
                with self._changed:
                    if session.shown.ready is ready and isinstance(ready.face, RawFace) and ready.face.shown is None:
                        session.shown.ready = None  # there is no face of which a view could be made
            return
        finally:
            with self._changed:
                self._busy_since = None
                self._changed.notify_all()
        now = time.perf_counter()
        self._compute_s += _LEARN * (now - began - self._compute_s)
        # Capacity is counted in full batches of frames.
        if len(batch) == self._engine.most_batch and not any(view for *_, view in batch):
            self._admission.measured((now - began) / len(batch))
        for (session, portrait, ready, view), picture in zip(batch, pictures, strict=True):
            waited = 0.0 if view else ready.wait_s + began - ready.at_s
            if session.slots.computed.put(Computed(portrait, ready, view, picture, waited, now - began, now)):
                self._metrics.dropped.labels("computed").inc()
            self._finish_next(session)

    def _pictures(self, batch: list[tuple[Session, Portrait, ReadyFace, bool]]) -> list[np.ndarray]:
        requests = [
            (portrait.source, ready.face, s.settings.controls(time.monotonic() - s.began_s, ready.face, s.neutral))
            for s, portrait, ready, _ in batch
        ]
        fresh = [request for request, (*_, view) in zip(requests, batch, strict=True) if not view]
        stamps = [portrait.stamp for _, portrait, _, view in batch if not view]
        computed = iter(self._engine.reenact_many(fresh, stamps))
        pictures = []
        for request, (session, portrait, ready, view) in zip(requests, batch, strict=True):
            if not view:
                session.shown.head = None
                pictures.append(next(computed))
                continue
            controls = request[-1]
            steering = controls.neck, controls.motion_strength, controls.gaze, id(controls.neutral)
            key = (id(ready), id(portrait.source), *steering)
            last_key, last_head = session.shown.head or (None, None)
            picture, head = self._engine.view(request, portrait.stamp, last_head if last_key == key else None)
            session.shown.head = (key, head)
            pictures.append(picture)
        return pictures

    def _finish_next(self, session: Session) -> None:
        with self._changed:
            if session.finishing or session.closed or not session.slots.computed or self._stopping:
                return
            session.finishing = True
            self._finish.submit(self._finish_one, session)

    def _finish_one(self, session: Session) -> None:
        try:
            computed = session.slots.computed.take()
            if computed is not None:
                self._deliver(session, computed)
        except Exception:
            logger.exception("a result failed", extra=fields(session=session.id[:6]))
        finally:
            with self._changed:
                session.finishing = False
                if session.closed:
                    session.slots.results.take()
            self._finish_next(session)

    def _deliver(self, session: Session, computed: Computed) -> None:
        began = time.perf_counter()
        marked = self._engine.marks_on_device
        picture = computed.picture if marked else computed.portrait.stamp.mark(computed.picture)
        jpeg = encode_jpeg(picture) if session.jpeg else b""
        now = time.perf_counter()
        parts = Parts(
            1e3 * (computed.wait_s + began - computed.at_s), 1e3 * computed.ready.faces_s, 1e3 * computed.compute_s,
            1e3 * (now - began), 0.0,
        )  # fmt: skip
        frame = computed.ready.frame
        number, clock_ms = (0, 0.0) if frame is None else (frame.number, frame.clock_ms)
        result = Result(number, clock_ms, computed.ready.face.found, computed.view, picture, jpeg, parts, now)
        session.frames += not computed.view
        if session.slots.results.put(result):
            self._metrics.dropped.labels("sending").inc()
        session.deliver()
        self._record(session, computed.portrait, picture, now)

    def _record(self, session: Session, portrait: Portrait, picture: np.ndarray, now_s: float) -> None:
        with session.recording_lock:
            if session.recording is None or portrait is not session.portrait:  # the portrait has changed since
                return
            try:
                if not session.recording.write(picture, now_s):
                    session.notice("record", "five minutes are recorded, which is the most; press stop to keep them")
            except InputError as error:
                session.abandon_recording(str(error))
            except Exception:  # the session goes on without the recording
                logger.exception("a recording failed", extra=fields(session=session.id[:6]))
                session.abandon_recording("the recording failed; see the server's log")


def _is_stalled(session: Session) -> bool:
    """Return whether the page takes no results and was served within the last second: then its frames can wait."""
    since_s = time.perf_counter() - _STALLED_S
    return bool(session.slots.results) and session.delivered_s < since_s < session.shown.at_s


def shut_down(pools: list[ThreadPoolExecutor], within_s: float) -> bool:
    """Shut thread pools down, and return whether their threads have ended within so many seconds."""

    def shut() -> None:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)

    waiting = threading.Thread(target=shut, daemon=True)
    waiting.start()
    waiting.join(within_s)
    return not waiting.is_alive()
