"""Reads a job's options from the command line: its dataclass says what there is, and a refusal is one sentence.

The help of the same dataclass is tyro's.
"""

from __future__ import annotations

import difflib
import re
import types
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, NoReturn, Protocol, Union, get_args, get_origin, get_type_hints

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, literal, shown

_NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number"}
_OF_EVERY_JOB = ("verbose", "quiet", "log-json", "help")


class Job(Protocol):
    """Is a job to the command: a dataclass of options that can be run."""

    def run(self) -> int | None: ...


def parse(name: str, job: Any, arguments: Sequence[str]) -> Job:
    """Read the options of a job.

    Args:
        name: the job's, as on the command line.
        job: a dataclass, or a union of dataclasses, of which the first argument names one.
        arguments: what follows the job's name.

    Raises:
        InputError: an option does not exist, a value is of another type, or something is missing.
        SystemExit: the help was asked for and has been printed.
    """
    kinds = {_kind_name(kind): kind for kind in get_args(job)}
    options_end = arguments.index("--") if "--" in arguments else len(arguments)
    if {"-h", "--help"} & set(arguments[:options_end]):
        named = [kind for kind in arguments[:1] if kind in kinds]
        if not named and not _is_flag(arguments[0]):
            named = [kind for kind in kinds if getattr(kinds[kind], "takes_calls_without_kind", False)]
        _print_help(name, job, named)
    if not kinds:
        return _Parser(name, job).parse(arguments)
    without_kind = [kind for kind in kinds.values() if getattr(kind, "takes_calls_without_kind", False)]
    if without_kind and arguments and arguments[0] not in kinds:  # the job had no kinds before
        return _Parser(name, without_kind[0]).parse(arguments)
    if not arguments or arguments[0] not in kinds:
        got = f"got {literal(arguments[0])}" if arguments else "none came"
        raise InputError(f"{name}: expected one of {', '.join(kinds)}, {got}; `triportrait {name} --help` lists them")
    name, job = f"{name} {arguments[0]}", kinds[arguments[0]]
    _check_renamed(name, job, arguments[1:])
    return _Parser(name, job).parse(arguments[1:])


def _kind_name(kind: type) -> str:
    """Return how a kind of a job is written: `head-videos` of the class HeadVideos."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.__name__).lower()


def _check_renamed(name: str, kind: Any, arguments: Sequence[str]) -> None:
    """Raises: `InputError` for an option that had another name before; the job's class says which, in `renamed`."""
    renamed: dict[str, str] = getattr(kind, "renamed", {})
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in renamed:
            raise InputError(
                f"{name}: {option} is {renamed[option]} now; `triportrait {name} --help` lists the options"
            )


@dataclass(frozen=True)
class Option:
    """Describes what the command line takes for one field of a job.

    Attributes:
        field: the name of the field.
        name: how it is written, without dashes; `no-smooth` for a switch that is on by default.
        metavar: what stands for its value.
        positional: its value is taken by its place; it may be named as well, by `--source` or `-s`.
        type: of a value: `str`, `int`, `float`, `Path`, or a tuple of choices; `bool` for a switch.
        several: it takes any number of values, which become a tuple.
        required: it has no default.
    """

    field: str
    name: str
    metavar: str
    positional: bool
    type: Any
    several: bool
    required: bool

    def __str__(self) -> str:
        return self.metavar if self.positional else f"--{self.name}"

    def value(self, texts: list[str], written: str, help_hint: str) -> Any:
        """Convert the texts that came for it.

        Raises:
            InputError: one of them is no value of its type.
        """
        if self.type is bool:
            return not self.name.startswith("no-")
        values = []
        for text in texts:
            try:
                values.append(self.type[self.type.index(text)] if isinstance(self.type, tuple) else self.type(text))
            except ValueError as error:
                expected = f"one of {', '.join(self.type)}" if isinstance(self.type, tuple) else _NUMBERS[self.type]
                raise InputError(f"{written}: expected {expected}, got {literal(text)}; {help_hint}") from error
        return tuple(values) if self.several else values[-1]


def options_of(kind: type[Any]) -> list[Option]:
    """List the options of a job's dataclass, in its order.

    Raises:
        TypeError: a field has a type that no command line gives.
    """
    import tyro

    hints = get_type_hints(kind, include_extras=True)
    options = []
    for field in fields(kind):
        extras = getattr(hints[field.name], "__metadata__", ())
        hint = get_args(hints[field.name])[0] if extras else hints[field.name]
        if get_origin(hint) in (Union, types.UnionType):
            (hint,) = (member for member in get_args(hint) if member is not type(None))
        if several := get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        value_type = get_args(hint) if get_origin(hint) is Literal else hint
        if not isinstance(value_type, type | tuple):
            raise TypeError(f"{kind.__name__}.{field.name}: no command line gives a {hint}")
        named = next((extra.name for extra in extras if getattr(extra, "name", None)), field.name)
        name = named.replace("_", "-")
        metavar = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), name.upper())
        switched_off = value_type is bool and field.default is True
        options.append(
            Option(
                field.name, f"no-{name}" if switched_off else name, metavar, tyro.conf.Positional in extras, value_type,
                several, field.default is MISSING and field.default_factory is MISSING,
            )
        )  # fmt: skip
    return options


class _Parser:
    """Reads the arguments of one job.

    Args:
        command: the job's name, with that of its kind.
        kind: its dataclass.
    """

    def __init__(self, command: str, kind: type[Any]) -> None:
        self._command, self._kind = command, kind
        self._options = options_of(kind)
        self._positional = [option for option in self._options if option.positional]
        letters = [option.name[0] for option in self._positional]
        self._flags = {  # a letter only where it begins one name
            f"-{o.name[0]}": o for o in self._positional if letters.count(o.name[0]) == 1 and o.name[0] not in "hv"
        }
        # Options come last: one of them keeps its name where something with a place has the same.
        self._flags |= {f"--{option.name}": option for option in sorted(self._options, key=lambda o: not o.positional)}
        self._help = f"`triportrait {command} --help` lists the options"
        self._usage = " ".join(["triportrait", command, *(option.metavar for option in self._positional)])

    def parse(self, arguments: Sequence[str]) -> Job:
        texts, named = self._read(arguments)
        missing = [str(option) for option in self._options if option.required and option.field not in texts]
        if missing:
            *others, last = missing
            words = f"{', '.join(others)} and {last} are" if others else f"{last} is"
            raise InputError(f"{self._command}: {words} missing; {self._help}")
        values = {
            o.field: o.value(texts[o.field], named.get(o.field, str(o)), self._help)
            for o in self._options
            if o.field in texts
        }
        job: Job = self._kind(**values)
        return job

    def _read(self, arguments: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Sort the arguments: field -> what came for it, and field -> the flag that named it."""
        texts: dict[str, list[str]] = {}
        named: dict[str, str] = {}
        unnamed: list[str] = []
        left = deque(arguments)
        while left:
            argument = left.popleft()
            if argument == "--":
                unnamed.extend(left)
                break
            if not _is_flag(argument):
                unnamed.append(argument)
                continue
            flag, equals, text = argument.partition("=")
            option = self._flags.get(flag.replace("_", "-"))
            if option is None:
                self._refuse_unknown(flag)
            if option.positional and option.field in named:
                raise InputError(f"{self._command}: {option} came twice; {self._usage}")
            named[option.field] = flag
            values = [text] if equals else []
            if option.type is bool:
                if equals:
                    raise InputError(f"{flag}: no value is wanted, got {literal(text)}; {self._help}")
                texts[option.field] = values
                continue
            while not equals and left and not _is_flag(left[0]) and (option.several or not values):
                values.append(left.popleft())
            if not values:
                explained = self._usage if option.positional else self._help
                raise InputError(f"{flag}: a value is wanted, none came; {explained}")
            texts.setdefault(option.field, []).extend(values)
        self._place(unnamed, texts)
        return texts, named

    def _place(self, unnamed: list[str], texts: dict[str, list[str]]) -> None:
        """Give unnamed arguments to the positional options that were not named, in order."""
        named = ", ".join(str(option) for option in self._positional if option.field in texts)
        for place, option in enumerate(self._positional):
            if unnamed and option.field not in texts:
                behind = [later for later in self._positional[place + 1 :] if later.field not in texts]
                count = max(len(unnamed) - len(behind), 1) if option.several else 1
                texts[option.field], unnamed = unnamed[:count], unnamed[count:]
        if unnamed and named:
            raise InputError(f"{self._command}: {named} came by name and by place, or {literal(unnamed[0])} is one "
                             f"argument too many; {self._usage}")  # fmt: skip
        if unnamed:
            raise InputError(f"{self._command}: {literal(unnamed[0])} is one argument too many; {self._help}")

    def _refuse_unknown(self, flag: str) -> NoReturn:
        options = {option.name: option for option in self._options}
        near = difflib.get_close_matches(flag[2:], [*options, *_OF_EVERY_JOB], 1) if flag.startswith("--") else []
        meant = options.get(near[0]) if near else None
        perhaps = f", perhaps {meant or f'--{near[0]}'}" if near else ""
        usage = f"{self._usage}; " if meant is not None and meant.positional else ""
        raise InputError(
            f"{self._command}: there is no option {shown(flag, LONGEST_NAME)}{perhaps}; {usage}{self._help}"
        )


def _is_flag(argument: str) -> bool:
    """Tell whether an argument names an option: a dash with a word behind it, not a negative number, not `-` alone."""
    return len(argument) > 1 and argument[0] == "-" and not (argument[1].isdigit() or argument[1] == ".")


def _print_help(name: str, job: Any, kind: list[str]) -> NoReturn:
    import tyro

    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)
    tyro.cli(job, prog=f"triportrait {name}", args=[*kind, "--help"], config=config)
    raise AssertionError("tyro prints the help and exits")
