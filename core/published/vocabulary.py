"""List the names that a weights file may use, and the stand-in for each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from triportrait.core.published import numpy_parts, storages
from triportrait.core.published.pickle_machine import Global, Record, call, checked_key
from triportrait.core.published.reading import ENTRY_BYTES, ITEM_BYTES, Reading, Source
from triportrait.core.safe_text import shown

# Everything of these packages is stored as an inert record. That is safe for any name; the list is short so that a file
# which was made to attack other readers is refused, and not half read.
_PACKAGES = "torch torchvision torch_utils training models dnnlib segmentation_models_pytorch pytorch3d timm kornia"
_LIGHTNING = (
    "pytorch_lightning lightning lightning_fabric omegaconf"  # what a checkpoint of Lightning notes beside tensors
)
INERT_PACKAGES = frozenset(f"{_PACKAGES} {_LIGHTNING} einops numpy scipy chumpy easydict yacs collections".split())
_BUILTINS = "object type int long float bool str list dict tuple slice range NoneType"
_PATHS = "pathlib.Path pathlib.PosixPath pathlib.PurePosixPath"
INERT_NAMES = frozenset(
    [f"builtins.{name}" for name in _BUILTINS.split()]
    + f"functools.partial argparse.Namespace typing.Any {_PATHS}".split()
)
MAX_NAME = 200  # letters of a module, and of a name in it
# names that Python 2, or another numpy, had for the same module
MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
TORCH_DTYPES: dict[str, torch.dtype] = {str(dtype): dtype for dtype in storages.DTYPES.values()}


class Vocabulary:
    """The world of one `Machine`: resolves names, stored values and states.

    Args:
        reading: the file being read.
        stored: resolves a value that is stored outside of the pickle; None where a file has no such place.
        nested: whether this is an archive within a pickle, which must not have archives in turn.
    """

    def __init__(self, reading: Reading, stored: Callable[[Any], Any] | None = None, nested: bool = False) -> None:
        self.reading, self.stored = reading, stored
        ours: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._dict,
            "builtins.set": self._set,
            "builtins.frozenset": lambda items=(): frozenset(self._set(items)),
            "builtins.complex": self._complex,
            "builtins.bytes": self._bytes,
            "builtins.bytearray": self._bytes,
            "_codecs.encode": self._bytes,
            "copyreg._reconstructor": self._reconstructor,
            "copyreg.__newobj__": lambda kind, *arguments: call(kind, arguments, None, reading),
            "copyreg.__newobj_ex__": lambda kind, arguments, words: call(kind, arguments, words, reading),
            "numpy.core.multiarray._reconstruct": numpy_parts.reconstruct,
            "numpy.core.multiarray.scalar": partial(numpy_parts.scalar, reading),
            "numpy.core.numeric._frombuffer": partial(numpy_parts.frombuffer, reading),
            "numpy.dtype": partial(numpy_parts.dtype, reading),
            "torch.Size": lambda sizes=(): sizes,
            "torch.device": self._device,
            "torch._utils._rebuild_tensor": partial(storages.rebuild_tensor, reading),
            "torch._utils._rebuild_tensor_v2": partial(storages.rebuild_tensor, reading),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch.storage._load_from_bytes": self._refuse_nested if nested else self._storage,
        }
        self._values: dict[str, Any] = {kind: Global(kind, stand_in) for kind, stand_in in ours.items()}
        self._values |= TORCH_DTYPES
        for name, dtype in storages.DTYPES.items():
            self._values[f"torch.{name}Storage"] = storages.StorageKind(dtype)

    def find(self, module: str, name: str) -> Any:
        """Resolve a name to a value or a `Global`; a `Global` without a stand-in is only ever recorded.

        Raises:
            InputError: the name is of no package that a weights file needs, or longer than any.
        """
        if max(len(module), len(name)) > MAX_NAME:
            raise self.reading.error(f"names a global of more than {MAX_NAME} letters ({shown(module)})")
        module = MODULES.get(module, module)
        kind = f"{module}.{name}"
        if kind in self._values:
            return self._values[kind]
        if module.partition(".")[0] in INERT_PACKAGES or kind in INERT_NAMES:
            self.reading.spend(ENTRY_BYTES + len(kind))
            return Global(kind)
        raise self.reading.error(f"names the global {shown(kind)}, which no weights file needs")

    def persistent(self, identity: Any) -> Any:
        """Return a value stored outside of the pickle. Raises InputError where there is no such place."""
        if self.stored is None:
            raise self.reading.damaged("got a pickle that refers to values outside of it")
        return self.stored(identity)

    def set_state(self, target: Any, state: Any) -> bool:
        """Fill an array or a dtype; let the attributes of a dict go, such as torch's `_metadata`."""
        if type(target) is np.ndarray:
            numpy_parts.set_array_state(self.reading, target, state)
        elif type(target) is numpy_parts.DType:
            numpy_parts.set_dtype_state(self.reading, target, state)
        return type(target) in (np.ndarray, numpy_parts.DType, dict)

    def _dict(self, pairs: Any = ()) -> dict[Any, Any]:
        if type(pairs) not in (list, tuple) or not all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
            raise self.reading.error("makes a dictionary from something other than pairs")
        self.reading.spend(ENTRY_BYTES * len(pairs))
        return {checked_key(key, self.reading): value for key, value in pairs}

    def _set(self, items: Any = ()) -> set[Any]:
        if type(items) not in (list, tuple):
            raise self.reading.error(f"makes a set from a {type(items).__name__}")
        self.reading.spend(256 + 64 * len(items))
        return {checked_key(item, self.reading) for item in items}

    def _bytes(self, value: Any = b"", encoding: Any = "latin-1") -> bytes:
        if type(value) not in (str, bytes) or encoding not in ("latin1", "latin-1"):
            raise self.reading.error("makes bytes from something other than text in latin-1")
        self.reading.spend(len(value))
        return value.encode("latin-1") if type(value) is str else value

    def _complex(self, real: Any = 0.0, imaginary: Any = 0.0) -> complex:
        if type(real) is not float or type(imaginary) is not float:
            raise self.reading.error("makes a complex number from something other than two numbers")
        return complex(real, imaginary)

    def _device(self, kind: Any = "cpu", index: Any = None) -> str:
        if type(kind) is not str or type(index) not in (int, type(None)):
            raise self.reading.error("describes a device wrongly")
        return kind if index is None else f"{kind}:{index}"

    def _reconstructor(self, kind: Any, base: Any = None, state: Any = None) -> Record:
        """Make the record of a class that `copyreg` makes in protocols 0 and 1, with the content of its base type."""
        if type(kind) is not Global:
            raise self.reading.error("makes an object of something that is not a class")
        if type(state) is dict:
            self.reading.spend(ENTRY_BYTES * len(state))
            return Record(kind.kind, entries=dict(state))
        if type(state) is list:
            self.reading.spend(ITEM_BYTES * len(state))
            return Record(kind.kind, elements=list(state))
        return Record(kind.kind)

    def _storage(self, data: Any) -> storages.Storage:
        """Read the storage in an archive within a pickle."""
        if type(data) is not bytes:
            raise self.reading.error("has a storage that is not made of bytes")
        source = Source(data, self.reading)
        world_of = partial(Vocabulary, self.reading, nested=True)
        value = storages.read_whole(source, self.reading, world_of)
        if type(value) is not storages.Storage:
            raise self.reading.error("has an archive inside of it that is not a storage")
        return value

    def _refuse_nested(self, *_: Any) -> Any:
        raise self.reading.error("has an archive within an archive")
