"""Own ablation runs below the rows of Table 3: which row, which numbers, which changes, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.paper.ablation_page import ablation_html
from triportrait.train.evaluation.paper.ablation_rows import row_of
from triportrait.train.evaluation.paper.ablation_table import ablation_csv, ablation_markdown
from triportrait.train.evaluation.paper.published import published
from triportrait.train.evaluation.paper.readings import READINGS
from triportrait.train.evaluation.protocols.presets import PRESETS
from triportrait.train.evaluation.protocols.summary import SCORES, SCORES_KIND, VERSION, Cell, read_scores

HERE = Path("R")
HASH = "ab" * 32


def scored(
    folder: Path, method: str, values: dict[str, float | None], empty: dict[str, str] | None = None, **more: Any
) -> Path:
    """A folder as `score` leaves it, with a value of each column of Table 3 that is named."""
    cells = [
        Cell(*READINGS["3"][name], value, None if value is None else value - 0.01, value, 3, 30, 0)
        for name, value in values.items()
    ]
    folder.mkdir()
    summary = {
        "kind": SCORES_KIND, "version": VERSION, "method": method, "protocol": HASH, "name": "p4d-table3",
        "networks": {}, "card": {}, "pairs": {"self": 3, "cross": 3, "consistency": 6, "sound": 0}, "missing": [],
        "failed": {}, "empty": empty or {},
        "cells": [asdict(cell) for cell in cells], "scores": {}, **more,
    }  # fmt: skip
    (folder / SCORES).write_text(json.dumps(summary))
    return folder


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def laid(*folders: Path) -> str:
    return ablation_markdown([read_scores(folder) for folder in folders], folders)


@pytest.mark.parametrize("name", READINGS)
def test_each_column_is_read_by_one_definition_of_its_direction_and_kind(name):
    columns = {column.name: column for column in published(name).columns}
    assert READINGS[name].keys() == columns.keys()
    assert len(set(READINGS[name].values())) == len(columns)
    for column, (kind, metric) in READINGS[name].items():
        definition = METRICS[metric]
        assert kind in definition.kinds
        assert kind == ("sound" if column == "syncnet" else columns[column].case)
        assert definition.better == columns[column].better
        assert definition.whose == "paper"
        assert definition.title.startswith(columns[column].title)
        assert definition.unit.startswith("1e-3") == (columns[column].unit == "thousandths")


def test_measured_rows_stand_below_the_published_row_that_they_repeat(tmp_path):
    """Every published number is there, in the paper's order, and each row says whose protocol it is."""
    a = scored(tmp_path / "a", "B, 5,000 images", {"self_lpips": 0.31234, "cons": None})
    rows = table(laid(a))
    names = [row[0] for row in rows[2:]]
    assert names == ["A", "B", "**B, 5,000 images**", *"CDEFGHIJKL"]
    for row in rows[2:]:
        if row[0] in published("3").rows:
            assert row[2] == "published, own protocol"
            assert [float(cell) for cell in row[3:]] == list(published("3").rows[row[0]].values())
    own = rows[4]
    assert own[2] == "measured, p4d-table3 abababababab"
    assert own[3] == "0.3123 [0.302 to 0.312]"
    assert own[4:] == ["–"] * 8
    assert rows[0][3:7] == ["self LPIPS ↓", "self ID ↑", "self AED ↓", "self APD × 10³ ↓"]
    assert rows[2][1] == "from scratch, no pseudo views, 10 K clips, 5 M images"
    assert rows[13][1].endswith("pseudo views p and q, 10 K clips, 5 M images")


def test_changes_against_row_k_are_those_of_the_paper_and_the_measured_ones(tmp_path):
    k = scored(tmp_path / "k", "K", {"cons": 0.8, "self_id": 0.5})
    b = scored(tmp_path / "b", "row B", {"cons": 0.7, "self_id": 0.5})
    text = laid(b, k)
    changes = table(text[text.index("## Change against row K") :])
    assert [row[:2] for row in changes[2:]] == [["B", "in the paper"], ["**row B**", "measured"]]
    assert changes[2][-1] == "-0.099", "0.813 - 0.912"
    assert changes[3][-1] == "-0.100"
    assert changes[3][3] == "+0"
    assert changes[3][2] == "–"
    assert "## Change" not in laid(b)
    assert "## Change" not in laid(k)


def test_a_row_tells_what_it_was_trained_with(tmp_path):
    card = {"trained": {"preset": "tiny_stages, ablation B", "images seen": {"stage2": 5000}}}
    rows = table(laid(scored(tmp_path / "b", "B", {"cons": 0.8}, card=card)))
    assert rows[4][:2] == ["**B**", "preset tiny_stages, ablation B, 5,000 images"]


def test_weights_of_another_row_are_refused(tmp_path):
    card = {"trained": {"preset": "tiny_stages, ablation B", "images seen": {"stage2": 5000}}}
    with pytest.raises(
        InputError, match=r"k: expected a method named by row B of Table 3, as its weights were trained"
    ):
        laid(scored(tmp_path / "k", "K", {"cons": 0.8}, card=card))


@pytest.mark.parametrize("trained", [None, "x", {"preset": 1}, {"images seen": {"stage2": "x"}}, {"preset": "mine"}])
def test_a_card_that_tells_no_row_is_taken_at_its_method_s_word(trained, tmp_path):
    assert "**K**" in laid(scored(tmp_path / "k", "K", {"cons": 0.8}, card={"trained": trained}))


def test_a_protocol_without_pairs_for_each_column_is_refused(tmp_path, capsys):
    folder = scored(tmp_path / "k", "K", {"self_id": 0.8}, pairs={"self": 3, "cross": 3, "consistency": 0})
    assert cli.main(["evaluate", "table", "--paper", "3", "--out", str(tmp_path / "out"), str(folder)]) == 2
    said = capsys.readouterr().err
    assert "k: expected scores of pairs self, cross, consistency, which the columns of Table 3 need, got" in said
    assert "got self, cross; follow a protocol of `triportrait evaluate protocol --kind p4d-table3`" in said
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert PRESETS["p4d-table3"].kinds == ("self", "cross", "consistency")


def test_the_page_lays_measured_rows_below_the_published_ones(tmp_path):
    k = scored(tmp_path / "k", "K, <mine>", {"cons": 0.8, "self_id": 0.5})
    b = scored(tmp_path / "b", "B", {"cons": 0.7, "self_id": None})
    text = ablation_html([read_scores(folder) for folder in (k, b)], [k, b])
    rows = re.findall(r"<tr class='(own|printed)'><th>(.*?) <small>.*?</th>(.*?)</tr>", text)
    names = ["A", "B", "B", *"CDEFGHIJK", "K, &lt;mine&gt;", "L", "B", "B"]
    assert [name for _, name, _ in rows] == names
    assert [name for kind, name, _ in rows if kind == "own"] == ["B", "K, &lt;mine&gt;", "B"]
    assert "<td>0.813</td>" in rows[1][2] and "0.7000" in rows[2][2], "Cons., in the paper and here"
    assert "-0.099" in rows[-2][2] and "-0.100" in rows[-1][2]


def test_an_empty_column_says_which_file_is_missing(tmp_path):
    said = "--recon3d: no file was given"
    text = laid(scored(tmp_path / "k", "K", {"cons": 0.8}, {"weights:recon3d": said}))
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert line == f"- self AED ↓, self APD × 10³ ↓, cross AED ↓, cross APD × 10³ ↓: {said}"


@pytest.mark.parametrize("method", ["K", "row K", "ablation K", "K, tiny", "K: 5 000 images", "K of ours"])
def test_a_method_s_name_begins_with_its_row(method):
    assert row_of(method, HERE) == "K"


@pytest.mark.parametrize("method", ["ours", "M", "Kurt", "k", "", "row", "ours K"])
def test_a_method_of_no_row_is_refused(method):
    with pytest.raises(InputError, match=r"R: expected a method named by a row of Table 3, A to L, .* score it with"):
        row_of(method, HERE)


def test_the_csv_holds_every_number_once(tmp_path):
    folder = scored(tmp_path / "k", "K", {"cons": 0.8, "self_id": None})
    lines = list(csv.DictReader(ablation_csv([read_scores(folder)], [folder]).splitlines()))
    kept = {(f.row, f.column.name): f.value for f in published("3").figures()}
    assert {(x["row"], x["column"]): float(x["value"]) for x in lines if x["origin"] == "published"} == kept
    (own,) = [line for line in lines if line["origin"] == "measured"]
    assert (own["row"], own["metric"], own["value"], own["protocol"]) == ("K", "cons_pairwise", "0.8", HASH)


def test_the_command_writes_and_prints_it(tmp_path, capsys):
    folder, out = scored(tmp_path / "k", "K", {"cons": 0.8}), tmp_path / "out"
    assert cli.main(["evaluate", "table", "--paper", "3", "--out", str(out), str(folder)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "ablations.csv", "ablations.md", "index.json", "table.csv", "table.html", "table.md",
    ]  # fmt: skip
    assert "<section id='ablations'>" in (out / "table.html").read_text()
    text = (out / "ablations.md").read_text()
    assert text == laid(folder)
    assert capsys.readouterr().out.strip() == text.strip()


def test_the_command_refuses_what_is_no_row_and_writes_nothing(tmp_path, capsys):
    folder: Any = scored(tmp_path / "k", "ours", {"cons": 0.8})
    assert cli.main(["evaluate", "table", "--paper", "3", "--out", str(tmp_path / "out"), str(folder)]) == 2
    assert "expected a method named by a row of Table 3" in capsys.readouterr().err
    assert cli.main(["evaluate", "table", "--paper", "4", str(folder)]) == 2
    assert "--paper: expected one of 3, got '4'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
