"""The fake GPU wants processes of its own; their modules write what they saw into a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_gpu.conditions import ROOT
from tests.fake_gpu.device import environment


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Callable[..., Any]:
    """What a module writes into its file."""
    folder, variables = tmp_path_factory.mktemp("fake_gpu"), environment()

    def run(module: str, *words: str) -> Any:
        out = folder / f"{module}.json"
        done = subprocess.run(
            [sys.executable, "-m", module, str(out), *words], cwd=ROOT, env=variables | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    return run
