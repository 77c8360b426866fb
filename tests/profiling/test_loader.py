"""How fast data are read: counted by a clock of the test's own, and said to hold for this machine."""

from __future__ import annotations

import json

import pytest

from tests.train import little
from tests.train.written_clips import store
from triportrait import cli
from triportrait.profiling.step import loader
from triportrait.train.data.multiview import write_multiview


@pytest.fixture(scope="module")
def multiview(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    write_multiview(folder, little.CAST.seed, 1, 2, 2, 64, 1)
    return folder


def test_frames_a_second_are_frames_over_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loader.time, "perf_counter", lambda: now[0])

    def work() -> int:
        now[0] += 0.5
        return 8

    assert loader._rate(work, 3.0) == pytest.approx(16)
    row = loader._row("way", 512, 23.0)
    assert row["of_wanted"] == pytest.approx(0.5), "23 images of two frames are 46"
    assert loader.table([row]).splitlines()[2] == "| way | 512 | 23.0 | 0.50 | 2 |"


def test_a_set_and_a_store_are_read_and_the_machine_is_said(multiview, tmp_path, capsys):
    store(tmp_path / "store")
    into = tmp_path / "data.json"
    assert cli.main(["profile", "data", str(multiview), "--seconds", "0.05"]) == 0
    printed = capsys.readouterr().out
    assert "| multi-view set, in memory | 64 | " in printed
    assert "machine: " in printed
    assert "commit: " in printed
    assert "command: triportrait profile data set" in printed
    assert "The figures hold for this machine alone." in printed
    assert cli.main(["profile", "data", str(tmp_path / "store"), "--seconds", "0.05", "--json", str(into)]) == 0
    rows = json.loads(into.read_text())["data"]
    assert rows[0]["way"] == "clip store, PyAV"
    assert all(row["frames_per_s"] > 0 for row in rows)


def test_dali_is_measured_where_it_is(tmp_path):
    pytest.importorskip("nvidia.dali")
    store(tmp_path / "store")
    ways = [row["way"] for row in loader.measure(tmp_path / "store", 0.05)]
    assert ways == ["clip store, PyAV", "clip store, DALI on the CPU"]


def test_what_is_no_data_is_refused(multiview, tmp_path, capsys):
    for folder in (tmp_path / "nothing", tmp_path):
        assert cli.main(["profile", "data", str(folder)]) == 2
        assert "expected a multi-view set or a clip store, it has no index.json" in capsys.readouterr().err
    assert cli.main(["profile", "data", str(multiview), "--seconds", "0"]) == 2
    assert "seconds: expected more than 0, got 0" in capsys.readouterr().err
    clips = store(tmp_path / "store")
    path = clips.path(0)
    path.write_bytes(b"x" * path.stat().st_size)
    clips.path(1).write_bytes(b"x" * clips.path(1).stat().st_size)
    assert cli.main(["profile", "data", str(tmp_path / "store")]) == 2
    assert "does not decode; make the store again" in capsys.readouterr().err
