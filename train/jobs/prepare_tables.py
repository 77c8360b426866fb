"""`triportrait prepare parameters` and `prepare export`: what others read, made of stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.clip_store.lmdb_writing import export_lmdb
from triportrait.train.data.parameter_tables import write_tables
from triportrait.train.jobs.ablation_options import OptionalInt, OptionalStr
from triportrait.train.jobs.prepare_shared import progress_bar, report


@dataclass(frozen=True)
class Parameters:
    """Write the tables from which stage 1 draws heads: cameras and shapes (325 numbers a row), and motions (112)."""

    places: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STORE [STORE ...] OUT", help_behavior_hint="")
    ] = ()
    """Picture stores, clip stores, or folders of published per-frame files (a folder that holds flame_optim_params/ has
    stills, a folder of such folders has clips); the last one is the folder to make."""
    frames: OptionalInt = None
    """Take this many frames of each clip, and leave out those with fewer; by default all, and clips must be of equal
    length."""
    mapper: bool = False
    """Write the table of stills (403 numbers: shape, expression, jaw) that trains a mapping from BFM, too."""
    head_model: OptionalStr = None
    """Whose parameters those are that do not say it themselves, as published files do not."""
    overwrite: bool = False
    """Replace the folder if it holds such tables."""

    def run(self) -> None:
        """Check everything, then write row by row."""
        if len(self.places) < 2:
            raise InputError(
                f"STORE, OUT: expected a store or more and the folder to make, got {len(self.places)} names"
            )
        *stores, out = self.places
        said = None if self.head_model is None else load_head_model(self.head_model).identity
        with progress_bar("row") as progress:
            done = write_tables(stores, out, self.frames, self.mapper, self.overwrite, said, progress)
        parts = [f"{done.stills:,} stills"] if done.stills else []
        parts += [f"{done.clips:,} clips of {done.frames} frames"] if done.clips else []
        short = f"; {done.short:,} clips have fewer frames and are left out" if done.short else ""
        report(out, f"parameters of {' and '.join(parts)}{short}")


@dataclass(frozen=True)
class Export:
    """Write an LMDB of the published schema from a clip store (a record for each clip, raw frames) or a picture store
    (a record for each picture, as a file). A command that was stopped goes on."""

    store: tyro.conf.Positional[Path]
    """The clip store or the picture store; its tables need motion."""
    lmdb: tyro.conf.Positional[Path]
    """The folder to make; its name ends in the pictures' side and the number of records: NAME_512_10000."""

    def run(self) -> None:
        """Check everything, then write record by record."""
        with progress_bar("record") as progress:
            done = export_lmdb(self.store, self.lmdb, progress)
        before = f", {done.before:,} of them were there already" if done.before else ""
        report(self.lmdb, f"{done.records:,} {done.unit} as records{before}")
