"""`docs/train/whole.sh`, with a stand-in in the place of Python: what its log holds, whether or not a step fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs/train/whole.sh"
PYTHON = """#!/bin/sh
case "$*" in *films.make*)
    for name in raw/films/anna raw/films/ben; do mkdir -p $name; : > $name/plain.mp4; done;;
esac
printf 'step 1\\rstep 2\\rsaid %s\\n' "$4"
case "$*" in *"$FAILS"*) exit 3;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def whole(tmp_path):
    """Runs a copy of the script, in a folder whose name is a pattern of the shell, until a step fails."""
    top, python = tmp_path / "a[b]*", tmp_path / "python"
    (top / "docs/train").mkdir(parents=True)
    shutil.copy(SCRIPT, top / "docs/train")
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(fails: str) -> tuple[int, str]:
        words = ["bash", str(top / "docs/train/whole.sh"), str(tmp_path / "out")]
        given = os.environ | {"PYTHON": str(python), "FAILS": fails}
        done = subprocess.run(words, env=given, capture_output=True, check=False, timeout=60)
        return done.returncode, (tmp_path / "out/log.txt").read_bytes().decode()

    return run


def test_the_log_holds_of_a_bar_its_end_though_a_step_failed(whole):
    status, log = whole("train genhead")
    assert status == 3
    assert "\r" not in log and "step" not in log
    assert log.splitlines()[-2:] == [
        "$ triportrait train genhead --data pictures --out run_genhead --images 320", "said genhead"
    ]  # fmt: skip


def test_commands_name_files_of_the_package_by_their_place_in_it(whole):
    for _ in range(2):  # what is there already is not made again
        status, log = whole("nothing")
        assert status == 0
        assert "\r" not in log
        assert "$ triportrait mesh docs/demo/portrait.jpg head.glb --weights weights" in log
