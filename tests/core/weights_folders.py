"""Edits of a weights folder, with which tests damage one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def change_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any], kind: str = "portrait") -> None:
    """Edit the tensors of a network in place."""
    tensors = load_file(folder / f"{kind}.safetensors")
    edit(tensors)
    save_file(tensors, folder / f"{kind}.safetensors")


def change_card(folder: Path, edit: Callable[[dict[str, Any]], Any], kind: str = "portrait") -> None:
    """Edit the JSON beside a network in place."""
    path = folder / f"{kind}.json"
    card = json.loads(path.read_text())
    edit(card)
    path.write_text(json.dumps(card))
