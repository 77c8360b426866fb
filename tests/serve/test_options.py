"""The parser of a job's options: it takes what tyro's help of the same dataclass shows, and no type that it cannot."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
import tyro

from triportrait.cli import JOBS
from triportrait.core.errors import InputError
from triportrait.options import options_of, parse


@dataclass(frozen=True)
class Bake:
    """Bake something."""

    cake: tyro.conf.Positional[Path]
    """What."""
    more: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What else."""
    ovens: tuple[int, ...] = (1,)
    """Which ovens."""
    heat: Literal["low", "high"] | None = None
    """How hot."""
    tilt_deg: float = 0.0
    """How oblique."""
    light: bool = True
    """Light the oven; --no-light leaves it dark."""

    def run(self) -> None:
        """Nothing."""


def test_every_form_of_an_argument():
    line = "--ovens 1 2 --tilt_deg -3 --heat=high --no-light --ovens 4 -- -cake a --b"
    baked = parse("bake", Bake, line.split())
    assert baked == Bake(Path("-cake"), ("a", "--b"), (1, 2, 4), "high", -3.0, False)
    assert parse("bake", Bake, ["-c", "x", "--tilt-deg=-.5", "-"]) == Bake(Path("x"), ("-",), tilt_deg=-0.5)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("c --no-light=yes", "--no-light: no value is wanted, got 'yes'"),
        ("c --ovens 1 two", "--ovens: expected a whole number, got 'two'"),
        ("c --heat --no-light", "--heat: a value is wanted, none came"),
        ("c --quite", "bake: there is no option --quite, perhaps --quiet"),
        ("", "bake: CAKE is missing"),
    ],
)
def test_a_refusal_is_one_sentence(line, sentence):
    with pytest.raises(InputError) as refused:
        parse("bake", Bake, line.split())
    assert str(refused.value) == f"{sentence}; `triportrait bake --help` lists the options"


def test_a_type_that_no_command_line_gives_is_a_fault():
    @dataclass
    class Odd:
        table: dict[str, int]

    with pytest.raises(TypeError, match=r"Odd\.table: no command line gives"):
        options_of(Odd)


@pytest.mark.parametrize("name", JOBS)
def test_the_help_and_the_parser_know_the_same_options(name, capsys):
    module, _, entry = JOBS[name][0].partition(":")
    job = getattr(importlib.import_module(module), entry)
    for kind in get_args(job) or (job,):
        assert callable(kind.run)
        line = [re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()] if get_args(job) else []
        with pytest.raises(SystemExit) as stop:
            parse(name, job, [*line, "--help"])
        assert stop.value.code == 0
        help_text = capsys.readouterr().out
        shown = set(re.findall(r"^[│ ]{1,4}(--[a-z][a-z0-9-]*)", help_text, re.M)) - {"--help"}
        assert shown == {str(option) for option in options_of(kind) if not option.positional}
        assert all(str(option) in help_text for option in options_of(kind))
