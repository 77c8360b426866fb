"""A clone whose git makes no symbolic links: said in one sentence at import and install, and mended as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SENTENCE = "expected the folder triportrait/core, got a text file, as this checkout has no symbolic links; run `git"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone") / "triportrait"
    git("-c", "core.symlinks=false", "clone", "-q", str(ROOT), str(folder))
    for name in ("setup.py", "triportrait/__init__.py", "triportrait/checkout.py"):  # as they are, committed or not
        shutil.copy(ROOT / name, folder / name)
    return folder


def git(*arguments: str, folder: Path = ROOT) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def hook(name: str) -> tuple[str, str]:
    """What pip asks of the build before it builds anything."""
    return "-c", f"from setuptools.build_meta import {name}; {name}()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import triportrait"),
        ("-c", "from triportrait.core.errors import InputError"),
        ("-m", "triportrait", "--help"),
        hook("get_requires_for_build_wheel"),
        hook("get_requires_for_build_editable"),
    ],
    ids=["import", "import of a folder", "command", "pip install .", "pip install -e ."],
)
def test_a_clone_without_links_says_what_to_do(clone, arguments):
    done = python(clone, *arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert SENTENCE in last
    assert "Developer Mode" in last
    if "import" not in arguments[1]:
        assert "Traceback" not in done.stderr


def test_its_sentence_mends_it(clone):
    sentence = python(clone, "-c", "import triportrait").stderr
    commands = re.findall(r"`git ([^`]+)`", sentence)
    assert len(commands) == 2
    for command in commands:
        git(*command.split(), folder=clone)
    done = python(clone, "-m", "triportrait", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: triportrait JOB")
    assert python(clone, *hook("get_requires_for_build_editable")).returncode == 0
