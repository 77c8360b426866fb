"""Runs the one command, `triportrait JOB ...`: it finds the job by name and turns bad input into one sentence."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from triportrait import __version__
from triportrait.core.errors import InputError
from triportrait.core.optional_packages import MISSING, fault, install
from triportrait.core.safe_text import literal, shown
from triportrait.log_options import HELP, LogOptions, shown_logs
from triportrait.options import parse
from triportrait.process import stops, streams

# job -> where it lives and what it does; a job is loaded when it is called, so that help needs no torch
JOBS = {
    "reenact": ("triportrait.serve.jobs.reenact:Reenact", "a portrait and a driving video become a talking video"),
    "personalize": (
        "triportrait.serve.jobs.personalize:Personalize",
        "pictures of one person become a small file by which portraits are shown refined",
    ),
    "turntable": (
        "triportrait.serve.jobs.turntable:Turntable",
        "a camera goes around a portrait's head, its picture beside its geometry",
    ),
    "mesh": ("triportrait.serve.jobs.mesh:Mesh", "a portrait's head as GLB, PLY or OBJ"),
    "track": (
        "triportrait.serve.jobs.track:Track",
        "the face of a film as parameters of a head model, with an overlay film",
    ),
    "live": ("triportrait.serve.jobs.live:Live", "a camera drives a portrait in a browser"),
    "demo": ("triportrait.train.jobs.procedural_demo:Demo", "a video of what the package's own weights can do"),
    "train": ("triportrait.train.jobs.train:Train", "both stages on procedural heads, and a weights folder"),
    "prepare": (
        "triportrait.train.jobs.prepare:Prepare",
        "the data of training: made of procedural heads, imported, checked",
    ),
    "evaluate": (
        "triportrait.train.jobs.evaluation:Evaluation",
        "compare methods by a paper's protocol, or measure weights where the truth is known",
    ),
    "verify": ("triportrait.serve.jobs.verify:Verify", "where a file comes from: its manifest and its watermark"),
    "convert": ("triportrait.serve.jobs.convert:Convert", "a published weight file becomes a weights folder"),
    "fetch": ("triportrait.serve.jobs.fetch:Fetch", "the networks that find faces, into the cache"),
    "profile": ("triportrait.profiling.jobs.profile:Profile", "what a frame costs and must cost, kernel by kernel"),
    "doctor": ("triportrait.serve.jobs.doctor:Doctor", "what this machine can run, and what to install"),
}
MOVED = {  # jobs of earlier versions, and what they are now
    "heads": "`heads multiview` is `prepare heads` now, `heads clips` is `prepare head-videos`, `heads sheet` is "
    "`prepare sheet`",
}
SERVING = ("reenact", "turntable", "live")  # jobs with other threads at work beside those of torch
LIBRARIES = ("numpy", "torch", "av", "PIL", "safetensors", "tqdm", "tyro")  # that every job needs
FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a job.

    Args:
        arguments: as on the command line, without the program's name; None takes the command line.

    Returns:
        The exit code: 0 done, 1 not verified (`verify`) or not able to run (`doctor`), 2 bad input (one sentence on
        stderr; -v shows where), 130 interrupted.
    """
    options, arguments = LogOptions.taken_from(sys.argv[1:] if arguments is None else arguments)
    with streams(), stops(), shown_logs(options):
        try:
            return _run(arguments, options.verbose)
        except KeyboardInterrupt:
            if not options.as_json:
                print(file=sys.stderr)  # behind the ^C that the terminal shows
            logger.error("interrupted%s", "" if arguments[:1] == ["verify"] else "; nothing half-written is left")
            return INTERRUPTED
        except Exception:
            if not options.as_json:
                raise
            logger.critical("a fault of triportrait itself", exc_info=True)
            return FAULT


def _run(arguments: Sequence[str], verbose: bool) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"triportrait {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in MOVED:
        return _refuse(MOVED[name])
    if name not in JOBS:
        return _refuse(f"job: expected one of {', '.join(JOBS)}, got {literal(name)}; `triportrait --help` lists them")
    if name in SERVING:  # read when torch is loaded; threads that wait in a loop would take the cores of those at work
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        module, _, entry = JOBS[name][0].partition(":")
        job_class = getattr(importlib.import_module(module), entry)
    except ModuleNotFoundError as error:
        return _refuse(_missing(error))
    except (ImportError, OSError, RuntimeError):  # a library that is there and does not load
        named = [f"{library} {fault(library)}" for library in LIBRARIES if fault(library) is not None]
        if not named:
            raise
        return _refuse(f"{named[0]}; install it again; `triportrait doctor` shows more", verbose)
    try:
        try:
            job = parse(name, job_class, rest)
        except SystemExit:  # the job's help has been printed
            print(HELP)
            raise
        except InputError:
            if os.environ.get("RANK", "0") != "0":  # a launcher's processes read the same options: the first one speaks
                return BAD_INPUT
            raise
        return job.run() or 0
    except InputError as error:
        return _refuse(str(error), verbose)
    except ModuleNotFoundError as error:
        return _refuse(_missing(error))
    except OSError as error:  # wherever a job first asks for a file of this name
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _refuse(f"{shown(error.filename)}: this name is too long for a file; choose a shorter one", verbose)


def _missing(error: ModuleNotFoundError) -> str:
    """Word which library is missing. Raises: the error itself where no job needs it."""
    if error.name not in (*LIBRARIES, "torchmetrics"):
        raise error
    return f"{error.name} {MISSING}; `{install('cpu')}` (with a GPU: `{install('gpu')}`)"


def _refuse(sentence: str, traceback: bool = False) -> int:
    logger.error("%s", sentence, exc_info=traceback)
    return BAD_INPUT


def _help() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in JOBS.items()]
    return "\n".join(
        ["usage: triportrait JOB ...", "", *lines, "", "`triportrait JOB --help` lists the options of a job.", HELP]
    )
