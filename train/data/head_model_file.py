"""Whose parameters a folder or a store says that it holds, and which encoder read its motion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.core.safe_text import literal, shown

HEAD_MODEL = "head_model.json"


def read_head_model(folder: Path) -> ModelIdentity | None:
    """Read whose parameters a folder holds; None where it does not say.

    Raises: `InputError` for a damaged file.
    """
    path = folder / HEAD_MODEL
    if not path.exists():
        return None
    try:
        said = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected whose parameters these are, it is damaged; make it again") from error
    return ModelIdentity.from_dict(said, str(path))


def identity_in(index: Mapping[str, Any], where: str) -> ModelIdentity | None:
    """Read whose parameters a store holds off its index; None where it does not say, as nothing published does.

    Raises: `InputError` for a damaged entry; `where` begins the sentence.
    """
    said = index.get("head_model")
    return None if said is None else ModelIdentity.from_dict(said, where)


def stored_head_model(index: Mapping[str, Any], where: str) -> ModelIdentity:
    """Return whose parameters a store holds; one that says nothing was published with FLAME 2020's.

    Raises: as of `identity_in`.
    """
    return identity_in(index, where) or PUBLISHED_MODEL


def encoder_in(index: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Read off a store's index which encoder read its motion: name, width and fingerprint; None where it is silent.

    Raises: `InputError` for a damaged entry; `where` begins the sentence.
    """
    name, more = index.get("motion_encoder"), index.get("motion")
    return None if name is None or more is None else _encoder({"name": name, "more": more}, where)


def _encoder(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    name, more = said["name"], said["more"]
    width, mark = (more.get("width"), more.get("fingerprint")) if isinstance(more, dict) else (None, None)
    if not (isinstance(name, str) and isinstance(mark, str) and type(width) is int and width > 0):
        raise InputError(
            f"{where}: expected name, width and fingerprint of a motion encoder, got others; make it again"
        )
    return {"name": name, "width": width, "fingerprint": mark}


def same_settings(before: Any, now: Mapping[str, Any]) -> str | None:
    """Compare what a store was begun from with what it is to be made from now, head models by `is_same`.

    Returns: None where they are the same, else the first that differs, in words.
    """
    if not isinstance(before, dict):
        return "from something else"
    for name in [*now, *before]:
        was, is_ = before.get(name), now.get(name)
        if name == "head_model" and was is not None and is_ is not None:
            if not ModelIdentity.from_dict(was, name).is_same(ModelIdentity.from_dict(is_, name)):
                return f"with the head model {shown(str(was.get('name')))}, now it is {shown(str(is_.get('name')))}"
        elif was != is_:
            return f"with {shown(name)} {literal(was)}, now it is {literal(is_)}"
    return None
