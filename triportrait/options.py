"""A job's options, read from the command line; what does not fit is said in one sentence."""

from __future__ import annotations

import difflib
import io
import itertools
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Protocol, get_args, get_type_hints

from triportrait.core.errors import InputError
from triportrait.core.sentences import LONGEST_NAME, literal, shown

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
    places = _Places.of(name, job, arguments)
    arguments = places.put(arguments)
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
        if (strange := places.strange(arguments)) is not None:  # the parser took its place for something else
            _explain_unknown(name, places, strange)
        _explain(name, said.getvalue(), arguments, places)
    if unknown:
        _explain_unknown(name, places, unknown[0])
    return parsed


@dataclass(frozen=True)
class _Places:
    """What a job takes by its place. It may be named as well, by `--source` or `-s`, as other tools have it.

    Attributes:
        command: as on the command line, without the program's name.
        names: of what has a place, in order. options: names of all else, as they are written.
        named: filled by `put`, name -> value.
    """

    command: str
    names: tuple[str, ...]
    options: tuple[str, ...]
    named: dict[str, str]

    @classmethod
    def of(cls, command: str, job: Any, arguments: Sequence[str]) -> _Places:
        """Those of a job; of a union of jobs, those of the kind that comes first among the arguments."""
        import tyro

        kinds = get_args(job) or (job,)
        if len(kinds) > 1 and arguments:
            kinds = tuple(kind for kind in kinds if kind.__name__.lower() == arguments[0]) or kinds
            command = f"{command} {arguments[0]}" if len(kinds) == 1 else command
        placed, options = [], []
        for kind in kinds:
            hints = get_type_hints(kind, include_extras=True)
            for field in fields(kind):
                if tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ()):
                    placed.append(field.name.replace("_", "-"))
                else:
                    options.append(f"{'no-' if field.default is True else ''}{field.name.replace('_', '-')}")
        return cls(command, tuple(placed) if len(kinds) == 1 else (), tuple(options), {})

    @property
    def usage(self) -> str:
        return " ".join(["triportrait", self.command, *(name.upper() for name in self.names)])

    def flags(self) -> dict[str, str]:
        """What names a place -> its name; a letter only where it begins no other."""
        letters = [name[0] for name in self.names]
        own = {f"-{name[0]}": name for name in self.names if letters.count(name[0]) == 1 and name[0] not in "hv"}
        return own | {f"--{name}": name for name in self.names if name not in self.options}

    def strange(self, arguments: Sequence[str]) -> str | None:
        """The first argument that is written as an option by its whole name and names none."""
        known = {*self.options, *self.names, "help"}
        written = [a for a in arguments if re.match(r"--[a-z]", a)]
        return next((a for a in written if a[2:].split("=")[0].replace("_", "-") not in known), None)

    def put(self, arguments: Sequence[str]) -> Sequence[str]:
        """The arguments with what was named in its place.

        Raises:
            InputError: a name comes twice or without a value, or what has no name cannot be told.
        """
        flags, rest, left = self.flags(), list[str](), iter(arguments)
        for argument in left:
            flag, equals, value = argument.partition("=")
            if flag not in flags or argument == "--":
                rest.append(argument)
                rest.extend(left if argument == "--" else ())
                continue
            name = flags[flag]
            if name in self.named:
                raise InputError(f"{self.command}: {name.upper()} came twice; {self.usage}")
            found = value if equals else next(left, None)
            if found is None:
                raise InputError(f"{flag}: a value is wanted, none came; {self.usage}")
            self.named[name] = found
        if not self.named:
            return arguments
        before = tuple(itertools.takewhile(self.named.__contains__, self.names))
        others = self.names[len(before) :]
        after = tuple(itertools.takewhile(self.named.__contains__, reversed(others)))
        if len(before) + len(after) < len(self.named):
            free = ", ".join(name.upper() for name in self.names if name not in self.named)
            raise InputError(f"{self.command}: {free} has no name and its place cannot be told; {self.usage}")
        start = 1 if " " in self.command else 0
        return [
            *rest[:start], *(self.named[n] for n in before), *rest[start:], *(self.named[n] for n in reversed(after))
        ]  # fmt: skip


def _explain(name: str, box: str, arguments: Sequence[str], places: _Places) -> NoReturn:
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
        if places.named:  # the parser knows places alone, and calls the last ones missing
            free = [one.upper() for one in places.names if one not in places.named]
            wanting = [word for word in words if not word.startswith("-")]
            words = free[len(free) - len(wanting) :] + words[len(wanting) :]
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


def _explain_unknown(name: str, places: _Places, given: str) -> NoReturn:
    helped = f"`triportrait {name} --help` lists the options"
    if not given.startswith("-"):
        if places.named:
            twice = ", ".join(one.upper() for one in places.named)
            raise InputError(f"{name}: {twice} came by name and by place, or {given!r} is one argument too many; "
                             f"{places.usage}")  # fmt: skip
        raise InputError(f"{name}: {literal(given)} is one argument too many; {helped}")
    option = given.split("=")[0]
    near = (
        difflib.get_close_matches(option.strip("-"), [*places.options, *places.names], 1) if option[1:2] == "-" else []
    )
    perhaps = ""
    if near:
        perhaps = f", perhaps --{near[0]}" if near[0] in places.options else f", perhaps {near[0].upper()}"
    usage = f"{places.usage}; " if near and near[0] in places.names else ""
    raise InputError(f"{name}: there is no option {shown(option, LONGEST_NAME)}{perhaps}; {usage}{helped}")
