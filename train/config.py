"""Every number of a training on one page; the presets that fill them in are in `presets`.

Progress is counted in images seen, as in the paper: one source picture is one image.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import Elevation, LookAtRange
from triportrait.train.data.cameras import PAPER, SET_CAMERAS, SetCameras
from triportrait.train.data.scenes import FaceKind

Precision = Literal["fp32", "bf16"]
GROUP = 2  # pictures whose spread the discriminator sees
Init = Literal["static", "random"]
MotionKind = Literal["pictures", "parameters"]
Teacher = Literal["static", "dynamic"]
StandIn = Literal["gradients", "random_features", "lpips"]  # two stand-ins for LPIPS, and itself


@dataclass(frozen=True)
class SetConfig:
    """A multi-view set of procedural heads, as `triportrait prepare heads` writes it."""

    seed: int = 0
    count: int = 64  # heads
    expressions: int = 48  # of each head
    views: int = 3  # of each expression
    size: int = 128  # side of the pictures, pixels
    antialias: int = 2
    faces: FaceKind = "random"
    cameras: SetCameras = SET_CAMERAS["tiny"]  # as in every set that does not say


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of Eq. 2 and Eq. 5, as far as they run here."""

    l1: float = 1.0
    raw: float = 0.5  # L1 of the picture before super-resolution
    perceptual: float = 1.0
    raw_perceptual: float = 0.0  # the same of the picture before super-resolution
    foreground: float = 0.0  # L1 and perceptual distance of that picture without its background
    background: float = 0.0  # L1 and perceptual distance of the background where no head is
    opacity: float = 0.5
    depth: float = 1.0  # per scene unit
    features: float = 5.0  # how much more eyes and mouth count than the rest of a picture, at their centres
    adversary: float = 0.0  # the discriminator's opinion; 0: there is none
    identity: float = 0.0  # ArcFace's distance on aligned crops
    density: float = 0.0  # smoothness of the density, of stage 1
    planes: float = 0.0  # L_T: a frozen teacher's planes at points, of stage 1
    feature: float = 0.0  # a frozen teacher's feature images, head and background apart, of stage 1
    r1_image: float = 1.0  # gamma of R1 on the picture and the ray grid
    r1_positions: float = 10.0
    r1_mask: float = 1.0


@dataclass(frozen=True)
class ScheduleConfig:
    """What changes on the way, in images seen, and how often regularisations come, in steps."""

    grows: tuple[int, int] = (0, 0)  # the ray grid's side, from `grows_from` px to the model's
    grows_from: int = 0  # px; 0: it has the model's side from the start
    adversary_from: int = 0
    identity_from: int = 0
    teacher_until: int = 10**12  # depth, and what a teacher's features and planes say
    renderer_frozen_until: int = 0
    density_every: int = 16
    r1_every: int = 16
    pseudo_every: int = 0  # a phase of its own for pseudo views, as published; 0: coins decide, as in the paper


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up and a cosine, and the average of the weights that is kept."""

    rate: float = 1.5e-3
    last_rate: float = 0.03  # of the rate, where the cosine ends
    motion_factor: float = 1.0  # rate of the layers that read motion, relative to the others
    warm_up: int = 500  # images
    betas: tuple[float, float] = (0.9, 0.98)
    decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient; 0: any
    average: float = 0.998  # of the old weights in their moving average
    eps: float = 1e-8
    lazy: int = 0  # steps between two of a regularisation that has its own; rate and betas are corrected for it
    half_life: float = 0.0  # images; of the old weights in their average, instead of `average`
    half_life_share: float = 0.0  # of the images seen, the longest half-life; 0: no matter how many
    clean: bool = False  # gradients: NaN becomes 0, infinity 1e5, and training goes on


@dataclass(frozen=True)
class StageConfig:
    """One stage: how long, how many, how heavy."""

    images: int = 24_000
    batch: int = 4
    views: int = 2  # rendered for each source
    front_sources: float = 0.0  # share of sources that are the first view, which a set may have near the front
    own_view: bool = True  # a target may be the source's own picture; in the paper each has a camera of its own
    strangers: float = 0.0  # share of sources that are not of the cast
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    micros: int = 1  # micro-batches of a step, which ranks share out
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    discriminator: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(betas=(0.0, 0.99), warm_up=0, decay=0.0)
    )


@dataclass(frozen=True)
class ReenactConfig(StageConfig):
    """Stage 2 and its substitutions (section 4.3)."""

    views: int = 1
    real_driving: float = 0.1  # share of driving motions that are read off the real frame, not off a pseudo view
    real_target: float = 0.8  # share of targets that are the real frame
    camera_p: LookAtRange = PAPER  # θ_p, whose pseudo views the driving motion is read off
    camera_q: LookAtRange = PAPER  # θ_q, whose pseudo views are targets
    init: Init = "static"  # as a static synthesizer, or fresh
    motion: MotionKind = "pictures"  # read by the motion encoder, or the numbers of the data
    teacher: Teacher = "static"  # draws pseudo views; a dynamic one reads the frame's motion, too
    clips: int = 0  # of the data, the first ones, that are seen; 0: all


@dataclass(frozen=True)
class TrainConfig:
    """A whole training: the data, the motion encoder, both stages."""

    preset: str
    model: ModelConfig
    seed: int = 0
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
    save_each: int = 2_000  # images between two saved states
    sample_each: int = 2_000  # images between two grids of pictures

    def __post_init__(self) -> None:
        _check(self, "")
        if self.cast.size != self.model.image_size:
            raise InputError(
                f"cast.size: expected the model's {self.model.image_size} px, got {self.cast.size}; choose that"
            )
        if self.strangers is not None and self.strangers.size != self.model.image_size:
            raise InputError(
                f"strangers.size: expected the model's {self.model.image_size} px, got {self.strangers.size}; choose it"
            )
        for field_name, known in (("precision", get_args(Precision)), ("perceptual", get_args(StandIn))):
            if getattr(self, field_name) not in known:
                raise InputError(
                    f"{field_name}: expected one of {', '.join(known)}, got {getattr(self, field_name)!r}; choose one"
                )
        if self.cast.expressions < 2:
            raise InputError("cast.expressions: expected at least 2, as stage 2 drives one with another, got 1")
        for name in ("stage1", "motion", "stage2"):
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
            if stage.batch % stage.micros:
                raise InputError(
                    f"{name}.micros: expected a divisor of the batch of {stage.batch}, got {stage.micros}; choose one"
                )
            if stage.losses.adversary and stage.batch // stage.micros % GROUP:
                raise InputError(
                    f"{name}.batch: expected micro-batches of a multiple of {GROUP}, as the discriminator compares so "
                    f"many pictures, got {stage.batch // stage.micros}; choose another batch or number of micro-batches"
                )
            if not all(0 <= beta < 1 for beta in stage.optimizer.betas):
                raise InputError(
                    f"{name}.optimizer.betas: expected two numbers from 0 to below 1, got {stage.optimizer.betas}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


_SHARES = {
    "front_sources", "strangers", "real_driving", "real_target", "average", "last_rate", "half_life_share",
    "filmed_share",
}  # fmt: skip
_NOUGHT = {
    "seed", "l1", "raw", "perceptual", "raw_perceptual", "foreground", "background", "opacity", "depth", "features",
    "decay", "warm_up", "clip", "lazy", "half_life", "adversary", "identity", "density", "r1_image", "r1_positions",
    "r1_mask", "planes", "feature", "grows_from", "adversary_from", "identity_from", "teacher_until",
    "renderer_frozen_until", "pseudo_every", "clips",
}  # fmt: skip


def check_range(cameras: LookAtRange, name: str) -> None:
    """Check a range of cameras. Raises: `InputError` for bounds that are none."""
    if cameras.elevation not in get_args(Elevation):
        raise InputError(
            f"{name}.elevation: expected one of {', '.join(get_args(Elevation))}, got {cameras.elevation!r}; choose one"
        )
    for f in dataclasses.fields(cameras):
        if f.name == "elevation":
            continue
        bounds = getattr(cameras, f.name)
        numbers = isinstance(bounds, tuple) and len(bounds) == 2 and all(type(b) in (int, float) for b in bounds)
        low = 0.0 if f.name == "radius" else -math.inf
        if not numbers or not all(map(math.isfinite, bounds)) or not low <= bounds[0] <= bounds[1]:
            raise InputError(f"{name}.{f.name}: expected two numbers, the smaller first, got {bounds!r}; choose others")


def _check(values: Any, prefix: str) -> None:
    """Numbers positive and finite, shares up to 1, what may be off not negative."""
    for f in dataclasses.fields(values):
        value, name = getattr(values, f.name), f"{prefix}{f.name}"
        if isinstance(value, ModelConfig):
            continue
        if isinstance(value, LookAtRange):
            check_range(value, name)
        elif dataclasses.is_dataclass(value):
            _check(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = (0, 1) if f.name in _SHARES else (0, 1e12)
            positive = f.name not in _SHARES | _NOUGHT
            if not low <= value <= high or (positive and value <= 0):
                wanted = "a positive number" if positive else "0 or more"
                if f.name in _SHARES:
                    wanted = "a share from 0 to 1"
                elif value > high:
                    wanted = f"up to {high:,.0f}"
                raise InputError(f"{name}: expected {wanted}, got {value}; choose another")
