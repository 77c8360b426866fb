"""`triportrait prepare heads|clips|videos|sheet|lmdb|split|check` makes the data of training, and checks them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
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
from triportrait.train.data.heads.population import check_seed_and_count
from triportrait.train.data.multiview import check_multiview, holds_multiview, write_multiview
from triportrait.train.data.split import check_identities, check_share, head_identity, read_identities, split_data
from triportrait.train.jobs.ablation_options import OptionalFloat, OptionalPath

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
class _Held(_Output):
    """A job that makes a set of identities, some of which may be held out."""

    split: OptionalFloat = None
    """Share of the identities that are held out of training and measured while it runs; a hash of each decides. By
    default none is; `prepare split` does it later."""


@dataclass(frozen=True)
class Heads(_Held, _Drawn):
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
        _check_heads(self.split, self.seed, self.count, out)
        settings = {n: getattr(self, n) for n in ("seed", "count", "expressions", "views", "size", "antialias")}
        if not self.overwrite and holds_multiview(out, settings | {"faces": "random"}, cameras):
            held = _split(out, self.split)
            _report(out, f"{out}: these {self.count} heads are there already, nothing was done{held}")
            return
        numbers = (self.seed, self.count, self.expressions, self.views, self.size, self.antialias)
        check_multiview(*numbers)
        with _progress("head", self.count) as progress:
            write_multiview(out, *numbers, self.overwrite, progress, seen_from=cameras)
        pictures = self.count * self.expressions * self.views
        held = _split(out, self.split)
        _report(out, f"{self.count} heads, {pictures} pictures of {self.size} px; {shown_cameras(cameras)}{held}")


@dataclass(frozen=True)
class Clips(_Held, _Drawn):
    """Write a clip store for stage 2: one moving head in each clip, at 25 frames a second. A command that was stopped
    goes on."""

    count: int = 32
    """How many clips, one of each head."""
    frames: int = 50
    """Frames of each clip."""

    def run(self) -> None:
        """Check everything, then film clip by clip."""
        out = self.target()
        _check_heads(self.split, self.seed, self.count, out)
        with _progress("clip", self.count) as progress:
            clips = film_heads(out, self.seed, self.count, self.frames, self.size, self.antialias, progress)
        held = _split(out, self.split)
        line = _already_there(out, clips) or f"{self.count} clips of {self.frames} frames, {self.size} px"
        _report(out, f"{line}{held}")


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
class Lmdb(_Held, _Lmdb):
    """Write a clip store for stage 2 from the published LMDB. An import that was stopped goes on."""

    most_skipped: float = 0.05
    """Share of clips that may be damaged before the import stops."""
    identities: OptionalPath = None
    """A text file with a line for each record, in order, that says whose it is: any name, or a clip's in VFHQ
    (Clip+VIDEO+P0+C0+F1-200), of which the video is taken. An LMDB holds no names: without it --split takes each clip
    for a person."""

    def run(self) -> None:
        """Check everything, then import clip by clip."""
        out = self.target()
        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")
        if self.split is None and self.identities is not None:
            raise InputError("identities: expected --split beside it, which it is for; name a share or leave it out")
        lines = None if self.identities is None else read_identities(self.identities)

        def check(names: Sequence[str]) -> None:
            if lines is not None and self.identities is not None:
                check_identities(lines, len(names), self.identities)
            if self.split is not None:
                check_share(self.split, 0, lines or names, str(self.lmdb))

        with _progress("clip") as progress:
            clips = import_lmdb(self.lmdb, out, self.most_skipped, progress, check)
        skipped = f", {clips.skipped} skipped, which {out / SKIPPED} names" if clips.skipped else ""
        held = _split(out, self.split, self.identities)
        _report(out, (_already_there(out, clips) or f"{clips.written} clips{skipped}") + held)


@dataclass(frozen=True)
class Split:
    """Hold identities out of a set or a store that is there, for what training measures while it runs. Only split.json
    is written, in its folder; a set that is split already stays as it is."""

    store: tyro.conf.Positional[Path]
    """The multi-view set or the clip store."""
    share: float = 0.1
    """Share of the identities that are held out; a hash of each decides, so that clips which come later move nobody."""
    seed: int = 0
    """Chooses who they are. Sets that train two stages of one network take the same seed and share."""
    identities: OptionalPath = None
    """As of `prepare lmdb`: whose each record of an LMDB is."""

    def run(self) -> None:
        """Check everything, then write the file."""
        split, already = split_data(self.store, self.share, self.seed, self.identities)
        _report(self.store, f"{split.sentence()}{', as they were already' if already else ''}")


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


Prepare = Heads | Clips | Videos | Sheet | Lmdb | Split | Check


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


def _check_heads(share: float | None, seed: int, count: int, out: Path) -> None:
    """Check before heads are drawn that a share of them leaves some on either side. Raises: `InputError`."""
    if share is not None:
        check_seed_and_count(seed, count)
        check_share(share, 0, [head_identity(seed, head) for head in range(count)], str(out))


def _split(out: Path, share: float | None, identities: Path | None = None) -> str:
    """Hold a share of a set out, where one is asked for; returns the end of a sentence that says so."""
    return "" if share is None else f"; {split_data(out, share, identities=identities)[0].sentence()}"


def _already_there(out: Path, clips: Imported) -> str:
    """A sentence where the store was finished before; empty where it was not."""
    return f"{out}: its {clips.written} clips are there already, nothing was done" if clips.already_there else ""
