"""A library of training that is found and does not load or run: another takes its place, or one sentence says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store import frames
from triportrait.train.data.clip_store.records import open_lmdb
from triportrait.train.engines import deepspeed_private
from triportrait.train.objectives.lpips_distance import Lpips
from triportrait.train.runs import run_log

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def broken(monkeypatch):
    """Let the import of a package end with an error, although the package is found."""

    def break_(package: str, error: Exception) -> None:
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name.startswith(package):
                    raise error

        for name in [name for name in sys.modules if name.startswith(package)]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        frames.dali_fault.cache_clear()

    yield break_
    frames.dali_fault.cache_clear()


def test_auto_decodes_by_pyav_where_dali_does_not_load(broken, caplog):
    broken("nvidia", OSError("libcuda.so.1: cannot open shared object file"))
    assert frames.resolve_decoder("auto", CUDA) == "av"
    (warning,) = caplog.messages
    assert warning.startswith("DALI is installed but does not load (libcuda")
    assert "; PyAV decodes" in warning
    assert frames.resolve_decoder("auto", CPU) == "av"
    assert frames.resolve_decoder("dali", CUDA) == "dali"
    with pytest.raises(InputError, match=r"^dali: it is installed but does not load .*, or say --decoder av"):
        frames.DaliDecoder(CPU)


@pytest.mark.parametrize("says", ["nvcuvid is missing", "decodes other frames"])
def test_auto_decodes_by_pyav_where_dali_does_not_decode(says, monkeypatch, caplog):
    """A default container has no libnvcuvid: the pipeline is built, and fails at its first clip."""

    class Decoder:
        def __init__(self, *_):
            pass

        def __call__(self, requests):
            if says == "decodes other frames":
                return [torch.zeros(2, 256, 256, 3, dtype=torch.uint8)]
            raise RuntimeError(says)

    monkeypatch.setattr(frames, "fault", lambda name: None)
    monkeypatch.setattr(frames, "DaliDecoder", Decoder)
    frames.dali_fault.cache_clear()
    assert frames.resolve_decoder("auto", CUDA) == "av"
    assert says in caplog.text
    monkeypatch.setattr(frames, "DaliDecoder", lambda *_: frames.AvDecoder())
    frames.dali_fault.cache_clear()
    assert frames.resolve_decoder("auto", CUDA) == "dali"
    frames.dali_fault.cache_clear()


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::nms does not exist"), OSError("lib.so")])
def test_what_was_asked_for_is_one_sentence(error, broken, tmp_path):
    broken("lpips", error)
    with pytest.raises(InputError, match=r"^lpips: it is installed but does not load .*'\.\[train\]', or choose"):
        Lpips(None)
    broken("lmdb", error)
    with pytest.raises(InputError, match=r"^lmdb: it is installed but does not load"):
        open_lmdb(tmp_path)
    broken("deepspeed", error)
    with pytest.raises(InputError, match=r"^deepspeed: .* it is installed but does not load"):
        deepspeed_private.load_deepspeed()


def test_a_board_that_does_not_load_is_none(monkeypatch):
    """With another protobuf than it was made for it ends with TypeError."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "torch.utils.tensorboard":
                raise TypeError("Descriptors cannot be created directly.")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    assert run_log._open_board(Path("nowhere"), 0) is None


def test_another_deepspeed_is_refused_as_its_private_members_may_be_others():
    deepspeed_private.check_version(f"{deepspeed_private.VERSION}+cpu")
    with pytest.raises(InputError, match=r"^deepspeed: expected version .*, got 0\.20\.1; "):
        deepspeed_private.check_version("0.20.1")
