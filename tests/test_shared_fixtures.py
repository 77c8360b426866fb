"""What tests share: fixtures are found in whatever order files are named, and signals are as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.signals import signals_kept

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


def test_handlers_of_signals_are_put_back_where_python_can(monkeypatch):
    """None stands for one that was not set from Python; Windows has no SIGHUP."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    with signals_kept():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before[0]
    with monkeypatch.context() as foreign:
        foreign.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else before[0])
        kept = signals_kept()
        kept.__enter__()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kept.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "nobody can set it from here"
    signal.signal(signal.SIGTERM, before[1])
