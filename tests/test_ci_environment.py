"""The environment of .ci/run has the networks that find faces, or says that they did not come and goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON3 = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\n' > "$3/bin/pip"
printf '#!/bin/sh\necho "$@ into $TRIPORTRAIT_CACHE"\nexit {code}\n' > "$3/bin/triportrait"
touch "$3/bin/python"
chmod +x "$3"/bin/*
"""  # makes an environment whose `triportrait` tells how it is called


@pytest.mark.parametrize("code", [0, 2])
def test_networks_are_fetched_beside_the_environment(code, tmp_path):
    shutil.copytree(ROOT / ".ci", tmp_path / "tree" / ".ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "tree")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON3.format(code=code))
    (tmp_path / "bin" / "python3").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)}
    script = 'set -euo pipefail; . .ci/environment; echo "tests see $(printenv TRIPORTRAIT_CACHE)"'
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "tree", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cache = tmp_path / "triportrait-ci" / "cache"
    assert f"fetch faces into {cache}\n" in done.stdout
    assert f"tests see {cache}\n" in done.stdout
    assert ("face models: none; the tests that need them are skipped\n" in done.stdout) is (code != 0)
