"""`triportrait prepare heads|clips|lmdb|check`: what training reads, made of procedural heads or of other formats."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.sentences import say
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.clip_store.importing import SKIPPED, import_lmdb
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.jobs.heads import Multiview, progress


@dataclass(frozen=True)
class Heads(Multiview):
    """Write a multi-view set of procedural heads, for stage 1 (the same as `triportrait heads multiview`)."""


@dataclass(frozen=True)
class Clips:
    """Procedural heads become a clip store, for stage 2; a command that was stopped goes on."""

    out: tyro.conf.Positional[Path]
    """The store to make."""
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
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Show where an error came from."""

    def run(self) -> None:
        """Check everything, then film clip by clip."""
        numbers = (self.seed, self.count, self.frames, self.size, self.antialias)
        with progress(self.count, "clip") as tell:
            film_heads(self.out, *numbers, tell)
        print(f"{self.count} clips of {self.frames} frames, {self.size} px", file=sys.stderr)
        say(str(self.out), sys.stdout)


@dataclass(frozen=True)
class Lmdb:
    """The published LMDB of clips becomes a clip store; an import that was stopped goes on."""

    lmdb: tyro.conf.Positional[Path]
    """Its folder."""
    out: tyro.conf.Positional[Path]
    """The store to make."""
    most_skipped: float = 0.05
    """Share of clips that may be damaged before the import stops."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Show where an error came from."""

    def run(self) -> None:
        """Check everything, then import clip by clip."""
        from tqdm import tqdm

        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")
        with tqdm(unit="clip", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

            def tell(number: int, count: int) -> None:
                bar.total = count
                bar.update(number - bar.n)

            done = import_lmdb(self.lmdb, self.out, self.most_skipped, tell)
        skipped = f", {done.skipped} skipped, which {self.out / SKIPPED} names" if done.skipped else ""
        print(f"{done.written} clips{skipped}", file=sys.stderr)
        say(str(self.out), sys.stdout)


@dataclass(frozen=True)
class Check:
    """Compare every file of a clip store with its checksum."""

    store: tyro.conf.Positional[Path]
    """The store."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Show where an error came from."""

    def run(self) -> None:
        """Read all of it."""
        found = ClipStore(self.store, contents=True)
        print(f"{len(found)} clips of {found.size} px, {sum(found.frames_of):,} frames: whole")


Prepare = Heads | Clips | Lmdb | Check
