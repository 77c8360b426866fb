"""Every number of a training on one page; the presets that fill them in are in `presets`.

Progress is counted in images seen, as in the paper: one source picture is one image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import LookAtRange
from triportrait.train.config_checks import check_fields, nonnegative, share
from triportrait.train.data.cameras import PAPER
from triportrait.train.data.set_config import SetConfig

Precision = Literal["fp32", "bf16"]
StageName = Literal["stage1", "motion", "stage2", "portrait4d", "genhead"]
STAGES: tuple[StageName, ...] = ("stage1", "motion", "stage2")  # of a whole training
REAL_DRIVING, REAL_TARGET = 0.1, 0.8  # shares of real frames beside pseudo views (section 4.3)
GROUP = 2  # pictures whose spread the discriminator sees
Init = Literal["static", "random"]
MotionKind = Literal["pictures", "parameters"]
Teacher = Literal["static", "dynamic"]
SuperresStyle = Literal["own", "mean"]  # that GenHead's super-resolution was trained with; that of its mapping
StandIn = Literal["gradients", "random_features", "lpips"]  # two stand-ins for LPIPS, and itself


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of Eq. 2 and Eq. 5; a term whose weight is 0 is not computed or does not count."""

    l1: float = nonnegative(1.0)
    raw: float = nonnegative(0.5)  # L1 of the picture before super-resolution
    perceptual: float = nonnegative(1.0)
    raw_perceptual: float = nonnegative(0.0)  # perceptual distance of the picture before super-resolution
    foreground: float = nonnegative(0.0)  # L1 and perceptual distance of that picture without its background
    background: float = nonnegative(0.0)  # L1 and perceptual distance of the background where no head is
    opacity: float = nonnegative(0.5)
    depth: float = nonnegative(1.0)  # per scene unit
    eye_mouth_boost: float = nonnegative(5.0)  # the centres of eyes and mouth count 1 + this times as much
    adversarial: float = nonnegative(0.0)  # softplus(-D(fake)); 0: there is no discriminator
    identity: float = nonnegative(0.0)  # ArcFace's distance on aligned crops
    density: float = nonnegative(0.0)  # smoothness of the density, in stage 1
    distill_planes: float = nonnegative(0.0)  # L_T: GenHead's planes at points, in stage 1
    distill_feature: float = nonnegative(0.0)  # GenHead's feature images, head and background, in stage 1
    r1_image: float = nonnegative(1.0)  # gamma of R1 on the picture and the ray grid
    r1_positions: float = nonnegative(10.0)
    r1_mask: float = nonnegative(1.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """What changes during a training, in images seen, and how often regularisations come, in steps."""

    neural_size_grows: tuple[int, int] = (0, 0)  # from when to when the ray grid's side grows to the model's
    neural_size_from: int = nonnegative(0)  # px, where it begins; 0: it has the model's side from the start
    adversarial_from: int = nonnegative(0)
    identity_from: int = nonnegative(0)
    distill_until: int = nonnegative(10**12)  # depth and the distillation losses count until then
    renderer_frozen_until: int = nonnegative(0)
    density_every: int = 16
    r1_every: int = 16
    pseudo_every: int = nonnegative(0)  # a phase of its own for pseudo views, as published; 0: coins decide, as printed


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay, and the EMA of the weights."""

    lr: float = 1.5e-3
    final_lr_ratio: float = share(0.03)  # the learning rate at the end of the cosine, over `lr`
    motion_lr_factor: float = 1.0  # on the learning rate of the layers that read motion
    warmup: int = nonnegative(500)  # images
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = nonnegative(0.01)
    max_grad_norm: float = nonnegative(1.0)  # gradients are clipped to this norm; 0: they are not
    ema_decay: float = share(0.998)
    eps: float = 1e-8
    reg_interval: int = nonnegative(0)  # steps between two of a lazy regularisation; lr and betas are corrected for it
    ema_half_life: float = nonnegative(0.0)  # images; where it is not 0, it replaces `ema_decay`
    ema_rampup: float = share(0.0)  # the half-life is at most this share of the images seen; 0: there is no limit
    zero_nan_grads: bool = False  # in gradients NaN becomes 0 and infinity 1e5, and training goes on


@dataclass(frozen=True)
class StageConfig:
    """One stage: how long, how many, how heavy."""

    images: int = 24_000
    batch: int = 4
    views: int = 2  # rendered for each source
    front_sources: float = share(0.0)  # sources that are the first view, which a set may have near the front
    own_view: bool = True  # a target may be the source's own picture; in the paper each has a camera of its own
    strangers: float = share(0.0)  # sources that are not of the cast
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    micro_batches: int = 1  # micro-batches of a step, which the ranks share out
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    discriminator: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(betas=(0.0, 0.99), warmup=0, weight_decay=0.0)
    )


@dataclass(frozen=True)
class ReenactConfig(StageConfig):
    """Stage 2 and its substitutions (section 4.3)."""

    views: int = 1
    real_driving: float = share(REAL_DRIVING)  # driving motions that are read off the real frame, not off a pseudo view
    real_target: float = share(REAL_TARGET)  # targets that are the real frame
    camera_p: LookAtRange = PAPER  # θ_p, whose pseudo views the driving motion is read off
    camera_q: LookAtRange = PAPER  # θ_q, whose pseudo views are targets
    init: Init = "static"  # stage 2 begins as a static synthesizer, or fresh
    motion: MotionKind = "pictures"  # read by the motion encoder, or the numbers of the data
    teacher: Teacher = "static"  # draws pseudo views; a dynamic one reads the frame's motion, too
    clips: int = nonnegative(0)  # the first clips of the data are seen; 0: all of them

    @property
    def draws_pseudo_views(self) -> bool:
        """Tell whether any motion or target comes from a frozen network; else every one is a real frame."""
        return min(self.real_driving, self.real_target) < 1 or self.schedule.pseudo_every > 0


@dataclass(frozen=True)
class DynamicConfig(StageConfig):
    """Portrait4D's training on 4D data: Eq. 2 with motion (the published code's first version)."""

    views: int = 1
    static_share: float = share(0.0)  # heads that keep one face in all views, for which motion is off


@dataclass(frozen=True)
class TrainConfig:
    """A whole training: the data, the motion encoder, both stages."""

    preset: str
    model: ModelConfig
    seed: int = nonnegative(0)
    cast: SetConfig = field(default_factory=SetConfig)
    strangers: SetConfig | None = None  # people beside the cast: for the motion encoder, and a share of stage 1
    precision: Precision = "bf16"  # of all but volume rendering and the sums of the losses
    perceptual: StandIn = "gradients"
    discriminator_base: int = 2048  # channels at a side s are base / s, at most `discriminator_widest`
    discriminator_widest: int = 128
    discriminator_mapping: int = 2  # layers that the camera passes
    stage1: StageConfig = field(default_factory=StageConfig)
    motion: StageConfig = field(default_factory=StageConfig)
    stage2: ReenactConfig = field(default_factory=ReenactConfig)
    portrait4d: DynamicConfig | None = None  # the teacher of row G, of trainings of that alone
    superres_style: SuperresStyle = "own"  # with which a network that begins with GenHead's renderer begins
    save_every: int = 2_000  # images between two saved states
    sample_every: int = 2_000  # images between two grids of pictures
    evaluate_every: int = nonnegative(0)  # images between two measurements on held-out people; 0: never

    def __post_init__(self) -> None:
        check_fields(self)
        if self.cast.size != self.model.image_size:
            raise InputError(
                f"cast.size: expected the model's {self.model.image_size} px, got {self.cast.size}; choose that"
            )
        if self.strangers is not None and self.strangers.size != self.model.image_size:
            raise InputError(
                f"strangers.size: expected the model's {self.model.image_size} px, got {self.strangers.size}; choose it"
            )
        for field_name, known in (
            ("precision", get_args(Precision)),
            ("perceptual", get_args(StandIn)),
            ("superres_style", get_args(SuperresStyle)),
        ):
            if getattr(self, field_name) not in known:
                raise InputError(
                    f"{field_name}: expected one of {', '.join(known)}, got {getattr(self, field_name)!r}; choose one"
                )
        if self.cast.expressions < 2:
            raise InputError("cast.expressions: expected at least 2, as stage 2 drives one with another, got 1")
        for name in STAGES if self.portrait4d is None else (*STAGES, "portrait4d"):
            stage = getattr(self, name)
            if stage.strangers > 0 and self.strangers is None:
                raise InputError(f"{name}.strangers: expected 0 as there is no set of strangers, got {stage.strangers}")
            if stage.front_sources > 0 and not self.cast.cameras.first_filmed:
                raise InputError(
                    f"{name}.front_sources: expected 0, as no view of the set is near the front by its place, got "
                    f"{stage.front_sources:g}; say --front-sources 0"
                )
            if stage.views > self.cast.views:
                raise InputError(f"{name}.views: expected up to cast.views={self.cast.views}, got {stage.views}")
            if not stage.own_view and stage.views > max(1, self.cast.views - 1):
                raise InputError(
                    f"{name}.views: expected up to {self.cast.views - 1}, as one view of cast.views={self.cast.views} "
                    f"is the source, got {stage.views}"
                )
            if stage.strangers > 0 and self.strangers is not None and stage.views > self.strangers.views:
                raise InputError(
                    f"{name}.views: expected up to strangers.views={self.strangers.views}, got {stage.views}"
                )
            if stage.batch % stage.micro_batches:
                raise InputError(
                    f"{name}.micro_batches: expected a divisor of the batch of {stage.batch}, got "
                    f"{stage.micro_batches}; choose one"
                )
            if stage.losses.adversarial and stage.batch // stage.micro_batches % GROUP:
                raise InputError(
                    f"{name}.batch: expected micro-batches of a multiple of {GROUP}, as the discriminator compares so "
                    f"many pictures, got {stage.batch // stage.micro_batches}; choose another batch or number of "
                    "micro-batches"
                )
            if not all(0 <= beta < 1 for beta in stage.optimizer.betas):
                raise InputError(
                    f"{name}.optimizer.betas: expected two numbers from 0 to below 1, got {stage.optimizer.betas}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)
