"""What stands in for `triportrait.train.personal` in tests of the live server: quick, and it does as it is told.

`TRIPORTRAIT_TEST_REFINER` says how it goes: `done` (by default), `slow`, `fails`, `breaks off`, `no memory`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.person import LowRank, Person, least_rank, refinable_weights, thumbnail_of, weights_hash
from triportrait.core.portrait import Portrait4D
from triportrait.serve.image_tensors import to_uint8
from triportrait.train.personal import GivenPictures, RefineConfig, RefineStep

VARIABLE = "TRIPORTRAIT_TEST_REFINER"
STEPS, SLOW_S = 6, 120.0


def person_of(portrait: Portrait4D, crop: Tensor) -> Person:
    """A person whose head is another than the networks make: of an aligned picture [S, S, 3] uint8."""
    render = portrait.config.render
    shape = 1, 3, render.plane_size, render.plane_size, render.plane_width
    name, layer = next(refinable_weights(portrait))
    rows, rank = layer.weight.shape[0], least_rank(layer, 2)
    update = LowRank(torch.full((rows, rank), 0.01), torch.full((rank, layer.weight.numel() // rows), 0.01))
    return Person(torch.full(shape, 2.0), {name: update}, weights_hash(portrait), thumbnail_of(crop), {"steps": STEPS})


def refine(
    portrait: Portrait4D, motion_encoder: MotionEncoder, given: GivenPictures, config: RefineConfig,
    progress: Callable[[RefineStep], None], should_stop: Callable[[], bool], previews: bool = False,
) -> Person:  # fmt: skip
    side, how = portrait.config.image_size, os.environ.get(VARIABLE, "done")
    assert given.image.shape == (1, 3, side, side) and given.image.abs().max() <= 1 and previews
    assert config.minutes is not None and config.steps is None
    assert given.motion.shape == (1, motion_encoder.motion_width)
    assert given.camera.world_from_camera.shape == (1, 4, 4)
    assert given.landmarks is None or given.landmarks.shape == (1, 68, 2)
    if how == "breaks off":
        print("x" * 100_000, *(f"line {number}" for number in range(99)), "the device is gone", sep="\n",
              file=sys.stderr, flush=True)  # fmt: skip
        os._exit(3)
    if how == "no memory":
        raise MemoryError
    crop = to_uint8(given.image)[0]
    for step in range(1, STEPS + 1):
        preview = torch.cat([crop, crop.flip(1), crop.flip(0), crop], 1)
        progress(RefineStep(step, STEPS, 2.0 * (STEPS - step) / 5, 1.0, 20.0, None, preview))
        if how == "fails" and step == 2:
            raise ValueError("/secret/folder: it does not go on")
        time.sleep(SLOW_S if how == "slow" and step == 3 else 0.3)
    return person_of(portrait, crop)
