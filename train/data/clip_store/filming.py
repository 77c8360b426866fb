"""Procedural heads become a clip store: one head, one light, one camera and a smooth motion for each clip.

The table of a clip holds what a perfect tracker would say, and where the points seen lie on the mean head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.importing import Clip, Imported, fill, finished
from triportrait.train.data.clip_store.store import FPS, ClipWriter, packed
from triportrait.train.data.clips import check_clips
from triportrait.train.data.heads.landmarks import landmarks
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.heads.shapes import rotate, rotation_matrix
from triportrait.train.data.multiview import to_positions
from triportrait.train.data.parallel import in_order
from triportrait.train.data.scenes import filming_cameras, motion, population, take_pictures, to_pictures

HEADS = "heads"  # what the index of such a store calls its source
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
    tell: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Write a store of `count` clips; one that was stopped goes on.

    Args:
        frames: of each clip, 2 at least.
        size: side of the pictures, px, even.
        tell: is called with the number of clips done.

    Raises: `InputError` before any work for numbers out of range or a folder that holds something else.
    """
    check_clips(seed, count, frames, FPS, size, antialias)
    if frames < 2:
        raise InputError(f"frames: expected at least 2, as one frame of a clip drives another, got {frames}")
    settings = {
        "source": HEADS, "seed": seed, "count": count, "frames": frames, "size": size, "antialias": antialias,
        "expression_axes": list(EXPRESSION_AXES),
    }  # fmt: skip
    if (before := finished(out, settings)) is not None:
        return before
    names = [f"clip_{head:06d}" for head in range(count)]
    done = ClipWriter(out, settings).clips
    shots = [_Shot(seed, count, head, frames, size, antialias) for head in range(count) if names[head] not in done]
    filmed = in_order(_film, shots)
    return fill(out, settings, ((name, lambda: next(filmed)) for name in names), 0.0, tell)


def _film(shot: _Shot) -> Clip:
    who, light = population(shot.seed, shot.count)
    one = torch.full((shot.frames,), shot.head)
    who, camera = who.take(one), filming_cameras(shot.seed, shot.count).take(one)
    face = motion(shot.seed, shot.head, shot.frames, FPS)
    view = take_pictures(HeadRenderer(), who, face, light.take(one), camera, shot.size, shot.antialias)
    every = next(k for k in range(1, shot.size + 1) if shot.size % k == 0 and shot.size // k <= MOST_POSITIONS)
    table = {
        "camera": torch.cat([camera.world_from_camera.flatten(1), camera.intrinsics.flatten(1)], 1),
        "points": rotate(landmarks(who, face), rotation_matrix(face.neck)),
        "expression": face.vector,
        "neck": face.neck,
        "positions": to_positions(view.positions)[:, every // 2 :: every, every // 2 :: every],
        **{f"identity.{name}": value for name, value in who.fields().items()},
    }
    mask = packed((view.opacity[:, 0] >= 0.5).numpy())
    return Clip(to_pictures(view.image).numpy(), {n: np.asarray(v) for n, v in table.items()} | {"mask": mask})
