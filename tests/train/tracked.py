"""Clips of tracked faces as an import of the published LMDB leaves them, and FLAME's tables, all made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.core.synthetic import flame_tables, mesh_tables
from tests.train import little
from triportrait.core.checkpoint import save_weights
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.train.data.clip_store.store import ClipWriter, pack_masks

SETTINGS = {"source": "lmdb", "name": "test", "records": 4}


def flame(rigid: bool = False) -> dict[str, Tensor]:
    """The egg with 70 landmarks on its front; `rigid`: poses turn it and bend nothing."""
    tables = flame_tables()
    front = (tables["template"][tables["faces"]][..., 2].amin(1) > 0.1).nonzero()[:, 0]
    faces = front[torch.linspace(0, len(front) - 1, 70).round().long()]
    weights = torch.rand(1, 70, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    found = {"landmark70_faces": faces[None], "landmark70_barycentrics": weights / weights.sum(-1, keepdim=True)}
    if rigid:
        found["pose_directions"] = torch.zeros_like(tables["pose_directions"])
        found["skinning_weights"] = torch.tensor([0.0, 1, 0, 0, 0]).expand(len(tables["template"]), 5).contiguous()
    return tables | found


def field(rigid: bool = False) -> NeckField:
    """The neck field of the smallest network."""
    tables, model = flame(rigid), little.model()
    return NeckField(model.neck, model.render.box_side, tables, mesh_tables(tables))


def table(seed: int, frames: int) -> dict[str, np.ndarray]:
    """The numbers of a clip: a camera that moves about the front, small coefficients, a neck that looks to one side."""
    rng = np.random.default_rng(seed)
    cameras = [turned(fixed_camera(), 0.02 * t, -0.01 * t) for t in range(frames)]
    camera = torch.stack([torch.cat([c.world_from_camera.flatten(), c.intrinsics.flatten()]) for c in cameras])
    pose = 0.05 * rng.normal(size=(frames, 6)) + np.array([0.1, 0.3, 0.0, 0.1, 0, 0])
    numbers = {
        "camera": camera.numpy(),
        "shape": 0.2 * rng.normal(size=(frames, 300)),
        "expression": 0.2 * rng.normal(size=(frames, 100)),
        "pose": pose,
        "eyes": 0.02 * rng.normal(size=(frames, 6)),
        "motion": rng.normal(size=(frames, 9)),
    }
    side = little.model().image_size
    down, across = np.mgrid[:side, :side] - side / 2
    mask = np.broadcast_to(down**2 + across**2 < (side / 3) ** 2, (frames, side, side))
    return {name: np.float32(value) for name, value in numbers.items()} | {"mask": pack_masks(mask)}


def write_store(folder: Path, clips: int = 4, frames: int = 4) -> Path:
    """A finished store."""
    writer, side = ClipWriter(folder, SETTINGS), little.model().image_size
    down, across = np.mgrid[:side, :side]
    for clip in range(clips):
        shade = [40 + (across + 2 * down) // 2 + 20 * t for t in range(frames)]
        images = np.stack([np.stack([s, s // 2, np.full_like(s, 40 * clip)], -1) for s in shade])
        writer.add(f"clip_{clip}", images.clip(0, 255).astype(np.uint8), table(clip, frames))
    writer.finish()
    return folder


def write_static(folder: Path) -> Path:
    """The static synthesizer with FLAME's tables beside it, as a converted published checkpoint has them."""
    portrait = little.portrait()
    portrait.neck = field()
    save_weights(folder, "portrait", portrait.state_dict(), little.model(), {})
    return folder
