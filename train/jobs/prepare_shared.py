"""What the jobs of `triportrait prepare` share: where they write, whom they hold out, how they show what is done."""

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
from triportrait.train.data.clip_store.importing import Imported
from triportrait.train.data.split import split_data
from triportrait.train.jobs.ablation_options import OptionalFloat

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
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
class Drawn(Output):
    """A job that draws procedural heads."""

    seed: int = 0
    """Which people: the same seed gives the same heads, expressions and motions."""
    size: int = 128
    """Side of each picture in px; videos take even sizes."""
    antialias: int = 2
    """Samples along a pixel's side."""


@dataclass(frozen=True)
class Held(Output):
    """A job that makes a set of identities, some of which may be held out."""

    split: OptionalFloat = None
    """Share of the identities that are held out of training and measured while it runs; a hash of each decides. By
    default none is; `prepare split` does it later."""


@contextmanager
def progress_bar(unit: str, total: int | None = None, leave: bool = True) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; it yields a function of the number done and, where it is known late, that of all."""
    from tqdm import tqdm

    hidden = None if logger.isEnabledFor(logging.INFO) else True  # None hides it where stderr is no terminal
    with tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden, leave=leave) as bar:

        def progress(done: int, count: int | None = total) -> None:
            bar.total = count
            bar.update(done - bar.n)

        yield progress


def report(out: Path, line: str) -> None:
    """Log what was made, and print its path on stdout, where a script may read it."""
    logger.info("%s", line)
    print(out)


def split_off(out: Path, share: float | None, identities: Path | None = None) -> str:
    """Hold a share of a set out, where one is asked for; returns the end of a sentence that says so."""
    return "" if share is None else f"; {split_data(out, share, identities=identities)[0].sentence()}"


def already_there(out: Path, clips: Imported) -> str:
    """A sentence where the store was finished before; empty where it was not."""
    return f"{out}: its {clips.written} clips are there already, nothing was done" if clips.already_there else ""


def device_of_rank(name: str, local: int) -> str:
    """Return the device of that name for a rank of this machine. Raises: `InputError`."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {name}; choose one")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, torch finds no GPU; say --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local % torch.cuda.device_count()}"
