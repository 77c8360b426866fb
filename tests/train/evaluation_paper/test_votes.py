"""Shares of votes: the paper's, their intervals, and which files are refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from triportrait.core.errors import InputError
from triportrait.options import parse
from triportrait.train.evaluation.paper import votes as module
from triportrait.train.evaluation.paper.published import published, user_study
from triportrait.train.evaluation.paper.votes import CastVotes, read_votes, shares
from triportrait.train.jobs.evaluate_votes import Votes, markdown

PAPER = Path(__file__).parents[2] / "data/paper"
METHODS = user_study().methods
FILES = {
    "votes_quality_paper.csv": "image_quality_percent",
    "votes_quality_supplement.csv": "image_quality_percent",
    "votes_expression.csv": "expression_percent",
}


def run(*words: object) -> int | None:
    return parse("evaluate votes", Votes, [str(word) for word in words]).run()


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "votes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("file", FILES)
def test_the_paper_s_votes_give_its_table_2b(file):
    """To the digit that it prints; its half participant counts half."""
    votes = read_votes(PAPER / file, METHODS)
    assert votes.counts.sum() == user_study().votes
    assert votes.counts.sum(1).tolist() == [10 if number == 13 else 20 for number in range(22)]
    found = {share.method: share for share in shares(votes)}
    assert found.keys() == published("2b").rows.keys()
    for method, share in found.items():
        printed = published("2b").value(method, FILES[file])
        assert round(100 * share.share, 1 if printed > 10 else 2) == printed
        assert share.low is not None and share.high is not None
        assert 0 <= share.low < share.share < share.high <= 1


@pytest.mark.parametrize("file, said", [(name, "71.6 %" if "expr" in name else "80.7 %") for name in FILES])
def test_the_command_prints_it(file, said, capsys):
    run(PAPER / file, "--methods", *METHODS)
    out = capsys.readouterr().out
    (ours,) = [line for line in out.splitlines() if line.startswith("| Ours ")]
    assert ours.split("|")[3].strip() == said
    assert "430 votes of 22 participants on 20 cases, 10 to 20 of each" in out


def test_the_votes_hold_nothing_about_a_person():
    for file in FILES:
        rows = list(csv.reader((PAPER / file).read_text().splitlines()))
        assert rows[0] == [f"case{number}" for number in range(1, 21)]
        assert {cell for row in rows[1:] for cell in row} <= {"", *"123456"}


def test_intervals_come_from_resampling_participants():
    """Ten people of one mind each: the share of k of them is binomial, far wider than that of their 200 votes."""
    counts = np.array([[20, 0]] * 6 + [[0, 20]] * 4)
    a, b = shares(CastVotes(("a", "b"), ("c",), counts, 0))
    assert (a.share, a.low, a.high) == (0.6, pytest.approx(0.3), pytest.approx(0.9))
    assert (b.low, b.high) == (pytest.approx(1 - a.high), pytest.approx(1 - a.low))
    assert shares(CastVotes(("a", "b"), ("c",), counts, 0)) == [a, b], "a fixed seed"


def test_intervals_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    votes = read_votes(PAPER / "votes_expression.csv", METHODS)
    whole = shares(votes)
    monkeypatch.setattr(module, "_AT_ONCE", 1_000)
    assert shares(votes) == whole


def test_one_vote_weighs_the_same_whoever_cast_it(tmp_path):
    votes = read_votes(written(tmp_path, "x,y,z\na,a,a\nb,,\n,,\n"))
    assert votes.silent == 1
    assert [(s.method, s.votes, s.share) for s in shares(votes)] == [("a", 3, 0.75), ("b", 1, 0.25)]
    assert "4 votes of 2 participants on 3 cases, 1 to 3 of each; 1 more cast none" in markdown(votes, shares(votes))


def test_a_single_participant_has_no_interval(tmp_path, capsys):
    run(written(tmp_path, "x,y\na|b,c\n"))
    out = capsys.readouterr().out
    assert "| a\\|b | 1 | 50.0 % | – |" in out
    assert "tells nothing of spread" in out


def test_names_numbers_marks_and_spaces_are_read(tmp_path):
    text = '\ufeffcase 1,case 2\r\n 1 ,second\r\n\r\n"2",\r\n'
    votes = read_votes(written(tmp_path, text), ("first", "second", "third"))
    assert votes.cases == ("case 1", "case 2")
    assert votes.counts.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert [share.votes for share in shares(votes)] == [2, 1, 0], "nobody chose the third, which is named all the same"


def test_the_file_of_shares_holds_what_was_printed(tmp_path):
    file = PAPER / "votes_expression.csv"
    run(file, "--methods", *METHODS, "--out", tmp_path / "shares.csv")
    run(file, "--methods", *METHODS, "--out", tmp_path / "shares.json")
    rows = list(csv.DictReader((tmp_path / "shares.csv").read_text().splitlines()))
    found = json.loads((tmp_path / "shares.json").read_text())
    assert [(r["method"], int(r["votes"]), float(r["share"]), float(r["low"]), float(r["high"])) for r in rows] == [
        tuple(method.values()) for method in found["methods"]
    ]
    assert found["methods"][0] | {"low": 0, "high": 0} == {
        "method": "Ours", "votes": 308, "share": 308 / 430, "low": 0, "high": 0,
    }  # fmt: skip
    assert (found["participants"], found["votes"]) == (22, 430)
    assert found["interval"] == {"share": 0.95, "resampled": "participants", "resamples": 10_000, "seed": 0}


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "expected the names of the cases in the first line, the file is empty"),
    "no vote": ("a,b\n,\n", "expected at least one vote"),
    "only a head": ("a,b\n", "expected at least one vote"),
    "no head": ("1,2\n1,2\n", "column 1: expected in the first line the name of a case"),
    "a nameless column": ("a,\n1,2\n", "column 2: expected in the first line the name of a case"),
    "a column twice": ("a,b,a\n1,2,1\n", "column 3: expected in the first line the name of a case"),
    "too many cells": ("a,b\n1,2\n1,2,1\n", "line 3: expected 2 cells as the first line has, got 3"),
    "too few cells": ("a,b\n1\n", "line 2: expected 2 cells"),
    "no such number": (
        "a,b\n1,3\n",
        "line 2, column 'b': expected a number from 1 to 2 or a name, got '3'",
    ),
    "no such name": ("who,b\nAnna,1\n", "line 2, column 'who': expected a number from 1 to 2 or a name, got 'Anna'"),
    "zero": ("a\n0\n", "got '0'"),
    "semicolons": ("a;b\n1;2\n", "expected cells between commas, got semicolons"),
    "latin 1": ("a\nM\xfcller\n".encode("latin-1"), "expected text in UTF-8, byte 3 is none"),
    "utf 16": ("a\n1\n".encode("utf-16"), "expected text in UTF-8, byte 0 is none"),
    "an open quote": ('a,b\n"1,2\n', "expected cells between commas, got what is no CSV"),
    "a huge cell": ("a\n" + "1" * 200_000 + "\n", "expected cells between commas, got what is no CSV"),
    "huge": (b"a\n" + b"1\n" * (module.MOST_BYTES // 2), "expected at most 8,388,608 bytes, got 8,388,610"),
    "too many people": ("a\n" + "1\n" * 10_001, "expected at most 10,000 participants, got more"),
    "too many columns": (",".join(f"c{n}" for n in range(1_001)), "expected at most 1,000 columns, got 1,001"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence(case, tmp_path):
    text, said = BAD[case]
    path = written(tmp_path, text)
    with pytest.raises(InputError) as error:
        run(path, "--methods", "one", "two", "--out", tmp_path / "out.json")
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "; " in str(error.value), "what to do"
    assert list(tmp_path.iterdir()) == [path]


def test_a_column_of_names_is_no_column_of_methods(tmp_path):
    path = written(tmp_path, "who,case1\n" + "".join(f"P{n},1\n" for n in range(60)))
    with pytest.raises(InputError, match=r"votes for at most 50 methods, got more: P0, 1, P1, P2, .*leave out columns"):
        run(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "missing.csv": "expected a CSV file of votes, there is none",
        ".": "it cannot be read (is a directory)",
        "pipe": "expected a file, this is a pipe",
    }.items():
        with pytest.raises(InputError) as error:
            run(tmp_path / name)
        assert said in str(error.value)


@pytest.mark.parametrize("names", [["a", "a"], ["1", "b"], [" "], ["a,b"], [f"m{n}" for n in range(51)]])
def test_bad_names_of_methods_are_refused(names, tmp_path):
    with pytest.raises(InputError, match="--methods: expected "):
        run(written(tmp_path, "x\n1\n"), "--methods", *names)


def test_an_output_of_another_kind_or_that_is_there_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    for name, said in {"shares.txt": "the ending .csv is wanted", "there.csv": "it exists already"}.items():
        with pytest.raises(InputError, match=said):
            run(tmp_path / "missing.csv", "--out", tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "mine"
