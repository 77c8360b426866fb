"""What a film holds, decoded."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def frames_of(path: Path) -> np.ndarray:
    """Return the pictures of a film, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
