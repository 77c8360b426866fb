"""Where the sentences of a command go: every module logs to `logging.getLogger(__name__)`, and the command shows it.

A host program that imports triportrait decides by itself: the library adds no handler and sets no level.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from triportrait.core.sentences import LONGEST_SENTENCE, shown

HELP = """every job takes besides:
  -v, --verbose   more detail, and where an error came from
  --quiet         warnings and errors only
  --log-json      one JSON object a line: time, level, logger, message"""
_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "triportrait: "}


@dataclass(frozen=True)
class LogOptions:
    """What a command shows of what is logged.

    Attributes:
        level: records below it are not shown.
        as_json: each line is a JSON object with time, level, logger and message.
    """

    level: int = logging.INFO
    as_json: bool = False

    @property
    def verbose(self) -> bool:
        """Whether an error is shown with the place that it came from."""
        return self.level <= logging.DEBUG

    @classmethod
    def taken_from(cls, arguments: Sequence[str]) -> tuple[LogOptions, list[str]]:
        """The options that every job takes, and the arguments without them; what follows `--` is left alone."""
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


class _Lines(logging.Formatter):
    """A record as one line for the person at the terminal; what files say in it is escaped and cut."""

    def format(self, record: logging.LogRecord) -> str:
        line = _PREFIXES.get(record.levelno, "") + record.getMessage()
        return shown(line, LONGEST_SENTENCE)


class _JsonLines(logging.Formatter):
    """A record as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": shown(record.getMessage(), LONGEST_SENTENCE),
            }
        )


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard error as it is at the moment of writing, which tests and hosts may have replaced."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self):  # type: ignore[no-untyped-def, override]
        return sys.stderr

    @stream.setter
    def stream(self, value: object) -> None:
        pass


@contextmanager
def shown_logs(options: LogOptions) -> Iterator[None]:
    """While a command runs, show what triportrait logs on the standard error."""
    logger = logging.getLogger("triportrait")
    handler = _StandardError()
    handler.setFormatter(_JsonLines() if options.as_json else _Lines())
    level_before = logger.level
    logger.setLevel(options.level)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
