"""A record of `logging` becomes a line on the standard error: for a person, or as a JSON object for a program."""

from __future__ import annotations

import datetime
import logging
import sys
import traceback
from typing import Any

from triportrait.core.sentences import LONGEST_SENTENCE, bounded, json_text, shown

_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "triportrait: "}
_MOST_LINES = (60, 40)  # of a traceback, from its start and to its end


class Lines(logging.Formatter):
    """Write a record as one line for the person at the terminal; what files say in it is escaped and cut.

    Where an exception came from stands before it.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = shown(_PREFIXES.get(record.levelno, "") + record.getMessage(), LONGEST_SENTENCE)
        return f"{self.formatException(record.exc_info)}\n{line}" if record.exc_info else line

    def formatException(self, ei: Any) -> str:
        """Write a traceback of bounded length, escaped line by line."""
        lines = "".join(traceback.format_exception(*ei)).splitlines()
        first, last = _MOST_LINES
        if len(lines) > first + last:
            lines[first:-last] = [f"  ... {len(lines) - first - last:,} lines ..."]
        return "\n".join(shown(line, LONGEST_SENTENCE) for line in lines)


class JsonLines(Lines):
    """Write a record as a JSON object on one line: time, level, logger, message, its `fields`, and a traceback if any.

    `fields` is what `extra={"fields": {...}}` gives a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage(), LONGEST_SENTENCE),
        }
        line |= {name: bounded(value) for name, value in getattr(record, "fields", {}).items()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json_text(line)


class StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard error as it is at the moment of writing, which a command or a test may have replaced."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stderr
        super().emit(record)
