"""Weights that travel inside the package: `demo/`, the tiny network trained on procedural heads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

DEMO = "demo"  # what it is called where weights are named
DEMO_FOLDER = Path(__file__).parent / DEMO
VARIABLE = "TRIPORTRAIT_WEIGHTS"
KNOWS = (
    "weights demo: the package's own, trained on procedural heads alone: a photograph gets no likeness; bring others "
    "with `triportrait convert FILE FOLDER` and --weights FOLDER"
)


def _unheard(line: str) -> None:
    pass


def named_weights(weights: str | None, say: Callable[[str], None] = _unheard) -> str:
    """The weights that a job uses: those given, else those that $TRIPORTRAIT_WEIGHTS names, else the package's own.

    Args:
        weights: what --weights says, None where it says nothing.
        say: told in one line that the environment chose, or what the package's weights know.
    """
    named = weights or os.environ.get(VARIABLE) or DEMO
    if named == DEMO:
        say(KNOWS)
    elif not weights:
        say(f"weights: {named}, as ${VARIABLE} says")
    return named
