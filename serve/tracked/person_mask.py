"""Tells where the person is in an aligned picture, by the network that `triportrait fetch faces` brings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from triportrait.core.faces.models import load_model, why_unusable
from triportrait.core.faces.segmentation import PersonSegmentation


def person_mask() -> Callable[[np.ndarray], np.ndarray] | None:
    """Make a function from a picture uint8 [S, S, 3] to uint8 [S, S], 255 where the person is; None without network."""
    if why_unusable() is not None:
        return None
    network = PersonSegmentation(load_model("segmentation")).eval()

    def mask(picture: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        return (network(image)[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    return mask
