"""The commits of the sources that a run was made by."""

from __future__ import annotations

import json
from pathlib import Path

from triportrait.core.files import read_json
from triportrait.core.source_commit import source_commit

COMMITS = "commits.json"


def note_commit(run: Path) -> list[str]:
    """Note the commit of today in a run; returns those that the run was made by, one after the other."""
    path = run / COMMITS
    try:
        names = [str(name) for name in read_json(path)]
    except (OSError, ValueError, TypeError):
        names = []
    now = source_commit()
    if names[-1:] != [now]:
        names.append(now)
        path.write_text(json.dumps(names) + "\n")
    return names
