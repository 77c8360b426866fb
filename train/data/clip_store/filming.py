"""Film procedural heads into a clip store: each clip has one head, light and camera, and a smooth motion.

The table of a clip holds what a perfect tracker would measure, and where the visible points lie on the mean head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.importing import Clip, Imported, fill_store, finished_store
from triportrait.train.data.clip_store.store import FPS, ClipWriter, pack_masks
from triportrait.train.data.head_videos import check_clips
from triportrait.train.data.heads.landmarks import landmarks
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.heads.shapes import rotate, rotation_matrix
from triportrait.train.data.multiview import to_positions
from triportrait.train.data.parallel import in_order
from triportrait.train.data.scene_sampling import filming_cameras, motion, population, take_pictures, to_uint8

HEADS = "heads"  # the `source` in the index of such a store
MOST_POSITIONS = 128  # side of stored positions, px


@dataclass(frozen=True)
class _Shot:
    seed: int
    count: int
    head: int
    frames: int
    size: int
    antialias: int


def film_heads(
    out: Path,
    seed: int,
    count: int,
    frames: int,
    size: int,
    antialias: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Write a store of `count` clips, or go on with one that was stopped.

    Args:
        frames: of each clip, 2 at least.
        size: side of the pictures, px, even.
        progress: is called with the number of clips done.

    Raises: `InputError` before any work for numbers out of range or a folder that holds something else.
    """
    check_clips(seed, count, frames, FPS, size, antialias)
    if frames < 2:
        raise InputError(f"frames: expected at least 2, as one frame of a clip drives another, got {frames}")
    settings = {
        "source": HEADS, "seed": seed, "count": count, "frames": frames, "size": size, "antialias": antialias,
        "expression_axes": list(EXPRESSION_AXES),
    }  # fmt: skip
    if (finished := finished_store(out, settings)) is not None:
        return finished
    names = [f"clip_{head:06d}" for head in range(count)]
    done = ClipWriter(out, settings).clips
    shots = [_Shot(seed, count, head, frames, size, antialias) for head in range(count) if names[head] not in done]
    filmed = in_order(_film, shots)
    return fill_store(out, settings, ((name, lambda: next(filmed)) for name in names), 0.0, progress)


def _film(shot: _Shot) -> Clip:
    identities, lights = population(shot.seed, shot.count)
    rows = torch.full((shot.frames,), shot.head)
    identity, camera = identities.take(rows), filming_cameras(shot.seed, shot.count).take(rows)
    face = motion(shot.seed, shot.head, shot.frames, FPS)
    view = take_pictures(HeadRenderer(), identity, face, lights.take(rows), camera, shot.size, shot.antialias)
    step = next(k for k in range(1, shot.size + 1) if shot.size % k == 0 and shot.size // k <= MOST_POSITIONS)
    table = {
        "camera": torch.cat([camera.world_from_camera.flatten(1), camera.intrinsics.flatten(1)], 1),
        "points": rotate(landmarks(identity, face), rotation_matrix(face.neck)),
        "expression": face.vector,
        "neck": face.neck,
        "positions": to_positions(view.positions)[:, step // 2 :: step, step // 2 :: step],
        **{f"identity.{name}": value for name, value in identity.fields().items()},
    }
    mask = pack_masks((view.opacity[:, 0] >= 0.5).numpy())
    return Clip(to_uint8(view.image).numpy(), {n: np.asarray(v) for n, v in table.items()} | {"mask": mask})
