"""One JSON object per line on stderr: what happened, when, to which session."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

LOG = logging.getLogger("triportrait.live")
_OURS = "fields"


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.name != LOG.name:
            line["from"] = record.name
        line |= getattr(record, _OURS, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Half a surrogate pair, which a client may send, is no text: its JSON escape is.
        return json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Whatever sys.stderr is at the moment: the command replaces it while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Lines())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def start_logs() -> None:
    """Send our lines, and the warnings of the libraries, to stderr."""
    root = logging.getLogger()
    root.handlers = [_Stderr()]
    root.setLevel(logging.WARNING)
    LOG.setLevel(logging.INFO)
    # Its lines tell of every connection that a browser drops.
    for name in ("aioice", "aiortc", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)


def note(event: str, **fields: object) -> None:
    """A line about something that is in order."""
    LOG.info(event, extra={_OURS: fields})


def warn(event: str, **fields: object) -> None:
    """A line about something that is not, but goes on."""
    LOG.warning(event, extra={_OURS: fields})


def fault(event: str, **fields: object) -> None:
    """A line about a fault of ours, with its traceback."""
    LOG.exception(event, extra={_OURS: fields})
