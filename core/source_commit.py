"""The commit of the sources stands beside every figure and every checkpoint."""

from __future__ import annotations

import subprocess
from pathlib import Path


def source_commit() -> str:
    """Return the commit of the sources, with a + where they were changed; empty where no repository keeps them."""
    folder = Path(__file__).parent
    try:
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]  # another repository knows no such file
        subprocess.run(tracked, cwd=folder, capture_output=True, check=True)
        revision, changes = [
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return revision + ("+" if changes else "")
