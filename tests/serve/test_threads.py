"""What is left on the CPU beside a GPU takes one thread; a network on the CPU leaves one to the faces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from triportrait import cli
from triportrait.serve import pipeline
from triportrait.serve.jobs import live
from triportrait.serve.threads import share_cores


@pytest.fixture(autouse=True)
def five_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


class Reached(Exception):
    """All before the networks was done."""


def stops(*_, **__):
    raise Reached(torch.get_num_threads())


@pytest.mark.parametrize("omp", [None, "5"])
def test_beside_a_gpu_torch_has_one_thread(omp, monkeypatch, portrait_file, tmp_path):
    if omp is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (live, pipeline):
        monkeypatch.setattr(module, "Reenactor", stops)
    with pytest.raises(Reached, match=r"^1$"):
        live.Live()._load_and_measure()
    torch.set_num_threads(5)
    picture = str(portrait_file)
    with pytest.raises(Reached, match=r"^1$"):
        cli.main(["reenact", picture, picture, str(tmp_path / "out.png"), "--faces", "none"])


def test_a_network_on_the_cpu_keeps_its_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_cores(torch.device("cpu"))
    assert torch.get_num_threads() == 5
    share_cores(torch.device("cpu"), others=1)
    assert torch.get_num_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    share_cores(torch.device("cpu"), others=1)
    assert torch.get_num_threads() == 4
