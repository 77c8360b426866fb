"""The script that measures what refining a person brings: it runs, goes on, and knows the rows of other weights."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from docs.personal import measure
from tests.train import little


@pytest.fixture
def networks(monkeypatch):
    """The smallest networks in the place of the package's own."""
    pair = little.portrait(motion=True), little.encoder().eval()
    monkeypatch.setattr(measure, "load_pair", lambda folder: pair)
    return pair


def test_rows_are_measured_once_for_each_weights_and_all_are_on_the_sheet(networks, tmp_path, monkeypatch, capsys):
    words = [str(tmp_path), "--heads", "1", "--pictures", "1", "--steps", "1"]
    refined = []
    refine = measure.refine
    monkeypatch.setattr(measure, "refine", lambda *given: refined.append(given[3].steps) or refine(*given))
    assert measure.main(words) == 0
    first = Image.open(tmp_path / "sheet.png").size
    assert measure.main([*words, "2"]) == 0
    assert refined == [1, 2], "what is there is not measured again"
    with torch.no_grad():
        next(networks[0].reconstructor.plane_decoder.parameters()).add_(0.01)
    assert measure.main(words) == 0
    assert refined == [1, 2, 1], "other weights are other rows"
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(each["learned"], each["pictures"], each["steps"]) for each in rows] == [
        ("1 step", 1, 1), ("2 steps", 1, 2), ("1 step", 1, 1)
    ]  # fmt: skip
    assert rows[0]["weights"] == rows[1]["weights"] != rows[2]["weights"]
    assert rows[0]["before"] == rows[1]["before"] and rows[0]["after"] != rows[1]["after"]
    assert all(each["where"]["cores"] and each["where"]["machine"] and "commit" in each["where"] for each in rows)
    table = (tmp_path / "table.md").read_text()
    assert table.count("| 1 | 1 step | 1 |") == 2 and table.count("| 1 | 2 steps | 1 |") == 1
    assert "the true ones" in table and all(f"Weights {each['weights'][:12]}, " in table for each in rows)
    assert Image.open(tmp_path / "sheet.png").size[1] > 2.5 * first[1], "the rows of earlier runs are on it"
    views = measure.read_rows(tmp_path / "rows" / measure.name_of(rows[2]))
    assert [len(row) for row in views] == [4, 4] and views[0][0].shape == (1, 3, 64, 64)
    assert torch.equal(views[0][0], measure.read_rows(tmp_path / "rows" / measure.name_of(rows[0]))[0][0])
    assert not torch.equal(views[0][2], views[0][3]), "the picture has changed"
