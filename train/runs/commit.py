"""The commit of the sources, as runs, weights cards and measurements name it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from triportrait.core.files import read_json

COMMITS = "commits.json"


def commit() -> str:
    """The commit of the sources, with a + where they were changed; empty where no repository keeps them."""
    folder = Path(__file__).parent
    try:
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]  # fails in a user's own repository
        subprocess.run(tracked, cwd=folder, capture_output=True, check=True)
        name, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name + ("+" if changes else "")


def note_commit(run: Path) -> list[str]:
    """Note the commit of today in a run; returns those that the run was made by, one after the other."""
    path = run / COMMITS
    try:
        names = [str(name) for name in read_json(path)]
    except (OSError, ValueError, TypeError):
        names = []
    now = commit()
    if names[-1:] != [now]:
        names.append(now)
        path.write_text(json.dumps(names) + "\n")
    return names
