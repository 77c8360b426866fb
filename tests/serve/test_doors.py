"""Whatever takes the place of a file: a pipe, a socket, a device, a link to one. Each door refuses it at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.faces import landmarks, parameters, picture
from triportrait import cli
from triportrait.core.checksum import sha256
from triportrait.core.metrics.lpips_network import trunk_tensors
from triportrait.core.published.convert import convert
from triportrait.core.published.unpickle import read_pickle
from triportrait.core.weights import DEMO_FOLDER
from triportrait.serve.media.provenance.certificate import find_identity
from triportrait.serve.media.provenance.manifest import read_manifest
from triportrait.train.data.arrays import read_arrays
from triportrait.train.data.clip_store.frames import decode
from triportrait.train.data.clip_store.records import open_lmdb
from triportrait.train.data.clip_store.store import ClipStore, ClipWriter, is_clip_store
from triportrait.train.data.folders import open_folder
from triportrait.train.runs.checkpoints import ema_weights
from triportrait.train.runs.claim import claim
from triportrait.train.runs.diverged import read_micro
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import check_config
from triportrait.train.runs.weights import read_tensor_file

SECONDS = 60  # a door that waits is ended, and fails
KINDS = ("pipe", "link to a pipe", "device", "socket", "folder")


class Waited(BaseException):
    """Nothing catches it by its kind."""


@pytest.fixture(autouse=True)
def never_waits():
    def stop(*_: object) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=KINDS)
def put(request, tmp_path, monkeypatch):
    """Puts what is no file at a path."""

    def call(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "socket":
            with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as server:
                patch.chdir(path.parent)  # names of sockets are short
                server.bind(path.name)
        elif request.param == "folder":
            path.mkdir()
        else:
            real = path if request.param == "pipe" else path.with_name("real pipe")
            os.mkfifo(real)
            if real != path:
                path.symlink_to(real)
        return path

    return call


def run(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 2


@pytest.fixture
def portrait(tmp_path) -> Path:
    Image.fromarray(picture(0)).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


def reenacted(source: object, driving: object, out: Path, *more: object) -> None:
    run("reenact", source, driving, out / "out.png", "--weights", "demo", "--faces", "none", "--frames", 1, *more)


def with_weights(put, out, portrait, name):
    shutil.copytree(DEMO_FOLDER, out / "w", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    put(out / "w" / name)
    reenacted(portrait, portrait, out, "--weights", out / "w")


def with_landmarks(put, out, portrait, folder, values):
    Image.fromarray(picture(1)).save(out / "align_images.png")
    (out / "known" / folder).mkdir(parents=True)
    np.save(out / "known" / folder / "other.npy", values)
    put(out / "known" / folder / "portrait.npy")
    reenacted(portrait, portrait, out, "--source-params", out / "known")


def beside_a_clip(put, out, portrait):
    """Numbers beside a film: what is no file is no archive of a head's clip either."""
    put(out / "x.npz")
    shutil.copy(Path(__file__).parents[1] / "data" / "files" / "small4k.mp4", out / "x.mp4")
    assert cli.main(["verify", str(out / "x.mp4")]) == 1


DOORS = {
    "source": lambda put, out, portrait: reenacted(put(out / "x.png"), portrait, out),
    "source, a film": lambda put, out, portrait: reenacted(put(out / "x.mp4"), portrait, out),
    "source without an ending": lambda put, out, portrait: reenacted(put(out / "x"), portrait, out),
    "driving": lambda put, out, portrait: reenacted(portrait, put(out / "x.mp4"), out),
    "driving, a picture": lambda put, out, portrait: reenacted(portrait, put(out / "x.jpg"), out),
    "driving, a folder": lambda put, out, portrait: reenacted(portrait, put(out / "films" / "x.png").parent, out),
    "numbers beside a film": beside_a_clip,
    "landmarks": lambda put, out, portrait: with_landmarks(put, out, portrait, "landmarks", landmarks()),
    "parameters": lambda put, out, portrait: with_landmarks(put, out, portrait, "flame_optim_params", parameters()),
    "weights": lambda put, out, portrait: with_weights(put, out, portrait, "portrait.safetensors"),
    "their card": lambda put, out, portrait: with_weights(put, out, portrait, "motion.json"),
    "their neck": lambda put, out, portrait: with_weights(put, out, portrait, "neck.safetensors"),
    "beside the weights": lambda put, out, portrait: with_weights(put, out, portrait, "flame.safetensors"),
    "certificate": lambda put, out, portrait: reenacted(portrait, portrait, out, "--certificate", put(out / "c.pem")),
    "verify": lambda put, out, portrait: run("verify", put(out / "x.mp4")),
    "verify a picture": lambda put, out, portrait: run("verify", put(out / "x.png")),
    "convert": lambda put, out, portrait: run("convert", put(out / "x.pkl"), out / "w"),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_the_command_refuses_it_in_one_sentence(door, put, tmp_path, portrait, capsys):
    (tmp_path / "out").mkdir()
    door(put, tmp_path / "out", portrait)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("source: ", "warning: "))]
    assert len(said) <= 1
    assert not (tmp_path / "out" / "out.png").exists()


def folder_of(put, path):
    return put(path).parent


READERS = {
    "checksum": lambda put, at: sha256(put(at / "x")),
    "certificate": lambda put, at: find_identity(put(at / "x.pem")),
    "key": lambda put, at: find_identity(shutil.copy(__file__, at / "c.pem"), put(at / "k.pem")),
    "manifest": lambda put, at: read_manifest(put(at / "x.png")),
    "published file": lambda put, at: convert(put(at / "x.pkl"), at / "w"),
    "pickle": lambda put, at: read_pickle(put(at / "x.pkl")),
    "tensors": lambda put, at: read_tensor_file(put(at / "x.safetensors")),
    "arrays": lambda put, at: read_arrays(put(at / "x.npz")),
    "clip": lambda put, at: decode(put(at / "x.mp4"), [0]),
    "LMDB": lambda put, at: open_lmdb(folder_of(put, at / "data.mdb")),
    "LMDB of one file": lambda put, at: open_lmdb(put(at / "x.mdb")),
    "set": lambda put, at: open_folder(folder_of(put, at / "index.json"), "x"),
    "clip store": lambda put, at: ClipStore(folder_of(put, at / "index.json")),
    "clip store that was begun": lambda put, at: ClipWriter(folder_of(put, at / ".progress.jsonl"), {}),
    "perceptual weights": lambda put, at: trunk_tensors(put(at / "x.safetensors")),
    "other perceptual weights": lambda put, at: trunk_tensors(put(at / "x.pth")),
    "checkpoint": lambda put, at: ema_weights(folder_of(put, at / "checkpoint.json"), "generator"),
    "lock of a run": lambda put, at: claim(folder_of(put, at / ".lock")),
    "kept batch": lambda put, at: read_micro(put(at / "x.safetensors"), {}, None),
    "config of a run": lambda put, at: check_config(folder_of(put, at / "config.json"), {}),
    "export": lambda put, at: export(folder_of(put, at / "config.json"), at / "w"),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_each_reader_refuses_it(reader, put, tmp_path):
    (tmp_path / "at").mkdir()
    with pytest.raises((ValueError, OSError)):  # an InputError is a ValueError
        reader(put, tmp_path / "at")


def test_a_kind_is_asked_without_waiting(put, tmp_path):
    assert is_clip_store(folder_of(put, tmp_path / "at" / "index.json")) is False


def test_a_file_behind_the_standard_input_is_a_file(portrait, tmp_path, monkeypatch):
    assert sha256(Path(f"/proc/self/fd/{os.open(portrait, os.O_RDONLY)}")) == sha256(portrait)
