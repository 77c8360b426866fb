"""Driving frames from a video or an animation, a folder of pictures or one picture, each with its true time.

Frames are uint8 `[H, W, 3]` RGB with square, upright pixels and are streamed one by one. Times are seconds from the
first frame. Damage costs the frames it hits, not the video; it is told in `Clip.warnings`.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from triportrait.core import files
from triportrait.core.errors import InputError
from triportrait.serve.media.output_file import reason_of
from triportrait.serve.media.pictures.animations import Animation, is_animation
from triportrait.serve.media.pictures.file_type import is_motion_jpeg, is_picture, kind_of
from triportrait.serve.media.pictures.picture_file import check_picture, read_picture
from triportrait.serve.media.pictures.picture_folder import PICTURE_ENDINGS, left_out, sorted_folder
from triportrait.serve.media.video.decoders import CPU_DECODES, Decoding, decoded_by, film_decoder
from triportrait.serve.media.video.decoding import Tally, decoded, stamp_of, timed
from triportrait.serve.media.video.deinterlacing import deinterlaced
from triportrait.serve.media.video.frame_to_rgb import ToRgb
from triportrait.serve.media.video.timestamps import Clock, demuxed, read_clock
from triportrait.serve.media.video.truncated_or_joined import (
    appended_recording,
    duration_s,
    end_of_pictures_s,
    is_cut_off,
)

logger = logging.getLogger(__name__)

PICTURES_FPS = Fraction(25)

# Outside this a container's rate is its clock (recordings from browsers say 1000), not how often pictures come.
_CREDIBLE_FPS = (Fraction(1, 10), Fraction(240))


@dataclass(frozen=True, eq=False)
class Frame:
    """One driving frame: `image` uint8 `[H, W, 3]` RGB, `time_s` from the first frame, `index` from 0."""

    image: np.ndarray
    time_s: float
    index: int


_Images = Generator[tuple[Fraction, Callable[[], np.ndarray | None]], None, None]


class Clip(ABC):
    """A source of driving frames: a video, an animation, a folder of pictures or one picture (see `open_clip`).

    Attributes:
        path: where it came from.
        files: everything that is read: the video, or each picture.
        is_pictures: whether each frame is a file of its own.
        fps: average rate in frames per second (25 for pictures); the true times are those of the frames.
        size_px: (width, height) of the first frame, upright and with square pixels.
        frame_count: an estimate for a progress bar, None when the file does not say.
        least_count: frames that are there for certain, as far as that can be told before decoding; 0 where it cannot.
        has_audio: whether `VideoWriter(audio_from=...)` has something to take.
        warnings: sentences about damage, complete once `frames()` has ended.
        start_s: time of the first frame on the file's own clock, which the sound shares.
        cut_s: set by `frames()` when it ended before the file did: the first time that is left out, from the first
            frame.
        end_s: set by `frames()` when it reached the file's end: when the last frame ends, from the first frame; None
            where the file does not say.
    """

    def __init__(self, path: Path, fps: Fraction, size_px: tuple[int, int], frame_count: int | None) -> None:
        self.path = path
        self.fps = fps
        self.size_px = size_px
        self.frame_count = frame_count
        self.files: Sequence[Path] = [path]
        self.is_pictures = False
        self.least_count = 0
        self.has_audio = False
        self.warnings: list[str] = []
        self.start_s = Fraction(0)
        self.cut_s: Fraction | None = None
        self.end_s: Fraction | None = None
        self._limit: int | None = None

    def frames(self, limit: int | None = None) -> Generator[Frame, None, None]:
        """Decode the frames in the order they are shown, the first `limit` of them.

        May be called again for another pass; closing the iterator early closes the file. Frames that do not decode
        are left out and told in `warnings`; a picture that is left out keeps its time and its index.
        """
        self.warnings.clear()
        self.cut_s = self.end_s = None
        self._limit = limit
        time_s = Fraction(0)
        images = self._images()
        try:
            for index, (time_s, image) in enumerate(images):
                if limit is not None and index >= limit:
                    self.cut_s = time_s
                    return
                pixels = image()
                if pixels is not None:
                    yield Frame(pixels, float(time_s), index)
        except GeneratorExit:
            self.cut_s = time_s + 1 / self.fps
            raise
        finally:
            images.close()

    @property
    def clock(self) -> Clock:
        """The clock of the file that holds the sound, which its packets are read with."""
        return Clock()

    @abstractmethod
    def _images(self) -> _Images:
        """Generate (time, function that gives the pixels); pixels are made only for frames that are used.

        None instead of pixels leaves a frame out. No more than `_limit` are asked for, and the time of one more.
        """


class _Pictures(Clip):
    def __init__(self, path: Path, files: Sequence[Path], others: Sequence[Path] = ()) -> None:
        height, width, _ = read_picture(files[0]).shape
        for file in files[1:]:
            check_picture(file)
        super().__init__(path, PICTURES_FPS, (width, height), len(files))
        self.files, self.is_pictures = files, True
        self.least_count = len(files)
        self._others = others

    def _images(self) -> _Images:
        damaged: list[Path] = []
        words: dict[str, list[Path]] = {}

        def read(file: Path) -> np.ndarray | None:
            try:
                return read_picture(file, lambda word: words.setdefault(word, []).append(file))
            except InputError:
                damaged.append(file)
                return None

        try:
            for index, file in enumerate(self.files):
                yield index / self.fps, partial(read, file)
        finally:
            count = len(self.files)
            if self._others:
                self.warnings.append(left_out(self.path, self._others))
            for word, of in words.items():
                about = f" ({len(of)} of {count} pictures, the first is {of[0].name})" if count > 1 else ""
                self.warnings.append(f"{self.path}: {word}{about}")
            if damaged:
                self.warnings.append(
                    f"{self.path}: {len(damaged)} of {count} pictures are damaged and were left out, the "
                    f"first is {damaged[0].name}"
                )


class _Animation(Clip):
    def __init__(self, path: Path) -> None:
        self._animation = Animation(path)
        fps = self._animation.fps
        credible = _CREDIBLE_FPS[0] <= fps <= _CREDIBLE_FPS[1]
        super().__init__(path, fps if credible else PICTURES_FPS, self._animation.size_px, self._animation.count)

    def _images(self) -> _Images:
        self.end_s = yield from self._animation.images(self.warnings.append)


class _Video(Clip):
    def __init__(self, path: Path, decoding: Decoding) -> None:
        with opened(path) as container:
            stream = _video_stream(path, container)
            tally = Tally()
            first = next(decoded(container, stream, tally, Clock()), None)
            if first is None:
                raise InputError(
                    f"{path}: none of its {tally.packets} frames could be decoded ({tally.reason}); convert it anew"
                )
            # A still picture of a kind that only libav reads comes through a pipe of its codec.
            self._rgb = ToRgb(first, stream.sample_aspect_ratio, container.format.name.endswith("_pipe"))
            rate = stream.average_rate or stream.guessed_rate
            declared_s = duration_s(container, stream)
            audio = sound_stream(container) is not None
            # Only mp4 and its kin hold an index of every frame before anything is read.
            entries = list(stream.index_entries) if "mp4" in container.format.name and stream.frames else []
            indexed, bytes_here = len(entries), path.stat().st_size
            cut_off = any(e.pos + e.size > bytes_here for e in entries)
            there = sum(not e.is_discard and e.pos + e.size <= bytes_here for e in entries)
            if stream.codec_context.codec.canonical_name == "vp8":
                there = 0  # it has packets that are never shown
            declares = "matroska" in container.format.name or container.format.name == "flv"
            self._declared_s = declared_s if declares else None
            if container.format.name == "avi" or "matroska" in container.format.name:
                cut_off = is_cut_off(path)
            if container.format.name == "avi" and rate and cut_off:
                self._declared_s = stream.frames / Fraction(rate)  # as its head says
            # AVI knows only the order of decoding: what libav offers as presentation times there is a guess.
            self._by_dts = container.format.name == "avi"
            start = stream.start_time if self._by_dts else stamp_of(first, False)
            self._time_base = stream.time_base or Fraction(1, 90_000)
        if not rate or not _CREDIBLE_FPS[0] <= rate <= _CREDIBLE_FPS[1]:
            rate, count = _measured(path)
        else:
            count = indexed or round((declared_s or 0) * rate) or None
        super().__init__(path, rate, self._rgb.size_px, count)
        self.has_audio = audio
        self.start_s = start * self._time_base if start is not None else Fraction(0)
        self._indexed = indexed
        self.least_count = there
        self._gpu = decoding.gpu
        self._reads = partial(reading, path)
        self._decoder = film_decoder(str(path), self._reads, decoding, cut_off, self._by_dts)

    @cached_property
    def clock(self) -> Clock:
        """The one clock of the file's streams; reads the file once, unless its index tells."""
        clock = self._read_clock()
        assert clock is not None
        if clock.first_s is not None:
            self.start_s = clock.first_s
        return clock

    def _read_clock(self, most: int | None = None) -> Clock | None:
        with opened(self.path) as container:
            stream = _video_stream(self.path, container)
            return read_clock(container, stream, sound_stream(container), self._by_dts, most)

    def _images(self) -> _Images:
        tally = Tally()
        reformatter = VideoReformatter()
        clock = None
        if self._limit is not None and "clock" not in self.__dict__:
            # A few frames of a long film are no reason to read it all.
            clock = self._read_clock(self._limit + 1)
        clock, time_s = clock or self.clock, Fraction(0)
        try:
            with opened(self.path) as container:
                stream = _video_stream(self.path, container)
                if self._decoder == "av":
                    frames = decoded(container, stream, tally, clock, self._by_dts)
                else:
                    frames = decoded_by(
                        self._decoder, self._reads, self._gpu, tally, clock, self._by_dts, self._give_up_hardware
                    )
                shown = timed(frames, self._time_base, 1 / self.fps, self._by_dts)
                for time_s, frame in deinterlaced(shown, lambda words: self.warnings.append(f"{self.path}: {words}")):
                    yield time_s, partial(self._rgb, frame, reformatter)
                whole = tally.packets >= self._indexed and not tally.errors
                end_s = end_of_pictures_s(self.path, container, stream, tally) if whole else None
                missed = appended_recording(self.path, container, clock.read_to)
            if missed is not None:
                self.warnings.append(f"{self.path}: {missed}")
            if end_s is not None and end_s - self.start_s > time_s:
                self.end_s = end_s - self.start_s
            self.warnings.extend(self._damage(tally))
        finally:
            self.warnings.extend(f"{self.path}: {sentence}" for sentence in clock.sentences(float(time_s)))

    def _give_up_hardware(self, words: str) -> None:
        logger.info("%s: %s", self.path, words)
        self._decoder = "av"  # also in the next pass

    def _damage(self, tally: Tally) -> Iterator[str]:
        expected = max(tally.packets, self._indexed) - tally.hidden
        about = ""
        early = self._declared_s is not None and tally.end_s < self._declared_s - Fraction(1, 2)
        if early and self._declared_s is not None and (self.has_audio or is_cut_off(self.path)):
            expected, about = max(expected, round(self._declared_s * self.fps)), "about "
        damaged = tally.errors or tally.broken_packets or tally.packets < self._indexed or about
        if damaged and tally.frames < expected:
            yield f"{self.path}: {tally.frames} of {about}{expected} frames could be decoded; the rest is damaged"
        elif broken := max(tally.broken_frames, tally.broken_packets):
            yield f"{self.path}: {broken} of {tally.frames} frames are damaged and were used as they decoded"


def open_clip(path: str | os.PathLike[str], decoding: Decoding = CPU_DECODES) -> Clip:
    """Open a driving source: a video of any kind libav decodes, an animation, a folder of pictures (25 fps), or one.

    Videos are decoded as `decoding` says, as far as they come out as libav's decoders on the CPU show them.

    What a file is, its content says, whatever its name.

    The first frame is decoded already here and every header of a folder is read, so that a file of no use is refused
    before any work. Pictures whose damage shows only later are left out, as frames of a video are.

    Raises: `InputError` when the path is missing or unreadable, holds no video, or none of its frames decodes.
    """
    path = Path(path)
    if path.is_dir():
        return _Pictures(path, *sorted_folder(path))
    if is_animation(path):
        return _Animation(path)
    if is_picture(path):
        return _Pictures(path, [path])
    try:
        return _Video(path, decoding)
    except InputError:
        if path.suffix.lower() in PICTURE_ENDINGS:
            check_picture(path)  # its sentence is about a picture
        raise


@contextmanager
def reading(path: Path, hardware: HWAccel | None = None) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a video file for reading, with the stream that is the video proper; `hardware` decodes what it can."""
    with opened(path, hardware) as container:
        yield container, _video_stream(path, container)


@contextmanager
def opened(path: Path, hardware: HWAccel | None = None) -> Iterator[InputContainer]:
    """Open a video file for reading and close it whatever happens; `hardware` decodes what it can.

    Raises: `InputError` when the path is missing, unreadable, empty, or libav makes nothing of it, with its reason.
    """
    try:
        with files.opened(path) as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path}: the video cannot be read ({reason_of(error)}); check the path") from error
    if empty:
        raise InputError(f"{path}: a video is wanted, this file is empty; copy it again")
    try:
        container = _open(path, hardware)
    except av.FFmpegError as error:
        if hardware is not None:
            raise
        raise InputError(
            f"{path}: no video stream ({_libav_reason(path, error)}); convert it or copy it again"
        ) from error
    with container:
        yield container


def _open(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    # "file:" keeps a colon in the name from being a protocol, the whitelist a playlist from reaching the network.
    options = {"protocol_whitelist": "file"}
    # libav goes by the name where JPEGs follow each other, and would take the first for a picture.
    kind = "mjpeg" if kind_of(path) == "JPEG" and is_motion_jpeg(path) else None
    return av.open(
        f"file:{path}", "r", format=kind, container_options=options, metadata_errors="replace", hwaccel=hardware
    )


def _libav_reason(path: Path, error: av.FFmpegError) -> str:
    """Say why libav refused: the error holds only "invalid data", the reason is in a log that is off by default."""
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    lines: list[Any] = []
    av.logging.set_level(av.logging.ERROR)
    # Else a second file with the same fault would get no reason.
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as lines:
            _open(path).close()
    except av.FFmpegError:
        pass
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)
    said = lines[-1][2].strip() if lines else (error.strerror or type(error).__name__)
    return said[:1].lower() + said[1:]


def _video_stream(path: Path, container: InputContainer) -> av.VideoStream:
    """Pick the video proper: a cover picture in a sound file is a video stream too."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        only = "it holds only sound" if container.streams.audio else "it holds no pictures"
        raise InputError(f"{path}: no video stream ({only}); give a video, a folder of pictures or one picture")
    best = container.streams.best("video")
    stream = best if isinstance(best, av.VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise InputError(f"{path}: no decoder for its video stream; convert it to H.264")
    # Threads that decode whole frames ahead would drop good ones with a damaged one, more of them on more cores.
    stream.thread_type = ThreadType.SLICE
    return stream


def sound_stream(container: InputContainer) -> av.AudioStream | None:
    """Pick the sound: libav's best stream, of those that can be decoded; None where there is none."""
    known = [s for s in container.streams.audio if s.codec_context is not None]
    best = container.streams.best("audio")
    if isinstance(best, av.AudioStream) and best in known:
        return best
    return known[0] if known else None


def _measured(path: Path) -> tuple[Fraction, int | None]:
    """Count the packets of a file whose header gives no credible rate: (average rate, number)."""
    stamps = []
    with opened(path) as container:
        stream = _video_stream(path, container)
        time_base = stream.time_base or Fraction(1, 90_000)
        with suppress(av.FFmpegError):
            stamps = [p.pts if p.pts is not None else p.dts for p in demuxed(container, [stream]) if p.size]
    known = [stamp for stamp in stamps if stamp is not None]
    span_s = (max(known) - min(known)) * time_base if known else Fraction(0)
    rate = (len(known) - 1) / span_s if span_s else Fraction(0)
    if not _CREDIBLE_FPS[0] <= rate <= _CREDIBLE_FPS[1]:
        return PICTURES_FPS, len(stamps) or None
    return rate.limit_denominator(1001), len(stamps)
