"""Makes a clip store of a folder of films: film by film, in processes and on several machines, then joined in order.

    STORE/.films/000012/    a film that is done or worked on (`one_film`); gone when the store is finished
    STORE/films.jsonl       what became of each film and of its shots
    STORE/report.json       the counts
    STORE/page.html         what was kept and dropped, and why, with pictures

Each rank takes every n-th film. The first joins what all have made; nothing but files passes between them, so that a
rank which is killed loses the film it was at, and the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from triportrait.core.atomic import write_text
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_bytes
from triportrait.train.data.clip_store.importing import Imported, finished_store
from triportrait.train.data.clip_store.store import PROGRESS, ClipWriter, begun_from
from triportrait.train.data.films.clip_making import tools_of
from triportrait.train.data.films.listing import Films
from triportrait.train.data.films.one_film import Outcome, folder_of, process_film, read_outcome
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.films.report import PAGE, REPORT, counts_of, line_of, log_lines, write_page
from triportrait.train.data.parallel import in_order
from triportrait.train.data.split import FILMS

PARTS, LOG = ".films", "films.jsonl"
AHEAD = 64  # films, or 8 for each process, that may be done while one before them is worked on; outcomes are small
BEAT_S, SILENCE_S, LOOK_S = 10.0, 300.0, 0.5  # a rank says that it lives; it counts as gone; how often we look

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Says which of several processes of a launcher this is.

    Attributes:
        rank: from 0. size: how many there are.
    """

    rank: int = 0
    size: int = 1


def make_store(
    films: Films,
    identities: Mapping[str, str],
    out: Path,
    options: FilmOptions,
    device: str = "cpu",
    workers: int = 1,
    place: Place | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Imported | None:
    """Make the clip store of a folder of films.

    Args:
        identities: whose each film is.
        out: the store's folder; one that was begun by the same command goes on.
        device: where fits, segmentation and motion are computed.
        workers: processes that work on films.
        place: which of several ranks this is; None: it is alone.
        progress: is called with the number of films done and that of all.

    Returns:
        How many clips were written and how many films dropped; None on ranks that join nothing, or find all done.

    Raises: `InputError` where the store was begun from something else, no film gives a clip, a network is missing, a
        rank is gone, or the disk refuses.
    """
    place = place or Place()
    tools = tools_of(options, device)
    tools.check()
    settings = {
        "source": FILMS, "name": films.folder.resolve().name, "films": len(films.names),
        "listing": films.fingerprint, "identities": _fingerprint(identities), **tools.identity(), **options.plain(),
    }  # fmt: skip
    parts = out / PARTS
    if place.rank == 0:
        if (finished := finished_store(out, settings)) is not None:
            shutil.rmtree(parts, ignore_errors=True)
            return finished
        writer = ClipWriter(out, settings)
        with _disk_errors(out):
            parts.mkdir(exist_ok=True)
    elif not _wait_for_begin(out, settings):
        return None
    mine = [number for number in range(len(films.names)) if number % place.size == place.rank]
    count = len(films.names)
    work = partial(_process, films, parts, options, device)
    with _disk_errors(out), _beating(parts, place):
        done, processes = 0, max(1, min(workers, len(mine)))
        outcomes = in_order(work, mine, processes, device != "cpu", max(AHEAD, 8 * processes))
        for done, outcome in enumerate(outcomes, 1):
            for line in () if outcome is None else log_lines(outcome):
                logger.warning("%s", line)
            progress(min(done * place.size, count), count)
        if place.rank:
            return None
        _wait_for_others(parts, count, place, progress)
        return _join(films, identities, out, parts, writer, settings)


def _process(films: Films, parts: Path, options: FilmOptions, device: str, number: int) -> Outcome | None:
    """Work on one film, in whatever process; None where the store was finished meanwhile."""
    return process_film(films.folder, films.names[number], number, parts, tools_of(options, device))


def _join(
    films: Films, identities: Mapping[str, str], out: Path, parts: Path, writer: ClipWriter, settings: Mapping[str, Any]
) -> Imported:
    """Put the clips of all films into the store, in order, and write what became of the films.

    Raises: `InputError` where no film gave a clip.
    """

    def outcomes() -> Iterator[tuple[Path, Outcome]]:
        for number in range(len(films.names)):
            outcome = read_outcome(parts, number)
            assert outcome is not None, "a film is not done"
            yield folder_of(parts, number), outcome

    counts = counts_of((outcome for _, outcome in outcomes()), films)
    lines = (json.dumps({"identity": identities[o.film], **_logged(o)}) + "\n" for _, o in outcomes())
    write_text(out / LOG, "".join(lines))
    write_text(out / REPORT, json.dumps({**counts, "settings": dict(settings)}, indent=1) + "\n")
    write_page(out / PAGE, films, counts, outcomes())
    order: list[str] = []
    for folder, outcome in outcomes():
        for entry in (shot.entry for shot in outcome.shots if shot.entry is not None):
            order.append(entry["name"])
            if entry["name"] not in writer.clips:
                writer.take({**entry, "identity": identities[outcome.film]}, folder)
    if not writer.clips:
        raise InputError(
            f"{films.folder}: none of its {len(films.names)} films gave a clip ({line_of(counts)}); {out / PAGE} shows "
            "why; name other films, or other limits and another store"
        )
    writer.clips = {name: writer.clips[name] for name in order}  # also where a killed process began to join
    dropped = sum(counts["films"]["dropped"].values())
    writer.finish(dropped=dropped)
    shutil.rmtree(parts, ignore_errors=True)
    return Imported(len(writer.clips), dropped)


def _logged(outcome: Outcome) -> dict[str, Any]:
    """Return what the log of films says of one: not where its pictures and files lay meanwhile."""
    plain = outcome.plain()
    plain.pop("picture")
    for shot in plain["shots"]:
        del shot["picture"], shot["entry"]
    return plain


def _fingerprint(identities: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(identities.items()))).encode()).hexdigest()[:16]


def _wait_for_begin(out: Path, settings: Mapping[str, Any]) -> bool:
    """Wait until the first rank has begun the store.

    Returns: whether there is something to do: false where the store is finished.
    Raises: `InputError` where it was made from something else, or is not begun.
    """
    until = time.monotonic() + SILENCE_S
    while time.monotonic() < until:
        if finished_store(out, settings) is not None:
            return False
        try:
            lines = read_bytes(out / PROGRESS, MOST_INDEX).decode().splitlines()
        except OSError:
            lines = []
        if lines and begun_from(lines[0], settings):
            return True
        time.sleep(LOOK_S)
    raise InputError(f"{out}: expected that the first process begins this store, it did not; start all by one command")


def _wait_for_others(parts: Path, count: int, place: Place, progress: Callable[[int, int], None]) -> None:
    """Wait until every film is done. Raises: `InputError` where a rank with films to do is gone."""
    missing = list(range(count))
    heard: dict[int, tuple[str, float]] = {}
    while True:
        missing = [number for number in missing if read_outcome(parts, number) is None]
        progress(count - len(missing), count)
        if not missing:
            return
        for rank in sorted({number % place.size for number in missing}):
            beat = _beat_of(parts, rank)
            if rank not in heard or heard[rank][0] != beat:
                heard[rank] = (beat, time.monotonic())
            elif time.monotonic() - heard[rank][1] > SILENCE_S:
                raise InputError(
                    f"rank {rank}: expected {sum(n % place.size == rank for n in missing)} more films from it, nothing "
                    f"was heard for {SILENCE_S:g} s; start the same command again, it goes on"
                )
        time.sleep(LOOK_S)


@contextmanager
def _beating(parts: Path, place: Place) -> Iterator[None]:
    """Let this rank say that it lives, where others may wait for it."""
    stop = Event()

    def beat() -> None:
        number = 0
        while not stop.wait(BEAT_S if number else 0):
            number += 1
            with suppress(OSError):  # the first rank makes the folder, and removes it when the store is finished
                write_text(parts / f"rank_{place.rank}", f"{time.time_ns()} {number}\n")

    thread = Thread(target=beat, daemon=True)
    if place.size > 1:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()


def _beat_of(parts: Path, rank: int) -> str:
    try:
        return (parts / f"rank_{rank}").read_text()
    except OSError:
        return ""


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{error.filename or out}: it could not be written ({reason}); free some space, and the same "
                         "command goes on") from error  # fmt: skip
