"""GenHead's own training by name: functions that return every number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from triportrait.core.config import genhead_tiny
from triportrait.train.genhead_config import GenHeadSchedule, GenHeadTraining


def published() -> GenHeadTraining:
    """Return the published training: 25 M pictures of 512², the defaults of the config."""
    return GenHeadTraining()


def tiny() -> GenHeadTraining:
    """Return the training of the small generator at 128² for two CPU cores; what is counted in images is scaled down.

    The weights of the terms, the rates and the rhythm of the regularisations are the published ones.
    """
    whole = published()
    optimizers = {
        name: dataclasses.replace(getattr(whole, name), ema_half_life=2_500.0)
        for name in ("optimizer", "discriminator")
    }
    return dataclasses.replace(
        whole,
        preset="tiny",
        generator=genhead_tiny(),
        images=100_000,
        batch=8,
        micro_batches=2,
        **optimizers,
        discriminator_base=2_048,
        discriminator_widest=128,
        discriminator_mapping=2,
        schedule=GenHeadSchedule(blur_sigma=2.5, blur_until=8_000, swapping_until=20_000),
        save_every=2_000,
        sample_every=2_000,
    )


GENHEAD_PRESETS: dict[str, Callable[[], GenHeadTraining]] = {"tiny": tiny, "published": published}
