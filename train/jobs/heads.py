"""`triportrait heads multiview|clips|sheet`: procedural heads as training sets, as videos, as a contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.sentences import say
from triportrait.train.data.cameras import SET_CAMERAS, Habit, shown_cameras
from triportrait.train.data.clips import check_clips, write_clips
from triportrait.train.data.multiview import check_multiview, write_multiview
from triportrait.train.data.sheets import SheetKind, write_sheet

Place = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
Out = Annotated[Path | None, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]


def place(positional: tuple[Path, ...], option: Path | None) -> Path:
    """What a job is to make, named as `OUT` or as `--out OUT`.

    Raises: `InputError` where nothing or two things are named.
    """
    found = [*positional, *([] if option is None else [option])]
    if not found:
        raise InputError("OUT is missing: expected what to make, as OUT or --out OUT; --help lists the options")
    if len(found) > 1:
        raise InputError(f"OUT: expected one place, got {' and '.join(map(str, found))}; name one, as OUT or --out OUT")
    return found[0]


@dataclass(frozen=True)
class Multiview:
    """Write a multi-view set: per head some expressions, each seen from several sides, with depth, parts, landmarks."""

    place: Place = ()
    """The folder to make."""
    out: Out = None
    """The same as an option."""
    seed: int = 0
    """Which people: the same seed gives the same heads."""
    count: int = 16
    """How many heads."""
    expressions: int = 4
    """Expressions of each head."""
    views: int = 3
    """Views of each expression."""
    cameras: Habit = "tiny"
    """From where, as the preset of this name trains: tiny has the first view near the front, paper has all views from
    the paper's range, published half from there and half from where people film themselves."""
    size: int = 128
    """Side of the pictures in px."""
    antialias: int = 2
    """Samples along a pixel's side."""
    overwrite: bool = False
    """Replace the folder if it is such a set."""

    def run(self) -> None:
        """Check everything, then write head by head."""
        out = place(self.place, self.out)
        check_multiview(self.seed, self.count, self.expressions, self.views, self.size, self.antialias)
        numbers = (self.seed, self.count, self.expressions, self.views, self.size, self.antialias)
        seen_from = SET_CAMERAS[self.cameras]
        with progress(self.count, "head") as tell:
            write_multiview(out, *numbers, self.overwrite, tell, seen_from=seen_from)
        pictures = self.count * self.expressions * self.views
        made(out, f"{self.count} heads, {pictures} pictures of {self.size} px; {shown_cameras(seen_from)}")


@dataclass(frozen=True)
class Clips:
    """Write H.264 videos of one moving head each, with the numbers of every frame beside them."""

    place: Place = ()
    """The folder to make."""
    out: Out = None
    """The same as an option."""
    seed: int = 0
    """Which people: the same seed gives the same heads and motions."""
    count: int = 4
    """How many clips."""
    frames: int = 75
    """Frames of each clip."""
    fps: int = 25
    """Frames a second."""
    size: int = 128
    """Side of the pictures in px, even."""
    antialias: int = 2
    """Samples along a pixel's side."""
    overwrite: bool = False
    """Replace the folder if it holds such clips."""

    def run(self) -> None:
        """Check everything, then write clip by clip."""
        out = place(self.place, self.out)
        numbers = (self.seed, self.count, self.frames, self.fps, self.size, self.antialias)
        check_clips(*numbers)
        with progress(self.count, "clip") as tell:
            write_clips(out, *numbers, self.overwrite, tell)
        made(out, f"{self.count} clips of {self.frames} frames, {self.size} px")


@dataclass(frozen=True)
class Sheet:
    """Write a contact sheet as PNG."""

    place: Place = ()
    """The picture to make, .png."""
    out: Out = None
    """The same as an option."""
    kind: SheetKind = "identities"
    """Many heads, each head with every expression, or each head from all sides."""
    seed: int = 0
    """Which people."""
    count: int = 24
    """How many heads; 2 or 3 are enough for expressions and views."""
    size: int = 128
    """Side of each picture in px."""
    antialias: int = 2
    """Samples along a pixel's side."""
    overwrite: bool = False
    """Replace the picture if it exists."""

    def run(self) -> None:
        """Check everything, then draw."""
        out = place(self.place, self.out)
        write_sheet(out, self.kind, self.seed, self.count, self.size, self.antialias, self.overwrite)
        made(out, f"{self.kind} of seed {self.seed}")


Heads = Multiview | Clips | Sheet


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; the function it gives takes the number done."""
    from tqdm import tqdm

    with tqdm(total=total, unit=what, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def tell(done: int) -> None:
            bar.update(done - bar.n)

        yield tell


def made(out: Path, line: str) -> None:
    """What was made goes to stdout, the story beside it."""
    say(line)
    say(str(out), sys.stdout)
