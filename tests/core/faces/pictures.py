"""The pictures on which the face networks are compared with mediapipe, and mediapipe's numbers for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.serve.raw import PHOTO, seen

NUMBERS = Path(__file__).parents[2] / "data" / "faces" / "mediapipe.npz"
MASKED = ("photograph", "dark", "wide frame")  # of these mediapipe's segmentation is kept too
HEADS = {
    "procedural head": (0, 0.0),
    "turned to its left": (1, 0.6),
    "half profile": (2, -0.85),
}  # head, turn in radians


@cache
def numbers() -> dict[str, np.ndarray]:
    """Load mediapipe's numbers; `python -m docs.faces.agreement again` makes them."""
    with np.load(NUMBERS, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@cache
def pictures() -> dict[str, np.ndarray]:
    """Make the pictures, uint8 [H, W, 3]; the procedural heads are kept beside the numbers."""
    stored = numbers()
    return photographs() | {name: stored[f"{name}/picture"] for name in HEADS}


def photographs() -> dict[str, np.ndarray]:
    """The photograph in many ways."""
    whole = Image.open(PHOTO).convert("RGB")
    made = {"photograph": whole, "grey": whole.convert("L").convert("RGB"), "dark": whole.point(lambda v: v // 5)}
    for degrees in (-60, -45, -15, 15, 30):
        made[f"turned by {degrees} degrees"] = whole.rotate(degrees, Image.Resampling.BICUBIC)
    for factor in (0.25, 0.5, 2):
        side = round(512 * factor)
        made[f"{factor} times as large"] = whole.resize((side, side), Image.Resampling.LANCZOS)
    made["face at the edge"] = whole.crop((220, 0, 512, 400))
    frames = {name: np.asarray(image) for name, image in made.items()}
    frames["wide frame"] = seen((430, 160), 1.1, 8.0)
    frames["small in a frame"] = seen((150, 200), 0.5, -10.0)
    return frames
