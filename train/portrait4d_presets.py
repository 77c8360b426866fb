"""The trainings of Portrait4D by name: stage 1's numbers, and those that 4D data change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from triportrait.train.ablations import PORTRAIT4D
from triportrait.train.config import DynamicConfig, StageConfig, TrainConfig
from triportrait.train.data.generated.draws import DYNAMIC
from triportrait.train.presets import paper, tiny_stages

IMAGES = 15_000_000  # that the published code's network of 4D data sees


def tiny_portrait4d() -> TrainConfig:
    """Return a small training at 128 px, of as many images to those of tiny's stage 1 as at the published sizes.

    Rates are those of tiny's stage 2, where its layers that read motion are trained from fresh ones. L_T has its
    weight, and the renderer stands still for the same share of the images.
    """
    whole, large = tiny_stages(), paper()
    images = whole.stage1.images * IMAGES // large.stage1.images
    losses = dataclasses.replace(whole.stage1.losses, distill_planes=large.stage1.losses.distill_planes)
    frozen = images * large.stage1.schedule.renderer_frozen_until // IMAGES
    schedule = dataclasses.replace(whole.stage1.schedule, renderer_frozen_until=frozen)
    return _portrait4d(whole, images=images, optimizer=whole.stage2.optimizer, losses=losses, schedule=schedule)


def paper_portrait4d() -> TrainConfig:
    """Return the training at the published sizes, by the paper's stage 1 (section 4.2) on 15 M images."""
    return _portrait4d(paper(), images=IMAGES)


def published_portrait4d() -> TrainConfig:
    """Return the same by the published code's stage 1: all that is known of the published network."""
    return _portrait4d(paper(published=True), images=IMAGES)


def _portrait4d(whole: TrainConfig, **changes: Any) -> TrainConfig:
    """Return stage 1 of a training with motion: `changes` are fields of its stage."""
    numbers = {f.name: getattr(whole.stage1, f.name) for f in dataclasses.fields(StageConfig)}
    stage = DynamicConfig(**(numbers | {"views": 1, "front_sources": 0.0, "static_share": DYNAMIC} | changes))
    return dataclasses.replace(whole, preset=f"{whole.preset}, {PORTRAIT4D}", portrait4d=stage, evaluate_every=0)


PORTRAIT4D_PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "tiny": tiny_portrait4d,
    "paper": paper_portrait4d,
    "published": published_portrait4d,
}
