"""From a machine with Python alone to the first live frame: `python tests/serve/first_frame.py`, without any package.

On Linux put `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` before it: PyPI's torch is a CUDA build of
several GB. Makes an environment in a temporary folder, installs this project into it with nothing from pip's cache,
starts the live server and opens a session as the page does. Printed is the second at which each step was done; the exit
code is 1 when the first frame came later than five minutes.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

MOST_S = 300
EXTRAS = "cpu,serve,faces,provenance"
PROJECT = Path(__file__).parents[2]
SESSION = """
import asyncio, sys
from triportrait.profiling.live.client import Client, driving_frames
from triportrait.serve.live.inference import EXAMPLES
client = Client(sys.argv[1], driving_frames(EXAMPLES / "driving.mp4"), 30.0)
asyncio.run(client.run(5.0, lambda: print("frame", flush=True)))
print(len(client.record.samples), len(client.record.last_jpeg), flush=True)
"""


def main() -> int:
    """Do it; gives the exit code."""
    began = time.monotonic()

    def done(what: str) -> float:
        seconds = time.monotonic() - began
        print(f"{seconds:6.1f} s  {what}", flush=True)
        return seconds

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {_commit()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        done("environment made")
        binaries = Path(folder, "bin")
        words = [binaries / "pip", "install", "-q", "--no-cache-dir", "-e", f"{PROJECT}[{EXTRAS}]"]
        subprocess.run(words, check=True)
        done(f"pip install -e '.[{EXTRAS}]' has ended, with {_torch(binaries)}")
        live = subprocess.Popen([binaries / "triportrait", "live", "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            assert live.stdout is not None
            address = re.search(r"http://\S+", live.stdout.readline())
            if address is None:
                print("the server did not start", file=sys.stderr)
                return 1
            done("triportrait live listens")
            words = [binaries / "python", "-c", SESSION, address[0]]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as session:
                assert session.stdout is not None
                first = session.stdout.readline().strip()
                at = done("first frame") if first == "frame" else None
                print(
                    f"then, in five seconds: {session.stdout.readline().split()[0]} frames" if at else "no frame came"
                )
        finally:
            live.terminate()
            live.wait(20)
    met = at is not None and at <= MOST_S
    print(f"at most {MOST_S} s: {'met' if met else 'missed'}")
    return 0 if met else 1


def _torch(binaries: Path) -> str:
    words = [binaries / "pip", "show", "torch"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return "torch " + re.search(r"Version: (\S+)", said)[1]


def _commit() -> str:
    words = ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return f"commit {said}" if said else "no commit known"


if __name__ == "__main__":
    sys.exit(main())
