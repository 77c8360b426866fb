"""`triportrait train genhead`: the 4D GAN itself, on pictures with parameters and masks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks, one_error_message
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.genhead_config import GenHeadTraining
from triportrait.train.genhead_presets import GENHEAD_PRESETS
from triportrait.train.jobs.ablation_options import (
    OptionalFloat,
    OptionalFolder,
    OptionalInt,
    OptionalPath,
    OptionalStr,
    given_options,
)
from triportrait.train.jobs.run_on_ranks import checked_start, run_on_ranks
from triportrait.train.run_folder import Run
from triportrait.train.run_genhead import GenHeadInputs


@dataclass(frozen=True)
class Genhead:
    """Train GenHead, the 4D GAN that stage 1 learns from, on single pictures; on one process or under torchrun."""

    data: OptionalFolder = None
    """A picture store: of `prepare pictures`, or of the published FFHQ by `prepare lmdb`; with --parameters a folder
    with align_images/ and segs/."""
    out: OptionalFolder = None
    """The folder of the run: log, samples, checkpoints."""
    preset: Literal["tiny", "published"] = "tiny"
    """The numbers that the other options change: of a generator of 128 px, or the published ones."""
    flame: OptionalStr = None
    """Head model of the parameters: a weights folder with FLAME's tables, a converted FLAME file or open-head,
    which is the default where the store says so."""
    parameters: OptionalFolder = None
    """The published tables of stills (`prepare parameters` writes such), a row for each picture of the folder."""
    replication: OptionalPath = None
    """An .npy of whole numbers, how often each picture is seen in an epoch; by default once."""
    flips: bool = True
    """See each picture as its mirror image, too."""
    weights: OptionalStr = None
    """A weights folder with a GenHead to begin from, the published one or your own: then nothing is blurred, half of
    the cameras are swapped, and the EMA is slow from the first step."""
    discriminator: OptionalPath = None
    """A run or a checkpoint whose discriminator this one begins as; by default it is fresh."""
    images: OptionalInt = None
    """Images to see; the preset's by default."""
    batch: OptionalInt = None
    """Images of a step, on all ranks together."""
    micro_batches: OptionalInt = None
    """Micro-batches of a step, which the ranks share out; cameras are swapped within one."""
    lr: OptionalFloat = None
    """Learning rate of the generator."""
    discriminator_lr: OptionalFloat = None
    """Learning rate of the discriminator."""
    r1_image: OptionalFloat = None
    """Gamma of R1 on the picture and the ray grid."""
    seed: int = 0
    """Seed of fresh weights and of every batch."""
    zero: OptionalInt = None
    """DeepSpeed's ZeRO stage, 0 to 3; by default 1 on several processes and plain PyTorch on one."""
    not_finite: Annotated[Literal["end", "zero"], tyro.conf.arg(metavar="NAME")] = "zero"
    """Whether a loss or a gradient that is not finite ends the run, or counts as 0 as published."""
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

    def config(self, ranks: Ranks) -> GenHeadTraining:
        """Return the preset with what was asked for. Raises: `InputError` for numbers out of range."""
        config = GENHEAD_PRESETS[self.preset]()
        changes: dict[str, Any] = {
            "micro_batches": max(config.micro_batches, ranks.size), "flips": self.flips, "seed": self.seed,
            **given_options(self, "images", "batch", "micro_batches", "save_every", "sample_every"),
        }  # fmt: skip
        for name, lr in (("optimizer", self.lr), ("discriminator", self.discriminator_lr)):
            numbers: OptimizerConfig = getattr(config, name)
            changes[name] = dataclasses.replace(
                numbers, lr=numbers.lr if lr is None else lr, zero_nan_grads=self.not_finite == "zero",
                ema_rampup=numbers.ema_rampup if self.weights is None else 0.0,
            )  # fmt: skip
        if self.weights is not None:
            schedule = config.schedule
            begun = dataclasses.replace(schedule, blur_sigma=0.0, swapping_from=schedule.swapping_to)
            changes["schedule"] = begun
        changes["losses"] = dataclasses.replace(config.losses, **given_options(self, "r1_image"))
        return dataclasses.replace(config, **changes)

    def run(self) -> None:
        """Check everything, then train on this process and the others that were launched with it."""
        if self.show_schedule:
            print(shown_genhead_schedule(self.config(Ranks())))
            return
        with one_error_message():
            self._train()

    def _train(self) -> None:
        zero = checked_start(self.data, self.out, self.resume, self.zero, offload=False)
        assert self.data is not None and self.out is not None
        data, out = self.data, self.out

        def start(ranks: Ranks, shared: ZeroConfig | None) -> Run:
            inputs = GenHeadInputs(
                data, self.flame, self.parameters, self.replication, self.prefetch, self.weights, self.discriminator
            )
            return Run(self.config(ranks), out, inputs, Engines(ranks, shared), self.allow_change)

        way = (
            f"`triportrait train replay {out}` says where; go on without such gradients by --not-finite zero "
            "--allow-change, or begin again with another --seed, a smaller --lr or a larger --r1-image"
        )
        run_on_ranks(out, zero, start, way)


def shown_genhead_schedule(config: GenHeadTraining) -> str:
    """Return what is on when, a line each."""
    schedule, losses = config.schedule, config.losses
    rates = config.optimizer, config.discriminator
    lines = [
        f"genhead, preset {config.preset}: {config.images:,} images of {config.generator.image_size} px, batch "
        f"{config.batch} in {config.micro_batches} micro-batches, ray grid {config.generator.ray_size} px",
        f"  blur of what the discriminator sees: {schedule.blur_sigma:g} px, 0 after {schedule.blur_until:,} images",
        f"  swapped cameras of the mapping: {schedule.swapping_from:.0%}, {schedule.swapping_to:.0%} after "
        f"{schedule.swapping_until:,} images",
        f"  generator: adversary 1, face in eyes {losses.face_in_eyes:g}, in mouth {losses.face_in_mouth:g}, "
        f"distortion {losses.distortion_eyes:g} and {losses.distortion_mouth:g}, light through "
        f"{losses.light_through_eyes:g} and {losses.light_through_mouth:g}; density {losses.density:g} every "
        f"{schedule.density_every} steps",
        f"  discriminator: R1 of picture {losses.r1_image:g}, positions {losses.r1_positions:g}, mask "
        f"{losses.r1_mask:g} every {schedule.r1_every} steps",
        f"  Adam {rates[0].lr:g} and {rates[1].lr:g}, betas {rates[0].betas}, corrected for every "
        f"{rates[0].reg_interval}th and {rates[1].reg_interval}th step; EMA's half-life {rates[0].ema_half_life:,.0f} "
        f"images, at most {rates[0].ema_rampup:g} of those seen",
    ]
    return "\n".join(lines)
