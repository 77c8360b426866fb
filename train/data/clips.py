"""Clips: real H.264 files with one moving head each, and beside each an .npz with its numbers.

Letters: T frames. The arrays of a clip: expression [T, 9], neck [T, 3], landmarks [T, 68, 2] pixels, opacity [T, S, S]
uint8, world_from_camera [4, 4], intrinsics [3, 3], identity.* and light.*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.folders import whole_folder
from triportrait.train.data.heads.population import EXPRESSION_AXES, check_seed_and_count
from triportrait.train.data.heads.render import HeadRenderer, check_size
from triportrait.train.data.multiview import check_pixels, numbers
from triportrait.train.data.scenes import filming_cameras, motion, population, take_pictures, to_uint8

KIND = "triportrait head clips"
MOST_FRAMES, LARGEST_FPS = 10_000, 120
_ENCODER_THREADS = 4  # the file's bytes depend on it, so it must not follow the machine
_CRF = 14


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
            found = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez_compressed(folder / f"clip_{head:06d}.npz", **found)  # type: ignore[arg-type]
            tell(head + 1)


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: int, gop: int | None = None, told_colours: bool = True
) -> None:
    """Write uint8 frames [H, W, 3] as H.264 in .mp4, 8-bit 4:2:0, BT.709; the same frames give the same bytes.

    Args:
        frames: at least one, all of one even height and width; taken one by one.
        gop: frames from one key frame to the next, and none that reads a later one; the encoder's choice by default.
        told_colours: else BT.601, and the file does not say so: what every decoder takes for granted, DALI's too, which
            does not read what a file says.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(f"file:{path}", "w", format="mp4", container_options=options) as container:
        how = {"crf": str(_CRF), "preset": "medium"}
        if gop is not None:
            how |= {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "bf": "0"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=how)
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.color_range = int(ColorRange.MPEG)
        space = Colorspace.ITU601
        if told_colours:
            space, context.colorspace = Colorspace.ITU709, 1
            context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
        context.thread_count = _ENCODER_THREADS
        for image in chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
                format="yuv420p", dst_colorspace=space, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
