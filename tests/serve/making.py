"""Small videos made for a test, and what a test asks of one: its sound, its times."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from triportrait.serve.media.video.clips import Clip, open_clip
from triportrait.serve.media.video.frame_to_rgb import SCALING
from triportrait.serve.media.video.writer import VideoWriter

W, H = 80, 64
CLOCK = 90_000
# Uneven on purpose: a phone in poor light.
UNEVEN = [0, 3000, 7000, 9000, 20000, 23003, 23503, 40000, 43000, 50000, 56000, 59000, 70001, 80000, 83000, 90000]


def scene(width: int = W, height: int = H) -> np.ndarray:
    """Four flat quarters, all different, so that any turn or mirror shows; uint8 [H, W, 3]."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 40, 30)
    image[: height // 2, width // 2 :] = (20, 180, 60)
    image[height // 2 :, : width // 2] = (40, 50, 210)
    image[height // 2 :, width // 2 :] = (230, 220, 120)
    return image


def corners(image: np.ndarray) -> np.ndarray:
    return image[[[8], [-9]], [8, -9]].astype(int)


def moving(index: int) -> np.ndarray:
    """A frame that says its number: brightness 10 · index; with noise, so that packets have some bytes to damage."""
    noise = np.random.default_rng(index).integers(0, 4, (H, W, 3))
    return (noise + 10 * (index % 25)).astype(np.uint8)


def noise(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(7).integers(0, 256, (count, H, W, 3), dtype=np.uint8))


def make(
    path: Path,
    images: Sequence[np.ndarray] | int = 16,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    fmt: str = "yuv420p",
    sound: str | None = None,
    layout: str = "mono",
    sound_at_s: float = 0.0,
    sound_s: float | None = None,
    turn: tuple[float, bool, bool] | None = None,
    stretch: Fraction | None = None,
    tag: tuple[int, int] = (1, 1),
    hdr: bool = False,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write a video with libav: frames at `pts` (1/90000 s; 30 fps without), a tone that begins at `sound_at_s`."""
    if isinstance(images, int):
        images = [moving(i) for i in range(images)]
    pts = pts or [3000 * i for i in range(len(images))]
    with av.open(path, "w", container_options=container or {}) as file:
        video: Any = file.add_stream(codec, rate=30, options=options or {})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = fmt
        context = video.codec_context
        # AVI and MPEG-1 know only whole frames.
        context.time_base = Fraction(1, 30 if path.suffix in (".avi", ".mpg") else CLOCK)
        context.colorspace, context.color_range = tag
        if hdr:
            context.color_trc, context.color_primaries = 18, 9
        if stretch is not None:
            context.sample_aspect_ratio = stretch
        if turn is not None:
            video.set_display_rotation(*turn)
        audio: Any = file.add_stream(sound, rate=48_000, options={"strict": "-2"}) if sound else None
        if sound:
            audio.codec_context.layout = "stereo" if sound == "vorbis" else layout
        for image, at in zip(images, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
                format=fmt, dst_colorspace=tag[0], dst_color_range=tag[1], interpolation=SCALING
            )
            if hdr:
                frame.color_trc, frame.color_primaries = 18, 9
            frame.pts, frame.time_base = at, Fraction(1, CLOCK)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            until_s = (pts[-1] + 3000) / CLOCK if sound_s is None else sound_at_s + sound_s
            for k in range(round((until_s - sound_at_s) * 48_000) // 960):
                tone = 0.3 * np.sin(2 * np.pi * 440 / 48_000 * (np.arange(960) + 960 * k))
                piece = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
                piece.sample_rate, piece.time_base = 48_000, Fraction(1, 48_000)
                piece.pts = round(sound_at_s * 48_000) + 960 * k
                file.mux(audio.encode(piece))
            file.mux(audio.encode(None))
    return path


def packets_of(path: Path) -> list[bytes]:
    """Everything that a video holds but for its container, and so but for its manifest."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux()]


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    """Demux the sound: (seconds from the first frame of the video, bytes) of each packet."""
    start_s = float(open_clip(path).start_s)
    with av.open(path) as file:
        return [(float(p.pts * p.time_base) - start_s, bytes(p)) for p in file.demux(audio=0) if p.size]


def heard(path: Path) -> tuple[float, np.ndarray]:
    """Decode the sound: time of the first loud sample from the first frame, and the samples of one channel."""
    start_s = float(open_clip(path).start_s)
    with av.open(path) as file:
        rate = file.streams.audio[0].rate
        frames = list(file.decode(audio=0))
    first_s = float(frames[0].pts * frames[0].time_base) - start_s
    fltp = av.AudioResampler("fltp", "mono", rate)
    samples = np.concatenate([p.to_ndarray()[0] for f in frames for p in fltp.resample(f)])
    return first_s + float(np.argmax(np.abs(samples) > 0.1)) / rate, samples


def copy(driving: Clip, path: Path, limit: int | None = None, **options: Any) -> list[float]:
    """Write the clip's frames, with its sound, as the product does; return the times."""
    times = []
    with VideoWriter(path, size_px=driving.size_px, fps=driving.fps, audio_from=driving, **options) as writer:
        for frame in driving.frames(limit):
            writer.write(frame.image, frame.time_s)
            times.append(frame.time_s)
    return times


def times_of(clip: Clip) -> list[float]:
    return [frame.time_s for frame in clip.frames()]


@contextmanager
def as_a_stranger() -> Iterator[None]:
    """Permission bits do not bind root: be nobody for a while, where root runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
