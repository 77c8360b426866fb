"""Builds files like the published ones, and hostile ones, without any of the code that wrote the published ones."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

# what a published pickle carries as text; the reader must never look at it
MODULE_SOURCE = "import os\nopen('marker', 'w').write('ran')\nos.system('touch marker')\n"
OUR_NAMES = ("dnnlib", "torch_utils", "training", "models", "chumpy", "scipy")


@cache
def named(module: str, name: str, base: type = object) -> type:
    """A class that a pickle names 'module.name', although there is no such module."""
    return type(name, (base,), {"__module__": module, "__qualname__": name})


EasyDict = named("dnnlib.util", "EasyDict", dict)


class Persistent(nn.Module):
    """A module that pickles as the published networks do: with its source text, through one reconstructor."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.kind, self._init_args, self._init_kwargs = kind, (), options


class PublishedPickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes persistent modules, and names of classes that do not exist here."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj.__module__.partition(".")[0] not in OUR_NAMES:
            return super().save_global(obj, name)
        if self.proto >= 4:
            self.save(obj.__module__)
            self.save(obj.__qualname__)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(b"c" + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch = pickle._Pickler.dispatch | {FunctionType: save_global}  # type: ignore[attr-defined]

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Persistent):
            return NotImplemented
        state = {key: value for key, value in obj.__dict__.items() if key != "kind"}
        meta = {"type": "class", "version": 6, "module_src": MODULE_SOURCE, "class_name": obj.kind, "state": state}
        return named("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,)


class Python2Pickler(PublishedPickler):
    """Writes texts and bytes alike as Python 2 did, and numpy's old module name."""

    def _save_text(self, obj: Any) -> None:
        data = obj.encode("latin-1") if isinstance(obj, str) else obj
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(obj)

    dispatch = PublishedPickler.dispatch | {str: _save_text, bytes: _save_text}

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", "").startswith("numpy._core"):
            self.write(b"c" + f"numpy.core.multiarray\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


Python2Pickler.dispatch[FunctionType] = Python2Pickler.save_global


def dump(value: Any, protocol: int = 4, pickler: type = PublishedPickler) -> bytes:
    """The pickle of a value that may hold persistent modules and instances of `named` classes."""
    file = io.BytesIO()
    pickler(file, protocol).dump(value)
    return file.getvalue()


def network() -> Persistent:
    """A small network with every kind of tensor and of module that a published one has."""
    net = Persistent("TriPlaneGenerator", z_dim=512, rendering_kwargs=EasyDict(depth=48, ray=EasyDict()), size=(2, 3))
    net._init_kwargs |= {
        "act": torch.nn.functional.relu,
        "scale": np.float32(0.5),
        "dtype": torch.float16,
        "none": None,
    }
    net.conv = nn.Conv2d(3, 4, 3)
    net.norm = nn.BatchNorm2d(4)
    net.empty = nn.GELU()
    net.gone = None
    net.inner = Persistent("Synthesis")
    net.inner.weight = nn.Parameter(torch.randn(3, 5).to(torch.bfloat16))
    net.inner.register_parameter("bias", None)
    net.inner.blocks = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Sequential(nn.PReLU(3))])
    base = torch.randn(6, 7)
    for name, value in {
        "half": torch.randn(4).half(),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False, True]),
        "index": torch.arange(12).reshape(3, 4),
        "column": base[:, 2],
        "turned": base.t(),
        "part": base[1:3, 2:5],
        "void": torch.empty(0, 3),
        "wave": torch.randn(2, dtype=torch.complex64),
        "double": torch.randn(2).double(),
        "bytes8": torch.arange(3, dtype=torch.uint8),
    }.items():
        net.register_buffer(f"table_{name}", value)
    net.inner.register_buffer("hidden", torch.ones(2), persistent=False)
    return net


def snapshot(**networks: Any) -> dict[str, Any]:
    """The dict at the root of a published pickle."""
    return {"training_set_kwargs": EasyDict(path="data.zip"), "augment_pipe": None, "D_patch": None, **networks}


# --- opcodes by hand ---


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """LONG1."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def raw(data: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(data)) + data


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple of whole numbers."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE: what executes in an ordinary reader."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def finish(body: bytes, protocol: int = 4) -> bytes:
    """PROTO, body, STOP."""
    return b"\x80" + bytes([protocol]) + body + b"."


def storage_archive(
    kind: str = "FloatStorage",
    declared: int = 4,
    written: int | None = None,
    data: bytes = bytes(16),
    root: bytes = b"",
    keys: tuple[str, ...] = ("0",),
) -> bytes:
    """The bytes that `torch.storage._load_from_bytes` takes; `declared` and `written` count values."""
    identity = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + integer(declared) + b"NtQ"
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    length = struct.pack("<q", declared if written is None else written)
    return b"".join(head) + finish(root or identity, 2) + pickle.dumps(list(keys), 2) + length + data


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, archive: bytes | None = None) -> bytes:
    """Opcodes of a tensor over a storage, by default of four zeros."""
    storage = call("torch.storage", "_load_from_bytes", raw(storage_archive() if archive is None else archive))
    layout = integer(offset) + numbers(size) + numbers(stride)
    return call("torch._utils", "_rebuild_tensor_v2", storage + layout + b"\x89N")


def module(state: bytes, class_name: str = "Net") -> bytes:
    """Opcodes of a persistent module with the opcodes of a dict as its state."""
    parts = (text("class_name"), text(class_name), text("module_src"), text(MODULE_SOURCE), text("state"), state)
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}(" + b"".join(parts) + b"u")


def members(parameters: bytes = b"}", buffers: bytes = b"}", modules: bytes = b"}", settings: bytes = b"}") -> bytes:
    """Opcodes of a module's state."""
    entries = {"_parameters": parameters, "_buffers": buffers, "_modules": modules, "_init_kwargs": settings}
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def rooted(body: bytes, key: str = "G") -> bytes:
    """A pickle of a dict with one entry."""
    return finish(b"}" + text(key) + body + b"s")


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return file.getvalue()


def zip_tree(size: int = 4, kind: str = "FloatStorage") -> bytes:
    """data.pkl of a checkpoint with one tensor."""
    identity = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + integer(size) + b"tQ"
    layout = integer(0) + numbers((size,)) + numbers((1,))
    return rooted(call("torch._utils", "_rebuild_tensor_v2", identity + layout + b"\x89N"), "w")


# --- FLAME ---


def flame(seed: int = 0) -> dict[str, Any]:
    """A model like `generic_model.pkl` in the shapes that count, with invented numbers and few directions."""
    draw = np.random.default_rng(seed)
    wrapped, sparse = named("chumpy.ch", "Ch")(), named("scipy.sparse.csc", "csc_matrix")()
    wrapped.__dict__.update(x=np.asfortranarray(draw.normal(size=(5023, 3, 4))), _dirty_vars=set(), _itr=None)
    rows, columns = draw.integers(0, 5, 40), np.sort(draw.integers(0, 5023, 40))
    rows[1], columns[1] = rows[0], columns[0]  # a place that is listed twice
    starts = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=5023))]).astype(np.int32)
    sparse.__dict__.update(data=draw.normal(size=40), indices=rows.astype(np.int32), indptr=starts, _shape=(5, 5023))
    return {
        "f": draw.integers(0, 5023, (9976, 3)).astype(np.uint32),
        "v_template": draw.normal(size=(5023, 3)),
        "shapedirs": wrapped,
        "posedirs": draw.normal(size=(5023, 3, 36)),
        "J_regressor": sparse,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": draw.normal(size=(5023, 5)),
        "bs_style": "lbs",
    }
