"""Shows what a command logs: every module logs to `logging.getLogger(__name__)`, and the command adds the handler.

A host program that imports triportrait decides by itself: the library adds no handler and sets no level.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from triportrait.core.log_lines import JsonFormatter, StderrHandler, TerminalFormatter

HELP = """every job takes besides:
  -v, --verbose   more detail, and where an error came from
  --quiet         warnings and errors only
  --log-json      one JSON object a line: time, level, logger, message"""


@dataclass(frozen=True)
class LogOptions:
    """Says what a command shows of its log.

    Attributes:
        level: records below it are not shown.
        as_json: each line is a JSON object with time, level, logger and message.
    """

    level: int = logging.INFO
    as_json: bool = False

    @property
    def verbose(self) -> bool:
        """Tell whether an error is shown with the place that it came from."""
        return self.level <= logging.DEBUG

    @classmethod
    def taken_from(cls, arguments: Sequence[str]) -> tuple[LogOptions, list[str]]:
        """Split the options that every job takes from the other arguments; what follows `--` is left alone."""
        level, as_json, rest = logging.INFO, False, list[str]()
        arguments = list(arguments)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        for argument in arguments[:end]:
            match argument:
                case "-v" | "--verbose":
                    level = logging.DEBUG
                case "--quiet":
                    level = logging.WARNING
                case "--log-json":
                    as_json = True
                case _:
                    rest.append(argument)
        return cls(level, as_json), rest + arguments[end:]


@contextmanager
def shown_logs(options: LogOptions) -> Iterator[None]:
    """Show on the standard error what triportrait logs while a command runs.

    As JSON it shows the warnings of Python and of other libraries as well, so that every line is an object. Of the
    processes that a launcher started, the first one speaks, and the others of errors alone.
    """
    ours = logging.getLogger("triportrait")
    shows = logging.getLogger() if options.as_json else ours
    handler = StderrHandler(JsonFormatter() if options.as_json else TerminalFormatter())
    level_before = ours.level
    is_first = os.environ.get("RANK", "0") == "0"
    ours.setLevel(options.level if is_first else max(options.level, logging.ERROR))
    shows.addHandler(handler)
    logging.captureWarnings(options.as_json)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        shows.removeHandler(handler)
        ours.setLevel(level_before)
