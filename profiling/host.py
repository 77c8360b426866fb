"""Time what a CPU does for a frame beside the GPU: each part alone, on one core, for pictures of one size.

Four threads work on a film at the same time: one reads, one follows the face, one drives, one writes; a live frame
passes through threads of its own. The slowest of them, or the GPU, sets the pace. Times are CPU time, so that it does
not matter what else runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.motion.motion_crop import ALIGNED_SIZE, crop_map
from triportrait.core.torch_threads import one_thread
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.roofline import CEILINGS, Work, sums
from triportrait.serve.faces.alignment import MEAN_FACE, PIXELS_PER_UNIT, align, middle_square
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.providers import face_provider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.image_tensors import to_size
from triportrait.serve.live.inference import EXAMPLES, decode_jpeg, encode_jpeg
from triportrait.serve.media.provenance.watermark import Watermark
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.encoders import Encoder, chosen_encoder, nvenc_opens
from triportrait.serve.media.video.writer import VideoWriter

AIM_MS = 4.0  # at most, of any part, where the faces are known
FRAMES = 90
FPS = 25


@dataclass(frozen=True)
class HostPart:
    """A part of a frame that a CPU core does.

    Attributes:
        name: what it does.
        thread: the thread that it stands in.
        ms: milliseconds of one core per frame.
        on_gpu: a GPU does it instead, where the network is on one.
        finds_faces: it goes where faces are known.
    """

    name: str
    thread: str
    ms: float
    on_gpu: bool = False
    finds_faces: bool = False


def host_parts(side_px: int, frames: int = FRAMES) -> list[HostPart]:
    """Time every part of the host for square pictures of a moving head.

    Args:
        side_px: side of the pictures, pixels: as the network's are, and those that drive it.
        frames: how many pictures are taken.
    """
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        pictures = _pictures(side_px, frames)
        film = Path(folder) / "driving.mp4"
        encoder, encoder_name = (
            chosen_encoder("auto", on_gpu=True),
            "NVENC" if nvenc_opens(side_px, side_px) else "x264 veryfast",
        )
        fast = _per_frame(lambda: _write(film, pictures, encoder), frames)
        slow = _per_frame(lambda: _write(film, pictures, "x264"), frames)
        reading = _per_frame(lambda: [frame.image for frame in open_clip(film).frames()], frames)
        tracker, times = FaceTracker(None, side_px), iter(range(1 << 30))
        face = _face(side_px)
        mark, jpegs = Watermark(1).mark, [encode_jpeg(picture) for picture in pictures]
        landmarks = torch.from_numpy(middle_square(pictures[0]).to_aligned(face.points))[None].float()

        def follow(picture: np.ndarray) -> object:
            return tracker.follow(picture, next(times) / FPS, [face])

        placed = align(face.alignment)
        assert placed is not None
        cutting = _each(lambda picture: placed.crop(picture, side_px), pictures)
        following = _each(follow, pictures) - cutting
        parts = [
            HostPart("decode H.264, to RGB", "film: read", reading),
            HostPart("follow a known face", "film: face", following),
            HostPart("cut the face out", "film: face", cutting),
            HostPart("the motion crop's place", "film: drive", _each(lambda _: crop_map(landmarks, side_px), pictures)),
            HostPart("watermark", "film: write", _each(mark, pictures), on_gpu=True),
            HostPart("to YUV, H.264 as beside a CPU (x264 medium)", "film: write, CPU", slow),
            HostPart(f"to YUV, H.264 as beside a GPU ({encoder_name})", "film: write", fast),
            HostPart("decode JPEG", "live: face", _each(decode_jpeg, jpegs)),
            HostPart("follow a known face", "live: face", following),
            HostPart("cut the face out", "live: face", cutting),
            HostPart("watermark", "live: finish", _each(mark, pictures), on_gpu=True),
            HostPart("encode JPEG", "live: finish", _each(encode_jpeg, pictures)),
        ]
        finding = _finding(pictures)
        if finding is not None:
            parts += [
                HostPart("find the face", thread, finding, finds_faces=True) for thread in ("film: face", "live: face")
            ]
    return parts


def table(parts: Sequence[HostPart], work: dict[str, Work], side_px: int) -> str:
    """Tabulate the parts of the host, then the threads beside the floors of GPUs, and name the bottlenecks.

    Args:
        parts: of `host_parts`.
        work: of `roofline.count`, for the floors of a frame whose source is cached.
        side_px: the side of the pictures, pixels.
    """
    columns = f"part of the host, {side_px} x {side_px}", "thread", "core ms a frame", f"at most {AIM_MS:g} ms"
    parts_table = markdown_table(columns, ((p.name, p.thread, f"{p.ms:.2f}", _verdict(p)) for p in parts))
    threads = {
        thread: sum(p.ms for p in parts if p.thread == thread and not p.on_gpu and not p.finds_faces)
        for thread in dict.fromkeys(p.thread for p in parts if not p.thread.endswith("CPU"))
    }
    floors = {
        f"{c.name}: the network's floor, computed": 1e3
        * sum(part.floor_s(c) for part in sums(work)["frame, source cached"].values())
        for c in CEILINGS
    }
    pace_columns = "beside a GPU, faces known", "ms a frame", "frames a second at most"
    paces = ((name, f"{ms:.2f}", f"{1e3 / ms:.0f}") for name, ms in (threads | floors).items())
    lines = [parts_table, markdown_table(pace_columns, paces)]
    for kind in ("film", "live"):
        all_ms = {name: ms for name, ms in threads.items() if name.startswith(kind)} | floors
        sentence = f"- {kind}: the slowest is '{max(all_ms, key=all_ms.__getitem__)}'"
        for part in parts:
            if part.finds_faces and part.thread in all_ms:
                ms = all_ms[part.thread] + part.ms
                sentence += f"; where faces are to be found, '{part.thread}' takes {ms:.1f} ms"
        lines.append(sentence + ".")
    legend = (
        "Core ms: CPU time of this machine, one core, each part alone. The GPU's lines are computed, not measured: the "
        "time that no GPU can beat, see above."
    )
    return "\n".join([*lines, "", legend]) + "\n"


def _verdict(part: HostPart) -> str:
    if part.on_gpu:
        return "a GPU does it"
    if part.finds_faces:
        return "only where faces are to be found"
    return "yes" if part.ms <= AIM_MS else "**no**" if not part.thread.endswith("CPU") else "not beside a GPU"


def _each(part: Callable[[Any], object], items: Sequence[Any]) -> float:
    """The median CPU time of a part over items, after a warm-up, in ms."""
    part(items[0])
    times = []
    for item in items:
        began = time.process_time()
        part(item)
        times.append(time.process_time() - began)
    return 1e3 * statistics.median(times)


def _per_frame(whole: Callable[[], object], frames: int) -> float:
    """The CPU time per frame of what runs through a whole film, in ms: the lesser of two runs."""
    times = []
    for _ in range(2):
        began = time.process_time()
        whole()
        times.append(time.process_time() - began)
    return 1e3 * min(times) / frames


def _pictures(side_px: int, count: int) -> list[np.ndarray]:
    """The frames of the packaged driving film, in its order, at a size."""
    frames = open_clip(EXAMPLES / "driving.mp4").frames()
    pictures = [to_size(frame.image, side_px) for _, frame in zip(range(count), frames, strict=False)]
    frames.close()
    return pictures


def _write(path: Path, pictures: Sequence[np.ndarray], encoder: Encoder) -> None:
    with VideoWriter(path, size_px=(len(pictures[0]),) * 2, fps=FPS, encoder=encoder, overwrite=True) as video:
        for i, picture in enumerate(pictures):
            video.write(picture, i / FPS)


def _face(side_px: int) -> Face:
    """A face in the middle of a picture, whose landmarks lie where the published alignment's mean face has them."""
    up = MEAN_FACE * (PIXELS_PER_UNIT / ALIGNED_SIZE * side_px * 0.8)
    points = up * (1, -1, 1) + (side_px / 2, side_px / 2, 0)
    return Face(
        np.resize(points, (68, 3)).astype(np.float32), points[:, :2].astype(np.float32), np.zeros(3, np.float32)
    )


def _finding(pictures: Sequence[np.ndarray]) -> float | None:
    """The CPU time of the networks for a face that is followed, in ms; None where they were not fetched."""
    provider = face_provider("auto")
    if provider is None:
        return None
    near: list[Face] = []

    def find(picture: np.ndarray) -> None:
        near[:] = provider.find(picture, near[0] if near else None, quick=bool(near))

    try:
        return _each(find, pictures)
    finally:
        provider.close()
