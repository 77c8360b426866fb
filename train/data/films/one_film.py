"""Makes the clips of one film, in a folder of its own; an outcome, written last, says what became of it.

000012/clip_000012_000.mp4, .npz    a clip that is kept
000012/000.jpg                      a strip of its frames, or of one that is dropped
000012/outcome.json                 the film's `Outcome`
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.atomic import write_text
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.safe_text import shown
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.landmark_files import RAW_LANDMARKS, KnownFaces, LandmarkFolder, known_beside
from triportrait.serve.media.video.clips import Clip, Frame, open_clip
from triportrait.train.data.clip_store.store import INDEX, write_clip
from triportrait.train.data.films.clip_making import Tools, pictures_of, seed_of
from triportrait.train.data.films.judging import drawn, flaws_fitted, flaws_seen, flaws_segmented, verdict
from triportrait.train.data.films.options import FilmOptions, Reason
from triportrait.train.data.films.runs import Run, runs_of
from triportrait.train.data.films.thumbnails import jpeg, small, strip_of

OUTCOME = "outcome.json"
LARGEST_SIDE_PX = 8192  # of a film's picture
MOST_OUTCOME = 64 << 20  # bytes
_FAILURES = (RuntimeError, ArithmeticError, np.linalg.LinAlgError)  # of the work on one film, as memory of a GPU

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """What became of a run.

    Attributes:
        first_frame, frames: where it lies in the film. start_s: when.
        clip: the name of the clip that it became, None where it was dropped; `reason` says why.
        flaws: how many frames had which flaw.
        picture: name of its strip.
        entry: of the store's index, where it became a clip.
    """

    first_frame: int
    frames: int
    start_s: float
    clip: str | None
    reason: Reason | None
    flaws: dict[str, int]
    picture: str
    error_px: float | None = None
    entry: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a film.

    Attributes:
        film: its name below the folder of films.
        reason: why it was dropped, None where a clip of it is kept. said: what there is to say beside.
        frames: how many were read. size_px: width and height of its pictures. fps: their average rate.
        faces: how faces were known: by networks, or by landmark files.
    """

    film: str
    reason: Reason | None
    said: list[str]
    frames: int
    size_px: tuple[int, int] | None
    fps: float | None
    faces: str
    shots: list[Shot]
    picture: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def folder_of(parts: Path, number: int) -> Path:
    """Return the folder in which the film of that number is worked on."""
    return parts / f"{number:06d}"


def read_outcome(parts: Path, number: int) -> Outcome | None:
    """Read what became of a film; None where it is not done."""
    try:
        plain = read_json(folder_of(parts, number) / OUTCOME, MOST_OUTCOME)
        return Outcome(**{**plain, "shots": [Shot(**shot) for shot in plain["shots"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def process_film(films: Path, name: str, number: int, parts: Path, tools: Tools) -> Outcome | None:
    """Make the clips of one film, unless that was done before.

    Args:
        films: the folder of films. name: the film's below it. number: its place in the list of all.
        parts: the folder of the films' folders, in that of the store.

    Returns: what became of it; None where the store was finished meanwhile, and what was made has moved.
    Raises: `OSError` where the disk refuses to be written to.
    """
    if (done := read_outcome(parts, number)) is not None:
        return done
    if (parts.parent / INDEX).exists():
        return None
    folder = folder_of(parts, number)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir(parents=True)
    work = _Film(name, number, folder, tools)
    outcome = work.run(films / name)
    write_text(folder / OUTCOME, json.dumps(outcome.plain(), indent=1) + "\n")
    return outcome


class _Film:
    """One film while it is read."""

    def __init__(self, name: str, number: int, folder: Path, tools: Tools) -> None:
        self.name, self.number, self.folder, self.tools = name, number, folder, tools
        self.options: FilmOptions = tools.options
        self.shots: list[Shot] = []
        self.said: list[str] = []
        self.frames = 0
        self.first: np.ndarray | None = None
        self.clip: Clip | None = None
        self.model, self.by_networks = tools.head_model, False

    def run(self, path: Path) -> Outcome:
        import av

        faces = "networks"
        stopped: str | None = None
        why: Reason = "unreadable"
        try:
            clip = self.clip = open_clip(path)
            if max(clip.size_px) > LARGEST_SIDE_PX:
                raise InputError(f"{path}: its pictures have {clip.size_px[0]} x {clip.size_px[1]} px, expected up to "
                                 f"{LARGEST_SIDE_PX} a side; make it smaller")  # fmt: skip
            beside = _landmarks_beside(path)
            known = None if beside is None else _faces_of(beside)
            if beside is not None:
                faces = f"landmarks of {beside.root.name}"
            provider = None if known is not None else self.tools.provider
            self.model, self.by_networks = self.tools.model_of(provider), provider is not None
            for run in runs_of(self._read(clip), provider, known, self.options):
                self._take(run)
            self.said += [_below(text, path) for text in clip.warnings]
        except (InputError, av.FFmpegError) as error:
            stopped = _below(str(error), path)
        except _FAILURES as error:
            if "CUDA error" in str(error):  # after it nothing works on that device, nor would any other film
                raise
            logger.debug("%s failed", shown(self.name), exc_info=True)
            first_line = next(iter(str(error).splitlines()), "")
            stopped, why = _below(f"{type(error).__name__}: {first_line}", path), "failed"
        reason = self._reason(stopped, why)
        if reason in ("unreadable", "failed"):  # what was seen of it suffers from that, too
            self.shots = [replace(shot, reason=reason) for shot in self.shots]
        if stopped is not None:
            self.said.insert(0, stopped)
        picture = None
        if not self.shots and self.first is not None:
            picture = "film.jpg"
            (self.folder / picture).write_bytes(jpeg(self.first))
        size = None if self.clip is None else self.clip.size_px
        fps = None if self.clip is None else round(float(self.clip.fps), 3)
        return Outcome(self.name, reason, self.said, self.frames, size, fps, faces, self.shots, picture)

    def _read(self, clip: Clip) -> Iterator[Frame]:
        """Give the frames up to the longest time that is read."""
        most_s = self.options.minutes * 60
        for frame in clip.frames():
            if frame.time_s > most_s:
                self.said.append(f"read for its first {self.options.minutes:g} minutes only")
                return
            if self.first is None:
                self.first = small(frame.image)
            self.frames += 1
            yield frame

    def _take(self, run: Run) -> None:
        """Judge a run, and make a clip of it where it is good."""
        number, tools, options = len(self.shots), self.tools, self.options
        flaws, fit, entry = flaws_seen(run, options), None, None
        reason = verdict(run, flaws, options)
        if reason is None:
            try:
                fit = tools.fit(run, self.model, self.by_networks)
                flaws = flaws_fitted(flaws, fit, options)
                reason = verdict(run, flaws, options)
            except InputError as error:
                reason = "bad fit"
                self.said.append(f"frame {run.first}: {error}")
        if reason is None and fit is not None:
            good = np.flatnonzero([flaw is None for flaw in flaws])
            masks = tools.masks_of(run, good)
            flaws = flaws_segmented(flaws, run, good.tolist(), masks, options)
            reason = verdict(run, flaws, options)
        if reason is None and fit is not None:
            rows = drawn(flaws, options, seed_of(options.seed, self.name, run.first))
            name = f"clip_{self.number:06d}_{number:03d}"
            try:
                table = tools.table(run, fit, rows, masks[np.searchsorted(good, rows)])
                entry = write_clip(self.folder, name, pictures_of(run, rows), table)
                entry["film"] = self.name
            except ValueError as error:  # numbers that no head has
                reason = "bad fit"
                self.said.append(f"frame {run.first}: {error}")
        error_px = None
        if fit is not None:
            known = fit.error_px[~fit.error_px.isnan()]
            error_px = round(float(known.mean()), 2) if len(known) else None
        picture = f"{number:03d}.jpg"
        strip = strip_of(run, None if fit is None else self.model, fit)
        (self.folder / picture).write_bytes(jpeg(strip))
        counts = Counter(flaw for flaw in flaws if flaw is not None)
        clip = None if entry is None else str(entry["name"])
        self.shots.append(
            Shot(run.first, len(run), round(run.times_s[0], 3), clip, reason, dict(sorted(counts.items())), picture,
                 error_px, entry)
        )  # fmt: skip

    def _reason(self, stopped: str | None, why: Reason) -> Reason | None:
        """Say why the film is dropped: None where a clip is kept, else what most of its shots suffer from."""
        if any(shot.clip is not None for shot in self.shots):
            return None
        damaged = self.clip is not None and bool(self.clip.warnings) and self.frames < self.options.fewest
        if stopped is not None:
            return why
        if damaged:
            return "unreadable"
        reasons = [shot.reason for shot in self.shots if shot.reason is not None]
        return Counter(reasons).most_common(1)[0][0] if reasons else "no face"


def _landmarks_beside(path: Path) -> KnownFaces | None:
    """Open the landmarks beside a film: those of a procedural head, or FILM/landmarks/ of any tracker.

    Raises: `InputError` where they are damaged.
    """
    folder = path.with_suffix("")
    return LandmarkFolder(folder) if (folder / RAW_LANDMARKS).is_dir() else known_beside(path)


def _faces_of(known: KnownFaces) -> Callable[[int], Sequence[Face]]:
    names = known.names

    def faces(number: int) -> Sequence[Face]:
        if number >= len(names):
            raise InputError(
                f"{known.root}: expected landmarks of every frame, got those of {len(names)}; track the film again"
            )
        return [known.face(names[number])]

    return faces


def _below(sentence: str, path: Path) -> str:
    """Leave out of a sentence where the film lies, which its name in the list says, so that folders may move."""
    return shown(sentence.replace(f"{path.parent}/", ""))
