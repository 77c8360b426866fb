"""Builds files like the published ones, and hostile ones, without any of the code that wrote the published ones."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from triportrait.core.published.flame_file import flame_of
from triportrait.core.published.networks import Network, networks_of
from triportrait.core.published.unpickle import read_pickle

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


def read_networks(path: Path) -> dict[str, Network]:
    """The networks in a file."""
    return networks_of(read_pickle(path), str(path))


def read_flame(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a FLAME file."""
    return flame_of(read_pickle(path), str(path)).arrays


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


def stored(size: tuple[int, ...] = (1,), **archive: Any) -> bytes:
    """A pickle of a tensor over an archive of these arguments of `storage_archive`."""
    return finish(tensor(size, (1,), 0, storage_archive(**archive)))


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


# --- whole hostile files ---

RECORDS = name("copyreg", "_reconstructor")
EMPTY_ROWS = call(
    "numpy.core.numeric",
    "_frombuffer",
    raw(b""),
    call("numpy", "dtype", text("f8")),
    numbers((10**12, 0)),
    text("C"),
)


def doubled(open_: bytes, pair: bytes, levels: int = 60) -> bytes:
    """A value in which each level holds the level below twice: small to store, endless to walk."""
    return open_ + b"".join(b"\x940" + pair.replace(b"#", b"h" + bytes([i])) for i in range(levels))


def nested_modules(levels: int, *names: str) -> bytes:
    """Modules that each hold the one below under these names."""
    body = module(members()) + b"\x940"
    for i in range(levels):
        children = b"}(" + b"".join(text(name) + b"h" + bytes([i]) for name in names) + b"u"
        body += module(members(modules=children)) + b"\x940"
    return finish(body + b"}" + text("G") + b"h" + bytes([levels]) + b"s")


def with_setting(value: bytes) -> bytes:
    """A network with one option."""
    return rooted(module(members(settings=b"}" + text("x") + value + b"s")))


def torch_zip(**changes: bytes) -> dict[str, bytes]:
    return {"a/data.pkl": zip_tree(), "a/byteorder": b"little", "a/data/0": bytes(16)} | {
        "a/" + name.replace("_", "/") if name != "data_pkl" else "a/data.pkl": data for name, data in changes.items()
    }


def declared_zip(size: int) -> bytes:
    """A zip whose directory claims that a stored part is larger than the file."""
    data = bytearray(zipped(torch_zip()))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    return bytes(data)


def overlapping_zip(parts: int) -> bytes:
    """A zip whose parts each contain the next one, all of them valid, and a tree that asks for each."""
    data, chain = bytes(1 << 20), []
    for i in reversed(range(parts)):
        entry = zipfile.ZipInfo(f"a/data/{i}")
        entry.CRC, entry.file_size, entry.compress_size = zlib.crc32(data), len(data), len(data)
        data = entry.FileHeader() + data
        chain.append((entry, len(data)))
    kind = text("storage") + name("torch", "ByteStorage")
    requests = [
        b"(" + kind + text(entry.filename[7:]) + text("cpu") + integer(entry.file_size) + b"tQ" for entry, _ in chain
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", finish(b"(" + b"".join(requests) + b"l"))
        file.write(data)
        archive.start_dir = file.tell()  # type: ignore[attr-defined]
        for entry, length in chain:
            entry.header_offset = file.tell() - length
            archive.filelist.append(entry)
    return file.getvalue()


def encrypted_zip() -> bytes:
    data = bytearray(zipped(torch_zip()))
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + place] |= 1
    return bytes(data)


def calls_again(times: int) -> bytes:
    """One value of many bytes from which as many copies are asked for."""
    load = name("_codecs", "encode") + b"\x940" + text("x" * (1 << 20)) + b"\x940" + text("latin1") + b"\x940"
    return finish(load + b"(" + (b"h\x00(h\x01h\x02tR" * times) + b"l")


def same_storage(times: int) -> bytes:
    """One storage from which many tensors are made."""
    archive = storage_archive(declared=1 << 18, data=bytes(1 << 20))
    load = call("torch.storage", "_load_from_bytes", raw(archive)) + b"\x940"
    rebuild = (
        name("torch._utils", "_rebuild_tensor_v2") + b"(h\x00K\x00" + numbers((1 << 18,)) + numbers((1,)) + b"\x89NtR"
    )
    return finish(load + b"(" + rebuild * times + b"l")


def copies(value: bytes, function: bytes, times: int) -> bytes:
    """One value, first in the memo, and a function that is called with it again and again."""
    again = b"h\x01(h\x02Nh\x00tR" if function == RECORDS else b"h\x01h\x00R"
    return finish(value + b"\x940" + function + b"\x940" + name("torch", "X") + b"\x940(" + again * times + b"l")


def numbered(count: int) -> bytes:
    """A dict of many entries."""
    return b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(count)) + b"u"


def repeated_name(module: str, name: str, times: int) -> bytes:
    """A module and a name in it, put together again and again."""
    return finish(text(module) + b"\x940" + text(name) + b"\x940(" + b"h\x00h\x01\x93" * times + b"l")


def repeated_setting(value: bytes, times: int) -> bytes:
    """A network of which many options are one value."""
    again = b"".join(text(str(i)) + b"h\x00" for i in range(times))
    return rooted(module(members(settings=b"}(" + text("x") + value + b"\x94" + again + b"u")))


def shared_module(entries: int, times: int) -> bytes:
    """A module with many empty entries, under many names."""
    leaf = module(members(buffers=b"}(" + b"".join(text(str(i)) + b"N" for i in range(entries)) + b"u"))
    again = b"".join(text(str(i)) + b"h\x00" for i in range(1, times))
    return rooted(module(members(modules=b"}(" + text("0") + leaf + b"\x94" + again + b"u")))


# --- FLAME ---


def flame(seed: int = 0) -> dict[str, Any]:
    """A model like `generic_model.pkl` in its shapes, with invented numbers: four directions, each a hundred times."""
    draw = np.random.default_rng(seed)
    wrapped, sparse = named("chumpy.ch", "Ch")(), named("scipy.sparse.csc", "csc_matrix")()
    wrapped.__dict__.update(
        x=np.asfortranarray(draw.normal(size=(5023, 3, 4)).astype(np.float32).repeat(100, 2)),
        _dirty_vars=set(),
        _itr=None,
    )
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
