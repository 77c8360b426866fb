"""This module holds the numbers of a multi-view set of procedural heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from triportrait.train.config_checks import nonnegative
from triportrait.train.data.cameras import SET_CAMERAS, SetCameras

FaceKind = Literal["random", "eight"]


@dataclass(frozen=True)
class SetConfig:
    """A multi-view set of procedural heads, as `triportrait prepare heads` writes it."""

    seed: int = nonnegative(0)
    count: int = 64  # heads
    expressions: int = 48  # of each head
    views: int = 3  # of each expression
    size: int = 128  # side of the pictures, pixels
    antialias: int = 2
    faces: FaceKind = "random"
    cameras: SetCameras = SET_CAMERAS["tiny"]  # which sets without an entry were made with
