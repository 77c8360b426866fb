"""The options of a training of one stage on named data, and how it starts: stage 1, stage 2 and Portrait4D."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from triportrait.train.config import StageConfig, StageName, TrainConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks, one_error_message
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.jobs.ablation_options import (
    OptionalFloat,
    OptionalFolder,
    OptionalInt,
    OptionalPath,
    OptionalStr,
    given_options,
)
from triportrait.train.jobs.run_on_ranks import checked_start, run_on_ranks
from triportrait.train.jobs.show_schedule import shown_schedule, shown_views
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.run_folder import Inputs, Run
from triportrait.train.run_one_stage import OneStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SingleStage(ABC):
    """The options of a stage.

    Attributes:
        numbers, whole_numbers: options that are fields of the stage's config, and of the whole one.
    """

    numbers: ClassVar[tuple[str, ...]] = ("images", "batch", "micro_batches")
    whole_numbers: ClassVar[tuple[str, ...]] = ("seed", "precision", "save_every", "sample_every", "perceptual")
    renamed: ClassVar[dict[str, str]] = {
        "--rate": "--lr",
        "--adversary": "--adversarial",
        "--adversary-from": "--adversarial-from",
        "--features": "--eye-mouth-boost",
        "--micros": "--micro-batches",
        "--save-each": "--save-every",
        "--sample-each": "--sample-every",
        "--planes-weight": "--distill-planes",
        "--feature-weight": "--distill-feature",
        "--motion-rate-factor": "--motion-lr-factor",
    }
    data: OptionalFolder = None
    """A multi-view set of `triportrait prepare heads`; stage 1 takes heads of GenHead, too, a store of `prepare
    genhead` or genhead:FOLDER, which draws them as they are needed; stage 2 takes a clip store of `prepare clips`."""
    out: OptionalFolder = None
    """The folder of the run: log, samples, checkpoints."""
    preset: Literal["tiny", "paper", "published"] = "tiny"
    """The numbers that the other options change: of the demo's size, of the paper, of the published code."""
    images: OptionalInt = None
    """Images to see; the preset's by default."""
    batch: OptionalInt = None
    """Images of a step, on all ranks together."""
    micro_batches: OptionalInt = None
    """Micro-batches of a step, which the ranks share out; by default one for each rank."""
    lr: OptionalFloat = None
    """Learning rate of the generator."""
    adversarial: OptionalFloat = None
    """Weight of the adversarial term; 0: no discriminator."""
    adversarial_from: OptionalInt = None
    """Images seen before the adversarial term begins."""
    eye_mouth_boost: OptionalFloat = None
    """The centres of eyes and mouth count 1 + this times as much as the rest of a picture."""
    renderer_frozen_until: OptionalInt = None
    """Images seen before the renderer moves."""
    discriminator: OptionalPath = None
    """A run or a checkpoint whose discriminator this one begins as; by default it is fresh."""
    seed: int = 0
    """Seed of fresh weights and of every batch."""
    weights: OptionalStr = None
    """A weights folder to begin from, or demo."""
    perceptual: Annotated[
        Literal["gradients", "random_features", "lpips"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """The perceptual distance: lpips, or one of two stand-ins; the preset's by default."""
    vgg: OptionalPath = None
    """VGG-16 as torchvision has it, for lpips."""
    identity: OptionalPath = None
    """ArcFace's r18 as `triportrait convert` writes it, for the identity term."""
    identity_weight: OptionalFloat = None
    """Weight of the identity term; 0: it needs no file."""
    zero: OptionalInt = None
    """DeepSpeed's ZeRO stage, 0 to 3; by default 1 on several processes and plain PyTorch on one."""
    offload: bool = False
    """Keep the optimizer's moments on the CPU, and step there."""
    recompute: bool = False
    """Use activation checkpointing in the transformer's blocks and the renderer: less memory, more work."""
    precision: Annotated[Literal["fp32", "bf16"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Precision of all but volume rendering and the sums of the losses (on a GPU the discriminator has its own); bf16
    is fp32 on a CPU or GPU that only emulates it."""
    not_finite: Annotated[Literal["end", "zero"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Whether a loss or a gradient that is not finite ends the run, or counts as 0 as published; the preset's by
    default."""
    prefetch: int = 2
    """Steps whose batches are made ahead, by a thread."""
    save_every: OptionalInt = None
    """Images between two checkpoints; the preset's by default."""
    sample_every: OptionalInt = None
    """Images between two grids of pictures."""
    show_schedule: bool = False
    """Print what is on when, and train nothing."""
    resume: Literal["auto", "never"] = "auto"
    """auto: a run that is there goes on from its newest whole checkpoint; never: it is refused."""
    allow_change: bool = False
    """Go on with other numbers than the run was begun with."""

    def init_from(self) -> InitFrom:
        """Return the weights that the stage begins from."""
        return InitFrom(self.weights, vgg=self.vgg, identity=self.identity, discriminator=self.discriminator)

    def loading(self) -> Loading:
        """Return how data is read. Raises: `InputError` for numbers out of range."""
        return Loading(self.prefetch)

    def loss_weights(self) -> dict[str, float | None]:
        """Return weights of terms by their name; None: the preset's."""
        return {
            "adversarial": self.adversarial,
            "identity": self.identity_weight,
            "eye_mouth_boost": self.eye_mouth_boost,
        }

    @abstractmethod
    def stage(self) -> StageName:
        """Return the name of the stage."""

    def inputs(self, data: Path) -> Inputs:
        """Return what the stage learns from. Raises: `InputError` for numbers out of range."""
        return OneStage(self.stage(), data, self.init_from(), self.loading())

    def start_config(self) -> TrainConfig:
        """Return the config that the other options change."""
        return STAGE_PRESETS[self.preset]()

    def description(self, config: TrainConfig) -> str:
        """Return the stage in lines for the user; empty where its options say all."""
        return ""

    def config(self, ranks: Ranks) -> TrainConfig:
        """Return the preset with what was asked for.

        Raises: `InputError` for numbers out of range.
        """
        config = self.start_config()
        stage: StageConfig = getattr(config, self.stage())
        changes: dict[str, Any] = {
            "micro_batches": max(stage.micro_batches, ranks.size),
            **given_options(self, *self.numbers),
        }
        if self.lr is not None:
            changes["optimizer"] = dataclasses.replace(stage.optimizer, lr=self.lr)
        if self.not_finite is not None:
            for name in ("optimizer", "discriminator"):
                moved = changes.get(name, getattr(stage, name))
                changes[name] = dataclasses.replace(moved, zero_nan_grads=self.not_finite == "zero")
        begins = given_options(self, "adversarial_from", "renderer_frozen_until")
        changes["schedule"] = dataclasses.replace(stage.schedule, **begins)
        weights = {name: value for name, value in self.loss_weights().items() if value is not None}
        changes["losses"] = dataclasses.replace(stage.losses, **weights)
        whole = given_options(self, *self.whole_numbers)
        whole[self.stage()] = dataclasses.replace(stage, **changes)
        return dataclasses.replace(config, **whole)

    def run(self) -> None:
        """Check everything, then train on this process and the others that were launched with it."""
        if self.show_schedule:
            config = self.config(Ranks())
            stage: StageConfig = getattr(config, self.stage())
            factor = 1.0 if self.stage() == "stage1" else stage.optimizer.motion_lr_factor
            schedule = shown_schedule(self.stage(), stage, config.model.render.neural_size, factor)
            print(f"{self.description(config) or shown_views(self.stage(), config)}\n{schedule}")
            return
        with one_error_message():
            self._train()

    def _train(self) -> None:
        zero = checked_start(self.data, self.out, self.resume, self.zero, self.offload)
        assert self.data is not None and self.out is not None
        data, out = self.data, self.out

        def start(ranks: Ranks, shared: ZeroConfig | None) -> Run:
            config = self.config(ranks)
            for line in self.description(config).splitlines() if ranks.first else ():
                logger.info(line)
            return Run(config, out, self.inputs(data), Engines(ranks, shared, self.recompute), self.allow_change)

        way = (
            f"`triportrait train replay {out}` says where; go on without such gradients by --not-finite zero "
            "--allow-change, or begin again with another --seed or --lr"
        )
        run_on_ranks(out, zero, start, way)


@dataclass(frozen=True)
class MeasuredStage(SingleStage):
    """The options of a stage that is measured while it runs, and whose sources may be near the front."""

    numbers: ClassVar[tuple[str, ...]] = (*SingleStage.numbers, "front_sources")
    whole_numbers: ClassVar[tuple[str, ...]] = (*SingleStage.whole_numbers, "evaluate_every")
    front_sources: OptionalFloat = None
    """Share of sources that are the first view of a set, which --cameras tiny has near the front; 0: any view."""
    evaluate_every: OptionalInt = None
    """Images between two measurements on the people that the data hold out (`prepare ... --split`); 0: never; the
    preset's by default."""

    def loading(self) -> Loading:
        """Return how data is read. Raises: `InputError` for numbers out of range."""
        return Loading(self.prefetch, evaluates=bool(self.evaluate_every))
