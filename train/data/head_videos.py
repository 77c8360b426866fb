"""Write H.264 videos of one moving head each, and beside each an .npz with its numbers.

Letters: T frames. The arrays of a clip: expression [T, 9], neck [T, 3], landmarks [T, 68, 2] pixels, opacity [T, S, S]
uint8, world_from_camera [4, 4], intrinsics [3, 3], identity.* and light.*.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.folders import whole_folder
from triportrait.train.data.heads.population import EXPRESSION_AXES, check_seed_and_count
from triportrait.train.data.heads.render import HeadRenderer, check_size
from triportrait.train.data.multiview import check_pixels, numbers
from triportrait.train.data.scene_sampling import filming_cameras, motion, population, take_pictures, to_uint8

KIND = "triportrait head clips"
MOST_FRAMES, LARGEST_FPS = 10_000, 120


def check_clips(seed: int, count: int, frames: int, fps: int, size: int, antialias: int) -> None:
    """Raises: `InputError` for numbers out of range."""
    check_seed_and_count(seed, count)
    if not 1 <= frames <= MOST_FRAMES:
        raise InputError(f"frames: expected 1 to {MOST_FRAMES}, got {frames}; choose another")
    if not 1 <= fps <= LARGEST_FPS:
        raise InputError(f"fps: expected 1 to {LARGEST_FPS}, got {fps}; choose another")
    check_size(size, antialias)
    check_pixels("frames", frames, size)
    if size % 2:
        raise InputError(f"size: H.264 takes even sizes only, got {size}; choose {size + 1}")


def write_clips(
    out: Path,
    seed: int,
    count: int,
    frames: int,
    fps: int,
    size: int,
    antialias: int = 2,
    overwrite: bool = False,
    tell: Callable[[int], None] = lambda done: None,
) -> None:
    """Write `count` clips of `frames` frames; the folder appears whole.

    Args:
        tell: is called with the number of clips done.

    Raises: `InputError` before any work for numbers out of range or a folder that cannot be made.
    """
    from triportrait.serve.media.video.writer import write_video

    check_clips(seed, count, frames, fps, size, antialias)
    settings = {
        "seed": seed, "count": count, "frames": frames, "fps": fps, "size": size, "antialias": antialias,
        "expression_axes": list(EXPRESSION_AXES),
    }  # fmt: skip
    with whole_folder(out, overwrite, KIND, settings) as folder:
        renderer = HeadRenderer()
        who, light = population(seed, count)
        filmed = filming_cameras(seed, count)
        for head in range(count):
            one = torch.full((frames,), head)
            face, camera = motion(seed, head, frames, fps), filmed.take(one)
            view = take_pictures(renderer, who.take(one), face, light.take(one), camera, size, antialias)
            write_video(folder / f"clip_{head:06d}.mp4", to_uint8(view.image).numpy(), fps)
            arrays = {
                "expression": face.vector,
                "neck": face.neck,
                "landmarks": view.landmarks,
                "opacity": (view.opacity[:, 0] * 255).round().byte(),
                "world_from_camera": camera.world_from_camera[0],
                "intrinsics": camera.intrinsics[0],
                **numbers(who.take([head]), light.take([head])),
            }
            numpy_arrays = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez_compressed(folder / f"clip_{head:06d}.npz", **numpy_arrays)  # type: ignore[arg-type]
            tell(head + 1)
