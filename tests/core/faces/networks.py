"""The real face networks, from the cache or out of an installed mediapipe; what needs them is skipped without."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from triportrait.core.errors import InputError
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.models import MODELS, load_model
from triportrait.core.faces.tflite import read_tflite

NAMES = {  # name here -> key of `MODELS`
    "short": "short_range_detector", "full": "full_range_detector", "mesh": "mesh", "iris": "iris",
    "mask": "segmentation",
}  # fmt: skip
NEEDED = "needs the face networks: `triportrait fetch faces`, or mediapipe 0.10.21 installed"


def wheel_file(name: str) -> Path | None:
    """Find the TFLite file of a network in an installed mediapipe; it is not imported."""
    spec = find_spec("mediapipe")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder).parent / MODELS[NAMES[name]].path
        if path.is_file():
            return path
    return None


@cache
def face_graph(name: str) -> Graph:
    """Load a network by its name in `NAMES`; the test is skipped where there is none."""
    path = wheel_file(name)
    if path is not None:
        return read_tflite(path)
    try:
        return load_model(NAMES[name])
    except InputError as error:
        pytest.skip(f"{NEEDED} ({error})")
