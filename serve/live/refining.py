"""Refined portraits of sessions: shown by a person's file of the server, or made from a visitor's photo on request.

One portrait is refined at a time, in a process of its own; others wait in line. A refinement ends with its session, and
when the session shows another portrait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.core.person import ENDING, Person, is_same_source, load_person
from triportrait.core.weights import DEMO
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.inference import Engine, Portrait
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.people import nearest_of
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.rate_limit import TokenBucket
from triportrait.serve.live.refine_process import Work
from triportrait.serve.live.refinement import FAILED, GivenUp, Refinement
from triportrait.serve.live.sessions import PersonFile, Session, Versions
from triportrait.serve.live.worker import Worker
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.personalizing import TRAINER
from triportrait.serve.reenactor import PreparedSource
from triportrait.serve.refined import sha256_of

logger = logging.getLogger(__name__)

MINUTES = 2.0  # where the server listens on this machine alone
LEAST_MINUTES, MOST_MINUTES = 0.1, 30.0
MOST_IN_LINE = 5  # the one that runs, and those that wait
REFINE_EACH_S, REFINE_AT_ONCE = 20.0, 3.0


def check_minutes(minutes: float | None) -> None:
    """Check `--refine-minutes`. Raises: `InputError` where it is out of its range."""
    if minutes is not None and minutes != 0 and not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise InputError(
            f"--refine-minutes: expected 0, which switches refining off, or {LEAST_MINUTES:g} to {MOST_MINUTES:g}, "
            f"got {minutes:g}; choose another"
        )


@dataclass(frozen=True)
class RefineOptions:
    """What a server refines portraits by.

    Attributes:
        weights: the name of the weights, from which a refinement begins.
        minutes: how long a refinement takes; 0: visitors cannot ask for one.
        people: who is refined already.
        trainer: the module that refines.
    """

    weights: str = DEMO
    minutes: float = 0.0
    people: Sequence[Person] = ()
    trainer: str = TRAINER


class Refining:
    """Refine the portraits of all sessions, one at a time. The event loop calls all that is not said to be otherwise.

    Args:
        engine: prepares portraits.
        worker: runs jobs on the network's thread.
        metrics: counts refinements.
        options: from what, how long and by what portraits are refined.
    """

    def __init__(self, engine: Engine, worker: Worker, metrics: Metrics, options: RefineOptions) -> None:
        self._engine, self._worker, self._metrics, self._options = engine, worker, metrics, options
        self.minutes = 0.0 if engine.reenactor.static else options.minutes
        self._line: list[Session] = []
        self._running: Refinement | None = None
        self._stopped = False
        self._buckets: dict[str, TokenBucket] = {}
        self._files: dict[str, PersonFile] = {}
        self._thread = ThreadPoolExecutor(1, "live-refining")
        self._folder = tempfile.TemporaryDirectory(prefix="triportrait-live-", ignore_cleanup_errors=True)

    def stop(self) -> None:
        """End what runs, and remove all files; any thread may call it."""
        self._stopped = True
        running = self._running  # another thread sets it
        if running is not None:
            running.give_up()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._folder.cleanup()

    # ---- portraits that somebody has refined before

    def person_of(self, session: Session, crop: np.ndarray) -> tuple[Person | None, bool]:
        """Return who refines an aligned portrait uint8 [S, S, 3], and whether the session itself did; any thread."""
        file = session.file
        if file is not None and is_same_source(file.thumbnail, torch.tensor(crop)):
            with suppress(InputError):  # the session has ended meanwhile, and its file has gone
                return load_person(file.path, self._engine.reenactor.portrait), True
        return nearest_of(self._options.people, crop), False

    def prepare(self, face: AlignedFace, person: Person | None) -> PreparedSource:
        """Let the network read a portrait; called on the network's thread."""
        prepare = self._engine.reenactor.prepare
        return prepare(face) if person is None else prepare(face, person)

    def took(self, session: Session, portrait: Portrait, person: Person | None, own: bool, photo: bool) -> None:
        """Note that a session shows a portrait, which ends the refinement of the one before."""
        before = session.versions.plain or session.versions.refined
        if before is None or not _is_same(before, portrait):
            self.cancel(session)
        refined = None if person is None else portrait
        session.versions = Versions(portrait if person is None else None, refined, person, own, photo)

    def state(self, session: Session) -> dict[str, Any]:
        """Say whether a session's portrait is shown refined, and what can be done about it."""
        versions, file = session.versions, session.file if session.versions.own else None
        return {
            "can": versions.person is not None,
            "on": versions.person is not None and session.portrait is versions.refined,
            "own": versions.own,
            "offer": self._is_offered(session),
            "address": "" if file is None else f"/people/{file.name}",
            "bytes": 0 if file is None else file.size,
        }

    async def switch(self, session: Session, on: bool) -> None:
        """Show a session's portrait refined, or plain."""
        async with session.choice.lock:
            versions, shown = session.versions, session.portrait
            if versions.person is None or shown is None:
                raise InputError("refined: this portrait is not refined; refine it first")
            portrait = versions.refined if on else versions.plain
            if portrait is None:
                portrait = await self._prepared(shown.source.face, versions.person if on else None, shown.stamp)
                if on:
                    versions.refined = portrait
                else:
                    versions.plain = portrait
            with session.recording_lock:  # so that no recording begins between the check and the change
                session.check_not_recorded()
                self._worker.swap(session, portrait)
        session.tell({"is": "refined", **self.state(session)})

    def find(self, name: str) -> PersonFile | None:
        """Look a person's file up by its name, which never becomes a path."""
        return self._files.get(name)

    # ---- portraits that are refined here

    def _is_offered(self, session: Session) -> bool:
        shown = session.portrait
        return (
            self.minutes > 0 and session.versions.photo and session.versions.person is None
            and shown is not None and shown.source.face.found
        )  # fmt: skip

    async def ask(self, session: Session, on: bool) -> None:
        """Begin to refine a session's portrait, or wait for that in line; or end both."""
        if not on:
            self.cancel(session)
            return
        try:
            self._check(session)
        except InputError:
            self._metrics.refinements.labels("refused").inc()
            raise
        self._line.append(session)
        session.refining = asyncio.create_task(self._refine(session))
        session.refining.add_done_callback(partial(self._ended, session))

    def _check(self, session: Session) -> None:
        if not self.minutes:
            raise InputError("refine: this server refines no portraits; use `triportrait personalize`")
        if session.refining is not None:
            raise InputError("refine: this portrait is being refined already; wait for it")
        if not self._is_offered(session):
            raise InputError("refine: expected a photo of your own with a face, not refined yet; choose one first")
        if len(self._line) >= MOST_IN_LINE:
            raise InputError(f"refine: {len(self._line)} portraits are in line already; try again in a few minutes")
        if not self._buckets.setdefault(session.id, TokenBucket(1 / REFINE_EACH_S, REFINE_AT_ONCE)).take():
            raise InputError(f"refine: asked for too often; wait {REFINE_EACH_S:g} s")

    def cancel(self, session: Session) -> None:
        """End a session's refinement, if there is one; the portrait stays as it is."""
        if session.refining is not None:
            session.refining.cancel()

    def leave(self, session: Session) -> None:
        """Forget a session that has ended, with its refinement and its file."""
        self.cancel(session)
        self._buckets.pop(session.id, None)
        self._drop_file(session)
        session.versions = Versions()

    async def _refine(self, session: Session) -> None:
        began_s, how, sentence = time.monotonic(), "failed", FAILED
        folder = Path(self._folder.name) / secrets.token_urlsafe(16)
        refinement: Refinement | None = None
        try:
            portrait = session.portrait
            assert portrait is not None
            self._tell_line()
            refinement = Refinement(self._work(portrait, folder / f"person{ENDING}"), partial(self._progress, session))
            loop = asyncio.get_running_loop()
            person = await loop.run_in_executor(self._thread, self._run, session, refinement, folder)
            await self._show(session, portrait, person, folder)
            how, sentence = "done", ""
        except asyncio.CancelledError:
            how, sentence = "cancelled", ""
        except GivenUp:
            how, sentence = "cancelled", ""
        except InputError as error:
            sentence = str(error)
        except Exception:
            logger.exception("a refinement failed", extra=fields(session=session.id[:6]))
        finally:
            if refinement is not None:
                refinement.give_up()
            if session.file is None or session.file.path.parent != folder:
                shutil.rmtree(folder, ignore_errors=True)
            self._metrics.refinements.labels(how).inc()
            seconds = round(time.monotonic() - began_s, 1)
            logger.info("refinement ended", extra=fields(session=session.id[:6], how=how, seconds=seconds))
            session.tell({"is": "refining", "state": how, "sentence": sentence})

    def _ended(self, session: Session, task: asyncio.Task[None]) -> None:
        self._line.remove(session)
        session.refining = None
        if task.cancelled():  # before its first step; else `_refine` has told
            self._metrics.refinements.labels("cancelled").inc()
            session.tell({"is": "refining", "state": "cancelled", "sentence": ""})
        self._tell_line()

    def _work(self, portrait: Portrait, path: Path) -> Work:
        device = str(self._engine.reenactor.device)
        threads = max(1, (os.cpu_count() or 2) // 2)  # frames go on beside it
        options = self._options
        return Work(portrait.source.face, options.weights, device, self.minutes, path, threads, options.trainer)

    def _run(self, session: Session, refinement: Refinement, folder: Path) -> Person:
        """Refine, on the thread for that, and read the file."""
        if self._stopped:
            raise GivenUp
        self._running = refinement
        self._metrics.refining.set(1)
        logger.info("refinement began", extra=fields(session=session.id[:6], minutes=self.minutes))
        try:
            folder.mkdir(mode=0o700)
            refinement.run()
            return self._read(folder / f"person{ENDING}")
        except OSError as error:
            logger.error("a refinement failed", extra=fields(reason=str(error)))
            raise InputError(FAILED) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._running = None
            self._metrics.refining.set(0)

    def _read(self, path: Path) -> Person:
        try:
            network = self._engine.reenactor
            person = load_person(path, network.portrait)
            person.check_weights(network.weights_hash, path, self._options.weights)  # here, where no frame waits for it
            return person
        except InputError as error:  # the sentence names the path
            logger.error("a refinement failed", extra=fields(reason=str(error)))
            raise InputError(FAILED) from error

    async def _show(self, session: Session, portrait: Portrait, person: Person, folder: Path) -> None:
        """Show what was refined in the place of the plain portrait, and offer its file."""
        async with session.choice.lock:
            shown = session.portrait
            if session.closed or shown is None or not _is_same(shown, portrait):
                raise GivenUp
            refined = await self._prepared(shown.source.face, person, shown.stamp)
            self._drop_file(session)
            path = folder / f"person{ENDING}"
            file = PersonFile(secrets.token_urlsafe(16), path, path.stat().st_size, person.thumbnail)
            session.file = self._files[file.name] = file
            session.versions = Versions(shown, refined, person, own=True, photo=True)
            with session.recording_lock:
                if session.recording is None:  # else the page can switch when it has ended
                    self._worker.swap(session, refined)
        session.tell({"is": "refined", **self.state(session)})

    async def _prepared(self, face: AlignedFace, person: Person | None, stamp: Stamp) -> Portrait:
        source = await asyncio.wrap_future(self._worker.on_network(partial(self.prepare, face, person)))
        return portrait_of(source, stamp)

    def _drop_file(self, session: Session) -> None:
        file, session.file = session.file, None
        if file is not None:
            self._files.pop(file.name, None)
            shutil.rmtree(file.path.parent, ignore_errors=True)

    def _tell_line(self) -> None:
        """Tell those that wait how many are before them."""
        self._metrics.refinements_waiting.set(max(0, len(self._line) - 1))
        for before, session in enumerate(self._line):
            if before:
                session.tell({"is": "refining", "state": "waiting", "before": before})

    def _progress(self, session: Session, share: float | None, seconds_left: float, preview: str | None) -> None:
        percent = None if share is None else min(99, round(100 * share))
        session.tell({"is": "refining", "state": "running", "percent": percent, "seconds_left": round(seconds_left)})
        if preview is not None:
            session.tell({"is": "refining_picture", "picture": f"data:image/jpeg;base64,{preview}"})


def portrait_of(source: PreparedSource, stamp: Stamp) -> Portrait:
    """Return a portrait as a session shows it; its stamp says by whose file it is refined, if it is."""
    return Portrait(source, stamp.for_person(sha256_of(source.refined)))


def _is_same(one: Portrait, other: Portrait) -> bool:
    return np.array_equal(one.source.face.crop, other.source.face.crop)
