"""What files say is shown escaped and cut, by one function that no sentence passes by."""

from __future__ import annotations

import json
import pickle
import time

import pytest

from triportrait.core.errors import InputError
from triportrait.core.safe_text import (
    LONGEST_PIECE,
    LONGEST_SENTENCE,
    bounded,
    json_text,
    literal,
    shown,
)

HOSTILE = {
    "terminal codes": ("\x1b[2J\x1b]0;x\x07", r"\x1b[2J\x1b]0;x\x07"),
    "a second line": ("a\r\ntriportrait: done", r"a\r\ntriportrait: done"),
    "eight-bit codes": ("\x9b2J", r"\x9b2J"),
    "a turned direction": ("\u202egnp.exe", r"\u202egnp.exe"),
    "a paragraph": ("a\u2029b", r"a\u2029b"),
    "no width": ("a\u200bb", r"a\u200bb"),
    "a byte that is no letter": (b"\xff".decode("utf-8", "surrogateescape"), r"\udcff"),
    "delete": ("a\x7f", r"a\x7f"),
}


@pytest.mark.parametrize(("text", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_printable_is_escaped(text, expected):
    assert shown(text) == expected
    assert str(InputError(f"a file: {text}; rename it")) == f"a file: {expected}; rename it"
    result = json_text({"name": text})
    assert result.isascii()
    assert result.isprintable()
    assert json.loads(result) == {"name": text}


def test_letters_of_all_people_stay():
    assert shown("Jürgen 東京 ñ \\ 'x'") == "Jürgen 東京 ñ \\ 'x'"


@pytest.mark.parametrize("unit", ["a", "\x1b", "\U000e0001", "語"])
def test_a_long_text_loses_its_middle_and_says_how_much(unit):
    began = time.perf_counter()
    result = shown(f"begin {unit * 30_000_000} end")
    assert time.perf_counter() - began < 1  # 120 MB of memory are made and copied
    assert len(result) <= LONGEST_PIECE
    assert result.startswith("begin ")
    assert result.endswith(" end")
    left = int(result.split("…(")[1].split(" ")[0].replace(",", ""))
    assert left == 30_000_010 - _kept(result, unit)
    assert shown(result) == result


def _kept(result: str, unit: str) -> int:
    """Characters of the text that are still there."""
    one = shown(unit)
    head, _, rest = result.partition("…(")
    tail = rest.split(")…")[1]
    return len(head.replace(one, "u")) + len(tail.replace(one, "u"))


def test_a_sentence_keeps_its_beginning_and_its_advice():
    error = InputError(f"w/portrait.safetensors: 1 unknown ({'x' * 3_000_000}); convert the right file")
    assert len(str(error)) <= LONGEST_SENTENCE
    assert str(error).startswith("w/portrait.safetensors: 1 unknown (xx")
    assert str(error).endswith("; convert the right file")
    assert "characters left out" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10**400, "a number of about 401 digits"),
        (-(10**5000), "a number of about 5,001 digits"),
        (True, "True"),
        (48, "48"),
        ([1] * 1_000_000, "[1, 1, 1, 1, 1, 1, ...]"),
        ([10**5000], "[a number of about 5,001 digits]"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': {...}}}}"),
    ],
    ids=["long", "longer", "truth", "whole", "list", "long in a list", "deep"],
)
def test_values_of_any_size_are_short(value, expected):
    assert shown(value) == expected == literal(value)


def test_a_text_is_told_from_a_number():
    assert literal("48") == "'48'"
    assert len(literal("x" * 10_000)) <= LONGEST_PIECE


def test_a_value_of_a_manifest_is_bounded():
    deep = "x"
    for _ in range(50):
        deep = {"k" * 1000: [deep] * 3}
    result = json_text(bounded({"wide": list(range(10_000)), "deep": deep, "text": "\x1b" * 10_000, "n": 10**100}))
    assert len(result) < 20_000
    assert result.isprintable()
    assert "9,950 entries left out" in result
