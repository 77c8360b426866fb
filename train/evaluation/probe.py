"""Probe a training on its way with heads of its cast and expressions that its set does not hold."""

from __future__ import annotations

import torch

from triportrait.train.config import TrainConfig
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.evaluation.motion_response import Probe, take_probe

PROBED = ("jaw", "blink", "gaze x")
ROWS = 6  # in a grid of samples: heads, or views of fewer
UNSEEN = 7919  # added to a set's seed for expressions that it does not hold


def probe(config: TrainConfig) -> Probe:
    """Render the probe of a config's cast."""
    identity, light = population(config.cast.seed, config.cast.count)
    rows = torch.arange(ROWS) % config.cast.count  # few heads are seen from several sides
    face, camera = expressions(config.cast.seed + UNSEEN, ROWS, 1), filming_cameras(config.cast.seed + UNSEEN, ROWS)
    return take_probe(HeadRenderer(), identity.take(rows), light.take(rows), face, camera, config.model, PROBED)
