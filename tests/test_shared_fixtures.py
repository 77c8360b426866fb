"""Fixtures that the tests of a folder share are found in whatever order its files are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = "tests/serve/test_threads.py", "tests/test_checkout.py", "tests/serve/test_live_messages.py"


def test_a_file_of_another_folder_in_between_loses_no_fixture():
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTEST")}
    planned = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--setup-plan", *FILES],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stdout[-3000:]
    assert "M live" in planned.stdout
