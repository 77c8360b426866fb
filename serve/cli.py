"""The one command, `triportrait JOB ...`: it finds the job by name and turns bad input into one sentence."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from triportrait import __version__

# job -> where it lives and what it does; a job is loaded when it is called, so that help needs no torch
JOBS = {
    "reenact": ("triportrait.serve.jobs.reenact:Reenact", "a portrait and a driving video become a talking video"),
    "convert": ("triportrait.serve.jobs.convert:Convert", "a published weight file becomes a weights folder"),
    "doctor": ("triportrait.serve.jobs.doctor:Doctor", "what this machine can run, and what to install"),
}
BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a job.

    Args:
        arguments: as on the command line, without the program's name; None takes the command line.

    Returns:
        The exit code: 0 done, 2 bad input (one sentence on stderr; -v shows where), 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"triportrait {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in JOBS:
        return _refuse(f"job: expected one of {', '.join(JOBS)}, got {name!r}; `triportrait --help` lists them")
    from triportrait.core.errors import InputError

    verbose = any(a == "--verbose" or (a.startswith("-") and not a.startswith("--") and "v" in a) for a in rest)
    try:
        module, _, entry = JOBS[name][0].partition(":")
        job = getattr(importlib.import_module(module), entry)
        import tyro

        with _kill_as_interrupt():
            tyro.cli(job, prog=f"triportrait {name}", args=rest).run()
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
    except KeyboardInterrupt:
        print("\ntriportrait: interrupted; nothing was left behind", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextmanager
def _kill_as_interrupt() -> Iterator[None]:
    """A polite kill (SIGTERM) ends a job as Ctrl-C does, cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse(sentence: str) -> int:
    print(f"triportrait: {sentence}", file=sys.stderr)
    return BAD_INPUT


def _help() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in JOBS.items()]
    return "\n".join(
        ["usage: triportrait JOB ...", "", *lines, "", "`triportrait JOB --help` lists the options of a job."]
    )
