"""The script that measures what refining a person brings: it runs, goes on, and knows the rows of other weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from docs.personal import measure
from tests.train import little
from triportrait.core.person import LowRank, Person, refinable_weights


def key_of(value: Any) -> Any:
    """Numbers by which two arguments are the same."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if dataclasses.is_dataclass(value):
        return tuple(key_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    return tuple(map(key_of, value)) if isinstance(value, tuple) else value


def once(make: Callable[..., Any]) -> Callable[..., Any]:
    """What is photographed of the same people before the same cameras is the same, whatever was learned of them."""
    made: dict[Any, Any] = {}

    def kept(first: Any, *given: Any) -> Any:
        key = key_of((getattr(first, "config", None), *given))
        if key not in made:
            made[key] = make(first, *given)
        return made[key]

    return kept


PHOTOGRAPHED = {name: once(getattr(measure, name)) for name in ("person_pictures", "take_probe")}


@pytest.fixture
def networks(monkeypatch):
    """The smallest networks in the place of the package's own; nobody is photographed twice."""
    for name, photographed in PHOTOGRAPHED.items():
        monkeypatch.setattr(measure, name, photographed)
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
    assert all(each["updates"] > 0 and each["residual"] > 0 for each in rows)
    assert set(rows[0]["before"]) == set(measure.NUMBERS)
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


def test_rows_of_another_encoder_or_config_are_other_rows(networks, tmp_path, monkeypatch):
    words = [str(tmp_path), "--heads", "1", "--pictures", "1", "--steps", "1"]
    assert measure.main(words) == 0
    with torch.no_grad():
        next(networks[1].parameters()).add_(0.01)
    assert measure.main(words) == 0
    configs = measure.configs

    def others(*given):
        return {name: dataclasses.replace(each, small_updates=10.0) for name, each in configs(*given).items()}

    monkeypatch.setattr(measure, "configs", others)
    assert measure.main(words) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [each["config"]["small_updates"] for each in rows] == [1.0, 1.0, 10.0]
    assert rows[0]["encoder"] != rows[1]["encoder"] == rows[2]["encoder"]
    assert len({measure.name_of(each) for each in rows}) == len(set(measure.titles(rows))) == 3
    assert measure.titles(rows)[2].endswith(f", motion encoder {rows[2]['encoder']}, small_updates 10.0")
    assert measure.titles(rows[2:]) == [f"weights {rows[2]['weights'][:12]}, head {rows[2]['seed']}, 1 given, 1 step"]
    table = (tmp_path / "table.md").read_text()
    assert table.count("| 1 | 1 step | 1 |") == 3 and "small_updates 10.0" in table, "nothing is a mean over the three"


def test_rows_that_lack_what_the_table_shows_are_left_out_before_anything_is_measured(
    networks, tmp_path, monkeypatch, capsys
):
    words = [str(tmp_path), "--heads", "1", "--pictures", "1", "--steps", "1"]
    assert measure.main(words) == 0
    done = tmp_path / "table.json"
    (row,) = json.loads(done.read_text())["rows"]
    old = [{name: value for name, value in row.items() if name != "where"}]
    old += [{**row, "before": {"front psnr": 1.0}}, {**row, "where": {"commit": None}}]
    done.write_text(json.dumps({"rows": old}))
    capsys.readouterr()

    def told_first(*given):
        assert "3 of 3 rows lack what the table shows now" in capsys.readouterr().out
        raise KeyboardInterrupt

    refine = measure.refine
    monkeypatch.setattr(measure, "refine", told_first)
    with pytest.raises(KeyboardInterrupt):
        measure.main(words)
    monkeypatch.setattr(measure, "refine", refine)
    assert measure.main(words) == 0
    assert json.loads(done.read_text())["rows"][:3] == old, "nothing is lost"
    assert (tmp_path / "table.md").read_text().count("| 1 | 1 step | 1 |") == 1


def test_the_table_is_written_after_each_row(networks, tmp_path, monkeypatch):
    refine = measure.refine

    def breaks_off(*given):
        if given[3].steps == 2:
            raise KeyboardInterrupt
        return refine(*given)

    monkeypatch.setattr(measure, "refine", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        measure.main([str(tmp_path), "--heads", "1", "--pictures", "1", "--steps", "1", "2"])
    assert "| 1 | 1 step | 1 |" in (tmp_path / "table.md").read_text()


def test_updates_are_told_as_a_share_of_their_weights():
    portrait = little.portrait(motion=True)
    updates, shares = {}, []
    for number, (name, layer) in enumerate(refinable_weights(portrait)):
        weight = layer.weight.detach().flatten(1)
        shares.append(0.3 if number % 2 else 0.4)
        updates[name] = LowRank(shares[-1] * weight, torch.eye(weight.shape[1]))
        assert weight.any()
    planes = torch.full((1, 3, 4, 4, 2), 0.5)
    told = measure.sizes(Person(planes, updates, "weights", torch.zeros(32, 32, 3, dtype=torch.uint8)), portrait)
    assert told == pytest.approx({"updates": (sum(share**2 for share in shares) / len(shares)) ** 0.5, "residual": 0.5})
    assert measure.sizes(Person(planes, {}, "weights", planes), portrait)["updates"] == 0
