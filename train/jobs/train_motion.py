"""`triportrait train motion`: a small motion encoder of any size, on data that a user names."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from triportrait.train.config import TrainConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks, one_error_message
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.jobs.ablation_options import (
    OptionalFloat,
    OptionalFolder,
    OptionalInt,
    OptionalStr,
    given_options,
)
from triportrait.train.jobs.run_on_ranks import checked_start, run_on_ranks
from triportrait.train.named_data import Loading
from triportrait.train.presets import motion_training
from triportrait.train.run_folder import Run
from triportrait.train.run_motion import EncoderSizes, MotionTraining

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Motion:
    """Train a small motion encoder, which takes PD-FGC's place: on procedural heads, or on clips of tracked faces."""

    data: OptionalFolder = None
    """A multi-view set of `triportrait prepare heads`, or a clip store, of whose tracked faces parameters are
    learned."""
    out: OptionalFolder = None
    """The folder of the run: log, checkpoints, and at the end weights/, for `train stage2 --motion`."""
    name: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """Its name on the weights card; by default whose parameters it reads."""
    widths: tuple[int, ...] = (32, 64, 96, 128)
    """Channels at a half, a quarter, an eighth ... of the crop, multiples of 8."""
    crop_size: int = 64
    """Side of the crop of the face, px; each width halves it."""
    targets: tuple[Literal["expression", "jaw", "eyes"], ...] = ("expression", "jaw", "eyes")
    """Parameters of tracked faces that it learns; procedural heads have their own nine numbers."""
    motion_width: OptionalInt = None
    """Numbers that it gives: the first of the expression, jaw and eyes; by default all that move in the clips."""
    flame: OptionalStr = None
    """Head model of clips of tracked faces: a weights folder with FLAME's tables, a converted FLAME file, or open-head,
    which is the default where the clips say so."""
    images: OptionalInt = None
    """Images to see; 76,800 by default."""
    batch: OptionalInt = None
    """Images of a step, on all ranks together."""
    micro_batches: OptionalInt = None
    """Micro-batches of a step, which the ranks share out; by default one for each rank."""
    lr: OptionalFloat = None
    """Learning rate."""
    front_sources: OptionalFloat = None
    """Share of pictures that are the first view of a set, which --cameras tiny has near the front."""
    seed: int = 0
    """Seed of fresh weights and of every batch."""
    decoder: Literal["auto", "av", "dali"] = "auto"
    """Decoder of clips; auto is DALI on a GPU where it is installed, else PyAV."""
    most_skipped: float = 0.05
    """Share of the clips that may be left out as damaged before training stops."""
    prefetch: int = 2
    """Steps whose batches are made ahead, by a thread."""
    save_every: OptionalInt = None
    """Images between two checkpoints."""
    sample_every: OptionalInt = None
    """Images between two measurements on faces that it is trained on."""
    evaluate_every: OptionalInt = None
    """Images between two measurements on the people that the data hold out (`prepare ... --split`); 0: never."""
    zero: OptionalInt = None
    """DeepSpeed's ZeRO stage, 0 to 3; by default 1 on several processes and plain PyTorch on one."""
    resume: Literal["auto", "never"] = "auto"
    """auto: a run that is there goes on from its newest whole checkpoint; never: it is refused."""
    allow_change: bool = False
    """Go on with other numbers than the run was begun with."""

    def config(self, ranks: Ranks) -> TrainConfig:
        """Return the numbers with what was asked for. Raises: `InputError` for numbers out of range."""
        config = motion_training()
        stage = config.motion
        changes: dict[str, Any] = {
            "micro_batches": max(stage.micro_batches, ranks.size),
            **given_options(self, "images", "batch", "micro_batches", "front_sources"),
        }
        if self.lr is not None:
            changes["optimizer"] = dataclasses.replace(stage.optimizer, lr=self.lr)
        whole = given_options(self, "save_every", "sample_every", "evaluate_every")
        return dataclasses.replace(config, seed=self.seed, motion=dataclasses.replace(stage, **changes), **whole)

    def run(self) -> None:
        """Check everything, then train on this process and the others that were launched with it."""
        with one_error_message():
            self._train()

    def _train(self) -> None:
        zero = checked_start(self.data, self.out, self.resume, self.zero, offload=False)
        assert self.data is not None and self.out is not None
        data, out = self.data, self.out

        def start(ranks: Ranks, shared: ZeroConfig | None) -> Run:
            sizes = EncoderSizes(self.crop_size, tuple(self.widths), tuple(self.targets), self.motion_width, self.name)
            loading = Loading(self.prefetch, self.decoder, self.most_skipped, bool(self.evaluate_every))
            inputs = MotionTraining(data, sizes, loading, self.flame)
            return Run(self.config(ranks), out, inputs, Engines(ranks, shared), self.allow_change)

        way = "begin again in another folder with another --seed or --lr"
        run_on_ranks(out, zero, start, way, lambda run: logger.info("%s", run.export("triportrait train motion")))
