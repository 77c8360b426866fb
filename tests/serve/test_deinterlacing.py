"""Interlaced videos give whole pictures, one for each frame; films that are only called so stay as they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.serve.interlaced import COUNT, interlaced_film, moment
from triportrait.serve.media.video import deinterlacing
from triportrait.serve.media.video.clips import open_clip


def _errors(path: Path) -> list[float]:
    clip = open_clip(path)
    frames = list(clip.frames())
    assert [f.time_s for f in frames] == [k / 25 for k in range(COUNT)]
    assert clip.warnings == []
    inner = np.s_[8:-8, 8:-8]
    return [float(np.abs(f.image.astype(int) - moment(2 * f.index))[inner].mean()) for f in frames]


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p10le"])
def test_combs_are_taken_out_where_the_stream_says_so(tmp_path: Path, order: str, fmt: str) -> None:
    combed = max(_errors(interlaced_film(tmp_path / "a.mp4", True, False, fmt, order)))
    assert combed > 10, "not called interlaced: combs stay"
    assert max(_errors(interlaced_film(tmp_path / "b.mp4", True, True, fmt, order))) < 0.6 * combed
    for frame in open_clip(tmp_path / "b.mp4").frames():
        assert not deinterlacing.combs(frame.image[..., 1])


def test_a_film_that_is_only_called_interlaced_stays_as_it_is(tmp_path: Path) -> None:
    assert max(_errors(interlaced_film(tmp_path / "a.mp4", False, True))) < 1.5


def test_part_of_a_film_and_one_frame(tmp_path: Path) -> None:
    path = interlaced_film(tmp_path / "a.mp4", True, True)
    clip = open_clip(path)
    assert [f.index for f in clip.frames(3)] == [0, 1, 2]
    assert clip.cut_s == Fraction(3, 25)
    assert np.array_equal(next(iter(clip.frames(1))).image, next(iter(clip.frames())).image)


def test_combs_that_stay_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deinterlacing, "FILTER", "no filter of libav")
    path = interlaced_film(tmp_path / "a.mp4", True, True)
    clip = open_clip(path)
    assert len(list(clip.frames())) == COUNT
    assert clip.warnings == [
        f"{path}: its frames are interlaced and are used as they are, with combs where something moves"
    ]


def test_stripes_of_the_picture_are_no_combs() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[::4] = stripes[1::4] = 200
    assert not deinterlacing.combs(stripes)
    thin = np.full((64, 64), 90, np.uint8)
    thin[::16] = 250
    assert not deinterlacing.combs(thin)
