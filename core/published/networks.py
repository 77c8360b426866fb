"""The networks in a published file: their tensors under dotted names, and the options they were made with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.published.unpickle import Global, Record, read_pickle
from triportrait.core.sentences import shown

# the networks of a training snapshot, and the keys under which a checkpoint may hide its tensors
SNAPSHOT_KEYS = ("G", "D", "G_ema")
NESTED_KEYS = ("state_dict", "net", "model")
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
# entries count each time that they are looked at, empty ones too: a published network has about three thousand
MAX_DEPTH, MAX_ENTRIES, MAX_NAME = 64, 20_000, 100
# letters of all settings of a network as text, of one text among them, and what any value counts for
MAX_SETTINGS, MAX_TEXT, VALUE_LETTERS = 100_000, 200, 8


@dataclass(frozen=True)
class Network:
    """One network of a published file.

    Attributes:
        tensors: tensors on the CPU by dotted names, in the order of the file, as torch's `state_dict` would give them.
        parameters: the names of those that were parameters; the others were buffers. Empty for a plain list of tensors,
            which does not tell.
        settings: the keyword arguments that the network was made with, as JSON could hold them, long texts cut.
        kind: name of the network's class, any text that the file has there; '' for a plain list of tensors.
    """

    tensors: dict[str, Tensor]
    parameters: frozenset[str] = frozenset()
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str = ""


def read_networks(path: str | Path) -> dict[str, Network]:
    """Read a training snapshot or a checkpoint without running anything from it.

    A snapshot gives its 'G', 'D' and 'G_ema', as far as it has them. A checkpoint, that is a dict of tensors, perhaps
    under 'state_dict', 'net' or 'model' and with 'module.' before each name, gives one network with the name ''.

    Raises:
        InputError: `read_pickle` refuses the file, it holds no networks, or one of them is not made of tensors.
    """
    return networks_of(read_pickle(path), str(path))


def networks_of(content: Any, file: str) -> dict[str, Network]:
    """List the networks, like `read_networks`, in the content that `read_pickle` gave for `file`."""
    root = _entries(content)
    if root is None:
        raise InputError(f"{file}: expected a dictionary of networks or of tensors, got none; fetch it again")
    networks = {key: _network(root[key], f"{file}: {key}") for key in SNAPSHOT_KEYS if type(root.get(key)) is Record}
    return networks or {"": Network(_checkpoint(root, file))}


def _entries(value: Any) -> dict[Any, Any] | None:
    """Return the entries of a dict, or of a record of a class derived from dict; None for anything else."""
    if type(value) is Record:
        return {} if value.entries is None and value.kind.endswith("Dict") else value.entries
    return value if type(value) is dict else None


def _checkpoint(root: dict[Any, Any], file: str) -> dict[str, Tensor]:
    """Return the tensors of a plain state dict."""
    for _ in NESTED_KEYS:
        inner = next((entries for key in NESTED_KEYS if (entries := _entries(root.get(key)))), None)
        if inner is None:
            break
        root = inner
    strange = [
        shown(str(name)) for name, value in root.items() if not isinstance(value, Tensor) or type(name) is not str
    ]
    if strange or not root:
        got = f"{len(strange)} entries that are not ({', '.join(strange[:3])})" if strange else "no entries"
        raise InputError(f"{file}: expected networks or named tensors, got {got}; fetch it again")
    wrapped = all(name.startswith("module.") for name in root)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in root.items()}


def _parts(module: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return class name and state of a module, persistent or not."""
    if type(module) is Record and module.kind == PERSISTENT and len(module.args) == 1:
        meta = _entries(module.args[0]) or {}
        kind, state = meta.get("class_name"), meta.get("state")
    else:
        kind, state = (module.kind.rpartition(".")[2], module.state) if type(module) is Record else (None, None)
    if type(state) is tuple and len(state) == 2:  # a class with slots pickles (attributes, slots)
        state = state[0]
    if type(kind) is not str or type(state) is not dict:
        raise InputError(f"{where}: expected a network module, got something without a state; fetch it again")
    return kind, state


def _members(state: dict[str, Any], key: str, where: str, left: list[int]) -> dict[str, Any]:
    """Return one dict of a module's state, without empty entries; `left` counts the entries that are allowed."""
    members = state.get(key)
    # modules may share one dict, which is then looked at again and again
    left[0] -= len(members) if type(members) is dict else 0
    if left[0] < 0:
        raise InputError(
            f"{where}: expected at most {MAX_ENTRIES} entries of modules, got more; the file is not to be trusted"
        )
    # the dotted names repeat those of the parents, so that long ones would multiply
    if type(members) is not dict or not all(type(name) is str and len(name) <= MAX_NAME for name in members):
        raise InputError(f"{where}: expected the entry {key} of a network module, got none; fetch it again")
    return {name: value for name, value in members.items() if value is not None}


def _network(module: Any, where: str) -> Network:
    kind, state = _parts(module, where)
    tensors: dict[str, Tensor] = {}
    parameters: set[str] = set()
    left = [MAX_ENTRIES]
    for prefix, part in _walk(module, where, left):
        hidden = part.get("_non_persistent_buffers_set")
        for key in ("_parameters", "_buffers"):
            for name, value in _members(part, key, where, left).items():
                if key == "_buffers" and type(hidden) is set and name in hidden:
                    continue
                if not isinstance(value, Tensor) or prefix + name in tensors:
                    raise InputError(
                        f"{where}: expected one tensor {shown(prefix + name)}, got another; fetch it again"
                    )
                tensors[prefix + name] = value
                if key == "_parameters":
                    parameters.add(prefix + name)
    settings = _entries(state.get("_init_kwargs")) or {}
    return Network(tensors, frozenset(parameters), _plain(settings, where, [MAX_SETTINGS]), kind)


def _walk(
    module: Any, where: str, left: list[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (prefix, state) of a module and of those in it, parents first; a module with two names comes twice."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where}: expected modules {MAX_DEPTH} deep at most, got more; the file is not to be trusted")
    _, state = _parts(module, where)
    yield prefix, state
    for name, child in _members(state, "_modules", where, left).items():
        yield from _walk(child, where, left, f"{prefix}{name}.", depth + 1)


def _plain(value: Any, where: str, left: list[int], depth: int = 0) -> Any:
    """Turn a setting into JSON values: a class or an object becomes its name, sets and arrays become lists.

    `left` counts the letters that are allowed; one value may be met many times, and costs them each time.
    """
    entries = _entries(value)
    if entries is not None:
        _charge(left, VALUE_LETTERS, where, depth)
        return {_text(key, where, left): _plain(item, where, left, depth + 1) for key, item in entries.items()}
    if type(value) in (list, tuple, set, frozenset):
        _charge(left, VALUE_LETTERS, where, depth)
        return [_plain(item, where, left, depth + 1) for item in value]
    if isinstance(value, (np.ndarray, Tensor)):
        # an array without values may still be a list of many empty lists
        count = math.prod(max(size, 1) for size in value.shape)
        fits = count * VALUE_LETTERS <= left[0]
        return _plain(value.tolist() if fits else f"array {list(value.shape)}", where, left, depth + 1)
    if value is None or type(value) in (bool, int, float):
        _charge(left, VALUE_LETTERS, where, depth)
        return value
    if isinstance(value, (Record, Global)):
        value = value.kind
    return _text(value if type(value) in (str, torch.dtype) else type(value).__name__, where, left, depth)


def _text(value: Any, where: str, left: list[int], depth: int = 0) -> str:
    """Return the text of a setting or of its name, cut to a modest length."""
    text = str(value[:MAX_TEXT] if type(value) in (str, bytes) else value)
    _charge(left, VALUE_LETTERS + len(text), where, depth)
    return text


def _charge(left: list[int], letters: int, where: str, depth: int) -> None:
    left[0] -= letters
    if left[0] < 0 or depth > MAX_DEPTH:
        raise InputError(
            f"{where}: expected at most {MAX_SETTINGS} letters of settings, got more; the file is not to be trusted"
        )
