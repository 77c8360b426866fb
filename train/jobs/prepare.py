"""`triportrait prepare heads|clips|videos|sheet|lmdb|check` makes the data of training, and checks them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.train.data.cameras import SET_CAMERAS, CameraPreset, shown_cameras
from triportrait.train.data.check import check_data
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.clip_store.importing import SKIPPED, Imported, import_lmdb
from triportrait.train.data.contact_sheets import SheetKind, write_sheet
from triportrait.train.data.head_videos import check_clips, write_clips
from triportrait.train.data.multiview import check_multiview, holds_multiview, write_multiview

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Output:
    """A job that makes one folder or file, which is named as `OUT` or as `--out OUT`."""

    place: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OUT", help_behavior_hint="")] = ()
    """The folder to make; for a sheet, the .png file."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="OUT", help_behavior_hint="")] = None
    """The same as an option."""

    def target(self) -> Path:
        """Return the path that the job is to make.

        Raises: `InputError` where none or two are named.
        """
        named = [*self.place, *([] if self.out is None else [self.out])]
        if not named:
            raise InputError("OUT is missing: expected what to make, as OUT or --out OUT; --help lists the options")
        if len(named) > 1:
            raise InputError(
                f"OUT: expected one place, got {' and '.join(map(str, named))}; name one, as OUT or --out OUT"
            )
        return named[0]


@dataclass(frozen=True)
class _Drawn(_Output):
    """A job that draws procedural heads."""

    seed: int = 0
    """Which people: the same seed gives the same heads, expressions and motions."""
    size: int = 128
    """Side of each picture in px; videos take even sizes."""
    antialias: int = 2
    """Samples along a pixel's side."""


@dataclass(frozen=True)
class Heads(_Drawn):
    """Write a multi-view set for stage 1: several expressions of each head, each seen from several sides, with depth,
    parts and landmarks. Where the same set is there already, nothing is done."""

    count: int = 16
    """How many heads."""
    expressions: int = 4
    """Expressions of each head."""
    views: int = 3
    """Views of each expression."""
    cameras: CameraPreset = "tiny"
    """The cameras of the preset of this name: tiny has the first view near the front, paper has all views in the
    paper's range, published half of them there and half where people film themselves."""
    overwrite: bool = False
    """Replace the folder if it is such a set."""

    def run(self) -> None:
        """Check everything, then write head by head."""
        out, cameras = self.target(), SET_CAMERAS[self.cameras]
        settings = {n: getattr(self, n) for n in ("seed", "count", "expressions", "views", "size", "antialias")}
        if not self.overwrite and holds_multiview(out, settings | {"faces": "random"}, cameras):
            _report(out, f"{out}: these {self.count} heads are there already, nothing was done")
            return
        numbers = (self.seed, self.count, self.expressions, self.views, self.size, self.antialias)
        check_multiview(*numbers)
        with _progress("head", self.count) as progress:
            write_multiview(out, *numbers, self.overwrite, progress, seen_from=cameras)
        pictures = self.count * self.expressions * self.views
        _report(out, f"{self.count} heads, {pictures} pictures of {self.size} px; {shown_cameras(cameras)}")


@dataclass(frozen=True)
class Clips(_Drawn):
    """Write a clip store for stage 2: one moving head in each clip, at 25 frames a second. A command that was stopped
    goes on."""

    count: int = 32
    """How many clips, one of each head."""
    frames: int = 50
    """Frames of each clip."""

    def run(self) -> None:
        """Check everything, then film clip by clip."""
        out = self.target()
        with _progress("clip", self.count) as progress:
            clips = film_heads(out, self.seed, self.count, self.frames, self.size, self.antialias, progress)
        _report(out, _already_there(out, clips) or f"{self.count} clips of {self.frames} frames, {self.size} px")


@dataclass(frozen=True)
class Videos(_Drawn):
    """Write H.264 videos of one moving head each, with an .npz of every frame's numbers beside each; `reenact` reads
    landmarks and neck poses there."""

    count: int = 4
    """How many videos."""
    frames: int = 75
    """Frames of each video."""
    fps: int = 25
    """Frames a second."""
    overwrite: bool = False
    """Replace the folder if it holds such videos."""

    def run(self) -> None:
        """Check everything, then write video by video."""
        out = self.target()
        numbers = (self.seed, self.count, self.frames, self.fps, self.size, self.antialias)
        check_clips(*numbers)
        with _progress("video", self.count) as progress:
            write_clips(out, *numbers, self.overwrite, progress)
        _report(out, f"{self.count} videos of {self.frames} frames, {self.size} px")


@dataclass(frozen=True)
class Sheet(_Drawn):
    """Write a contact sheet of heads as PNG."""

    kind: SheetKind = "identities"
    """Many heads, each head with every expression, or each head from all sides."""
    count: int = 24
    """How many heads; 2 or 3 are enough for expressions and views."""
    overwrite: bool = False
    """Replace the picture if it exists."""

    def run(self) -> None:
        """Check everything, then draw."""
        out = self.target()
        write_sheet(out, self.kind, self.seed, self.count, self.size, self.antialias, self.overwrite)
        _report(out, f"{self.kind} of seed {self.seed}")


# LMDB stands before OUT, so it is declared before the fields of `_Output`
@dataclass(frozen=True)
class _Lmdb:
    lmdb: tyro.conf.Positional[Path]
    """The folder of the published LMDB."""


@dataclass(frozen=True)
class Lmdb(_Output, _Lmdb):
    """Write a clip store for stage 2 from the published LMDB. An import that was stopped goes on."""

    most_skipped: float = 0.05
    """Share of clips that may be damaged before the import stops."""

    def run(self) -> None:
        """Check everything, then import clip by clip."""
        out = self.target()
        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")
        with _progress("clip") as progress:
            clips = import_lmdb(self.lmdb, out, self.most_skipped, progress)
        skipped = f", {clips.skipped} skipped, which {out / SKIPPED} names" if clips.skipped else ""
        _report(out, _already_there(out, clips) or f"{clips.written} clips{skipped}")


@dataclass(frozen=True)
class Check:
    """Read a multi-view set or a clip store: checksums, every table, and that its videos decode."""

    store: tyro.conf.Positional[Path]
    """The set or the store."""
    deep: bool = False
    """Decode every frame of every clip; by default the first and the last of each."""

    def run(self) -> None:
        """Read all of it."""
        with _progress("", leave=False) as progress:
            line, checks = check_data(self.store, self.deep, progress)
        print(line)
        logger.info("looked at: %s", checks)


Prepare = Heads | Clips | Videos | Sheet | Lmdb | Check


@contextmanager
def _progress(unit: str, total: int | None = None, leave: bool = True) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; it yields a function of the number done and, where it is known late, that of all."""
    from tqdm import tqdm

    hidden = None if logger.isEnabledFor(logging.INFO) else True  # None hides it where stderr is no terminal
    with tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden, leave=leave) as bar:

        def progress(done: int, count: int | None = total) -> None:
            bar.total = count
            bar.update(done - bar.n)

        yield progress


def _report(out: Path, line: str) -> None:
    """Log what was made, and print its path on stdout, where a script may read it."""
    logger.info("%s", line)
    print(out)


def _already_there(out: Path, clips: Imported) -> str:
    """A sentence where the store was finished before; empty where it was not."""
    return f"{out}: its {clips.written} clips are there already, nothing was done" if clips.already_there else ""
