"""What `--log-json` writes on the standard error, as objects."""

from __future__ import annotations

import json
from typing import Any

FIELDS = {"time", "level", "logger", "message"}


def log_objects(stderr: str) -> list[dict[str, Any]]:
    """Parse every line as a JSON object, and see that it has the fields that the help of each job names."""
    objects = [json.loads(line) for line in stderr.splitlines()]
    assert all(set(one) >= FIELDS for one in objects), objects
    return objects
