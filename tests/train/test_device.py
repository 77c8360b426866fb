"""A device that torch has not is refused by every job of training before anything is written."""

from __future__ import annotations

import pytest
import torch

from triportrait import cli

JOBS = {
    "train tiny": ("train", "tiny", "--out"),
    "train overfit": ("train", "overfit", "--out"),
    "evaluate": ("evaluate", "demo", "--out"),
    "demo": ("demo",),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_device_that_is_not_there_is_refused(job, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out.mp4"
    assert cli.main([*JOBS[job], str(out), "--device", "cuda"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("triportrait: --device cuda: ") and said[-1].endswith("use --device cpu"), said
    assert not list(tmp_path.iterdir())
