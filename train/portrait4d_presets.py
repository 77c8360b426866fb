"""The trainings of Portrait4D by name: stage 1's numbers, and those that 4D data change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from triportrait.train.ablations import PORTRAIT4D
from triportrait.train.config import DynamicConfig, StageConfig, TrainConfig
from triportrait.train.data.generated.draws import DYNAMIC
from triportrait.train.presets import paper, tiny_stages

IMAGES = 15_000_000  # that the published network of 4D data has seen


def tiny_portrait4d() -> TrainConfig:
    """Return a small training at 128 px: images in the published proportion to stage 1's, rates of tiny's stage 2.

    That is where tiny's layers that read motion are trained from fresh ones.
    """
    whole = tiny_stages()
    images = whole.stage1.images * IMAGES // paper().stage1.images
    return _portrait4d(whole, images=images, optimizer=whole.stage2.optimizer)


def paper_portrait4d() -> TrainConfig:
    """Return the training at the published sizes: section 4.2's numbers, 15 M images, half of them of static heads."""
    return _portrait4d(paper(), images=IMAGES)


def _portrait4d(whole: TrainConfig, **changes: Any) -> TrainConfig:
    """Return stage 1 of a training with motion: `changes` are fields of its stage."""
    numbers = {f.name: getattr(whole.stage1, f.name) for f in dataclasses.fields(StageConfig)}
    stage = DynamicConfig(**(numbers | {"views": 1, "front_sources": 0.0, "static_share": DYNAMIC} | changes))
    return dataclasses.replace(whole, preset=f"{whole.preset}, {PORTRAIT4D}", portrait4d=stage, evaluate_every=0)


PORTRAIT4D_PRESETS: dict[str, Callable[[], TrainConfig]] = {"tiny": tiny_portrait4d, "paper": paper_portrait4d}
