"""Whole trainings by name: functions that return every number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from triportrait.core.config import ModelConfig, portrait4d_v2
from triportrait.core.config import tiny as tiny_model
from triportrait.train.ablations import TABLE, WHOLE
from triportrait.train.config import (
    REAL_TARGET,
    LossConfig,
    OptimizerConfig,
    ReenactConfig,
    ScheduleConfig,
    StageConfig,
    TrainConfig,
)
from triportrait.train.data.cameras import NEAR_FRONT, SET_CAMERAS
from triportrait.train.data.set_config import SetConfig

_EYES = LossConfig(eye_mouth_boost=15.0)  # at 128² an eye is a few pixels, and it must blink
_SMALLER_EYES = LossConfig(eye_mouth_boost=25.0)  # at 96² they are smaller still
_FRONT = 0.7  # share of sources from near the front, where a portrait is taken; in the paper none is privileged


def tiny() -> TrainConfig:
    """Return the first training of the demo weights: 32 procedural heads at 128², two CPU cores and a few hours."""
    return TrainConfig(
        preset="tiny",
        model=tiny_model(),
        cast=SetConfig(seed=0, count=32, expressions=48, views=3),
        strangers=SetConfig(seed=1, count=4000, expressions=1, views=2),
        stage1=StageConfig(images=14_000, views=1, front_sources=_FRONT, losses=_EYES),
        motion=StageConfig(
            images=76_800, batch=64, front_sources=_FRONT, strangers=0.6, optimizer=OptimizerConfig(lr=1e-3)
        ),
        stage2=ReenactConfig(
            images=48_000,
            front_sources=_FRONT,
            real_driving=0.9,  # not the paper's 0.1: pseudo views of this size show no smile, brows or gaze
            camera_p=NEAR_FRONT,  # not the paper's range: further to the side the small encoder sees no mouth
            optimizer=OptimizerConfig(lr=1e-3, motion_lr_factor=4.0),
            losses=_EYES,
        ),
    )


def overfit() -> TrainConfig:
    """Return one head with eight expressions at 96²: it shows whether motion is learned at all, in minutes."""
    return TrainConfig(
        preset="overfit",
        model=_smallest_model(),
        cast=SetConfig(seed=0, count=1, expressions=8, views=8, size=96, faces="eight"),  # at 64² lids blur away
        stage1=StageConfig(images=1_600, views=1, front_sources=_FRONT, losses=_SMALLER_EYES),
        motion=StageConfig(images=6_400, batch=32, front_sources=_FRONT),
        stage2=ReenactConfig(
            images=8_000,
            front_sources=_FRONT,
            real_driving=0.9,
            camera_p=NEAR_FRONT,
            optimizer=OptimizerConfig(motion_lr_factor=4.0),
            losses=_SMALLER_EYES,
        ),
    )


def _smallest_model() -> ModelConfig:
    """Return the tiny network at half its size."""
    model = tiny_model()
    return dataclasses.replace(
        model,
        preset="smallest",
        image_size=96,
        transformer=dataclasses.replace(model.transformer, token_width=96, mlp_width=192, num_motion_blocks=2),
        decoder=dataclasses.replace(model.decoder, token_width=64, mlp_width=128),
        render=dataclasses.replace(
            model.render, plane_size=48, neural_size=48, num_coarse=8, num_fine=8, superres_widths=(32,)
        ),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {"tiny": tiny, "overfit": overfit}


def tiny_stages() -> TrainConfig:
    """Return both stages of `tiny` with the adversary on, one at a time."""
    whole = tiny()
    losses = dataclasses.replace(_EYES, adversarial=0.02, density=0.005)
    adam = OptimizerConfig(
        lr=1e-3, betas=(0.0, 0.99), warmup=0, weight_decay=0.0, max_grad_norm=0.0, reg_interval=16, zero_nan_grads=True
    )
    schedule = ScheduleConfig(adversarial_from=2_000)
    return dataclasses.replace(
        whole,
        preset="tiny_stages",
        strangers=None,
        evaluate_every=2_000,
        stage1=dataclasses.replace(whole.stage1, losses=losses, discriminator=adam, schedule=schedule, strangers=0.0),
        motion=dataclasses.replace(whole.motion, strangers=0.0),
        stage2=dataclasses.replace(
            whole.stage2, losses=dataclasses.replace(losses, density=0.0), discriminator=adam, schedule=schedule
        ),
    )


def on_heads_of_genhead(config: TrainConfig) -> TrainConfig:
    """Return a training whose stage 1 learns from heads of GenHead: tiny has the paper's weights of what GenHead knows
    and of the four pairs, and its renderer stands still for the same share of the images. Others stay as they are."""
    if config.preset != tiny_stages().preset:
        return config
    stage, large = config.stage1, paper().stage1
    names = ("raw", "raw_perceptual", "foreground", "background", "opacity", "depth", "distill_planes")
    losses = dataclasses.replace(stage.losses, **{name: getattr(large.losses, name) for name in names})
    frozen = stage.images * large.schedule.renderer_frozen_until // large.images
    schedule = dataclasses.replace(stage.schedule, renderer_frozen_until=frozen)
    return dataclasses.replace(config, stage1=dataclasses.replace(stage, losses=losses, schedule=schedule))


def paper(published: bool = False) -> TrainConfig:
    """Return both stages at the published sizes, with the paper's numbers (sections 4.2, 4.3, A).

    Args:
        published: the numbers of the published code where they differ: 15 M and 8 M images, depth and L_T until
            400 k, GenHead's feature images too, the renderer never frozen and begun with the mean style of GenHead's
            mapping, pseudo views in a phase of their own every fourth step, and stage 1 from views that are half
            sampled, half as filmed.
    """
    model = portrait4d_v2()
    adam = OptimizerConfig(
        lr=1e-4, final_lr_ratio=1.0, warmup=0, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=0.0, eps=1e-5,
        reg_interval=16, ema_half_life=10_000.0, ema_rampup=0.05, zero_nan_grads=True,
    )  # fmt: skip
    terms = LossConfig(
        l1=1.0, raw=1.0, perceptual=1.0, raw_perceptual=1.0, foreground=1.0, background=1.0, opacity=0.3, depth=1.0,
        eye_mouth_boost=0.0, adversarial=0.01, identity=1.0, density=0.25,
    )  # fmt: skip
    static = ScheduleConfig(
        neural_size_grows=(1_000_000, 2_000_000), neural_size_from=64, adversarial_from=1_000_000,
        identity_from=400_000, distill_until=400_000 if published else 1_000_000,
        renderer_frozen_until=0 if published else 1_000_000,
    )  # fmt: skip
    moved = ScheduleConfig(pseudo_every=4 if published else 0)
    return TrainConfig(
        preset="published" if published else "paper",
        model=model,
        cast=SetConfig(size=model.image_size, cameras=SET_CAMERAS["published" if published else "paper"]),
        precision="bf16",
        perceptual="lpips",
        superres_style="mean" if published else "own",
        discriminator_base=32_768,
        discriminator_widest=512,
        discriminator_mapping=8,
        stage1=StageConfig(
            images=15_000_000 if published else 10_000_000, batch=32, views=1, own_view=False, optimizer=adam,
            discriminator=adam,
            losses=dataclasses.replace(terms, distill_planes=0.1, distill_feature=1.0 if published else 0.0),
            schedule=static,
        ),
        stage2=ReenactConfig(
            images=8_000_000 if published else TABLE[WHOLE].images, batch=32, discriminator=adam,
            optimizer=dataclasses.replace(
                adam, reg_interval=4 if published else 0, motion_lr_factor=TABLE[WHOLE].motion_rate_factor,
                ema_rampup=0.0,
            ),
            losses=dataclasses.replace(terms, depth=0.0, density=0.0),
            schedule=moved,
            real_target=1.0 if published else REAL_TARGET,
        ),
        save_every=100_000,
        sample_every=50_000,
        evaluate_every=50_000,
    )  # fmt: skip


def motion_training() -> TrainConfig:
    """Return the training of a small motion encoder on data that a user names; the data say how large pictures are."""
    whole = tiny()
    return dataclasses.replace(
        whole, preset="motion", strangers=None, evaluate_every=8_000, save_every=8_000, sample_every=8_000,
        precision="fp32", motion=dataclasses.replace(whole.motion, strangers=0.0),
        stage1=dataclasses.replace(whole.stage1, strangers=0.0),
    )  # fmt: skip


def motion_model(side: int) -> ModelConfig:
    """Return sizes for pictures of `side` px: a motion encoder asks for no others, as no portrait is trained.

    Raises: `InputError` for a side that no network has.
    """
    model = tiny_model()
    render = dataclasses.replace(model.render, plane_size=side // 2, neural_size=side // 2)
    return dataclasses.replace(model, preset=f"pictures of {side} px", image_size=side, render=render)


STAGE_PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "tiny": tiny_stages,
    "paper": paper,
    "published": partial(paper, True),
}
