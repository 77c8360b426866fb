"""Every number of GenHead's own training; the presets that fill them in are in `genhead_presets`.

Progress is counted in images seen: one drawn head is one image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from triportrait.core.config import GenHeadConfig, genhead_ffhq512
from triportrait.core.errors import InputError
from triportrait.train.config import GROUP, OptimizerConfig, Precision
from triportrait.train.config_checks import check_fields, nonnegative, share


@dataclass(frozen=True)
class GenHeadLosses:
    """Weights of the terms beside the generator's adversarial term, whose weight is 1."""

    density: float = nonnegative(0.25)  # smoothness of the raw density, the mean over the three parts
    face_in_eyes: float = nonnegative(10.0)  # density of the face's planes where an eye is seen
    face_in_mouth: float = nonnegative(10.0)
    distortion_eyes: float = nonnegative(100.0)  # mip-NeRF 360's term on rays that see an eye
    distortion_mouth: float = nonnegative(100.0)
    light_through_eyes: float = nonnegative(100.0)  # T_bg in the mask
    light_through_mouth: float = nonnegative(100.0)
    r1_image: float = nonnegative(1.0)  # gamma of R1 on the picture and the ray grid
    r1_positions: float = nonnegative(10.0)
    r1_mask: float = nonnegative(1.0)


@dataclass(frozen=True)
class GenHeadSchedule:
    """What changes during the training, in images seen, and how often regularisations come, in steps."""

    density_every: int = 4
    r1_every: int = 16
    blur_sigma: float = nonnegative(10.0)  # px of the picture, of what the discriminator sees at the start
    blur_until: int = nonnegative(200_000)  # it goes to 0 in a straight line
    swapping_from: float = share(1.0)  # heads whose mapping is told another head's camera
    swapping_to: float = share(0.5)
    swapping_until: int = nonnegative(1_000_000)

    def blur_at(self, images_seen: int) -> float:
        """Return the blur after so many images, px."""
        return self.blur_sigma * max(0.0, 1 - images_seen / max(1, self.blur_until))

    def swapping_at(self, images_seen: int) -> float:
        """Return the share of swapped cameras after so many images."""
        progress = min(1.0, images_seen / max(1, self.swapping_until))
        return self.swapping_from + progress * (self.swapping_to - self.swapping_from)


def _adam(lr: float, reg_interval: int) -> OptimizerConfig:
    return OptimizerConfig(
        lr=lr, final_lr_ratio=1.0, warmup=0, betas=(0.0, 0.99), weight_decay=0.0, max_grad_norm=0.0, eps=1e-8,
        reg_interval=reg_interval, ema_half_life=10_000.0, ema_rampup=0.05, zero_nan_grads=True,
    )  # fmt: skip


@dataclass(frozen=True)
class GenHeadTraining:
    """The whole training. The defaults are the published numbers."""

    preset: str = "published"
    generator: GenHeadConfig = field(default_factory=genhead_ffhq512)
    seed: int = nonnegative(0)
    images: int = 25_000_000
    batch: int = 32
    micro_batches: int = 4  # which the ranks share out; cameras are swapped within one
    flips: bool = True  # each picture is seen as its mirror image, too
    optimizer: OptimizerConfig = field(default_factory=lambda: _adam(2.5e-3, 4))
    discriminator: OptimizerConfig = field(default_factory=lambda: _adam(2e-3, 16))
    discriminator_base: int = 32_768  # channels at a side s are base / s, at most `discriminator_widest`
    discriminator_widest: int = 512
    discriminator_mapping: int = 8  # layers that the camera passes
    losses: GenHeadLosses = field(default_factory=GenHeadLosses)
    schedule: GenHeadSchedule = field(default_factory=GenHeadSchedule)
    save_every: int = 100_000  # images between two saved states
    sample_every: int = 50_000  # images between two grids of pictures
    evaluate_every: int = nonnegative(0)  # nothing is measured on held-out people

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch % self.micro_batches:
            raise InputError(
                f"micro_batches: expected a divisor of the batch of {self.batch}, got {self.micro_batches}; choose one"
            )
        if self.batch // self.micro_batches % GROUP:
            raise InputError(
                f"batch: expected micro-batches of a multiple of {GROUP}, as the discriminator compares so many "
                f"pictures, got {self.batch // self.micro_batches}; choose another batch or number of micro-batches"
            )
        if not all(0 <= beta < 1 for moved in (self.optimizer, self.discriminator) for beta in moved.betas):
            raise InputError(
                f"optimizer.betas: expected numbers from 0 to below 1, got {self.optimizer.betas} and "
                f"{self.discriminator.betas}; choose others"
            )

    @property
    def precision(self) -> Precision:
        """Return the precision of all but the discriminator, which has its own on a GPU: float32, as published."""
        return "fp32"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)
