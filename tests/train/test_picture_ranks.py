"""`prepare pictures` by several ranks at once, with stills that no network looks at: none loses what is done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.train.written_pictures import S, stored
from triportrait.train.data import parallel
from triportrait.train.data.picture_store import preparing
from triportrait.train.data.picture_store.preparing import Prepared, prepare_pictures
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.taking import Wanted
from triportrait.train.data.picture_store.writing import PictureWriter


@pytest.fixture()
def rank(tmp_path, monkeypatch) -> Callable[[int], Prepared]:
    """Runs one of two ranks on four pictures, of which each takes two."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(stored(number).image)
    monkeypatch.setattr(preparing, "why_unusable", lambda: None)
    monkeypatch.setattr(preparing, "take", lambda batch: [stored(batch.first + k) for k in range(len(batch.paths))])
    return lambda number: prepare_pictures(tmp_path / "in", tmp_path / "out", Wanted(size=S), 2, 1, number, 2)


def once(monkeypatch: pytest.MonkeyPatch, place: object, name: str, first: Callable[[], object]) -> None:
    """Lets something happen before the first call of a function, as another process would."""
    call, happened = getattr(place, name), []

    def after(*words: object) -> object:
        if not happened:
            happened.append(1)
            first()
        return call(*words)

    monkeypatch.setattr(place, name, after)


def test_a_rank_finds_the_store_finished_when_it_writes_what_was_dropped(rank, tmp_path, monkeypatch):
    assert not rank(1).finished
    once(monkeypatch, preparing, "_write_dropped", lambda: rank(1))
    found = rank(0)
    assert (found.finished, found.kept) == (True, 4) and len(PictureStore(tmp_path / "out", contents=True)) == 4
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["__init__", "is_done"])
def test_a_rank_that_comes_late_makes_nothing_again(name, rank, tmp_path, monkeypatch):
    for number in (1, 0):
        with monkeypatch.context() as stopped:  # just before the end
            stopped.setattr(PictureWriter, "are_done", lambda *_: False)
            rank(number)
    monkeypatch.setattr(preparing, "take", lambda batch: pytest.fail("all is done"))
    once(monkeypatch, PictureWriter, name, lambda: rank(1))
    found = rank(0)
    assert (found.finished, found.kept) == (True, 4)
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_results_do_not_pile_up(tmp_path, monkeypatch):
    """However slow the disk is, few batches wait for it."""
    asked, most = [], []

    class Pool(ThreadPoolExecutor):
        def submit(self, *words: Any) -> Any:
            asked.append(words)
            return super().submit(*words)

    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr(preparing, "why_unusable", lambda: None)
    monkeypatch.setattr(preparing, "take", lambda batch: [stored(batch.first)])
    monkeypatch.setattr(preparing, "AT_A_TIME", 1)
    monkeypatch.setattr(preparing, "AHEAD", 3)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", lambda *_: Pool(2))
    prepare_pictures(
        tmp_path / "in", tmp_path / "out", Wanted(size=S), 4, 2, progress=lambda n, _: most.append(len(asked) - n + 1)
    )
    assert len(asked) == 12 and 4 <= max(most) <= 5, "three, the one that was waited for, and one in its place"
