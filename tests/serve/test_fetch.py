"""`triportrait fetch faces`: out of a wheel that pip downloads or that is given, whole into the cache or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.face_wheels import FILES, know, make_wheel, put_pip
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.faces import model_files, models
from triportrait.core.faces.models import MODELS, WHEEL, load_model, models_folder, models_state, why_unusable
from triportrait.core.faces.store import read_origin
from triportrait.serve import wheel_download
from triportrait.serve.jobs import doctor

COPY = "dest.mkdir(); shutil.copy({wheel!r}, dest / name)"
BRING = f"bring {WHEEL.name} here and run `triportrait fetch faces --from {WHEEL.name}`"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The one wheel that is known, in a folder of its own; the cache is empty."""
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "home" / "cache"))
    (tmp_path / "index").mkdir()
    path = make_wheel(tmp_path / "index" / WHEEL.name)
    know(monkeypatch, path)
    return path


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


@pytest.fixture
def handlers() -> Iterator[None]:
    """A stopped command is about to end and ignores further signals: here the process goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fetched(*options: str | Path) -> int:
    return cli.main(["fetch", "faces", *map(str, options)])


def refused(capsys, *options: str | Path) -> str:
    """Fetch what is to be refused with one sentence; nothing is left in the cache, nor is the cache."""
    before = sorted(models_folder().parents[1].glob("**/*"))
    assert fetched(*options) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "pip downloads" not in line]
    assert len(said) == 1, said
    assert said[0].startswith("triportrait: ")
    assert len(said[0]) < 1000, "what to do was cut off"
    assert sorted(models_folder().parents[1].glob("**/*")) == before
    return said[0]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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


def spoil_cache(case: str) -> None:
    mesh, index = models_folder() / MODELS["mesh"].kept, models_folder() / "index.json"
    entries = json.loads(index.read_text())
    if case == "cut":
        mesh.write_bytes(mesh.read_bytes()[:-5])
    elif case == "a bit":
        mesh.write_bytes(mesh.read_bytes()[:-5] + b"\0" + mesh.read_bytes()[-4:])
    elif case == "a network is gone":
        mesh.unlink()
    elif case == "a network is a folder":
        mesh.unlink()
        mesh.mkdir()
    elif case == "a pipe":
        mesh.unlink()
        os.mkfifo(mesh)
    elif case == "no index":
        index.unlink()
    elif case == "empty folder":
        for path in models_folder().iterdir():
            path.unlink()
    elif case == "the index is no JSON":
        index.write_text("{")
    elif case == "the index is a list":
        index.write_text("[]")
    elif case == "the index lacks one":
        del entries[mesh.name]
        index.write_text(json.dumps(entries))
    elif case == "made of another file":
        entries[mesh.name]["made_from"] = "0" * 64
        index.write_text(json.dumps(entries))
    elif case == "another format":  # as an older version of triportrait may have written it
        mesh.write_bytes(mesh.read_bytes().replace(b'"format":"1"', b'"format":"0"'))
        entries[mesh.name] = models.index_entry(MODELS["mesh"], mesh)
        index.write_text(json.dumps(entries))


DAMAGES = {
    "cut": "face_landmark_with_attention.safetensors is not what was written",
    "a bit": "face_landmark_with_attention.safetensors is not what was written",
    "a network is gone": "face_landmark_with_attention.safetensors: no such file or directory",
    "a network is a folder": "face_landmark_with_attention.safetensors",
    "a pipe": "face_landmark_with_attention.safetensors",
    "no index": "index.json: no such file or directory",
    "empty folder": "index.json: no such file or directory",
    "the index is no JSON": "",
    "the index is a list": "index.json is no index",
    "the index lacks one": "index.json lacks face_landmark_with_attention.safetensors",
    "made of another file": "was made of another file than this version of triportrait wants",
    "another format": "its format is 0, 1 is wanted",
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_cache_is_said_and_mended(case, wheel, capsys, caplog):
    assert fetched("--from", wheel) == 0
    whole = {path.name: path.stat().st_size for path in models_folder().iterdir()}
    assert doctor._face_models(True).verdict == "ok"
    spoil_cache(case)
    with pytest.raises(InputError, match=r"triportrait fetch faces|fetch it again"):
        load_model("mesh")
    if case != "another format":
        assert models_state().verdict == "damaged"
        assert DAMAGES[case] in (why_unusable() or "")
        assert doctor._face_models(False).verdict == "broken"
    row = doctor._face_models(True)
    assert row.verdict == "broken"
    assert DAMAGES[case] in row.detail
    capsys.readouterr()
    assert fetched("--from", wheel) == 0
    out, err = capsys.readouterr()
    assert out.endswith(" now\n")
    assert DAMAGES[case] in err
    assert err.endswith("fetching them again\n")
    assert models_state().verdict == "whole"
    assert {path.name: path.stat().st_size for path in models_folder().iterdir()} == whole
    assert names_in(models_folder().parent) == {"face-models"}


def test_doctor_says_what_is_missing(wheel):
    row = doctor._face_models(True)
    assert (row.name, row.verdict) == ("face models", "missing")
    assert row.detail == f"none in {models_folder()}; triportrait fetch faces"


def test_files_of_somebody_else_stay(wheel, capsys):
    models_folder().mkdir(parents=True)
    (models_folder() / "holiday.jpg").touch()
    assert fetched("--from", wheel) == 2
    assert "it holds holiday.jpg; move that away, or set TRIPORTRAIT_CACHE" in capsys.readouterr().err
    assert names_in(models_folder()) == {"holiday.jpg"}


def test_a_link_is_followed(wheel, tmp_path):
    (tmp_path / "elsewhere" / "large").mkdir(parents=True)
    cache = tmp_path / "home" / "cache"
    cache.mkdir(parents=True)
    (cache / "face-models").symlink_to(tmp_path / "elsewhere" / "large")
    assert fetched("--from", wheel) == 0
    assert fetched("--from", wheel, "--overwrite") == 0
    assert (cache / "face-models").is_symlink()
    assert len(names_in(tmp_path / "elsewhere" / "large")) == 7
    assert names_in(tmp_path / "elsewhere") == {"large"}


@pytest.mark.parametrize("before", ["empty", "whole"])
@pytest.mark.parametrize("moment", ["download", "write", "rename"])
def test_interrupted_runs_leave_what_was_there(before, moment, handlers, wheel, tmp_path, monkeypatch, capsys):
    if before == "whole":
        assert fetched("--from", wheel) == 0
    home = tmp_path / "home"
    contents = {path: path.is_file() and path.read_bytes() for path in home.glob("**/*")}
    started = tmp_path / "started"
    wait = f"pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)"
    put_pip(monkeypatch, tmp_path, wait if moment == "download" else COPY.format(wheel=str(wheel)))

    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    def stop_when_started() -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_started)
    if moment == "download":
        thread.start()
    elif moment == "write":
        monkeypatch.setattr(model_files, "load_graph", stop)  # after the first network
    else:
        monkeypatch.setattr(model_files, "put_folder", stop)
    capsys.readouterr()
    assert fetched("--overwrite") == 130
    assert capsys.readouterr().err.endswith("interrupted; nothing half-written is left\n")
    assert {path: path.is_file() and path.read_bytes() for path in home.glob("**/*")} == contents
    if moment == "download":
        thread.join()
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)


def test_what_a_killed_run_left_is_taken_away(wheel):
    left = models_folder().parent / ".face-models.part" / "wheel"
    left.mkdir(parents=True)
    (left / WHEEL.name).write_bytes(bytes(1000))
    assert models_state().verdict == "missing"
    assert fetched("--from", wheel) == 0
    assert names_in(models_folder().parent) == {"face-models"}


def test_two_at_a_time(wheel, capsys):
    import fcntl

    models_folder().parent.mkdir(parents=True)
    handle = os.open(models_folder().parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert fetched("--from", wheel) == 2
        assert "another process fetches the face models; wait for it" in capsys.readouterr().err
    finally:
        os.close(handle)
    assert fetched("--from", wheel) == 0


@pytest.mark.parametrize("case", ["read-only", "full", "full meanwhile", "a file in the way"])
def test_the_disk_refuses(case, wheel, tmp_path, monkeypatch, capsys):
    if case == "read-only":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "mkdir", refuse)
    elif case == "full":
        usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    elif case == "full meanwhile":

        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(model_files, "sync", full)
    else:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "cache").touch()
    said = refused(capsys, "--from", wheel)
    assert {
        "read-only": "(read-only file system); mend its permissions, or set TRIPORTRAIT_CACHE to another folder",
        "full": "(34 MB are wanted, 1 MB are free); free some space, or set TRIPORTRAIT_CACHE to another folder",
        "full meanwhile": "(no space left on device); free some space, or set TRIPORTRAIT_CACHE to another folder",
        "a file in the way": "set TRIPORTRAIT_CACHE to another folder",
    }[case] in said


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"TRIPORTRAIT_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b/face-models"),
        ({"TRIPORTRAIT_CACHE": "~/b"}, "/home/me/b/face-models"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/triportrait/face-models"),
        ({"XDG_CACHE_HOME": "c"}, "/home/me/.cache/triportrait/face-models"),
        ({}, "/home/me/.cache/triportrait/face-models"),
    ],
)
def test_where_the_cache_is(variables, place, monkeypatch):
    for name in ("TRIPORTRAIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert models_folder() == Path(place)


def test_a_user_without_a_home(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TRIPORTRAIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match="set TRIPORTRAIT_CACHE"):
        why_unusable()
    assert doctor._face_models(False).verdict == "broken"


def test_asking_loads_no_torch():
    """`doctor` says how the models are where torch is not installed."""
    import subprocess

    code = "import sys, triportrait.core.faces.models as m; m.why_unusable(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"
