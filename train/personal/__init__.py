"""Refine the frozen networks for one person, from a few pictures: `triportrait personalize`.

`serve` loads this package by its name, when it is asked to personalize.
"""

from triportrait.train.personal.given import GivenPictures, motion_bank
from triportrait.train.personal.refine_config import RefineConfig, RefineStep
from triportrait.train.personal.refinement import refine
from triportrait.train.personal.state import forget

__all__ = ["GivenPictures", "RefineConfig", "RefineStep", "forget", "motion_bank", "refine"]
