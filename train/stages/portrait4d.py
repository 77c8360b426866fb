"""Portrait4D: a dynamic network learns from 4D data of one generator (section 4.3, the teacher of Table 3's row G).

A head is drawn three times: a source, a picture that its motion v_d is read off, and a target with the same face as
that picture, seen from elsewhere. The terms are those of Eq. 2, as in stage 1. In half of the heads all three pictures
have one face: for these cross-attention is off, and the network learns there what the static synthesizer learns.
Letters: B heads, M width of the motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Driving, Head
from triportrait.train.config import DynamicConfig, LossConfig, Precision
from triportrait.train.data.generated.source import GeneratedBatch
from triportrait.train.engines.schedule import ActiveTerms
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import Perceptual
from triportrait.train.stages.common import RECONSTRUCTION_TERMS, HandedOn, autocast, stage_phases
from triportrait.train.stages.motion import motion_of
from triportrait.train.stages.stage import Phase
from triportrait.train.stages.static import density_phase, view_terms


@dataclass(frozen=True)
class DynamicModels:
    """The networks that this training moves (the portrait, the discriminator) and those that it uses.

    Attributes:
        motion_encoder: reads motion off pictures.
        discriminator, identity: see `StaticModels`.
    """

    portrait: Portrait4D
    motion_encoder: MotionEncoder
    perceptual: Perceptual
    precision: Precision = "fp32"
    discriminator: Discriminator | None = None
    identity: FaceIdentity | None = None


def reenacted_heads(batch: GeneratedBatch, models: DynamicModels) -> Head:
    """Return B heads, their necks unturned: sources with the faces of the motion pictures; static ones as they are."""
    assert batch.motion is not None, "4D data have motion pictures"
    with autocast(models.precision, batch.source.image):
        with torch.no_grad():
            v_s, v_d = (motion_of(pictures, models.motion_encoder) for pictures in (batch.source, batch.motion))
        motion_scale = (~batch.is_static).to(v_d.dtype)  # [B]
        source = models.portrait.prepare(batch.source.image, v_s, motion_scale)
        return models.portrait.reenact(source, Driving(v_d, motion_scale=motion_scale))


def losses(
    batch: GeneratedBatch,
    models: DynamicModels,
    config: LossConfig,
    rng: torch.Generator,
    active: ActiveTerms = RECONSTRUCTION_TERMS,
    handed_on: HandedOn | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms of Eq. 2 for 4D data; their sum is the loss.

    Args:
        active: which terms are on.
        handed_on: takes the real and the fake pictures for the discriminator.
    """
    return view_terms(reenacted_heads(batch, models), batch.target, models, config, rng, active, handed_on)


def phases(models: DynamicModels, config: DynamicConfig) -> list[Phase[GeneratedBatch]]:
    """Return what a step does: the generator, its density, the discriminator, R1."""

    def heads(batch: GeneratedBatch) -> Head:
        return reenacted_heads(batch, models)

    smoothing = [density_phase(models, config, heads)] if config.losses.density else []
    return stage_phases(models, config, losses, smoothing)
