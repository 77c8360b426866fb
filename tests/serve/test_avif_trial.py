"""An AVIF whose work nobody can tell beforehand is tried where it can be ended."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures import avif_trial
from triportrait.serve.media.pictures.avif_trial import check_avif
from triportrait.serve.media.pictures.picture_file import read_picture


def avif(path, count=1, side=96):
    pictures = [
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (side, side, 3)).astype(np.uint8))
        for k in range(count)
    ]
    pictures[0].save(path, "AVIF", save_all=count > 1, append_images=pictures[1:], speed=10)
    return path


@pytest.fixture(autouse=True)
def tried_anew():
    avif_trial._tried.cache_clear()


def test_an_ordinary_one_passes_and_is_tried_once(tmp_path, monkeypatch):
    path = avif(tmp_path / "a.avif")
    assert read_picture(path).shape == (96, 96, 3)
    monkeypatch.setattr(avif_trial.sys, "executable", "/nowhere")
    assert read_picture(path).shape == (96, 96, 3)


def test_one_that_takes_too_long_is_ended(tmp_path):
    path = avif(tmp_path / "film.avif", count=24, side=1200)
    began = time.process_time()
    with pytest.raises(InputError, match="more than 1 s of a processor"):
        check_avif(path, cpu_s=1)
    assert time.process_time() - began < 1, "the work is not done here"


def test_too_many_pictures_are_refused(tmp_path, monkeypatch, capsys):
    path = avif(tmp_path / "many.avif", count=4)
    monkeypatch.setattr(avif_trial.subprocess, "run", lambda *_, **__: type("Ended", (), {"returncode": 3}))
    assert cli.main(["verify", str(path)]) == 2
    assert "at most 3000 pictures" in capsys.readouterr().err


def test_what_ends_the_process_is_one_sentence(tmp_path, monkeypatch, capsys):
    path = avif(tmp_path / "crash.avif")
    monkeypatch.setattr(avif_trial.subprocess, "run", lambda *_, **__: type("Ended", (), {"returncode": -11}))
    assert cli.main(["verify", str(path)]) == 2
    assert "or is damaged" in capsys.readouterr().err


def test_damage_is_told_by_the_reader(tmp_path):
    path = avif(tmp_path / "a.avif")
    data = bytearray(path.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data)
    check_avif(path)
