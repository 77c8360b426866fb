"""Whole trainings by name: functions that return every number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from triportrait.core.config import ModelConfig
from triportrait.core.config import tiny as tiny_model
from triportrait.train.config import LossConfig, OptimizerConfig, ReenactConfig, SetConfig, StageConfig, TrainConfig

_EYES = LossConfig(features=15.0)  # at 128² an eye is a few pixels, and it must blink
_SMALLER_EYES = LossConfig(features=25.0)  # at 96² they are smaller still


def tiny() -> TrainConfig:
    """The demo weights: a cast of 32 procedural heads at 128², for two CPU cores and a few hours."""
    return TrainConfig(
        preset="tiny",
        model=tiny_model(),
        cast=SetConfig(seed=0, count=32, expressions=48, views=3),
        strangers=SetConfig(seed=1, count=4000, expressions=1, views=2),
        stage1=StageConfig(images=14_000, views=1, losses=_EYES),
        motion=StageConfig(images=76_800, batch=64, strangers=0.6, optimizer=OptimizerConfig(rate=1e-3)),
        stage2=ReenactConfig(
            images=48_000,
            real_driving=0.9,  # not the paper's 0.1: pseudo views of this size show no smile, brows or gaze
            optimizer=OptimizerConfig(rate=1e-3, motion_factor=4.0),
            losses=_EYES,
        ),
    )


def overfit() -> TrainConfig:
    """One head with eight expressions at 96²: whether motion is learned at all, in minutes."""
    return TrainConfig(
        preset="overfit",
        model=_smallest_model(),
        cast=SetConfig(seed=0, count=1, expressions=8, views=8, size=96, faces="eight"),  # at 64² lids blur away
        stage1=StageConfig(images=1_600, views=1, losses=_SMALLER_EYES),
        motion=StageConfig(images=6_400, batch=32),
        stage2=ReenactConfig(
            images=8_000,
            real_driving=0.9,
            optimizer=OptimizerConfig(motion_factor=4.0),
            losses=_SMALLER_EYES,
        ),
    )


def _smallest_model() -> ModelConfig:
    """The tiny network at half its size."""
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
