"""The weights in the package: they say how they were made and what they are worth, and they still do it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from triportrait import cli
from triportrait.core.checksum import sha256
from triportrait.core.weights import DEMO_FOLDER

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "evaluation"


def test_they_are_small_and_in_half_precision():
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) <= 10e6
    for name in ("portrait", "motion"):
        with safe_open(DEMO_FOLDER / f"{name}.safetensors", "pt") as file:
            found = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert "F16" in found, name
        assert not found & {"F32", "F64"}, name


@pytest.mark.parametrize("name", ["portrait", "motion"])
def test_the_card_says_by_which_command_and_from_which_commit(name):
    provenance = json.loads((DEMO_FOLDER / f"{name}.json").read_text())["provenance"]
    assert provenance["command"].startswith("triportrait train tiny --out ")
    assert re.fullmatch(r"[0-9a-f]{12}(, [0-9a-f]{12})*", provenance["commit"]), "of sources as they were committed"
    assert provenance["seed"] == 0
    assert provenance["cast"] == {"seed": 0, "count": 32}
    assert provenance["licence"] == "Apache-2.0"
    assert set(provenance["images seen"]) == {"stage1", "motion", "stage2"}


def test_what_they_are_worth_stands_beside_them_and_in_the_docs():
    beside = (DEMO_FOLDER / "metrics.json").read_text()
    assert beside == (DOCS / "metrics.json").read_text()
    numbers = json.loads(beside)
    card = json.loads((DEMO_FOLDER / "portrait.json").read_text())
    assert numbers["provenance"] == card["provenance"]
    for name, digest in numbers["sha256"].items():
        assert sha256(DEMO_FOLDER / name) == digest, "measured were these weights"
    page, table = (DOCS / "README.md").read_text(), (DOCS / "table.md").read_text()
    assert "(table.md)" in page
    for group in numbers["groups"]:
        assert f"**{group['group']['name']}**" in table
        for cases in group["pictures"].values():
            for case in ("self", "cross"):
                assert f"{cases[case]['psnr']:.2f}" in table
    for gate in numbers["gates"]:
        found = "not measured" if gate["found"] is None else f"{gate['found']:.2f}{gate['unit']}"
        assert f"{gate['name']} | {found} | {gate['wanted']:g}{gate['unit']}" in page, gate
    for picture in ("sheet.png", "axes.png"):
        assert (DOCS / picture).is_file()
        assert f"({picture})" in page


def test_they_talk_and_blink_on_this_machine_too(tmp_path, record_row):
    """A few heads only: a change of the network that the weights no longer fit is seen at once."""
    out = tmp_path / "evaluation"
    few = ("--heads", "3", "--axes-heads", "3", "--geometry-heads", "1")
    assert cli.main(["evaluate", "demo", "--out", str(out), *few]) == 0
    cast, strangers = json.loads((out / "metrics.json").read_text())["groups"]
    ours, of_strangers = (next(iter(group["pictures"].values())) for group in (cast, strangers))
    answers, of_them = (group["response"]["same head"] for group in (cast, strangers))
    decibels = f"self {ours['self']['psnr']:.1f} dB", f"of strangers {of_strangers['self']['psnr']:.1f} dB"
    gains = (f"{axis} {answers[axis]['gain']:.2f}" for axis in ("jaw", "blink"))
    record_row("the package's weights, 3 heads", (*decibels, *gains))
    assert ours["self"]["psnr"] > 22.5
    assert of_strangers["self"]["psnr"] > 18.2, "15.7 of weights that know 32 heads, 17.8 of 620"
    assert of_strangers["self"]["psnr face"] > 15, "13.9 of those"
    assert of_them["jaw"]["gain"] > 0.45, "0.35 of those"
    assert of_them["jaw"]["correlation"] > 0.7, "0.59 of those"
    for axis in ("jaw", "blink"):
        assert answers[axis]["gain"] > 0.45, axis
        assert answers[axis]["correlation"] > 0.6, axis
    shape = cast["geometry"]["ours"]
    assert shape["chamfer_mm"] < 4.5
    assert shape["depth_error_mm"] < 12
    assert shape["normal_error_deg"] < 18
    assert shape["depth_disagreement_mm"] < 4
