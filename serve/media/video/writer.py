"""Films are written as H.264 or VP9, frame by frame at their true times, with the driving sound beside them."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from triportrait.core.atomic import replacing
from triportrait.serve.media.output_file import check_output, writing
from triportrait.serve.media.video.clips import Clip
from triportrait.serve.media.video.encoders import Encoder, encoder_of, x264_options
from triportrait.serve.media.video.frame_to_rgb import SCALING
from triportrait.serve.media.video.sound import Sound

# Ending → (container, video encoder).
_KINDS = {
    ".mp4": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
_CONTAINER_OPTIONS = {"fflags": "+bitexact", "movflags": "+faststart"}

# x264 writes other bytes for another number of threads, so it must not follow the machine.
_ENCODER_THREADS = 4
# More frames than an encoder holds back.
_LOOKED_AHEAD = 256
# More frames than an encoder shows in another order than it decodes them.
_REORDERED = 8
# A last frame that lasts as long as any other, but for the milliseconds that some containers count in.
_ROUNDED_S = 0.002


class _Abandoned(Exception):
    """Makes what was written so far disappear."""


class VideoWriter:
    """Write frames with their times as a video that appears under its name only when it is complete.

    Use as a context manager, or by `open`, then `close` or `abandon`. On any exception the partial file is removed and
    an existing output stays as it was, as one does that appears while writing, unless `overwrite`. The same input gives
    the same bytes, unless NVENC encodes. .mp4, .mov and .mkv are H.264, .webm is VP9; both 8-bit 4:2:0, tagged BT.709.

    Args:
        path: output file, its ending one of `VIDEO_ENDINGS`.
        size_px: (width, height) of the images; odd sizes gain one repeated column or row, since 4:2:0 needs even ones.
        fps: nominal rate; gives the fineness of the clock, and the length of the last frame where nothing else does.
        audio_from: clip that the frames come from. Its sound is taken: copied where players expect it in the container,
            else encoded as AAC or Opus. Both the sound and the last frame end where its `cut_s` says, the last frame of
            a whole clip where its `end_s` does.
        overwrite: replace an existing file.
        crf: quality on the scale of x264, 0 (lossless) to 51, 18 looks like the original.
        encoder: who makes H.264, see `chosen_encoder`; VP9 has one of its own.
        finish: called with the whole file, under another name, before it appears: what signs it.

    Raises: `InputError` when the output cannot be written (see `check_output`), also while writing (disk full).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size_px: tuple[int, int],
        fps: Fraction | float,
        audio_from: Clip | None = None,
        overwrite: bool = False,
        crf: int = 18,
        encoder: Encoder = "x264",
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.size_px = size_px
        self.fps = Fraction(fps).limit_denominator(1001)
        if self.fps <= 0 or min(size_px) < 1 or not 0 <= crf <= 51:
            raise ValueError(f"fps > 0, sizes ≥ 1 px and crf in 0…51 are wanted, got {fps}, {size_px}, {crf}")
        self._crf, self._encoder = crf, encoder
        self._overwrite = overwrite
        self._finish = finish
        self._clip = audio_from
        self._sources = [] if audio_from is None else list(audio_from.files)
        self._sound: Sound | None = None
        self._lost_sound: str | None = None
        exact = math.lcm(90_000, self.fps.numerator)
        self._clock = exact if exact <= 1_000_000 else 90_000
        self._last_tick = -1
        self._ticks: deque[int] = deque(maxlen=_LOOKED_AHEAD)
        self._held: av.VideoFrame | None = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def open(self) -> Self:
        """Begin the file, under a temporary name; `close` or `abandon` has to follow."""
        check_output(self.path, self._overwrite, sources=self._sources)
        with writing(self.path), ExitStack() as stack:
            self._temporary = stack.enter_context(replacing(self.path, self._overwrite))
            try:
                self._start(stack, self._clip)
            except av.FFmpegError as error:
                if isinstance(error, OSError) or self._clip is None or not self._clip.has_audio:
                    raise
                # Sound that the container does not take after all must not cost the video.
                self._lost_sound = f"{self._clip.path}: its sound cannot be taken ({error.strerror}); it is left out"
                self._start(stack, None)
            self._stack = stack.pop_all()
        return self

    def write(self, image: np.ndarray, time_s: float) -> None:
        """Add one frame: `image` uint8 `[H, W, 3]` of the size announced, shown from `time_s` on.

        Raises: `ValueError` for another shape or type, or a time before the last frame's; `InputError` when the disk
            is full.
        """
        width, height = self.size_px
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 [{height}, {width}, 3], got {image.dtype} {list(image.shape)}")
        tick = round(time_s * self._clock)
        if tick < self._last_tick or tick < 0:
            raise ValueError(f"times must not fall: {time_s} s after {self._last_tick / self._clock} s")
        tick = self._last_tick = max(tick, self._last_tick + 1)
        if width % 2 or height % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        frame = self._reformatter.reformat(
            rgb,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALING,
            threads=1,
        )
        frame.pts, frame.time_base = tick, Fraction(1, self._clock)
        self._ticks.append(tick)
        with writing(self.path):
            if self._held is not None:
                self._container.mux(self._stream.encode(self._held))
            self._held = frame
            if self._sound is not None:
                self._sound.write_until(Fraction(tick, self._clock))

    def abandon(self) -> None:
        """Leave nothing of what was written."""
        with suppress(_Abandoned), self._stack:
            raise _Abandoned

    def close(self) -> None:
        """Write what the encoder still holds, finish the sound and let the file appear under its name.

        Raises: `InputError` when the disk is full; `ValueError` when no frame was written. Nothing is left then.
        """
        with writing(self.path), self._stack:
            if self._last_tick < 0:
                raise ValueError(f"{self.path}: no frame was written")
            self._write_last()
            if self._sound is not None:
                self._sound.finish()
            self._container.close()
            if self._finish is not None:
                self._finish(self._temporary)
        if self._lost_sound is not None and self._clip is not None:
            self._clip.warnings.append(self._lost_sound)

    def _write_last(self) -> None:
        """Write the frame that was held back, which lasts until the end of the clip."""
        ends_s = () if self._clip is None else (self._clip.cut_s, self._clip.end_s)
        end_s = next((end_s for end_s in ends_s if end_s is not None), None)
        end = usual = self._last_tick + round(self._clock / self.fps)
        if end_s is not None and abs(round(end_s * self._clock) - usual) > _ROUNDED_S * self._clock:
            end = max(round(end_s * self._clock), self._last_tick + 1)
        mp4 = self._container.format.name in ("mp4", "mov")
        as_usual = end == usual and not (mp4 and self._ends_unevenly())
        if mp4 and not as_usual and self._held is not None:
            # There lengths are those of decoding: a key picture is decoded last, as it is shown last.
            self._held.pict_type = PictureType.I
        packets = self._stream.encode(self._held) + self._stream.encode(None)
        if not as_usual:
            ends = dict(pairwise((*self._ticks, end)))
            for packet in packets:
                if packet.pts in ends:
                    packet.duration = ends[packet.pts] - packet.pts
            if mp4:
                packets[-1].dts = packets[-1].pts
        self._container.mux(packets)

    def _ends_unevenly(self) -> bool:
        """Tell whether a frame that may still be reordered with the last one lasted unlike the others."""
        step = self._clock / self.fps
        ticks = list(self._ticks)[-_REORDERED:]
        return any(abs(b - a - step) > step / 2 for a, b in pairwise(ticks))

    def _start(self, stack: ExitStack, clip: Clip | None) -> None:
        self._container = self._open(stack)
        self._stream = self._add_video()
        self._sound = None
        if clip is not None and clip.has_audio:
            self._sound = Sound(clip, self._container)
            stack.callback(self._sound.close)
        self._container.start_encoding()

    def _open(self, stack: ExitStack) -> OutputContainer:
        container = av.open(
            f"file:{self._temporary}",
            "w",
            format=_KINDS[self.path.suffix.lower()][0],
            container_options=_CONTAINER_OPTIONS,
        )

        def close() -> None:
            # Closing writes the end of the file, which fails once more on a full disk.
            with suppress(av.FFmpegError, OSError):
                container.close()

        stack.callback(close)
        return container

    def _add_video(self) -> av.VideoStream:
        width, height = (side + side % 2 for side in self.size_px)
        encoder, options = encoder_of(_KINDS[self.path.suffix.lower()][1], self._encoder, self._crf, (width, height))
        return _add_stream(self._container, encoder, self.fps, options, (width, height), Fraction(1, self._clock))


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: int, gop: int | None = None, tagged: bool = True, crf: int = 14
) -> None:
    """Write frames of one rate as H.264 in .mp4, 8-bit 4:2:0; the same frames give the same bytes.

    Args:
        frames: uint8 [H, W, 3], at least one, all of one even height and width; taken one by one.
        gop: frames from one key frame to the next, and none that reads a later one; the encoder's choice by default.
        tagged: colours are BT.709, and the file says so; else BT.601 without a word, which every decoder takes for
            granted, also DALI's, which does not read what a file says.
        crf: quality on the scale of x264.
    """
    frames = iter(frames)
    first = next(frames)
    options = x264_options(crf)
    if gop is not None:
        options |= {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "bf": "0"}
    with av.open(f"file:{path}", "w", format="mp4", container_options=_CONTAINER_OPTIONS) as container:
        stream = _add_stream(container, "libx264", Fraction(fps), options, first.shape[1::-1], tagged=tagged)
        space = Colorspace.ITU709 if tagged else Colorspace.ITU601
        for image in chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
                format="yuv420p", dst_colorspace=space, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _add_stream(
    container: OutputContainer, encoder: str, rate: Fraction, options: dict[str, str], size_px: tuple[int, ...],
    time_base: Fraction | None = None, tagged: bool = True,
) -> av.VideoStream:  # fmt: skip
    """Add a stream of 8-bit 4:2:0 pictures to a file; `tagged` says that its colours are BT.709."""
    stream = container.add_stream(encoder, rate=rate, options=options)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = size_px
    context.pix_fmt = "yuv420p"
    if time_base is not None:
        context.time_base = time_base
    context.color_range = int(ColorRange.MPEG)
    if tagged:
        context.colorspace = 1
        context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
    context.thread_count = _ENCODER_THREADS
    return stream
