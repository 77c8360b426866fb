"""Who decodes films: NVDEC and DALI show what the CPU shows, or leave the film to it with a sentence."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.serve.interlaced import interlaced_film
from tests.serve.making import UNEVEN, H, W, make, noise, scene
from triportrait.core.optional_packages import fault
from triportrait.serve.media.video import clips, dali_film, nvdec, nvdec_trial
from triportrait.serve.media.video.clips import Clip, open_clip
from triportrait.serve.media.video.decoders import Decoding
from triportrait.serve.media.video.nvdec_trial import nvdec_fault

needs_dali = pytest.mark.skipif(fault("nvidia.dali") is not None, reason="DALI is not installed")
NVDEC, DALI = Decoding("nvdec", 0), Decoding("dali")
SHIFTED = [np.roll(scene(), 2 * i, 1) for i in range(40)]


class Card:
    """Stands for a GPU with NVDEC: pictures come as NV12 or P010, damage in them is not told.

    Attributes:
        driver, codec, size: whether they are there, are decoded, and fit.
        off: levels by which its pictures differ.
        dies_at: the picture at which its memory is at an end.
    """

    def __init__(self) -> None:
        self.driver = self.codec = self.size = True
        self.off, self.dies_at, self.count = 0, 1 << 30, 0

    def shown(self, frame: Any) -> Any:
        self.count += 1
        if self.count > self.dies_at:
            raise av.FFmpegError(errno.ENOMEM, "Cannot allocate memory")
        layout = nvdec.LAYOUTS.get(frame.format.name)
        if layout is None or not self.size:
            return frame  # libav's own decoder takes over
        made = frame.reformat(format=layout)
        if self.off:
            samples = made.to_ndarray()
            made = av.VideoFrame.from_ndarray((samples + self.off).astype(samples.dtype), layout)
            made.pts, made.dts, made.time_base = frame.pts, frame.dts, frame.time_base
        made.colorspace, made.color_range = frame.colorspace, frame.color_range
        return made


class CardStream:
    def __init__(self, stream: Any, card: Card) -> None:
        self.real, self._card = stream, card

    @property
    def codec_context(self) -> Any:
        context = self.real.codec_context
        return SimpleNamespace(codec=context.codec, is_hwaccel=self._card.codec)

    def decode(self, packet: Any) -> list[Any]:
        return [self._card.shown(frame) for frame in self.real.decode(packet)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class CardContainer:
    def __init__(self, container: Any) -> None:
        self._real = container

    def demux(self, streams: Any) -> Any:
        return self._real.demux([getattr(stream, "real", stream) for stream in streams])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card, reading = Card(), clips.reading
    asked = nvdec.accelerator(0)

    @contextmanager
    def reads(path: Path, hardware: Any = None) -> Iterator[tuple[Any, Any]]:
        if hardware is not None and not card.driver:
            raise av.PermissionError(errno.EPERM, "Operation not permitted")
        with reading(path) as (container, stream):
            card.count = 0
            yield (container, stream) if hardware is None else (CardContainer(container), CardStream(stream, card))

    monkeypatch.setattr(clips, "reading", reads)
    monkeypatch.setattr(nvdec, "accelerator", lambda gpu: asked)
    return card


def shown(clip: Clip, limit: int | None = None) -> tuple[Any, ...]:
    frames = [(frame.time_s, frame.index, frame.image.tobytes()) for frame in clip.frames(limit)]
    return frames, clip.warnings, clip.end_s, clip.cut_s, clip.start_s, clip.size_px, clip.fps


FILMS: dict[str, dict[str, Any]] = {
    "uneven.mp4": dict(pts=UNEVEN, sound="aac"),
    "moving.mkv": dict(images=SHIFTED, sound="aac"),
    "turned.mp4": dict(images=SHIFTED, turn=(90, False, True)),
    "stretched.mp4": dict(images=SHIFTED, stretch=Fraction(4, 3)),
    "deep.mp4": dict(images=SHIFTED, fmt="yuv420p10le"),
    "full.mp4": dict(images=SHIFTED, fmt="yuvj420p", tag=(1, 2)),
    "hdr.mp4": dict(images=SHIFTED, fmt="yuv420p10le", hdr=True, tag=(9, 1)),
    "order.avi": dict(images=SHIFTED, options={"bf": "0"}),
    "odd.webm": dict(images=[np.roll(scene(67, 71), i, 1) for i in range(12)], codec="libvpx-vp9"),
    "untagged.mp4": dict(images=SHIFTED, tag=(2, 0)),
    "untagged_hd.mp4": dict(images=[np.roll(scene(1280, 720), i, 1) for i in range(2)], tag=(2, 0)),
    "vp8.webm": dict(images=SHIFTED, codec="libvpx"),
}


@pytest.mark.parametrize("name", FILMS)
def test_nvdec_shows_each_film_as_the_cpu_does(tmp_path: Path, card: Card, name: str) -> None:
    path = make(tmp_path / name, **FILMS[name])
    clip = open_clip(path, NVDEC)
    assert clip._decoder == "nvdec"
    assert shown(clip) == shown(open_clip(path))
    assert shown(clip, 5) == shown(open_clip(path), 5)
    assert card.count
    assert clip._decoder == "nvdec"


def test_interlaced_films_are_made_whole_behind_nvdec(tmp_path: Path, card: Card) -> None:
    path = interlaced_film(tmp_path / "a.mp4", True, True)
    clip = open_clip(path, NVDEC)
    assert clip._decoder == "nvdec"
    assert shown(clip) == shown(open_clip(path))


@pytest.mark.parametrize(
    ("cards", "film", "sentence"),
    [
        (dict(driver=False), {}, "is not opened by NVDEC (Operation not permitted), which wants a GPU and its driver"),
        (dict(codec=False), {}, "is decoded by h264, which uses no GPU"),
        (dict(size=False), {}, f"has {W} x {H} px in h264, which NVDEC does not decode here"),
        (dict(off=1), {}, "comes out of NVDEC with other pictures"),
        (dict(dies_at=3), {}, "comes out of NVDEC with other pictures"),
        ({}, dict(fmt="yuv444p"), "has pictures in yuv444p, which few cards decode"),
        ({}, dict(codec="mpeg4"), "is mpeg4, which two decoders need not decode alike"),
    ],
)  # fmt: skip
def test_what_nvdec_does_not_decode_the_cpu_does(tmp_path, card, caplog, cards, film, sentence):
    vars(card).update(cards)
    path = make(tmp_path / ("a.avi" if "codec" in film else "a.mp4"), SHIFTED[:12], **film)
    for choice, level in (("nvdec", logging.WARNING), ("auto", logging.INFO)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            clip = open_clip(path, Decoding(choice, 0))
        (record,) = caplog.records
        assert (record.getMessage(), record.levelno) == (
            f"{path}: {sentence}; the CPU decodes it instead of NVDEC",
            level,
        )
        assert shown(clip) == shown(open_clip(path))


def test_a_machine_without_a_gpu_says_so_and_decodes(tmp_path, caplog, monkeypatch):
    """No stub: libav itself is asked."""
    monkeypatch.setattr(nvdec, "accelerator", lambda gpu: av.codec.hwaccel.HWAccel("cuda", device="63"))
    path = make(tmp_path / "a.mp4", 5)
    clip = open_clip(path, NVDEC)
    assert "is not opened by NVDEC" in caplog.text
    assert shown(clip) == shown(open_clip(path))
    caplog.clear()
    assert Decoding.on("auto", torch.device("cpu")).wanted == "av"
    assert Decoding.on("auto", torch.device("cuda")) == Decoding("auto", 0)
    assert Decoding.on("auto", torch.device("cuda", 1)).wanted == "nvdec"


def test_doctor_s_trial_decodes_a_film_of_its_own(monkeypatch: pytest.MonkeyPatch, card: Card) -> None:
    monkeypatch.setattr(nvdec_trial, "reading", clips.reading)
    assert nvdec_fault() is None
    card.size = False
    assert nvdec_fault() == "has 256 x 256 px in h264, which NVDEC does not decode here"


def _damaged(path: Path, name: str) -> Path:
    """Zero some bytes in the middle of a film's packets."""
    with av.open(path) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][25]
        at, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[at + 5 : at + size] = bytes(size - 5)
    (path.parent / name).write_bytes(data)
    return path.parent / name


def test_from_damage_on_the_cpu_decodes(tmp_path: Path, card: Card, caplog: Any) -> None:
    path = _damaged(make(tmp_path / "a.mp4", noise(40), options={"bf": "2"}), "b.mp4")
    clip = open_clip(path, NVDEC)
    assert clip._decoder == "nvdec"
    with caplog.at_level(logging.INFO):
        first = shown(clip)
    assert "is damaged, and hardware shows damaged pictures differently; from picture" in caplog.text
    assert first == shown(open_clip(path))
    assert first[1]
    assert clip._decoder == "av"
    assert shown(clip) == first


def test_a_card_that_fails_on_the_way_loses_no_picture(tmp_path: Path, card: Card) -> None:
    path = make(tmp_path / "a.mp4", SHIFTED, sound="aac")
    clip = open_clip(path, NVDEC)
    card.dies_at = 20
    assert shown(clip) == shown(open_clip(path))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("decoding", [NVDEC, DALI])
def test_films_that_are_cut_off_are_left_to_the_cpu(tmp_path, card, caplog, name, decoding):
    path = make(tmp_path / name, noise(40), tag=(5, 1), container={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    clip = open_clip(path, decoding)
    assert "is cut off, and hardware shows damaged pictures differently" in caplog.text
    assert shown(clip) == shown(open_clip(path))


def _close(a: Clip, b: Clip) -> None:
    """Times and all else are the same, colours nearly."""
    (frames, *others), (expected, *words) = shown(a), shown(b)
    assert others == words
    assert [frame[:2] for frame in frames] == [frame[:2] for frame in expected]
    for (*_, one), (*_, other) in zip(frames, expected, strict=True):
        assert len(one) == len(other)
        assert np.abs(np.frombuffer(one, np.uint8).astype(int) - np.frombuffer(other, np.uint8)).mean() < 2.5


@needs_dali
@pytest.mark.parametrize("count", [31, 32, 33])
@pytest.mark.parametrize("film", [{}, dict(turn=(90, False, True)), dict(stretch=Fraction(4, 3)), dict(sound="aac")])
def test_dali_shows_films_nearly_as_the_cpu_does(tmp_path: Path, count: int, film: dict[str, Any]) -> None:
    """Its decoder runs: chunks of 16 pictures end before, at and behind the end of the film."""
    pts = [3000 * i + i % 3 * 700 for i in range(count)]
    path = make(tmp_path / "a.mp4", SHIFTED[:1] * count, pts, tag=(5, 1), **film)
    clip = open_clip(path, DALI)
    assert clip._decoder == "dali"
    _close(clip, open_clip(path))
    assert clip._decoder == "dali"


@pytest.mark.parametrize(
    ("name", "film", "sentence"),
    [
        ("a.mp4", dict(tag=(1, 1)), "has colours that DALI does not know"),
        ("a.mp4", dict(fmt="yuv420p10le"), "has pictures in yuv420p10le, DALI takes yuv420p"),
        ("a.avi", dict(codec="mpeg4"), "is mpeg4, which DALI does not decode everywhere"),
        ("a.avi", dict(options={"bf": "0"}), "holds no times of its pictures"),
    ],
)
def test_what_dali_would_show_otherwise_the_cpu_decodes(tmp_path, caplog, name, film, sentence):
    path = make(tmp_path / name, SHIFTED[:12], **dict(tag=(5, 1)) | film)
    clip = open_clip(path, DALI)
    assert sentence in caplog.text
    assert "; the CPU decodes it instead of DALI" in caplog.text
    assert shown(clip) == shown(open_clip(path))


def test_interlaced_and_damaged_films_are_not_dali_s(tmp_path, caplog):
    path = interlaced_film(tmp_path / "a.mp4", True, True)
    first = dali_film.first_frame(lambda hardware: clips.reading(path))
    first.colorspace = 5
    assert dali_film._why_unlike(first, "h264", False) == "is interlaced, which DALI does not tell"
    path = _damaged(make(tmp_path / "b.mp4", noise(40), tag=(5, 1)), "c.mp4")
    assert shown(open_clip(path, DALI)) == shown(open_clip(path))


@needs_dali
def test_dali_that_is_missing_or_fails_loses_no_picture(tmp_path, caplog, monkeypatch):
    path = make(tmp_path / "a.mp4", SHIFTED, tag=(5, 1))
    clip, images = open_clip(path, DALI), dali_film._images

    def fails(*words: Any) -> Iterator[np.ndarray]:
        for i, image in enumerate(images(*words)):
            if i == 20:
                raise dali_film.DaliFault("out of memory")
            yield image

    monkeypatch.setattr(dali_film, "_images", fails)
    with caplog.at_level(logging.INFO):
        _close(clip, open_clip(path))
    assert "its decoder fails (out of memory); from picture 21 on the CPU decodes it" in caplog.text
    monkeypatch.setattr(dali_film, "_images", images)
    monkeypatch.setattr(dali_film.importlib, "import_module", lambda name: 1 / 0)
    assert open_clip(path, DALI)._decoder == "av"
    assert "is not decoded by DALI" in caplog.text


def test_dali_asks_a_gpu_for_its_mixed_decoder(monkeypatch):
    """As DALI refuses `mixed` without a card, a stub of its module is asked."""
    asked: list[Any] = []

    def pipeline_def(**options: Any) -> Any:
        asked.append(options["device_id"])
        return lambda make: lambda: make() or SimpleNamespace(build=lambda: None)

    video = SimpleNamespace(video=lambda **options: asked.append(options["device"]))
    stub = SimpleNamespace(fn=SimpleNamespace(experimental=SimpleNamespace(inputs=video)), pipeline_def=pipeline_def)
    monkeypatch.setattr(dali_film.importlib, "import_module", lambda name: stub)
    dali_film._pipeline(1)
    dali_film._pipeline(None)
    assert asked == [1, "mixed", None, "cpu"]
