"""Files made to attack a reader: each is refused with one sentence, or read as inert records, and nothing happens."""

from __future__ import annotations

import io
import pickle
import re
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core import pickles as p
from triportrait.core.errors import InputError
from triportrait.core.published.unpickle import Record, read_pickle

TOUCH = p.text("touch marker")
WRITE = p.text("open('marker', 'w').write('ran')")
MAX_SECONDS, MAX_BYTES = 15.0, 300 << 20  # of the processor, for three readings; a bomb takes minutes


class Watch:
    """What the interpreter was asked to do, as its audit hooks tell, while `on`."""

    def __init__(self) -> None:
        self.on, self.events, self.opened = False, [], []  # type: ignore[var-annotated]
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open":
            self.opened.append((str(arguments[0]), arguments[1]))
        elif self.on and event.startswith(
            ("os.", "subprocess.", "exec", "compile", "import", "pickle.", "marshal.", "socket.", "ctypes.", "shutil.")
        ):
            self.events.append(event)


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read good files first, so that what torch imports late is not taken for an import by a hostile file."""
    folder = tmp_path_factory.mktemp("warm")
    # zipfile fetches its codec for plain names when it meets one
    for name, data in (good_files() | {"plain.zip": p.zipped({"a.txt": b"a"})}).items():
        (folder / name).write_bytes(data)
        answer(folder / name)


def answer(path: Path) -> str:
    """What each of the readers says; anything but a value or an InputError goes through."""
    answers = []
    for reader in (read_pickle, p.read_networks, p.read_flame):
        try:
            reader(path)
            answers.append("read as inert records")
        except InputError as refusal:
            answers.append(str(refusal).replace(str(path), path.name))
    assert answers[1] != "read as inert records" or answers[0] == answers[1], "networks from a file that cannot be read"
    return answers[0]


REFUSED_CALL = "which no weights file needs"
LOOKS_LIKE = p.name("torch.nn.modules.conv", "Conv2d") + b")\x81"
EVIL_STORAGE = p.storage_archive(root=p.call("os", "system", TOUCH))
OBJECT_DTYPE = p.call("numpy", "dtype", p.text("O8"), b"K\x00", b"K\x01")
FLOAT_DTYPE = p.call("numpy", "dtype", p.text("f8"), b"K\x00", b"K\x01")
ARRAY_END = FLOAT_DTYPE + b"\x89" + p.raw(bytes(8)) + b"tb"  # the dtype and one value, after a shape
NEW_ARRAY = p.call("numpy.core.multiarray", "_reconstruct", p.name("numpy", "ndarray"), b"K\x00\x85", p.raw(b"b"))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)

# name -> (file, pattern in the answer); "inert" where the file is read, and only stored
CASES: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "os.system by REDUCE": (p.finish(p.call("os", "system", TOUCH)), "the global os.system, " + REFUSED_CALL),
    "posix.system by REDUCE": (p.finish(p.call("posix", "system", TOUCH)), "posix.system, " + REFUSED_CALL),
    "nt.system by INST": (b"(" + TOUCH + b"int\nsystem\n.", "begins with|nt.system"),
    "os.system by OBJ": (p.finish(b"(" + p.name("os", "system") + TOUCH + b"o"), "os.system"),
    "os.system by STACK_GLOBAL": (p.finish(p.text("os") + p.text("system") + b"\x93" + TOUCH + b"\x85R"), "os.system"),
    "os.system in protocol 0": (b"(dp0\nS'G'\ncos\nsystem\n(S'touch marker'\ntRs.", "os.system"),
    "subprocess.Popen": (p.finish(p.call("subprocess", "Popen", p.text("touch"))), "subprocess.Popen"),
    "os.system in a module's state": (
        p.rooted(p.module(p.members(buffers=b"}" + p.text("w") + p.call("os", "system", TOUCH) + b"s"))),
        "os.system",
    ),
    "builtins.eval": (p.finish(p.call("builtins", "eval", WRITE)), "builtins.eval"),
    "__builtin__.eval of Python 2": (p.finish(p.call("__builtin__", "eval", WRITE), 2), "builtins.eval"),
    "builtins.exec": (p.finish(p.call("builtins", "exec", WRITE)), "builtins.exec"),
    "builtins.getattr": (
        p.finish(p.call("builtins", "getattr", p.name("torch", "nn"), p.text("x"))),
        "builtins.getattr",
    ),
    "builtins.__import__": (p.finish(p.call("builtins", "__import__", p.text("antigravity"))), "builtins.__import__"),
    "builtins.open": (p.finish(p.call("builtins", "open", p.text("marker"), p.text("w"))), "builtins.open"),
    "importlib": (p.finish(p.call("importlib", "import_module", p.text("antigravity"))), "importlib.import_module"),
    "pickle.loads": (p.finish(p.call("pickle", "loads", p.raw(b"N."))), "pickle.loads"),
    "a name with control characters": (p.finish(p.text("o\ns\x1b[2J") + p.text("x") + b"\x93"), r"o\\ns\\x1b\[2J\.x"),
    "runpy": (p.finish(p.call("runpy", "run_path", p.text("marker"))), "runpy.run_path"),
    "copyreg.add_extension": (p.finish(p.call("copyreg", "add_extension", TOUCH)), "copyreg.add_extension"),
    "copyreg.__newobj__ of os.system": (p.finish(p.call("copyreg", "__newobj__", p.name("os", "system"))), "os.system"),
    "copyreg.__newobj__ of a list": (p.finish(p.call("copyreg", "__newobj__", b"]")), "not a named function"),
    "copyreg.__newobj__ of a class": (p.finish(p.call("copyreg", "__newobj__", p.name("training.x", "Y"))), "inert"),
    "copyreg._reconstructor": (
        p.finish(p.call("copyreg", "_reconstructor", p.name("chumpy.ch", "Ch"), b"NN")),
        "inert",
    ),
    "codecs.encode by another codec": (p.finish(p.call("_codecs", "encode", p.text("a"), p.text("zip"))), "latin-1"),
    "module_src that writes a file": (p.rooted(p.module(p.members())), "inert"),
    "torch.hub.load": (p.finish(p.call("torch.hub", "load", p.text("evil/repo"))), "inert"),
    "torch.load of a path": (p.finish(p.call("torch", "load", p.text("marker"))), "inert"),
    "torch._dynamo, dotted to os": (
        p.finish(p.text("torch") + p.text("os.system") + b"\x93" + TOUCH + b"\x85R"),
        "inert",
    ),
    "numpy.load": (p.finish(p.call("numpy", "load", p.text("marker"))), "inert"),
    "numpy.testing runstring": (p.finish(p.call("numpy.testing._private.utils", "runstring", WRITE, b"}")), "inert"),
    "a torch class with a payload as state": (p.finish(LOOKS_LIKE + p.call("os", "system", TOUCH) + b"b"), "os.system"),
    "__setstate__ set on a torch class": (
        p.finish(LOOKS_LIKE + b"}" + p.text("__setstate__") + p.name("torch.hub", "load") + b"sb" + TOUCH + b"b"),
        "inert",
    ),
    "__reduce__ in a dict's state": (p.finish(b"}}" + p.text("__class__") + TOUCH + b"sb"), "inert"),
    "state of a list": (p.finish(b"]}b"), "sets the state of a list"),
    "state of a tensor": (p.finish(p.tensor((4,), (1,)) + b"}b"), "sets the state of a Tensor"),
    "a call of a record": (p.finish(LOOKS_LIKE + b")R"), "not a named function"),
    "a call of a text": (p.finish(p.text("a") + b")R"), "not a named function"),
    "a call with a list of arguments": (p.finish(p.name("torch.nn", "X") + b"]R"), "not a named function"),
    "one of ours called with keywords": (
        p.finish(p.name("torch", "device") + b")}" + p.text("kind") + p.text("x") + b"s\x92"),
        "calls torch.device with keywords",
    ),
    "one of ours called with too much": (p.finish(p.call("torch", "device", b"NNNN")), "makes no sense"),
    "os.system inside of _load_from_bytes": (p.finish(p.tensor((4,), (1,), 0, EVIL_STORAGE)), "os.system"),
    "an archive inside of an archive": (p.stored((4,), root=p.tensor((4,), (1,))), "an archive within an archive"),
    "an archive that is not a storage": (
        p.finish(p.tensor((4,), (1,), 0, pickle.dumps({}))),
        "an archive inside of it that is not a storage",
    ),
    "storage of 2^60 values": (p.stored(declared=2**60), "bytes after byte"),
    "storage of -1 values": (p.stored(declared=-1), "describes a storage"),
    "storage with another length": (p.stored(written=3), "3 values"),
    "storage without its values": (p.stored((4,), data=b""), "bytes after byte"),
    "storage that no list names": (p.stored((4,), keys=()), "lacks the values"),
    "storage that nothing uses": (p.stored((4,), keys=("1",)), "nothing uses"),
    "storage of an unknown kind": (
        p.finish(p.tensor((4,), (1,), 0, p.storage_archive("QInt8Storage"))),
        "describes a sto",
    ),
    "tensor larger than its storage": (p.finish(p.tensor((5,), (1,))), "5 elements up to 4 over a storage of 4"),
    "tensor of 5 elements by stride 0": (p.finish(p.tensor((5,), (0,))), "inert"),
    "tensor that strides out of its storage": (p.finish(p.tensor((2,), (4,))), "up to 4 over"),
    "tensor that begins behind its storage": (p.finish(p.tensor((1,), (1,), 4)), "up to 4 over"),
    "tensor of negative offset": (p.finish(p.tensor((1,), (1,), -1)), "whole numbers from 0"),
    "tensor of negative stride": (p.finish(p.tensor((2,), (-1,), 3)), "whole numbers from 0"),
    "tensor of negative size": (p.finish(p.tensor((-2, -2), (1, 1))), "whole numbers from 0"),
    "tensor of 10^12 elements by stride 0": (p.finish(p.tensor((10**6, 10**6), (0, 0))), "times its own size"),
    "tensor of overflowing size": (p.finish(p.tensor((2**32, 2**32), (0, 0))), "times its own size"),
    "tensor with a bit to conjugate": (
        p.finish(p.tensor((4,), (1,))[:-2] + b"}" + p.text("conj") + b"\x88stR"),
        "conjugated or negated",
    ),
    "tensor whose bits are an array": (
        p.finish(p.tensor((4,), (1,))[:-2] + NEW_ARRAY + b"tR"),
        "conjugated or negated",
    ),
    "empty tensor of absurd size": (p.finish(p.tensor((2**61, 0, 2**61), (1, 1, 1))), "absurd size"),
    "tensor of 200 dimensions": (p.finish(p.tensor((1,) * 200, (1,) * 200)), "whole numbers from 0"),
    "tensor whose size is text": (
        p.finish(p.call("torch._utils", "_rebuild_tensor_v2", b"NK\x00" + p.text("a") + p.text("b"))),
        "not a storage",
    ),
    "truth values that are not": (p.stored((4,), kind="BoolStorage", data=b"\x00\x01\x02\x03"), "neither 0 nor 1"),
    "many tensors of one storage": (p.same_storage(200), "times its own size"),
    "many copies of one text": (p.calls_again(200), "times its own size"),
    "many copies of one list": (lambda: p.copies(b"](" + b"N" * 700_000 + b"e", p.RECORDS, 300), "times its own size"),
    "many copies of one dict": (lambda: p.copies(p.numbered(200_000), p.RECORDS, 100), "times its own size"),
    "many copies of one tuple": (
        lambda: p.copies(b"(" + p.name("torch", "X") + b"N" * 700_000 + b"t", p.name("copyreg", "__newobj__"), 300),
        "times its own size",
    ),
    "one long tuple for many calls": (
        lambda: p.copies(
            b"(" + p.name("torch", "X") + b"N" * 700_000 + b"t", p.name("numpy.core.multiarray", "_reconstruct"), 20_000
        ),
        "times its own size",
    ),
    "many names of a long module": (
        lambda: p.repeated_name("torch." + "x" * (1 << 20), "y", 900),
        "a global of more than 200 letters",
    ),
    "many names of a module": (lambda: p.repeated_name("torch." + "x" * 190, "y" * 200, 250_000), "times its own size"),
    "a PNG": (PNG, "begins with"),
    "an empty file": (b"", "got an empty one"),
    "a text": (b"hello world\n", "begins with b'hell'"),
    "a web page": (b"<!DOCTYPE html>", "begins with"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "begins with"),
    "a text in brackets": (b"(hello)\n", "makes no sense|refers to value 101"),
    "a zip that torch did not write": (p.zipped({"a.txt": b"a"}), "a zip file that torch did not write"),
    "a zip of two archives": (p.zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "torch did not write"),
    "a zip that is torn": (p.zipped(p.torch_zip())[:200], "a zip file that is torn"),
    "a zip with a false checksum": (
        p.zipped(p.torch_zip()).replace(bytes(16), bytes(15) + b"x", 1),
        "torn at a/data/0",
    ),
    "a zip that lacks a storage": (p.zipped({"a/data.pkl": p.zip_tree()}), "lacks a/data/0"),
    "a zip bomb": (p.zipped(p.torch_zip(data_0=bytes(100 << 20)), zipfile.ZIP_DEFLATED), "a compressed part"),
    "a zip that declares 4 GB": (p.declared_zip(2**32 - 2), "declares 4294967294 bytes"),
    "a zip of overlapping parts": (lambda: p.overlapping_zip(60), "times its own size|torn at"),
    "a zip that is encrypted": (p.encrypted_zip(), "torn at"),
    "a zip from a big-endian machine": (p.zipped(p.torch_zip(byteorder=b"big")), "big-endian"),
    "os.system in a zip": (p.zipped(p.torch_zip(data_pkl=p.finish(p.call("os", "system", TOUCH)))), "os.system"),
    "a storage of a path outside": (
        p.zipped(p.torch_zip(data_pkl=p.zip_tree().replace(p.text("0"), p.text("../../../etc/passwd")))),
        "lacks",
    ),
    "a storage with another length, zipped": (p.zipped(p.torch_zip(data_0=bytes(12))), "3 values in a storage"),
    "lists that double": (p.finish(p.doubled(b"]", b"](##e")), "inert"),
    "tuples that double": (p.finish(p.doubled(b")", b"##\x86")), "inert"),
    "dicts that double": (p.finish(p.doubled(b"}", b"}(K\x00#K\x01#u")), "inert"),
    "tuples that double, as a key": (
        p.finish(b"}" + p.doubled(b")", b"##\x86") + b"Ns"),
        "dictionary key of type tuple",
    ),
    "tuples that double, in a set": (p.finish(b"\x8f(" + p.doubled(b")", b"##\x86") + b"\x90"), "key of type tuple"),
    "tuples that double, in a frozenset": (p.finish(b"(" + p.doubled(b")", b"##\x86") + b"\x91"), "key of type tuple"),
    "tuples that double, in set()": (
        p.finish(p.call("builtins", "set", b"(" + p.doubled(b")", b"##\x86") + b"l")),
        "key of type tuple",
    ),
    "whole numbers that collide as keys": (p.finish(b"}" + p.integer((1 << 61) - 1 << 61) + b"Ns"), "key of type int"),
    "modules that double": (lambda: p.nested_modules(40, "a", "b"), "inert"),
    "modules too deep": (lambda: p.nested_modules(200, "a"), "inert"),
    "settings that double": (p.with_setting(p.doubled(b"]", b"](##e")), "inert"),
    "settings too deep": (p.with_setting(b"]" * 66 + b"a" * 65), "inert"),
    "one long setting, many times": (lambda: p.repeated_setting(p.text("x" * (1 << 20)), 9_000), "inert"),
    "one long name of a setting, many times": (
        lambda: p.repeated_setting(b"}" + p.raw(bytes(1 << 20)) + b"Ns", 3_000),
        "inert",
    ),
    "one setting of 10^12 empty rows": (lambda: p.repeated_setting(p.EMPTY_ROWS, 1), "inert"),
    "one module without tensors, many times": (lambda: p.shared_module(20_000, 2_000), "inert"),
    "100,000 nested lists": (p.finish(b"]" * 100_000 + b"a" * 99_999), "inert"),
    "100,000 nested tuples": (p.finish(b")" + b"\x85" * 100_000), "inert"),
    "100,000 nested records": (p.finish(LOOKS_LIKE * 100_000 + b"b" * 99_999), "inert"),
    "100,000 open marks": (b"\x80\x04" + b"(" * 100_000 + b".", "makes no sense"),
    "two million opcodes": (b"\x80\x04" + b"N0" * 1_000_000 + b"N.", "more than 1500000 pickle opcodes"),
    "sets without end": (b"\x80\x04(" + b"\x8f" * 1_400_000 + b"l.", "times its own size"),
    "records without end": (b"\x80\x04" + p.name("torch", "X") + b"\x94(" + b"h\x00)\x81" * 400_000 + b"l.", "inert"),
    "a memo index of 2^31": (p.finish(b"Nr" + struct.pack("<I", 2**31)), "numbers a value 2147483648"),
    "a negative memo index": (b"(lp-1\n.", "numbers a value -1"),
    "a memo value that is not there": (p.finish(b"h\x07"), "refers to value 7"),
    "BINUNICODE8 of 2^62 bytes": (p.finish(b"\x8d" + struct.pack("<Q", 2**62)), "of 4611686018427387904 bytes"),
    "BINUNICODE8 of 2^64 - 1 bytes": (p.finish(b"\x8d" + struct.pack("<Q", 2**64 - 1)), "makes no sense"),
    "BINBYTES8 of 2^35 bytes": (p.finish(b"\x8e" + struct.pack("<Q", 2**35)), "of 34359738368 bytes"),
    "BYTEARRAY8 of 2^35 bytes": (p.finish(b"\x96" + struct.pack("<Q", 2**35), 5), "of 34359738368 bytes"),
    "BINBYTES of 2^32 - 1 bytes": (p.finish(b"B" + struct.pack("<I", 2**32 - 1)), "of 4294967295 bytes"),
    "BINSTRING of -1 bytes": (p.finish(b"T" + struct.pack("<i", -1)), "makes no sense"),
    "LONG4 of 2^31 - 1 bytes": (p.finish(b"\x8b" + struct.pack("<i", 2**31 - 1)), "of 2147483647 bytes"),
    "a whole number of 80,000 bits": (p.finish(b"\x8b" + struct.pack("<i", 10000) + b"\x7f" * 10000), "79999 bits"),
    "a whole number of 10,000 digits": (b"(I" + b"9" * 10_000 + b"\n.", "makes no sense"),
    "a frame of 2^63 - 1 bytes": (p.finish(b"\x95" + struct.pack("<Q", 2**63 - 1)), "a frame of"),
    "text that is not UTF-8": (p.finish(b"X\x02\x00\x00\x00\xff\xfe"), "makes no sense"),
    "EXT1": (p.finish(b"\x82\x01"), "the pickle opcode EXT1"),
    "EXT2": (p.finish(b"\x83\x01\x00"), "the pickle opcode EXT2"),
    "EXT4": (p.finish(b"\x84\x01\x00\x00\x00"), "the pickle opcode EXT4"),
    "PERSID": (p.finish(b"Pos.system\n"), "the pickle opcode PERSID"),
    "BINPERSID outside of an archive": (p.finish(p.text("x") + b"Q"), "refers to values outside"),
    "NEXT_BUFFER": (p.finish(b"\x97", 5), "the pickle opcode NEXT_BUFFER"),
    "a byte that is no opcode": (p.finish(b"\xfe"), "the byte 0xfe"),
    "protocol 9": (b"\x80\x09N.", "pickle protocol 9"),
    "an empty stack": (p.finish(b""), "makes no sense"),
    "a dict of three": (p.finish(b"(NNNd"), "makes no sense"),
    "an append to a number": (p.finish(b"K\x01Na"), "appends to a int"),
    "an append to a bytearray": (p.finish(b"\x96" + bytes(8) + b"(K\x01e", 5), "appends to a bytearray"),
    "an append to a tensor": (p.finish(p.tensor((4,), (1,)) + b"Na"), "appends to a Tensor"),
    "an entry of a list": (p.finish(b"]K\x00Ns"), "sets an entry of a list"),
    "numpy array of objects": (
        p.finish(NEW_ARRAY + b"(K\x01K\x01\x85" + OBJECT_DTYPE + b"\x89]" + p.call("os", "system", TOUCH) + b"atb"),
        "other than numbers",
    ),
    "numpy dtype of objects": (p.finish(OBJECT_DTYPE), "other than numbers"),
    "numpy dtype by an expression": (p.finish(p.call("numpy", "dtype", p.text("f8,O8"))), "other than numbers"),
    "numpy dtype with fields": (
        p.finish(FLOAT_DTYPE + b"(K\x03" + p.text("<") + b"N" + p.text("a") + b"\x85}tb"),
        "other than numbers",
    ),
    "numpy array larger than its bytes": (
        p.finish(NEW_ARRAY + b"(K\x01" + p.numbers((10**6, 10**6)) + ARRAY_END),
        "does not hold its 1 values",
    ),
    "numpy array of negative shape": (
        p.finish(NEW_ARRAY + b"(K\x01" + p.numbers((-1, -1)) + ARRAY_END),
        "does not hold its 1 values",
    ),
    "numpy number of objects": (p.finish(p.call("numpy.core.multiarray", "scalar", OBJECT_DTYPE, TOUCH)), "other than"),
    "numpy number of two values": (
        p.finish(p.call("numpy.core.multiarray", "scalar", FLOAT_DTYPE, p.raw(bytes(16)))),
        "not one number",
    ),
    "numpy number with the wrong bytes": (
        p.finish(p.call("numpy.core.multiarray", "scalar", FLOAT_DTYPE, p.raw(bytes(12)))),
        "makes no sense",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_files(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch, record_row: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = CASES[case]
    path = tmp_path / "x.pkl"
    path.write_bytes(content if isinstance(content, bytes) else content())
    modules, watch.events, watch.opened = set(sys.modules), [], []
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    watch.on = True
    try:
        message = answer(path)
    finally:
        watch.on = False
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    traces = [f"file {left.name}" for left in tmp_path.iterdir() if left != path]
    traces += [f"module {name}" for name in set(sys.modules) - modules] + watch.events
    traces += [f"opened {name} {mode}" for name, mode in watch.opened if name != str(path) or mode not in ("r", "rb")]
    record_row("hostile pickles", (case, message[:140], ", ".join(traces) or "none"))
    assert not traces
    if words == "inert":
        assert message == "read as inert records"
    else:
        assert message.startswith("x.pkl: ")
        assert "\n" not in message
        assert re.search(words, message)
    assert seconds < MAX_SECONDS, f"{seconds:.1f} s, {grown >> 20} MiB"
    assert grown < MAX_BYTES, f"{seconds:.1f} s, {grown >> 20} MiB"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("modules that double", "expected at most 20000 entries"),
        ("one module without tensors, many times", "expected at most 20000 entries"),
        ("modules too deep", "modules 64 deep at most"),
        ("settings that double", "at most 100000 letters of settings"),
        ("settings too deep", "settings 64 deep at most, got more"),
        ("one long setting, many times", "at most 100000 letters of settings"),
        ("one long name of a setting, many times", "at most 100000 letters of settings"),
        ("lists that double", "expected a dictionary"),
        ("100,000 nested records", "expected a dictionary"),
    ],
)
def test_walks_end(tmp_path: Path, case: str, words: str) -> None:
    content = CASES[case][0]
    (tmp_path / "x.pkl").write_bytes(content if isinstance(content, bytes) else content())
    with pytest.raises(InputError, match=words):
        p.read_networks(tmp_path / "x.pkl")


def test_a_call_is_stored_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(CASES["torch.hub.load"][0])  # type: ignore[arg-type]
    value = read_pickle(tmp_path / "x.pkl")
    assert type(value) is Record
    assert (value.kind, value.args) == ("torch.hub.load", ("evil/repo",))


def test_the_payloads_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ordinary reader falls for them, so that their silence here means something."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(CASES["builtins.exec"][0])  # type: ignore[arg-type]
    assert (tmp_path / "marker").exists()


# --- torn and altered files ---


def good_files() -> dict[str, bytes]:
    """One small file of each format."""
    torch.manual_seed(0)
    files = {f"snapshot{n}.pkl": p.dump({"G": p.network()}, n) for n in (2, 4)}
    state = torch.nn.Linear(2, 3).state_dict()
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        files[f"zipped{zipped}.pth"] = file.getvalue()
    small = {key: value for key, value in p.flame().items() if key in ("kintree_table", "bs_style", "J_regressor")}
    files["flame.pkl"] = p.dump(small, 2, p.Python2Pickler)
    return files


GOOD = good_files()


@pytest.mark.parametrize("name", GOOD)
def test_a_torn_file_is_refused(tmp_path: Path, name: str) -> None:
    data, path = GOOD[name], tmp_path / "x.pkl"
    for end in {*range(0, len(data), max(1, len(data) // 150)), len(data) - 1}:
        path.write_bytes(data[:end])
        assert answer(path).startswith("x.pkl: expected a weights file, "), end


@pytest.mark.parametrize("name", GOOD)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_altered_file_is_read_or_refused(tmp_path: Path, watch: Watch, name: str, data: st.DataObject) -> None:
    altered = bytearray(GOOD[name])
    for place in data.draw(st.lists(st.integers(0, len(altered) - 1), min_size=1, max_size=4)):
        altered[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pkl"
    path.write_bytes(altered)
    watch.events, watch.on = [], True
    try:
        message = answer(path)
    finally:
        watch.on = False
    assert "\n" not in message
    assert not watch.events
