"""Refuses a checkout without symbolic links in one sentence, when it is imported and when it is installed.

A git that makes no links (on Windows, without Developer Mode) leaves small text files in their places.
"""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("core", "kernels", "profiling", "serve", "train")


def check_checkout(package: Path = Path(__file__).parent) -> None:
    """Check that the folders of the package are folders.

    Raises:
        ImportError: they are the text files of a checkout without symbolic links.
    """
    files = [f"triportrait/{name}" for name in FOLDERS if (package / name).is_file()]
    if files:
        raise ImportError(
            f"triportrait: expected the folder {files[0]}, got a text file, as this checkout has no symbolic links; "
            f"run `git config core.symlinks true` and `git checkout -- {' '.join(files)}` (on Windows after switching "
            "on Developer Mode), or install the wheel",
            name="triportrait",
        )
