"""Find the networks in a published file: their tensors under dotted names, and the options they were made with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.published.unpickle import Global, Record
from triportrait.core.safe_text import literal, shown

# the networks of a training snapshot, and the keys under which a checkpoint may hide its tensors
SNAPSHOT_KEYS = ("G", "D", "G_ema")
NESTED_KEYS = ("state_dict", "net", "model", "net_recon")
PERSISTENT_CLASS = "torch_utils.persistence._reconstruct_persistent_obj"
# entries count each time that they are looked at, empty ones too: a published network has about three thousand
MAX_DEPTH, MAX_ENTRIES, MAX_NAME = 64, 20_000, 100
# the most letters of all settings of a network and of one text in them; the letters that any value costs
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


def networks_of(content: Any, file: str) -> dict[str, Network]:
    """List the networks in what `read_pickle` gave for a training snapshot or a checkpoint.

    A snapshot gives its 'G', 'D' and 'G_ema', as far as it has them. A checkpoint, that is a dict of tensors, perhaps
    under 'state_dict', 'net', 'model' or 'net_recon' and with 'module.' before each name, gives one network with the
    name ''.

    Raises:
        InputError: the file holds no networks, or one of them is not made of tensors; `file` begins the sentence.
    """
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
    if type(module) is Record and module.kind == PERSISTENT_CLASS and len(module.args) == 1:
        meta = _entries(module.args[0]) or {}
        kind, state = meta.get("class_name"), meta.get("state")
    else:
        kind, state = (module.kind.rpartition(".")[2], module.state) if type(module) is Record else (None, None)
    if type(state) is tuple and len(state) == 2:  # a class with slots pickles (attributes, slots)
        state = state[0]
    if type(kind) is not str or type(state) is not dict:
        raise InputError(f"{where}: expected a network module, got something without a state; fetch it again")
    return kind, state


@dataclass
class _Budget:
    """What one network may still cost.

    Attributes:
        where: file and network, which begin every refusal.
        entries: entries of modules that may still be looked at; modules may share one dict, which counts each time.
        letters: letters that its settings may still have; a setting that is met many times costs them each time.
    """

    where: str
    entries: int = MAX_ENTRIES
    letters: int = MAX_SETTINGS

    def spend_entries(self, count: int) -> None:
        self.entries -= count
        if self.entries < 0:
            raise self.refusal(f"expected at most {MAX_ENTRIES} entries of modules")

    def spend_letters(self, count: int) -> None:
        self.letters -= count
        if self.letters < 0:
            raise self.refusal(f"expected at most {MAX_SETTINGS} letters of settings")

    def check_depth(self, nested: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.refusal(f"expected {nested} {MAX_DEPTH} deep at most")

    def refusal(self, expected: str) -> InputError:
        return InputError(f"{self.where}: {expected}, got more; the file is not to be trusted")


def _members(state: dict[str, Any], key: str, budget: _Budget) -> dict[str, Any]:
    """Return one dict of a module's state, without empty entries."""
    members, where = state.get(key), budget.where
    if type(members) is not dict:
        raise InputError(f"{where}: expected the entry {key} of a network module, got none; fetch it again")
    budget.spend_entries(len(members))
    for name in members:
        # the dotted names repeat those of the parents, so that long ones would multiply
        if type(name) is not str or len(name) > MAX_NAME:
            got = literal(name)
            raise InputError(f"{where}: {key}: expected names of up to {MAX_NAME} letters, got {got}; fetch it again")
    return {name: value for name, value in members.items() if value is not None}


def _network(module: Any, where: str) -> Network:
    kind, state = _parts(module, where)
    tensors: dict[str, Tensor] = {}
    parameters: set[str] = set()
    budget = _Budget(where)
    for prefix, part in _walk(module, budget):
        hidden = part.get("_non_persistent_buffers_set")
        for key in ("_parameters", "_buffers"):
            for name, value in _members(part, key, budget).items():
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
    return Network(tensors, frozenset(parameters), _plain(settings, budget), kind)


def _walk(module: Any, budget: _Budget, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (prefix, state) of a module and of those in it, parents first; a module with two names comes twice."""
    budget.check_depth("modules", depth)
    _, state = _parts(module, budget.where)
    yield prefix, state
    for name, child in _members(state, "_modules", budget).items():
        yield from _walk(child, budget, f"{prefix}{name}.", depth + 1)


def _plain(value: Any, budget: _Budget, depth: int = 0) -> Any:
    """Turn a setting into JSON values: a class or an object becomes its name, sets and arrays become lists."""
    budget.check_depth("settings", depth)
    entries = _entries(value)
    if entries is not None:
        budget.spend_letters(VALUE_LETTERS)
        return {_text(key, budget): _plain(item, budget, depth + 1) for key, item in entries.items()}
    if type(value) in (list, tuple, set, frozenset):
        budget.spend_letters(VALUE_LETTERS)
        return [_plain(item, budget, depth + 1) for item in value]
    if isinstance(value, (np.ndarray, Tensor)):
        # an array without values may still be a list of many empty lists
        count = math.prod(max(size, 1) for size in value.shape)
        fits = count * VALUE_LETTERS <= budget.letters
        return _plain(value.tolist() if fits else f"array {list(value.shape)}", budget, depth + 1)
    if value is None or type(value) in (bool, int, float):
        budget.spend_letters(VALUE_LETTERS)
        return value
    if isinstance(value, (Record, Global)):
        value = value.kind
    return _text(value if type(value) in (str, torch.dtype) else type(value).__name__, budget)


def _text(value: Any, budget: _Budget) -> str:
    """Return the text of a setting or of its name, cut to a modest length."""
    text = str(value[:MAX_TEXT] if type(value) in (str, bytes) else value)
    budget.spend_letters(VALUE_LETTERS + len(text))
    return text
