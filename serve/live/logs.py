"""The log of a live server: one JSON object a line on the standard error, with the fields of what happened."""

from __future__ import annotations

import logging
from typing import Any

from triportrait.core.log_lines import JsonLines, StandardError


def start_logs() -> None:
    """From now on show what triportrait logs, and the warnings of the libraries, as JSON lines.

    The handler of the command, which shows sentences, gives way.
    """
    root = logging.getLogger()
    root.handlers = [StandardError(JsonLines())]
    root.setLevel(logging.WARNING)
    logging.getLogger("triportrait").handlers = []
    for name in ("aioice", "aiortc", "uvicorn.error"):  # they tell of every connection that a browser drops
        logging.getLogger(name).setLevel(logging.ERROR)


def fields(**values: object) -> dict[str, Any]:
    """What a record carries besides its message, as `logger.info("session began", extra=fields(active=3))`."""
    return {"fields": values}
