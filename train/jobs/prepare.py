"""`triportrait prepare KIND` makes the data of training, and checks them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from triportrait.core.errors import InputError
from triportrait.train.data.check import check_data
from triportrait.train.data.clip_store.importing import SKIPPED, import_lmdb
from triportrait.train.data.picture_store.importing import holds_stills, import_stills
from triportrait.train.data.split import check_identities, check_share, read_identities, split_data
from triportrait.train.jobs.ablation_options import OptionalPath
from triportrait.train.jobs.prepare_genhead import Genhead
from triportrait.train.jobs.prepare_heads import Clips, Heads, HeadVideos, Sheet
from triportrait.train.jobs.prepare_pictures import Pictures
from triportrait.train.jobs.prepare_shared import Held, already_there, progress_bar, report, split_off
from triportrait.train.jobs.prepare_tables import Export, Parameters
from triportrait.train.jobs.prepare_videos import Videos

logger = logging.getLogger(__name__)


# LMDB stands before OUT, so it is declared before the fields of `Output`
@dataclass(frozen=True)
class _Lmdb:
    lmdb: tyro.conf.Positional[Path]
    """The folder of the published LMDB."""


@dataclass(frozen=True)
class Lmdb(Held, _Lmdb):
    """Write a clip store for stage 2 from the published LMDB of clips, or a picture store from that of stills. An
    import that was stopped goes on."""

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

        stills = holds_stills(self.lmdb)
        with progress_bar("picture" if stills else "clip") as progress:
            clips = (import_stills if stills else import_lmdb)(self.lmdb, out, self.most_skipped, progress, check)
        skipped = f", {clips.skipped} skipped, which {out / SKIPPED} names" if clips.skipped else ""
        held = split_off(out, self.split, self.identities)
        report(
            out, (already_there(out, clips) or f"{clips.written} {'pictures' if stills else 'clips'}{skipped}") + held
        )


@dataclass(frozen=True)
class Split:
    """Hold identities out of a set or a store that is there, for what training measures while it runs. Only split.json
    is written, in its folder; a set that is split already stays as it is."""

    store: tyro.conf.Positional[Path]
    """The multi-view set, or the store of clips, pictures or generated heads."""
    share: float = 0.1
    """Share of the identities that are held out; a hash of each decides, so that clips which come later move nobody."""
    seed: int = 0
    """Chooses who they are. Sets that train two stages of one network take the same seed and share."""
    identities: OptionalPath = None
    """As of `prepare lmdb`: whose each record of an LMDB is."""

    def run(self) -> None:
        """Check everything, then write the file."""
        split, already = split_data(self.store, self.share, self.seed, self.identities)
        report(self.store, f"{split.sentence()}{', as they were already' if already else ''}")


@dataclass(frozen=True)
class Check:
    """Read a set or a store of any kind: checksums, every table, and that its pictures and videos decode."""

    store: tyro.conf.Positional[Path]
    """The set or the store."""
    deep: bool = False
    """Decode every frame of every clip; by default the first and the last of each."""

    def run(self) -> None:
        """Read all of it."""
        with progress_bar("", leave=False) as progress:
            line, checks = check_data(self.store, self.deep, progress)
        print(line)
        logger.info("looked at: %s", checks)


Prepare = Heads | Genhead | Clips | HeadVideos | Videos | Pictures | Sheet | Lmdb | Parameters | Export | Split | Check
