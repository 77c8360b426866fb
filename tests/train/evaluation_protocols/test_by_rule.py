"""Numbers of networks made by rule are marked in Markdown, CSV and page, told above all, and never ranked."""

from __future__ import annotations

import csv
import re

import pytest

from tests.train.evaluation_protocols.moving_clips import write_results
from tests.train.evaluation_protocols.stand_ins import Distance, Faces, Means
from triportrait import cli
from triportrait.core.metrics.networks import Loaded
from triportrait.core.metrics.rule_weights import BY_RULE, NOTE
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.protocols import network_features
from triportrait.train.evaluation.protocols.features import FeatureCache
from triportrait.train.evaluation.protocols.instruments import make_instruments
from triportrait.train.evaluation.protocols.records import read_protocol
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.summary import score_results

METHODS = ("copy", "truth")


@pytest.fixture(scope="module")
def told(clips, tmp_path_factory) -> dict[str, str]:
    """The tables of two methods: LPIPS was made by rule, the identity's network was not."""
    path, folder = clips / "p4d-table1.jsonl", tmp_path_factory.mktemp("by_rule")
    protocol = read_protocol(path)
    lpips = network_features.LpipsComparison(Loaded("lpips_alex", Distance(), "l" * 64, by_rule=True))
    identity = network_features._OF_FACES["arcface"](Loaded("arcface", Means(512), "a" * 64))
    for name in METHODS:
        write_results(folder / name, protocol, name)
        instruments, _ = make_instruments(Faces(), (identity,), (lpips,), None, FeatureCache(folder / "c"), "test")
        score_results(open_results(folder / name, protocol), protocol, instruments, Ranks(), {})
    words = ["evaluate", "table", *(str(folder / name) for name in METHODS), "--out", str(folder / "all")]
    assert cli.main(words) == 0
    return {file.name: file.read_text() for file in (folder / "all").iterdir()}


def cells_of_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_marks_each_number_and_ranks_none(told):
    rows = [cells_of_row(line) for line in told["table.md"].splitlines() if line.startswith("| LPIPS")]
    assert rows
    values = [value for row in rows for value in row[1::2]]
    assert all(value.endswith(f"({BY_RULE})") and "**" not in value for value in values)
    others = [line for line in told["table.md"].splitlines() if line.startswith("| ") and "LPIPS" not in line]
    assert BY_RULE not in "".join(others)
    assert "**" in "".join(line for line in others if line.startswith("| ID")), "what was measured is ranked"
    assert NOTE in told["table.md"]


def test_csv_marks_each_number(told):
    lines = [row for row in csv.DictReader(told["table.csv"].splitlines()) if row["origin"] == "measured"]
    marked = {(row["kind"], row["metric"]) for row in lines if row["by_rule"] == BY_RULE}
    assert {metric for _, metric in marked} == {"lpips_alex", "lpips_h_alex_black_beyond", "lpips_h_alex_within_mask"}
    assert {row["by_rule"] for row in lines} == {BY_RULE, ""}


def test_the_page_warns_marks_each_number_and_ranks_none(told):
    page = told["table.html"]
    header, _, body = page.partition("</header>")
    assert "metrics on this page were measured by networks made by rule" in header and "LPIPS" in header
    rows = re.findall(r"<tr><th><a href='#d-([a-z_0-9]+)'>.*?</tr>", body)
    of = {m: re.search(rf"<tr><th><a href='#d-{m}'>.*?</tr>", body)[0] for m in rows}  # type: ignore[index]
    for metric, row in of.items():
        assert row.count("class='rule'") == (len(METHODS) if metric.startswith("lpips") else 0), metric
        assert not (metric.startswith("lpips") and "class='best'" in row), metric
    assert "class='best'" in of["id"]
    beside = body[body.index("class='beside'") :].partition("</tbody>")[0]
    assert beside.count("class='rule'") == 2 * len(METHODS), "LPIPS and LPIPS_h beside the published rows, too"
    assert not re.search(r"<figcaption>[^/]*</b><span>LPIPS", body), "nor under a picture"
    assert "(by rule)" in body[body.index("id='definitions'") :]
