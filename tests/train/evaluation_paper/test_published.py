"""The paper's numbers: each has one home, and what is kept is what was transcribed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from triportrait.core.errors import InputError
from triportrait.train.ablations import TABLE, Columns
from triportrait.train.evaluation.paper.published import TableName, published, user_study

COPY: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data/paper/tables.json").read_text())
PUBLISHED, ABLATIONS, VOTES = "published(table)", "ablations.TABLE", "user_study()"
HOMES = {  # part of the transcription -> who keeps it
    "table1_vfhq_512": (PUBLISHED, "1"),
    "table2a_cross_id": (PUBLISHED, "2a"),
    "table2b_user_study": (PUBLISHED, "2b"),
    "table3_ablation": (PUBLISHED, "3"),
    "methods_of_the_votes": (VOTES, None),
}
TRAINED = {field.name for field in dataclasses.fields(Columns)}  # columns of Table 3 that are no results


def kept() -> dict[tuple[str, str, str], list[Any]]:
    """Every number of the package, by part of the transcription, row and column: as many values as it has homes."""
    found: dict[tuple[str, str, str], list[Any]] = {}
    for part, (home, table) in HOMES.items():
        if home == PUBLISHED and table is not None:
            for figure in published(table).figures():
                found.setdefault((part, figure.row, figure.column.name), []).append(figure.value)
    for row, columns in TABLE.items():
        for name, value in dataclasses.asdict(columns).items():
            found.setdefault(("table3_ablation", row, name), []).append(value)
    return found


def test_each_number_has_one_home_and_is_what_was_transcribed():
    transcribed = {
        (part, row, column): [value]
        for part in HOMES
        if HOMES[part][0] == PUBLISHED
        for row, columns in COPY[part].items()
        for column, value in columns.items()
    }
    assert COPY.keys() == HOMES.keys()
    assert kept() == transcribed
    assert len(transcribed) == 11 * 10 + 6 * 2 + 6 * 2 + 12 * (9 + 8)


def test_the_columns_of_table_3_say_how_a_row_is_trained_or_what_it_reached():
    results = {column.name for column in published("3").columns}
    assert results | TRAINED == COPY["table3_ablation"]["A"].keys()
    assert not results & TRAINED


def test_the_numbers_of_the_votes_stand_for_the_transcribed_methods():
    names = COPY["methods_of_the_votes"]
    study = user_study()
    assert study.methods == tuple(names[str(number)] for number in range(1, 7))
    assert f"{study.votes} votes in all" in names["note"]
    assert set(study.methods) == published("2b").rows.keys()


@pytest.mark.parametrize("table", get_args(TableName))
def test_a_table_says_what_its_numbers_are(table):
    found = published(table)
    assert found.protocol == "published, own protocol"
    assert len({column.name for column in found.columns}) == len(found.columns)
    for row, values in found.rows.items():
        assert list(values) == [column.name for column in found.columns], row
    for column in found.columns:
        similar = column.title.startswith(("ID", "Cons", "SyncNet", "image", "expression"))
        assert column.better == ("higher" if similar else "lower"), column
        assert column.case in ("self", "cross", "consistency", "votes")
        assert column.unit in ("", "%", "cosine", "thousandths", "confidence")
    assert {figure.protocol for figure in found.figures()} == {found.protocol}


def test_the_best_row_of_each_column_of_table_1_is_where_the_direction_says():
    """The final model leads each self column of Table 1: a direction that is the wrong way round would show."""
    table = published("1")
    for column in table.columns:
        if column.case == "self":
            best = max if column.better == "higher" else min
            assert best(table.rows, key=lambda row: table.rows[row][column.name]) == "Ours", column


def test_numbers_are_read_only():
    with pytest.raises(TypeError):
        published("1").rows["Ours"]["self_id"] = 1.0  # type: ignore[index]
    assert published("1").value("Ours", "self_lpips_h") == 0.139


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda: published("4"), "table: expected one of 1, 2a, 2b, 3, got '4'"),  # type: ignore[arg-type]
        (lambda: published("3").value("M", "cons"), "Table 3: expected a row of A, B, "),
        (lambda: published("2a").value("Ours", "fid"), "Table 2a: expected a column of aed_f, syncnet, got 'fid'"),
    ],
)
def test_a_name_that_is_not_there_is_one_sentence(ask, said):
    with pytest.raises(InputError) as error:
        ask()
    assert str(error.value).startswith(said)
