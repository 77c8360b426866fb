"""A job's options, read from the command line; what does not fit is said in one sentence."""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import Field, fields
from typing import Any, NoReturn, Protocol, get_args

from triportrait.core.errors import InputError

# the parser's names for what an option takes -> in words
_WANTED = {"INT": "a whole number", "FLOAT": "a number", "N": "a whole number"}


class Job(Protocol):
    """What a job is to the command: a dataclass of options with a verb."""

    def run(self) -> int | None: ...


def parse(name: str, job: type[Any], arguments: Sequence[str]) -> Job:
    """The job with its options.

    Raises:
        InputError: an option that there is not, a value that is none, or something is missing.
    """
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed, unknown = tyro.cli(
                job,
                prog=f"triportrait {name}",
                args=arguments,
                return_unknown_args=True,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # help, on the standard output
        _explain(name, said.getvalue(), arguments)
    if unknown:
        _explain_unknown(name, job, unknown[0])
    return parsed


def _explain(name: str, box: str, arguments: Sequence[str]) -> NoReturn:
    """Turn the parser's box into a sentence."""

    def given(shown: str) -> str:
        # The box breaks long words.
        values = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments]
        return next((value for value in values if value.replace(" ", "") == shown.replace(" ", "")), shown)

    # Coloured on a terminal; framed where the encoding has frames, else a title with a line under it.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    lines = [line for line in lines if line]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    if not plain.startswith("╭") and 1 in rules:
        lines, rules = lines[2:], [i - 2 for i in rules[1:]]
    rule = rules[0] if rules else len(lines)
    text = " ".join(lines[:rule])
    helped = f"`triportrait {name} --help` lists the options"
    if text.startswith("Missing from"):
        words = [line.split()[0] for line in lines[1:rule] if re.fullmatch(r"[A-Z_]+|--[a-z0-9-]+ \S+", line)]
        several = f"{', '.join(words[:-1])} and {words[-1]} are" if len(words) > 1 else f"{''.join(words)} is"
        raise InputError(f"{name}: {several} missing; {helped}")
    if found := re.match(r"Missing value for argument '([^']+)'", text):
        raise InputError(f"{found[1].split('/')[-1]}: a value is wanted, none came; {helped}")
    if found := re.match(r"invalid choice '(.*?)' for argument '([^']+)'\. Expected one of \((.*?)\)", text):
        choices = found[3].replace("'", "").split(", ")
        if "None" in choices:  # an option that may be left out; its choices come in any order
            choices = sorted(set(choices) - {"None"})
        raise InputError(f"{found[2]}: expected one of {', '.join(choices)}, got {given(found[1])!r}; {helped}")
    if found := re.match(r"Error parsing (\S+): .*?(?:from \[|: )'(.*?)'(?:\]|$| Got)", text):
        kind = re.search(rf"{re.escape(found[1])} (\S+)", " ".join(lines[rule:]))
        wanted = _WANTED.get(kind[1] if kind else "", "another value")
        raise InputError(f"{found[1]}: expected {wanted}, got {given(found[2])!r}; {helped}")
    raise InputError(f"{name}: {text or 'its options could not be read'}; {helped}")


def _all_fields(job: Any) -> list[Field[Any]]:
    """The options of a job, or of all its kinds where it is a union of them."""
    return [field for kind in get_args(job) or (job,) for field in fields(kind)]


def _explain_unknown(name: str, job: type[Any], given: str) -> NoReturn:
    helped = f"`triportrait {name} --help` lists the options"
    if not given.startswith("-"):
        raise InputError(f"{name}: {given!r} is one argument too many; {helped}")
    option = given.split("=")[0]
    known = [f"--{'no-' if field.default is True else ''}{field.name.replace('_', '-')}" for field in _all_fields(job)]
    near = difflib.get_close_matches(option, known, 1)
    raise InputError(f"{name}: there is no option {option}{f', perhaps {near[0]}' if near else ''}; {helped}")
