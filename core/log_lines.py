"""Formatters and a handler of `logging` for the standard error: lines for people, JSON objects for programs."""

from __future__ import annotations

import datetime
import logging
import sys
import traceback
from contextlib import nullcontext
from typing import Any

from triportrait.core.safe_text import LONGEST_SENTENCE, bounded, json_text, shown

# a command that fails says its own name, as other commands do
_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "triportrait: "}
_TRACEBACK_HEAD, _TRACEBACK_TAIL = 60, 40  # lines of a traceback that are kept


class TerminalFormatter(logging.Formatter):
    """Format a message as one line for the person at the terminal; text quoted from files is escaped and truncated.

    A traceback, if there is one, stands on the lines before it.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = shown(_PREFIXES.get(record.levelno, "") + record.getMessage(), LONGEST_SENTENCE)
        return f"{self.formatException(record.exc_info)}\n{line}" if record.exc_info else line

    def formatException(self, ei: Any) -> str:
        """Write a traceback of bounded length, escaped line by line."""
        lines = "".join(traceback.format_exception(*ei)).splitlines()
        left_out = len(lines) - _TRACEBACK_HEAD - _TRACEBACK_TAIL
        if left_out > 0:
            lines[_TRACEBACK_HEAD:-_TRACEBACK_TAIL] = [f"  ... {left_out:,} lines ..."]
        return "\n".join(shown(line, LONGEST_SENTENCE) for line in lines)


class JsonFormatter(TerminalFormatter):
    """Format a record as a JSON object on one line: time, level, logger, message, its fields, and a traceback if any.

    Its fields are the entries of `extra={"fields": {...}}`, each with a key of its own beside the others.
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


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to `sys.stderr`, looked up for each record, because a command or a test may have replaced it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; progress bars of tqdm give way to it and are drawn again below.

        What a bar raises is told as what a line raises is, by `handleError`; the line is written nevertheless.
        """
        self.stream = sys.stderr
        bar = getattr(sys.modules.get("tqdm"), "tqdm", None)  # nobody shows a bar who has not loaded it whole
        is_written = False
        try:
            with nullcontext() if bar is None else bar.external_write_mode(file=self.stream):
                super().emit(record)
                is_written = True
        except RecursionError:  # as in `logging.StreamHandler`
            raise
        except Exception:
            if not is_written:
                super().emit(record)
            self.handleError(record)
