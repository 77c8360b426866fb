"""`triportrait prepare pictures DIR STORE`: stills become aligned pictures with parameters, masks and motion."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from triportrait.train.data.parallel import cores
from triportrait.train.data.picture_store.page import PAGE
from triportrait.train.data.picture_store.preparing import DROPPED, PER_SHARD, Prepared, prepare_pictures
from triportrait.train.data.picture_store.taking import Wanted
from triportrait.train.engines.ranks import launched_ranks
from triportrait.train.jobs.ablation_options import OptionalFolder, OptionalInt
from triportrait.train.jobs.prepare_shared import Held, progress_bar, report, split_off

logger = logging.getLogger(__name__)


# DIR stands before STORE, so it is declared before the fields of `Output`
@dataclass(frozen=True)
class _Folder:
    dir: tyro.conf.Positional[Path]
    """The folder of the pictures; folders in it are entered. Landmarks in landmarks/NAME.npy beside a picture are
    taken, else the face is found."""


@dataclass(frozen=True)
class Pictures(Held, _Folder):
    """Write a picture store of raw pictures: each face aligned, with parameters of a head model, its camera, a mask of
    the person and, with --motion, its motion. A command that was stopped goes on; torchrun shares the work."""

    head_model: str = "open-head"
    """The head model that is fitted."""
    motion: OptionalFolder = None
    """The folder of a motion encoder; by default no motion is stored."""
    size: int = 512
    """Side of an aligned picture in px."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """How pictures are stored: png without loss, the others at quality 95."""
    face: OptionalInt = None
    """Which face of each picture, counted from the left; the largest by default."""
    most_enlarged: float = Wanted.most_enlarged
    """How much larger than in its picture a face may come out; others are too small."""
    other_face: float = Wanted.other_face
    """Size of another face in the square, over that of the first, above which a picture shows two people."""
    most_blur: float = Wanted.most_blur
    """Blur of an aligned picture at 256 px, from 0, sharp, to 1 (Crete et al. 2007)."""
    most_turned_deg: float = Wanted.most_turned_deg
    """Angle between where the head looks and where the camera is."""
    most_hidden: float = Wanted.most_hidden
    """Share of the face that the segmentation takes for something else than a person; more is an occluded face."""
    most_error_px: float = Wanted.most_error_px
    """Distance of the landmarks from the fitted head, root mean square, in pixels of 512."""
    per_shard: int = PER_SHARD
    """Raw pictures that one shard stands for."""
    workers: OptionalInt = None
    """Processes; by default one per core."""

    def run(self) -> None:
        """Check everything, then write shard by shard."""
        out = self.target()
        rank, ranks, _ = launched_ranks()
        workers = self.workers
        if workers is None and ranks > 1:  # those on this machine share its cores
            workers = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        wanted = Wanted(
            self.size, self.format, self.face, self.head_model, None if self.motion is None else str(self.motion),
            self.most_enlarged, self.other_face, self.most_blur, self.most_turned_deg, self.most_hidden,
            self.most_error_px,
        )  # fmt: skip
        with progress_bar("picture") as progress:
            done = prepare_pictures(self.dir, out, wanted, self.per_shard, workers, rank, ranks, progress)
        if not done.finished:
            logger.info("rank %d of %d is done, others are still at work", rank, ranks)
            return
        report(out, f"{_sentence(out, done)}{split_off(out, self.split)}")


def _sentence(out: Path, done: Prepared) -> str:
    if done.already_there:
        return f"{out}: its {done.kept:,} pictures are there already, nothing was done"
    why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.dropped.items()))
    dropped = f", {sum(done.dropped.values()):,} dropped ({why}), which {out / DROPPED} names" if why else ""
    others = f"; files that are no pictures: {done.others:,}" if done.others else ""
    return f"{done.kept:,} of {done.listed:,} pictures kept{dropped}{others}; {out / PAGE} shows them"
