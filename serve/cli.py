"""The one command, `triportrait JOB ...`: it finds the job by name and turns bad input into one sentence."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import fields
from typing import Any, NoReturn, Protocol, TextIO

from triportrait import __version__
from triportrait.core.errors import InputError

# job -> where it lives and what it does; a job is loaded when it is called, so that help needs no torch
JOBS = {
    "reenact": ("triportrait.serve.jobs.reenact:Reenact", "a portrait and a driving video become a talking video"),
    "convert": ("triportrait.serve.jobs.convert:Convert", "a published weight file becomes a weights folder"),
    "doctor": ("triportrait.serve.jobs.doctor:Doctor", "what this machine can run, and what to install"),
}
BAD_INPUT, INTERRUPTED = 2, 130
# the parser's names for what an option takes -> in words
_WANTED = {"INT": "a whole number", "FLOAT": "a number", "N": "a whole number"}


class Job(Protocol):
    """What a job is to the command: a dataclass of options with a verb."""

    def run(self) -> None: ...


def main(arguments: list[str] | None = None) -> int:
    """Run a job.

    Args:
        arguments: as on the command line, without the program's name; None takes the command line.

    Returns:
        The exit code: 0 done, 2 bad input (one sentence on stderr; -v shows where), 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with _streams(), _stops():
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            print("\ntriportrait: interrupted; the output was not written", file=sys.stderr)
            return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"triportrait {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in JOBS:
        return _refuse(f"job: expected one of {', '.join(JOBS)}, got {name!r}; `triportrait --help` lists them")
    verbose = any(a == "--verbose" or (a.startswith("-") and not a.startswith("--") and "v" in a) for a in rest)
    try:
        module, _, entry = JOBS[name][0].partition(":")
        _parsed(name, getattr(importlib.import_module(module), entry), rest).run()
    except InputError as error:
        if verbose:
            traceback.print_exc()
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "tyro", "av", "safetensors", "PIL", "tqdm", "numpy"):
            raise
        return _refuse(
            f"{error.name} is not installed; `pip install 'triportrait[cpu]'` (with a GPU: triportrait[gpu])"
        )
    return 0


def _parsed(name: str, job: type[Any], arguments: Sequence[str]) -> Job:
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
        words = [line for line in lines[1:rule] if re.fullmatch(r"[A-Z_]+", line)]
        several = f"{', '.join(words[:-1])} and {words[-1]} are" if len(words) > 1 else f"{''.join(words)} is"
        raise InputError(f"{name}: {several} missing; {helped}")
    if found := re.match(r"Missing value for argument '([^']+)'", text):
        raise InputError(f"{found[1].split('/')[-1]}: a value is wanted, none came; {helped}")
    if found := re.match(r"invalid choice '(.*?)' for argument '([^']+)'\. Expected one of \((.*?)\)", text):
        raise InputError(
            f"{found[2]}: expected one of {found[3].replace(chr(39), '')}, got {given(found[1])!r}; {helped}"
        )
    if found := re.match(r"Error parsing (\S+): .*?(?:from \[|: )'(.*?)'(?:\]|$| Got)", text):
        kind = re.search(rf"{re.escape(found[1])} (\S+)", " ".join(lines[rule:]))
        wanted = _WANTED.get(kind[1] if kind else "", "another value")
        raise InputError(f"{found[1]}: expected {wanted}, got {given(found[2])!r}; {helped}")
    raise InputError(f"{name}: {text or 'its options could not be read'}; {helped}")


def _explain_unknown(name: str, job: type[Any], given: str) -> NoReturn:
    helped = f"`triportrait {name} --help` lists the options"
    if not given.startswith("-"):
        raise InputError(f"{name}: {given!r} is one argument too many; {helped}")
    option = given.split("=")[0]
    known = [f"--{'no-' if field.default is True else ''}{field.name.replace('_', '-')}" for field in fields(job)]
    near = difflib.get_close_matches(option, known, 1)
    raise InputError(f"{name}: there is no option {option}{f', perhaps {near[0]}' if near else ''}; {helped}")


class _Forgiving:
    """A text stream of ours that nobody need listen to: where writing fails, the rest goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        # What is still buffered must have somewhere to go when the interpreter ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def _streams() -> Iterator[None]:
    """Closed, full and broken standard streams cost what we print, never the job or its exit code."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest free number, which is this one: else the next file opened, an output, would get it.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    # A stream that was closed when Python started is None.
    out = _Forgiving(sys.stdout or io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8"))
    err = _Forgiving(sys.stderr or io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8"))
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def _stops() -> Iterator[None]:
    """Ctrl-C, a polite kill and a closed terminal all end a job once, cleaning up; the cleaning is not interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored already (nohup) stays so.
    ignored = (signal.SIG_IGN, None)
    stops = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) not in ignored]
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        for s in stops:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {s: signal.signal(s, stop) for s in stops}
    try:
        yield
    finally:
        # After a stop the process is about to end: another must not turn that into a traceback.
        if not stopped:
            for s, handler in before.items():
                signal.signal(s, handler)


def _refuse(sentence: str) -> int:
    print(f"triportrait: {sentence}", file=sys.stderr)
    return BAD_INPUT


def _help() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in JOBS.items()]
    return "\n".join(
        ["usage: triportrait JOB ...", "", *lines, "", "`triportrait JOB --help` lists the options of a job."]
    )
