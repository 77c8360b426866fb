"""The file in a folder that says whose parameters it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json

HEAD_MODEL = "head_model.json"


def read_head_model(folder: Path) -> dict[str, Any] | None:
    """Read whose parameters a folder holds, as `ModelIdentity.to_dict` writes it; None where it does not say.

    Raises: `InputError` for a damaged file.
    """
    path = folder / HEAD_MODEL
    if not path.exists():
        return None
    try:
        said = read_json(path)
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise ValueError("another value")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected whose parameters these are, it is damaged; make the folder again"
        ) from error
    return said
