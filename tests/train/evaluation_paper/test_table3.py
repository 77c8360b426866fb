"""The way to Table 3 by the command line: rows are trained, exported, driven, scored and laid beside the published."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from tests.face_models import needs_face_models
from tests.train import little, trained
from triportrait import cli
from triportrait.core.metrics.lpips_network import LpipsDistance
from triportrait.core.metrics.rule_weights import fill_by_rule, published_tensors
from triportrait.train.presets import STAGE_PRESETS

ROWS = ("B", "K")
SCRIPT = Path(__file__).parents[3] / "docs/evaluation/table3.sh"


def run(*words: object) -> None:
    assert cli.main([*map(str, words)]) == 0, words


@needs_face_models
def test_trained_rows_stand_beside_the_published_ones(tmp_path, monkeypatch, capsys):
    """As docs/evaluation/table3.sh does it, with the smallest preset and the one network that needs no face."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks").mkdir()
    alexnet = LpipsDistance("alex", None)
    fill_by_rule(alexnet)
    torch.save(published_tensors(alexnet), "networks/alexnet-owt-7be5be79.pth")
    trained.write(tmp_path / "encoder", {"network": "reenactment"})

    run("prepare", "heads", "--out", "heads", "--count", 2, "--expressions", 2, "--views", 2, "--size", 64)
    run("prepare", "clips", "--out", "clips", "--count", 3, "--frames", 2, "--size", 64, "--seed", 1)
    run("train", "stage1", "--data", "heads", "--out", "stage1", "--images", 8)
    run("train", "export", "stage1", "static")
    for row in ROWS:
        run("train", "stage2", "--ablation", row, "--data", "heads", "--static", "static", "--motion", "encoder",
            "--out", f"run-{row}", "--images", 8)  # fmt: skip
        run("train", "export", f"run-{row}", f"weights-{row}")
    run("evaluate", "protocol", "clips", "--kind", "p4d-table3", "--size", 64)
    protocol = "clips/p4d-table3.jsonl"
    for row in ROWS:
        run("evaluate", "run", protocol, "--weights", f"weights-{row}", "--out", f"R-{row}", "--method", row)
        run("evaluate", "score", f"R-{row}", "--protocol", protocol, "--networks", "networks", "--faces", "none")
    run("evaluate", "table", "--paper", 3, "R-B", "R-K", "--protocol", protocol, "--out", "table3")

    lines = list(csv.DictReader(Path("table3/ablations.csv").read_text().splitlines()))
    own = [line for line in lines if line["origin"] == "measured"]
    assert [(line["row"], line["column"], line["by_rule"]) for line in own] == [
        (row, "self_lpips", "by rule") for row in ROWS
    ]
    assert all(float(line["value"]) > 0 for line in own)
    text = Path("table3/ablations.md").read_text()
    for row in ROWS:
        (line,) = (line for line in text.splitlines() if line.startswith(f"| **{row}** | preset"))
        assert f"ablation {row}, 8 images | measured, p4d-table3" in line
    assert "ArcFace" in text and "- self ID" in text, "an empty column says which file is missing"
    assert "<section id='ablations'>" in Path("table3/table.html").read_text()
    capsys.readouterr()
    assert cli.main(["evaluate", "score", "R-B", "--protocol", protocol, "--faces", "none", "--method", "K"]) == 0
    assert cli.main(["evaluate", "table", "--paper", "3", "R-B", "--out", "wrong"]) == 2
    assert "named by row B of Table 3, as its weights were trained, got 'K'" in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_the_script_s_commands_are_those_of_the_command_line(capsys):
    """Every command of the script is one, and its options are known to it."""
    said = SCRIPT.read_text("utf-8")
    for command in re.findall(r"triportrait ((?:prepare|train|evaluate) \w+)([^\n]*)", said):
        with pytest.raises(SystemExit):
            cli.main([*command[0].split(), "--help"])
        help_text = capsys.readouterr().out
        for option in re.findall(r"--[a-z0-9-]+", command[1]):
            assert option in help_text, (command, option)
