"""The real face networks, from the cache or out of an installed mediapipe; what needs them is skipped without."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from triportrait.core.errors import InputError
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.tflite import read_tflite

FILES = {  # name here -> file in mediapipe's wheel, name in the cache
    "short": ("face_detection/face_detection_short_range.tflite", "short_range_detector"),
    "full": ("face_detection/face_detection_full_range_sparse.tflite", "full_range_detector"),
    "mesh": ("face_landmark/face_landmark_with_attention.tflite", "mesh"),
    "iris": ("iris_landmark/iris_landmark.tflite", "iris"),
    "mask": ("selfie_segmentation/selfie_segmentation.tflite", "segmentation"),
}
NEEDED = "needs the face networks: `triportrait fetch faces`, or mediapipe 0.10.21 installed"


def wheel_file(name: str) -> Path | None:
    """Find the TFLite file of a network in an installed mediapipe; it is not imported."""
    spec = find_spec("mediapipe")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "modules" / FILES[name][0]
        if path.is_file():
            return path
    return None


@cache
def face_graph(name: str) -> Graph:
    """Load a network by its name in `FILES`; the test is skipped where there is none."""
    path = wheel_file(name)
    if path is not None:
        return read_tflite(path)
    try:
        graph: Graph = importlib.import_module("triportrait.core.faces.models").load_model(FILES[name][1])
    except (ImportError, InputError) as error:
        pytest.skip(f"{NEEDED} ({error})")
    return graph
