"""The smallest training that is still one: a network at 64², two heads, a few steps a stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.config import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    NeckConfig,
    RenderConfig,
    TransformerConfig,
)
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.train.config import (
    DynamicConfig,
    LossConfig,
    OptimizerConfig,
    ReenactConfig,
    ScheduleConfig,
    StageConfig,
    TrainConfig,
)
from triportrait.train.data.cameras import NEAR_FRONT
from triportrait.train.data.set_config import SetConfig
from triportrait.train.stages.initialize import initialize, initialize_motion

CAST = SetConfig(seed=3, count=2, expressions=6, views=3, size=64, antialias=1)
FRONT = 0.7  # sources and cameras are as the preset tiny's
STRANGERS = SetConfig(seed=8, count=3, expressions=1, views=2, size=64, antialias=1)
CLOCKED = {
    "images_per_s",
    "data_share",
    "data_wait_s",
    "data_ready",
    "gpu_gb",
    "evaluate_s",
    "evaluate_share",
    "generator_s",
    "generator_share",
}  # numbers of a log
CLIPS: dict[str, Any] = {"seed": 3, "count": 5, "frames": 4, "size": 64, "antialias": 1}


def model() -> ModelConfig:
    """About 90,000 parameters."""
    return ModelConfig(
        preset="test",
        image_size=64,
        encoder=EncoderConfig(
            trunk_widths=(8, 8, 16, 16),
            trunk_blocks=(1, 1, 1, 1),
            pyramid_dilations=(2,),
            global_width=16,
            detail_widths=(8, 8),
            background_widths=(8, 8, 16),
        ),
        transformer=TransformerConfig(
            token_width=32,
            num_heads=2,
            mlp_width=32,
            num_neutral_blocks=1,
            num_motion_blocks=1,
            motion_width=9,
            motion_hidden=16,
            num_motion_tokens=4,
            tail_width=8,
            canonical_width=8,
        ),
        decoder=DecoderConfig(head_widths=(8, 8), token_width=32, num_heads=2, mlp_width=32, tail_widths=(8,)),
        render=RenderConfig(
            plane_size=32,
            plane_width=8,
            field_hidden=16,
            num_coarse=6,
            num_fine=6,
            neural_size=16,
            superres_widths=(8, 8),
            style_width=8,
        ),
        neck=NeckConfig(fine_size=6, coarse_size=4),
    )


def config(**changes: Any) -> TrainConfig:
    """Four steps of stage 1, three of the motion encoder, four of stage 2."""
    quick = OptimizerConfig(warmup=4, ema_decay=0.5)
    values: dict[str, Any] = {
        "preset": "test",
        "model": model(),
        "cast": SetConfig(seed=3, count=1, expressions=3, views=2, size=64, antialias=1),
        "precision": "fp32",
        "stage1": StageConfig(images=8, batch=2, front_sources=FRONT, optimizer=quick),
        "motion": StageConfig(images=12, batch=4, front_sources=FRONT, optimizer=quick),
        "stage2": ReenactConfig(images=8, batch=2, front_sources=FRONT, camera_p=NEAR_FRONT, optimizer=quick),
        "save_every": 4,
        "sample_every": 8,
    }
    return TrainConfig(**(values | changes))


def adversarial() -> TrainConfig:
    """Six steps of stage 2 with the adversary and R1 on, in four micro-batches each."""
    quick = OptimizerConfig(warmup=0, ema_decay=0.5, max_grad_norm=0.0)
    discriminator = OptimizerConfig(
        lr=1e-3, betas=(0.0, 0.99), warmup=0, weight_decay=0.0, max_grad_norm=0.0, reg_interval=2
    )
    stage = ReenactConfig(
        images=48, batch=8, micro_batches=4, front_sources=FRONT, camera_p=NEAR_FRONT, optimizer=quick,
        discriminator=discriminator, real_target=0.9,
        losses=LossConfig(adversarial=0.1), schedule=ScheduleConfig(r1_every=2),
    )  # fmt: skip
    return config(stage2=stage, discriminator_base=512, discriminator_widest=16, save_every=10**6, sample_every=10**6)


def portrait4d() -> TrainConfig:
    """Three steps of Portrait4D with the adversary, R1, L_T and the density's phase on, in two micro-batches each."""
    whole = adversarial()
    stage = DynamicConfig(
        images=12, batch=4, micro_batches=2, views=1, static_share=0.5, optimizer=whole.stage2.optimizer,
        discriminator=whole.stage2.discriminator,
        losses=LossConfig(adversarial=0.1, density=0.1, distill_planes=0.1),
        schedule=ScheduleConfig(r1_every=2, density_every=2, adversarial_from=4),
    )  # fmt: skip
    return dataclasses.replace(whole, preset="test, Portrait4D", portrait4d=stage)


def generated() -> TrainConfig:
    """Four steps of stage 1 on generated heads with every term: adversary, density, and what GenHead knows."""
    whole = adversarial()
    losses = LossConfig(
        adversarial=0.1, density=0.1, foreground=1.0, background=1.0, distill_planes=0.1, distill_feature=1.0
    )
    stage = StageConfig(
        images=16, batch=4, micro_batches=2, views=1, front_sources=FRONT, losses=losses,
        optimizer=whole.stage2.optimizer, discriminator=whole.stage2.discriminator,
        schedule=ScheduleConfig(r1_every=2, density_every=2, distill_until=12, adversarial_from=4),
    )  # fmt: skip
    return config(stage1=stage, discriminator_base=512, discriminator_widest=16, save_every=8, sample_every=16)


def portrait(seed: int = 0, motion: bool = False) -> Portrait4D:
    """A fresh network; with `motion`, the layers that read motion are started, too."""
    made = Portrait4D(model())
    initialize(made, seed)
    if motion:
        initialize_motion(made, seed)
    return made


def encoder(seed: int = 0) -> SmallMotionEncoder:
    """A fresh motion encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallMotionEncoder(9, crop_size=32, widths=(8, 8, 8, 8))


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A state that later steps do not move."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states have the same tensors bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
