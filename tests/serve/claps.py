"""Videos of claps: a white flash and a beep that begin together, joined and measured as a viewer would see them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

W, H = 64, 48
FPS = 25
RATE = 48_000
# Container ending → (format, picture codec, sound codec).
KINDS = {
    "flv": ("flv", "libx264", "aac"),
    "ts": ("mpegts", "libx264", "aac"),
    "mkv": ("matroska", "libx264", "aac"),
    "webm": ("webm", "libvpx-vp9", "libopus"),
    "mpg": ("vob", "mpeg2video", "mp2"),
    "mp4": ("mp4", "libx264", "aac"),
    "avi": ("avi", "mpeg4", "libmp3lame"),
    "ogg": ("ogg", "libvpx", "libopus"),
}


def clap(
    path: Path,
    kind: str,
    video_s: float = 2.0,
    sound_s: float | None = 2.0,
    at_s: Sequence[float] = (1.0,),
    holes: Sequence[tuple[float, float]] = (),
    sound_holes: Sequence[tuple[float, float]] = (),
    shift_s: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write 0.2 s of white and 1 kHz at each of `at_s`.

    Pictures begin in none of `holes`, sound is in none of `sound_holes`; all of it is `shift_s` later on the clock of
    the file. `sound_s` None makes a file without sound.
    """
    name, codec, sound = KINDS[kind]
    with av.open(path, "w", format=name, container_options=options or {}) as file:
        video: Any = file.add_stream(codec, rate=FPS, options={"g": "25"})
        video.width, video.height, video.pix_fmt = W, H, "yuv420p"
        video.codec_context.time_base = Fraction(1, FPS)
        audio: Any = file.add_stream(sound, rate=RATE) if sound_s is not None else None
        if audio is not None:
            audio.codec_context.layout = "mono"
        pieces: list[tuple[float, Any]] = []
        for i in range(round(video_s * FPS)):
            now_s = i / FPS
            if any(a <= now_s < b for a, b in holes):
                continue
            bright = any(a - 1e-6 <= now_s < a + 0.2 - 1e-6 for a in at_s)
            image = np.full((H, W, 3), 255 if bright else 20, np.uint8)
            image[:8, :8] = i * 7 % 256
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i + round(shift_s * FPS), Fraction(1, FPS)
            pieces.append((now_s, frame))
        for k in range(round((sound_s or 0) * RATE) // 960):
            now_s = k * 960 / RATE
            if any(a <= now_s < b for a, b in sound_holes):
                continue
            t = now_s + np.arange(960) / RATE
            loud = sum(((t >= a) & (t < a + 0.2)).astype(float) for a in at_s)
            tone = (0.5 * loud * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
            piece = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
            piece.sample_rate, piece.time_base = RATE, Fraction(1, RATE)
            piece.pts = k * 960 + round(shift_s * RATE)
            pieces.append((now_s, piece))
        for _, piece in sorted(pieces, key=lambda item: item[0]):
            stream = video if isinstance(piece, av.VideoFrame) else audio
            file.mux(stream.encode(piece))
        for stream in (video, audio):
            if stream is not None:
                file.mux(stream.encode(None))
    return path


def joined(path: Path, parts: Sequence[Path]) -> Path:
    """Join files as a live dump does: the clock starts anew in each."""
    if path.suffix == ".flv":  # Each has a head, which a dump has once: 9 bytes and a size.
        path.write_bytes(b"".join(p.read_bytes()[0 if i == 0 else 13 :] for i, p in enumerate(parts)))
    else:
        path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return path


def flashes(path: Path) -> tuple[list[float], list[float]]:
    """Give when flashes begin, and the time of every frame, in seconds from the first frame."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [
            (float(f.pts * stream.time_base), f.to_ndarray(format="gray").mean() > 140) for f in file.decode(stream)
        ]
    times = [time_s - frames[0][0] for time_s, _ in frames]
    white = [is_white for _, is_white in frames]
    return [t for t, now, before in zip(times, white, [False, *white], strict=False) if now and not before], times


def loud(path: Path, quiet_s: float = 0.1) -> list[tuple[float, float]]:
    """Give from when to when sound is heard, in seconds from the first frame; `quiet_s` parts one beep from another."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        first = next(file.decode(stream))
        start_s = float(first.pts * stream.time_base)
    with av.open(str(path)) as file:
        spans: list[list[float]] = []
        for frame in file.decode(audio=0):
            samples = frame.to_ndarray().astype(float)
            mono = samples[0] if frame.format.is_planar else samples[0][:: len(frame.layout.channels)]
            if "s16" in frame.format.name:
                mono = mono / 32768
            begin_s = float(frame.pts * frame.time_base) - start_s
            for at in np.nonzero(np.abs(mono) > 0.05)[0]:
                now_s = begin_s + at / frame.sample_rate
                if not spans or now_s - spans[-1][1] > quiet_s:
                    spans.append([now_s, now_s])
                spans[-1][1] = max(spans[-1][1], now_s)
    return [(a, b) for a, b in spans]
