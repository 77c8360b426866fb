"""The quick ring's way through the house: the smallest network is trained, and its weights move a portrait."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.train import little
from triportrait import cli
from triportrait.train.presets import PRESETS

DEMO = Path(__file__).parents[1] / "docs" / "demo"


@pytest.mark.quick
def test_a_trained_network_moves_a_portrait(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "overfit", lambda: little.config(preset="overfit"))
    run, film = tmp_path / "run", tmp_path / "film.mp4"
    assert cli.main(["train", "overfit", "--out", str(run), "--quiet"]) == 0
    arguments = [str(DEMO / "portrait.jpg"), str(DEMO / "driving.mp4"), str(film), "--weights", str(run / "weights")]
    assert cli.main(["reenact", *arguments, "--faces", "none", "--frames", "3", "--device", "cpu"]) == 0
    with av.open(str(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 3
    assert frames[0].shape == (64, 64, 3)
