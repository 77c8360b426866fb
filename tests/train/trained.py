"""A weights folder as training makes it, of the smallest network, which was never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.train import little
from triportrait.core.checkpoint import save_weights

CAST = {"seed": 3, "count": 2}
LOUD = 8.0


def write(folder: Path, provenance: dict[str, Any] | None = None, seed: int = 3) -> Path:
    """Portrait and motion encoder; its card says that it knows CAST unless a provenance is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        portrait, encoder = little.portrait(seed, motion=True), little.encoder(seed)
    noted = {"made by": "a test", "cast": CAST} if provenance is None else provenance
    with torch.no_grad():
        # loud and opaque, so that every frame and every side shows something else
        portrait.superres.style.fill_(1.0)  # type: ignore[union-attr]
        portrait.volume.field.density.bias.fill_(4.0)
        portrait.reconstructor.plane_decoder.out.weight.mul_(LOUD)
    save_weights(folder, "portrait", portrait.state_dict(), little.model(), noted)
    save_weights(folder, "motion", encoder.state_dict(), encoder, noted)
    return folder


def write_static(folder: Path, seed: int = 0, noted: dict[str, Any] | None = None) -> Path:
    """The static synthesizer beside it: a portrait alone, whose card says nothing unless it is told."""
    save_weights(folder, "portrait", little.portrait(seed).state_dict(), little.model(), noted or {})
    return folder
