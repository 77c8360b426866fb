"""Runs of `triportrait train` for the tests: the words that begin one, and what is read of it afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.train import little
from triportrait import cli


def stage_words(material: Path, stage: str, out: Path, *more: Any) -> list[str]:
    """The command of one stage on the fixture `material`; options that come twice count as they are given last."""
    options = ["--data", material / "cast", "--out", out, "--batch", 4, "--micro-batches", 1, "--precision", "fp32"]
    if stage == "stage2":
        options += ["--static", material / "static", "--motion", material / "trained"]
    return ["train", stage, *map(str, [*options, *more])]


def refused(arguments: list[Any], capsys) -> str:
    """The one sentence that a command ends with, which comes last and is all that it prints but warnings."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    *story, sentence = printed.err.strip().splitlines()
    assert sentence.startswith("triportrait: ")
    assert not any(line.startswith("triportrait: ") for line in story), printed
    assert "Traceback" not in printed.err
    assert printed.out == ""
    return sentence.removeprefix("triportrait: ")


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def unclocked(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what depends on the clock."""
    return [{name: value for name, value in line.items() if name not in little.CLOCKED} for line in lines_of(run)]


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, and an empty text for each folder in it."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }
