"""Start and finish the run of one stage on this process and the others that were launched with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.train.engines.ranks import RaisedElsewhere, Ranks, launched_ranks, launcher, process_group
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.run_folder import Run
from triportrait.train.runs.run_config import CONFIG
from triportrait.train.runs.stopping import Stopped, stops_on_request

logger = logging.getLogger(__name__)


def checked_start(
    data: Path | None, out: Path | None, resume: str, zero: int | None, offload: bool
) -> ZeroConfig | None:
    """Check what needs no other process; returns how DeepSpeed shares the work, or None for plain PyTorch.

    Raises: `InputError`, of all processes that were launched on the first: all look at the same.
    """
    try:
        if data is None or out is None:
            missing = [name for name, value in (("data", data), ("out", out)) if value is None]
            are = "is" if len(missing) == 1 else "are"
            raise InputError(
                f"train: --{' and --'.join(missing)} {are} missing; `triportrait train --help` lists the options"
            )
        if out.exists() and not out.is_dir():
            raise InputError(f"{out}: expected a folder for the run, this is a file; name a folder")
        if resume == "never" and (out / CONFIG).exists():
            raise InputError(f"{out}: expected no run there, there is one; name another folder or --resume auto")
        stage = 1 if zero is None and offload else zero
        return None if stage is None else ZeroConfig(stage, offload)
    except InputError as error:
        raise error if launched_ranks()[0] == 0 else RaisedElsewhere(str(error)) from error


def run_on_ranks(
    out: Path,
    zero: ZeroConfig | None,
    start: Callable[[Ranks, ZeroConfig | None], Run],
    way: str,
    done: Callable[[Run], None] = lambda run: None,
) -> None:
    """Make a run, train it to its end, and print where it lies.

    Args:
        out: the folder of the run.
        zero: how DeepSpeed shares the work, where it was asked for.
        start: makes the run, on the ranks and with what shares their work.
        way: what to do where the training diverged, the end of a sentence.
        done: is called on the first rank when the run is at its end.

    Raises: `InputError` for what the user can mend.
    """
    with process_group(always=zero is not None) as ranks, stops_on_request(launcher()) as stopper:
        try:
            with ranks.raise_on_all_ranks():
                run = start(ranks, ZeroConfig(1) if zero is None and ranks.size > 1 else zero)
            run.train(stopper)
            if ranks.first:
                done(run)
        except FloatingPointError as error:
            sentence = f"{out}: training diverged, {error}; {way}"
            raise (InputError if ranks.first else RaisedElsewhere)(sentence) from error
        except OSError as error:
            raise disk_error(out, error) from error
        except Stopped as stopped:
            if ranks.first:
                logger.info(str(stopped))
            return
        if ranks.first:
            print(out)


def disk_error(run: Path, error: OSError) -> InputError:
    """Word why the folder of a run could not be written or read."""
    reason = (error.strerror or type(error).__name__).lower()
    return InputError(
        f"{run}: the run could not be written or read ({reason}); free some space or give access, and the same command "
        "goes on"
    )
