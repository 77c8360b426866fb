"""`triportrait prepare heads|clips|lmdb|check`: what training reads, made of procedural heads or of other formats."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from triportrait.core.errors import InputError
from triportrait.core.sentences import say
from triportrait.train.data.cameras import SET_CAMERAS
from triportrait.train.data.check import check_data
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.clip_store.importing import SKIPPED, Imported, import_lmdb
from triportrait.train.data.multiview import is_there
from triportrait.train.jobs.heads import Multiview, Out, Place, made, place, progress


@dataclass(frozen=True)
class Heads(Multiview):
    """Write a multi-view set of procedural heads, for stage 1 (as `triportrait heads multiview`); where it is there
    already, nothing is done."""

    def run(self) -> None:
        """Check everything, then write head by head."""
        out = place(self.place, self.out)
        wanted = {n: getattr(self, n) for n in ("seed", "count", "expressions", "views", "size", "antialias")}
        if not self.overwrite and is_there(out, wanted | {"faces": "random"}, SET_CAMERAS[self.cameras]):
            made(out, f"{out}: these {self.count} heads are there already, nothing was done")
        else:
            super().run()


@dataclass(frozen=True)
class Clips:
    """Procedural heads become a clip store, for stage 2; a command that was stopped goes on."""

    place: Place = ()
    """The store to make."""
    out: Out = None
    """The same as an option."""
    seed: int = 0
    """Which people: the same seed gives the same heads and motions."""
    count: int = 32
    """How many clips, one of each head."""
    frames: int = 50
    """Frames of each clip, 25 a second."""
    size: int = 128
    """Side of the pictures in px, even."""
    antialias: int = 2
    """Samples along a pixel's side."""

    def run(self) -> None:
        """Check everything, then film clip by clip."""
        out = place(self.place, self.out)
        numbers = (self.seed, self.count, self.frames, self.size, self.antialias)
        with progress(self.count, "clip") as tell:
            done = film_heads(out, *numbers, tell)
        made(out, _before(out, done) or f"{self.count} clips of {self.frames} frames, {self.size} px")


@dataclass(frozen=True)
class Lmdb:
    """The published LMDB of clips becomes a clip store; an import that was stopped goes on."""

    lmdb: tyro.conf.Positional[Path]
    """Its folder."""
    place: Place = ()
    """The store to make."""
    out: Out = None
    """The same as an option."""
    most_skipped: float = 0.05
    """Share of clips that may be damaged before the import stops."""

    def run(self) -> None:
        """Check everything, then import clip by clip."""
        from tqdm import tqdm

        out = place(self.place, self.out)
        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")
        with tqdm(unit="clip", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

            def tell(number: int, count: int) -> None:
                bar.total = count
                bar.update(number - bar.n)

            done = import_lmdb(self.lmdb, out, self.most_skipped, tell)
        skipped = f", {done.skipped} skipped, which {out / SKIPPED} names" if done.skipped else ""
        made(out, _before(out, done) or f"{done.written} clips{skipped}")


@dataclass(frozen=True)
class Check:
    """Read a multi-view set or a clip store: checksums, every table, and that its videos decode."""

    store: tyro.conf.Positional[Path]
    """The set or the store."""
    deep: bool = False
    """Decode every frame of every clip; else the first and the last of each."""

    def run(self) -> None:
        """Read all of it."""
        from tqdm import tqdm

        with tqdm(unit="", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

            def tell(done: int, count: int) -> None:
                bar.total = count
                bar.update(done - bar.n)

            line, looked = check_data(self.store, self.deep, tell)
        say(line, sys.stdout)
        say(f"looked at: {looked}")


Prepare = Heads | Clips | Lmdb | Check


def _before(out: Path, done: Imported) -> str:
    """What to say where a store was finished before; empty where it was not."""
    return f"{out}: its {done.written} clips are there already, nothing was done" if done.before else ""
