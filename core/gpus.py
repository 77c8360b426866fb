"""Find NVIDIA GPUs by `nvidia-smi`, and explain why torch may not use one: an old driver, or a build without CUDA."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from triportrait.core.errors import InputError
from triportrait.core.optional_packages import install, line

if TYPE_CHECKING:
    import torch

OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}  # CUDA's major version -> the oldest driver that starts it
OLDER_CUDA = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
TIMEOUT_S = 20
logger = logging.getLogger(__name__)


def first_gpu() -> str | None:
    """Name the first card and its driver, as in `NVIDIA H200, 580.65.06`; None where nvidia-smi is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return lines.splitlines()[0].strip() if lines else None


def why_unused(name: str, cuda: str | None, error: str = "") -> str:
    """Explain why torch does not use a card, and what to do, as the end of a sentence that begins with the card.

    Args:
        name: the card and its driver, as `first_gpu` gives them.
        cuda: the CUDA that torch was built for, None for a CPU build.
        error: what torch says when it is asked to start it.
    """
    if cuda is None:
        return f"this torch is a build for CPUs; {install('gpu')} in a new environment, or {OLDER_CUDA}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "$CUDA_VISIBLE_DEVICES hides it"
    driver, needed = re.search(r",\s*(\d+)\.", name), OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if driver and needed is not None and int(driver[1]) < needed:
        older = "" if int(driver[1]) < OLDEST_DRIVER[12] else f", or take a torch for an older CUDA: {OLDER_CUDA}"
        return f"its driver is too old for this torch's CUDA {cuda}, which wants {needed} or newer: update it{older}"
    return f"torch's CUDA {cuda} does not start{f' ({error})' if error else ''}; `triportrait doctor` shows more"


def chosen_device(choice: str) -> torch.device:
    """Choose where a job runs: on CUDA where torch has it and `choice` (auto, cpu, cuda) allows.

    With auto, a warning names a card that torch cannot use.

    Raises:
        InputError: CUDA is asked for and torch has none.
    """
    import torch

    if choice != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if choice == "cuda":
        name = first_gpu()
        why = "this machine offers no CUDA device to torch" if name is None else f"{name}: {_why(name)}"
        raise InputError(f"--device cuda: {why}; use --device cpu")
    if choice == "auto":
        warn_of_unused_card()
    return torch.device("cpu")


def named_device(device: str | torch.device) -> torch.device:
    """Choose the device that a program names: as `chosen_device`, or a device of torch on this process's card.

    Raises:
        InputError: there is no such device.
    """
    import torch

    if device in ("auto", "cpu", "cuda"):
        return chosen_device(str(device))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: expected auto, cpu or cuda, got {device!r}; name one of them") from error
    if chosen.type == "cuda":
        chosen_device("cuda")
        if chosen.index is not None and chosen.index != torch.cuda.current_device():
            raise InputError(
                f"device: expected cuda, this process's current card, got {chosen}; choose it by CUDA_VISIBLE_DEVICES"
            )
    elif chosen.type != "cpu":
        raise InputError(f"device: expected auto, cpu or cuda, got {chosen.type}; name one of them")
    return chosen


def warn_of_unused_card() -> None:
    """Warn of a card that torch cannot use, where there is one that nobody hid."""
    import torch

    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    name = first_gpu()
    if name is not None:
        logger.warning("%s is not used: %s", name, _why(name))


def _why(name: str) -> str:
    import torch

    error_line = ""
    if torch.version.cuda is not None:
        try:
            torch.cuda.init()
        except Exception as error:  # an error of torch, or of its libraries
            error_line = line(error)
    return why_unused(name, torch.version.cuda, error_line)
