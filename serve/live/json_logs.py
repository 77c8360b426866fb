"""The log of a live server: one JSON object a line on the standard error, with the fields of what happened."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triportrait.core.log_lines import JsonFormatter, StderrHandler

_NOISY = ("aioice", "aiortc", "uvicorn.error")  # they log every connection that a browser drops


@contextmanager
def json_logs() -> Iterator[None]:
    """While a server runs, show what triportrait logs, and the warnings of the libraries, as JSON lines.

    The handlers that were there, such as the command's for sentences, give way until then.
    """
    root, ours = logging.getLogger(), logging.getLogger("triportrait")
    noisy = [logging.getLogger(name) for name in _NOISY]
    before = root.handlers, root.level, ours.handlers, [logger.level for logger in noisy]
    root.handlers, ours.handlers = [StderrHandler(JsonFormatter())], []
    root.setLevel(logging.WARNING)
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.handlers, _, ours.handlers, levels = before
        root.setLevel(before[1])
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def fields(**values: object) -> dict[str, Any]:
    """Add fields to a record of the log: `logger.info("session began", extra=fields(active=3))`."""
    return {"fields": values}
