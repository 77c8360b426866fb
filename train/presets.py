"""Whole trainings by name: functions that return every number."""

from __future__ import annotations

from collections.abc import Callable

from triportrait.core.config import tiny as tiny_model
from triportrait.train.config import OptimizerConfig, ReenactConfig, SetConfig, StageConfig, TrainConfig


def tiny() -> TrainConfig:
    """The demo weights: a cast of 64 procedural heads at 128², for two CPU cores and a few hours."""
    return TrainConfig(
        preset="tiny",
        model=tiny_model(),
        cast=SetConfig(seed=0, count=64, expressions=48, views=3),
        strangers=SetConfig(seed=1, count=4000, expressions=1, views=2),
        stage1=StageConfig(images=24_000, strangers=0.15),
        motion=StageConfig(images=96_000, batch=64, strangers=0.6, optimizer=OptimizerConfig(rate=1e-3)),
        stage2=ReenactConfig(images=28_000, optimizer=OptimizerConfig(rate=1e-3, motion_factor=2.5)),
    )


def overfit() -> TrainConfig:
    """One head with eight expressions: whether motion is learned at all, in minutes."""
    return TrainConfig(
        preset="overfit",
        model=tiny_model(),
        cast=SetConfig(seed=0, count=1, expressions=8, views=8),
        stage1=StageConfig(images=1_600),
        motion=StageConfig(images=8_000, batch=32),
        stage2=ReenactConfig(images=3_200, optimizer=OptimizerConfig(motion_factor=2.5)),
        save_each=800,
        sample_each=800,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {"tiny": tiny, "overfit": overfit}
