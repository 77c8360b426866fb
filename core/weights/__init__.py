"""The weights that travel inside the package.

`demo/` holds the tiny network trained on procedural heads, `open_head/` the open stand-in for FLAME.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)
DEMO = "demo"  # its name where weights are named
DEMO_FOLDER = Path(__file__).parent / DEMO
OPEN_HEAD = "open-head"  # its name where head models are named
OPEN_HEAD_FOLDER = Path(__file__).parent / "open_head"
VARIABLE = "TRIPORTRAIT_WEIGHTS"
KNOWS = (
    "weights demo: the package's own, trained on procedural heads alone: a photograph gets no likeness; bring others "
    "with `triportrait convert FILE FOLDER` and --weights FOLDER"
)


def named_weights(weights: str | None) -> str:
    """Return the weights that a job uses: what --weights names, else $TRIPORTRAIT_WEIGHTS, else the package's own.

    Args:
        weights: the value of --weights, None where it is not given.
    """
    return weights or os.environ.get(VARIABLE) or DEMO


def log_weights(weights: str | None) -> None:
    """Log that the environment chose the weights of a job, or what the package's own know."""
    name = named_weights(weights)
    if name == DEMO:
        logger.info(KNOWS)
    elif not weights:
        logger.info("weights: %s, as $%s says", name, VARIABLE)
