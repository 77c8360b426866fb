"""`triportrait prepare genhead OUT`: a generator draws heads for stage 1, once and for all."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.train.data.cameras import SET_CAMERAS
from triportrait.train.data.generated.draws import DYNAMIC, GeneratedConfig
from triportrait.train.data.generated.store.making import Making
from triportrait.train.data.generated.store.preparing import PER_SHARD, prepare_generated
from triportrait.train.data.parallel import cores
from triportrait.train.engines.ranks import launched_ranks
from triportrait.train.jobs.ablation_options import OptionalFolder, OptionalInt
from triportrait.train.jobs.prepare_shared import Held, device_of_rank, progress_bar, report, split_off
from triportrait.train.runs.weights import save_flame

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Genhead(Held):
    """Write a store of heads that a GenHead draws, for stage 1: pictures, depth, opacity and what its planes hold. A
    command that was stopped goes on; torchrun shares the work."""

    weights: OptionalFolder = None
    """The folder of the generator, as `triportrait convert` or `triportrait train genhead` makes it."""
    parameters: OptionalFolder = None
    """The folder of the tables that shapes, faces and cameras are drawn from, as `prepare parameters` makes it, or the
    published ones."""
    count: int = 16
    """How many heads."""
    views: int = GeneratedConfig.views
    """Views of each head."""
    cameras: Literal["paper", "published"] = "paper"
    """The cameras of the preset of this name: paper samples them all, published takes half of them from the tables."""
    dynamic: bool = False
    """In every second head the first view has another face than the others, as Portrait4D's own training asks for."""
    features: bool = False
    """Keep feature images of head and background, which the preset published compares."""
    seed: int = 0
    """Which heads: the same seed gives the same heads."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """How pictures are stored: png without loss, the others at quality 95."""
    per_shard: int = PER_SHARD
    """Heads that one shard holds."""
    workers: OptionalInt = None
    """Processes on the CPU; by default one per core."""
    device: str = "auto"
    """Where heads are made: auto, cpu or cuda."""

    def run(self) -> None:
        """Check everything, then write shard by shard."""
        out = self.target()
        if self.weights is None or self.parameters is None:
            missing = [f"--{name}" for name in ("weights", "parameters") if getattr(self, name) is None]
            raise InputError(
                f"{out}: {' and '.join(missing)} missing: expected the folder of a GenHead and that of tables of "
                "parameters; name them"
            )
        rank, ranks, local = launched_ranks()
        workers = self.workers
        if workers is None and ranks > 1:  # those on this machine share its cores
            workers = max(1, cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)))
        cameras = SET_CAMERAS[self.cameras]
        config = GeneratedConfig(
            views=self.views,
            sampled_cameras=1 - cameras.filmed_share,
            cameras=cameras.sampled,
            static_share=DYNAMIC if self.dynamic else 1.0,
        )
        device = device_of_rank(self.device, local)
        making = Making(self.weights, self.parameters, device, self.seed, config, self.features, self.format)
        with progress_bar("head", self.count) as progress:
            done = prepare_generated(
                out, making, self.count, self.per_shard, workers, rank, ranks, save_flame, progress
            )
        if not done.finished:
            logger.info("rank %d of %d is done, others are still at work", rank, ranks)
            return
        if done.already_there:
            line = f"{out}: its {done.heads:,} heads are there already, nothing was done"
        else:
            line = f"{done.heads:,} generated heads, {done.heads * self.views:,} pictures"
        report(out, f"{line}{split_off(out, self.split)}")
