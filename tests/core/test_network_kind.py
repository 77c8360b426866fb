"""Which network a weights folder holds, and the sentence where it is the other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from triportrait.core.errors import InputError
from triportrait.core.network_kind import REENACTMENT, STATIC, check_network, motion_of_card, network_of


@pytest.mark.parametrize(
    "noted, network",
    [
        ({"network": "static synthesizer"}, STATIC),
        ({"network": "reenactment"}, REENACTMENT),
        ({"file": "portrait4d-static-genhead512.pkl"}, STATIC),
        ({"file": "portrait4d-v2-vfhq512.pkl"}, REENACTMENT),
        ({"file": "portrait4d-genhead512.pkl"}, REENACTMENT),
        ({"file": "mine.pkl"}, None),
        ({"network": "another"}, None),
        ({"network": ["reenactment"]}, None),
        ({}, None),
        (None, None),
        ("reenactment", None),
    ],
)
def test_a_card_says_it_by_its_network_or_its_published_file(noted, network):
    assert network_of({"provenance": noted}) == network


def folder(path: Path, noted: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "portrait.json").write_text(json.dumps({"format": 1, "kind": "portrait", "provenance": noted}))
    return path


def test_the_other_network_is_refused_in_a_sentence_and_an_unknown_one_is_not(tmp_path):
    moving = folder(tmp_path / "moving", {"network": "reenactment"})
    check_network(moving, REENACTMENT, "--weights", "name another")
    check_network(folder(tmp_path / "unknown", {}), STATIC, "--static", "name another")
    expected = (
        rf"^--static {moving}: expected a static synthesizer \(stage 1\), got a reenactment network \(stage 2\); do"
    )
    with pytest.raises(InputError, match=expected):
        check_network(moving, STATIC, "--static", "do this")
    with pytest.raises(InputError, match="got a reenactment network"):
        check_network("demo", STATIC, "--static", "do this")
    with pytest.raises(InputError, match="no such weights folder"):
        check_network(tmp_path / "nothing", STATIC, "--static", "do this")


@pytest.mark.parametrize(
    "noted, motion",
    [
        ({"network": "reenactment", "motion": "parameters"}, "parameters"),
        ({"network": "reenactment", "motion": "pictures"}, "pictures"),
        ({"network": "reenactment"}, "pictures"),
        ({"file": "portrait4d-v2-vfhq512.pkl"}, "pictures"),
        ({"network": "static synthesizer", "motion": "parameters"}, None),
        ({"motion": "parameters"}, None),
        (None, None),
    ],
)
def test_a_card_says_what_moves_the_network(noted, motion):
    assert motion_of_card({"provenance": noted}) == motion


def test_what_moves_the_network_is_checked_where_it_shall_move(tmp_path):
    """Nine numbers of the data and nine of the small encoder fit the same layers, and mean something else."""
    tracked = folder(tmp_path / "told", {"network": "reenactment", "motion": "parameters"})
    check_network(tracked, REENACTMENT, "--weights", "name another", "parameters")
    expected = (
        r"expected one whose motion is read off pictures, got one whose motion is the parameters of tracked faces"
    )
    with pytest.raises(InputError, match=expected):
        check_network(tracked, REENACTMENT, "--weights", "name another")
    with pytest.raises(InputError, match="expected one whose motion is the parameters of tracked faces"):
        check_network("demo", REENACTMENT, "--weights", "name another", "parameters")
