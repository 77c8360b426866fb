"""`prepare genhead`: a store that kills, ranks and processes leave as it is, and what the training reads from it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.render.face_maps import FaceMaps
from triportrait.train.data.check import check_data
from triportrait.train.data.generated.draws import DYNAMIC, GeneratedConfig, HeadTables, draw_heads
from triportrait.train.data.generated.generate import HeadMaker
from triportrait.train.data.generated.store.layout import is_head_store
from triportrait.train.data.generated.store.making import Making
from triportrait.train.data.generated.store.preparing import PreparedHeads, bytes_of_a_head, prepare_generated
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.generated.stored import StoredHeads
from triportrait.train.data.shards.writing import ShardFiles, ShardWriter
from triportrait.train.runs.weights import save_flame

COUNT, PER_SHARD = 7, 3
CONFIG = GeneratedConfig(static_share=DYNAMIC)
ROOT = Path(__file__).parents[3]


def command(weights: Path, tables: Path, out: Path, *more: str) -> list[str]:
    return [
        "prepare", "genhead", str(out), "--weights", str(weights), "--parameters", str(tables), "--count", str(COUNT),
        "--seed", "4", "--cameras", "published", "--dynamic", "--features", "--per-shard", str(PER_SHARD),
        "--workers", "1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def store(weights, tables, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("store") / "heads"
    assert cli.main(command(weights, tables, out)) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_holds_the_heads_that_are_drawn(store, generator, tables):
    found = HeadStore(store, contents=True)
    assert (len(found), found.size, found.views, found.features) == (COUNT, 64, 3, True)
    assert [shard.count for shard in found.shards] == [3, 3, 1]
    assert found.index["drawing"]["truncation"] == 0.95 and found.index["seed"] == 4
    heads = draw_heads(HeadTables(tables), generator.config, 4, 0, COUNT, CONFIG)
    made = HeadMaker(generator, CONFIG, features=True).pictures(heads, range(3))
    numbers = list(range(COUNT))
    for view in range(3):
        read, drawn = found.pictures(numbers, [view] * COUNT), made[view]
        assert (read.image - drawn.image).abs().max() <= 0.51 / 127.5, "a level of 255, rounded"
        for name in ("opacity", "depth"):
            assert torch.allclose(getattr(read, name), getattr(drawn, name), atol=2e-3), name
        for name in ("landmarks", "motion", "points"):
            assert torch.allclose(getattr(read, name), getattr(drawn, name), atol=1e-3), name
        assert torch.equal(read.camera.world_from_camera, drawn.camera.world_from_camera)
        assert torch.allclose(read.truth.points, drawn.truth.points, atol=1e-5), "in float32"
        assert torch.allclose(read.depth, drawn.depth, atol=1e-5), "in float32"
        assert found.pictures(numbers, [view] * COUNT, with_truth=False).truth is None
        for name in ("plane_feature", "background", "foreground"):
            half = getattr(drawn.truth, name).half().float()
            assert torch.allclose(getattr(read.truth, name), half, atol=2e-3, rtol=2e-3), name
    assert [bool(found.row(k)["is_static"]) for k in numbers] == heads.is_static.tolist()


def test_it_is_checked_as_other_stores_are(store, capsys):
    assert cli.main(["prepare", "check", str(store), "--deep"]) == 0
    line = "7 generated heads, 21 pictures of 64 px in 3 shards, with feature images: whole\n"
    assert capsys.readouterr().out == line
    assert check_data(store)[1].startswith("checksums, the head model, every table, the first and the last head")


def test_ranks_make_the_store_that_one_makes(store, weights, tables, tmp_path):
    making = Making(weights, tables, "cpu", 4, CONFIG, True, "png")
    for rank in (1, 0):
        done = prepare_generated(tmp_path / "ranks", making, COUNT, PER_SHARD, 1, rank, 2, save_flame)
        assert done.finished == (rank == 0)
    assert contents(tmp_path / "ranks") == contents(store)


def test_ranks_that_start_at_once_do_not_disturb_each_other(store, weights, tables, tmp_path, monkeypatch):
    """Both write the head model; the one that is late throws its own away."""
    making = Making(weights, tables, "cpu", 4, CONFIG, True, "png")
    out, calls = tmp_path / "ranks", []

    def keep(folder: Path, model: object) -> None:
        save_flame(folder, model)
        calls.append(folder)
        if len(calls) == 1:  # the other rank comes here meanwhile, and writes all of its own
            assert not prepare_generated(out, making, COUNT, PER_SHARD, 1, 1, 2, keep).finished

    assert prepare_generated(out, making, COUNT, PER_SHARD, 1, 0, 2, keep).finished
    assert len(set(calls)) == 2 and contents(out) == contents(store)


def test_a_full_disk_is_one_sentence_and_the_command_goes_on(store, weights, tables, tmp_path, capsys, monkeypatch):
    put, out = ShardFiles.put, tmp_path / "full"

    def full(files: ShardFiles, name: str, data: bytes) -> tuple[int, int]:
        if name.startswith("00000004"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(files, name, data)

    with monkeypatch.context() as disk:
        disk.setattr(ShardFiles, "put", full)
        assert cli.main(command(weights, tables, out)) == 2
    error = capsys.readouterr().err
    assert "it could not be written (no space left on device); free some space, and the same command goes on" in error
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["shard_000000.tar"]
    assert cli.main(command(weights, tables, out)) == 0 and contents(out) == contents(store)


def test_other_data_are_kept(weights, tables, tmp_path, capsys):
    (tmp_path / "index.json").write_text('{"kind": "triportrait picture store"}')
    assert cli.main(command(weights, tables, tmp_path)) == 2
    assert "expected a store of generated heads or none, it holds other data" in capsys.readouterr().err


def test_a_killed_command_goes_on_and_makes_the_same_store(store, weights, tables, tmp_path):
    """It is killed when its first shard is there."""
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "triportrait", *command(weights, tables, out)], env=environment, stdout=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not (out / ".shard_000000.json").exists():
        assert run.poll() is None and time.monotonic() < until, "it ended, or hangs"
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert is_head_store(out) and not (out / "index.json").exists(), "killed in time"
    with pytest.raises(InputError, match="it is not finished, run its command again"):
        check_data(out)
    first = (out / "shard_000000.tar").stat().st_mtime_ns
    assert cli.main(command(weights, tables, out)) == 0
    assert contents(out) == contents(store)
    assert (out / "shard_000000.tar").stat().st_mtime_ns == first, "what was done stays"


def test_what_is_there_is_not_made_again_and_another_store_is_kept(store, weights, tables, capsys, caplog):
    before = contents(store)
    assert cli.main(["-v", *command(weights, tables, store)]) == 0
    assert "its 7 heads are there already, nothing was done" in caplog.text
    for more, said in (
        (("--seed", "5"), "this store is finished, with seed 4, now it is 5"),
        (("--views", "4"), "this store is finished, with drawing"),
        (("--format", "jpeg"), "this store is finished, with format 'png', now it is 'jpeg'"),
    ):
        assert cli.main(command(weights, tables, store, *more)) == 2
        assert said in capsys.readouterr().err
    assert contents(store) == before


@pytest.mark.parametrize(
    "more, said",
    [
        (("--views", "2"), "views: expected 3 to 16, got 2"),
        (("--count", "0"), "count: expected 1 to 10,000,000, got 0"),
        (("--seed", "-1"), "seed: expected 0 to"),
        (("--per-shard", "0"), "per-shard: expected 1 to"),
        (("--workers", "999"), "workers: expected 1 to 256, got 999"),
        (("--weights", "nowhere"), "nowhere"),
        (("--parameters", "nowhere"), "nowhere: expected tables of parameters"),
        (("--device", "tpu"), "device: expected auto, cpu or cuda, got tpu"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_made(more, said, weights, tables, tmp_path, capsys):
    assert cli.main(command(weights, tables, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_weights_and_tables_are_asked_for(tmp_path, capsys):
    assert cli.main(["prepare", "genhead", str(tmp_path / "out")]) == 2
    assert "--weights and --parameters missing" in capsys.readouterr().err


def test_the_disk_has_room_before_work_begins(weights, tables, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    assert cli.main(command(weights, tables, tmp_path / "in" / "out")) == 2
    assert "expected room for 7 heads, about" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_head_takes_about_as_many_bytes_as_is_said(store, weights, tables, generator):
    making = Making(weights, tables, "cpu", 4, CONFIG, True, "png")
    said = bytes_of_a_head(making, generator.config)
    measured = (store / "shard_000000.tar").stat().st_size / PER_SHARD
    assert 0.8 < said / measured < 1.25


def spoil(store: Path, change: str) -> None:
    path = store / {"tar": "shard_000001.tar", "table": "shard_000001.npz", "model": "flame/flame.safetensors"}[change]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "change, said",
    [
        ("tar", "1 of 3 shards cannot be used (shard_000001: shard_000001.tar is not what the index says"),
        ("table", "1 of 3 shards cannot be used (shard_000001: shard_000001.npz is not what the index says"),
        ("model", "flame.safetensors: it is not what the index says"),
    ],
)
def test_damage_is_found(change, said, store, tmp_path, capsys):
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    spoil(copy, change)
    assert cli.main(["prepare", "check", str(copy)]) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_index_is_no_store(store, tmp_path):
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    index = json.loads((copy / "index.json").read_text())
    for name, value in (
        ("views", 0), ("size", "64"), ("features", 1), ("channels", 1 << 40), ("flame", {"../x": {"bytes": 1}}),
        ("flame", []), ("shards", []), ("head_model", 3),
    ):  # fmt: skip
        (copy / "index.json").write_text(json.dumps(index | {name: value}))
        with pytest.raises(InputError, match=r"expected a store of generated heads, its index.json is missing or"):
            HeadStore(copy)
    (copy / "index.json").write_text(json.dumps(index | {"points": 17}))
    with pytest.raises(InputError, match=r"its points is \[4000, 3\], expected \[17, 3\]"):
        HeadStore(copy).pictures([0], [0])


def test_numbers_that_are_not_finite_are_not_stored(weights, tables, tmp_path, capsys, monkeypatch):
    made = HeadMaker.pictures

    def spoilt(*words):
        views = made(*words)
        views[1].truth.plane_feature[0, 0, 0] = float("inf")
        return views

    monkeypatch.setattr(HeadMaker, "pictures", spoilt)
    assert cli.main(command(weights, tables, tmp_path / "out")) == 2
    assert "generated head 0: its plane_feature is not finite; name weights" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("shard*"))


def test_training_draws_every_head_once_in_an_epoch(store):
    source = StoredHeads(store, seed=1, motion=True)
    assert (len(source), source.has_features, source.image_size) == (COUNT, True, 64)
    assert source.head_model.is_same(source.model.identity)
    rng = np.random.default_rng(0)
    epochs = [source.batch(source.draw(COUNT, rng, epoch * COUNT)) for epoch in (0, 1)]
    names = [[name.rpartition(" ")[2] for name in batch.source.origin] for batch in epochs]
    assert [sorted(map(int, some)) for some in names] == [list(range(COUNT))] * 2 and names[0] != names[1]
    for batch in epochs:
        assert batch.source.origin == batch.target.origin == batch.motion.origin
        assert torch.equal(batch.motion.motion, batch.target.motion), "the driving face is the target's"
        assert torch.equal((batch.source.motion == batch.target.motion).all(1), batch.is_static)
        views = [batch.source.image, batch.target.image, batch.motion.image]
        for one, other in ((0, 1), (1, 2), (0, 2)):
            assert ((views[one] - views[other]).abs().amax((1, 2, 3)) > 0.01).all(), "three views"
    again = source.draw(2, np.random.default_rng(5), COUNT - 1).batch
    assert torch.equal(again.source.image[0], epochs[0].source.image[-1]), "the number of an image decides"
    assert torch.equal(again.target.image[1], epochs[1].target.image[0]), "beyond the end of an epoch, too"
    assert not source.log_numbers()
    assert again.target.truth is not None and again.source.truth is None and again.motion.truth is None


def test_chosen_heads_alone_are_drawn(store):
    source = StoredHeads(store, seed=1, chosen=[1, 5])
    batch = source.draw(6, np.random.default_rng(0), 0).batch
    assert sorted(int(name.rpartition(" ")[2]) for name in batch.source.origin) == [1, 1, 1, 5, 5, 5]
    assert batch.motion is None


def test_positions_come_from_the_model_that_the_store_keeps(store, generator):
    source = StoredHeads(store, seed=1, positions=True)
    drawn = source.draw(2, np.random.default_rng(0), 0)
    batch = source.batch(drawn)
    for view, numbers in zip((batch.source, batch.target), drawn.numbers, strict=False):
        betas = torch.cat([numbers["shape"][:, :12], numbers["expression"][:, :10]], 1)
        with torch.no_grad():
            vertices, _ = generator.neck.flame(betas, numbers["pose"][:, :3], numbers["pose"][:, 3:], numbers["eyes"])
        expected = FaceMaps(generator.neck).positions(vertices, view.camera, 64)
        assert (view.positions - expected).abs().mean() < 1e-3 and expected.abs().max() > 0.1


def test_a_store_of_two_views_has_no_motion(weights, tables, tmp_path):
    making = Making(weights, tables, "cpu", 0, GeneratedConfig(views=2, points=20), False, "webp")
    prepare_generated(tmp_path / "two", making, 2, workers=1, keep_model=save_flame)
    batch = StoredHeads(tmp_path / "two", seed=0).draw(2, np.random.default_rng(0), 0).batch
    assert batch.target.truth.foreground is None and batch.target.truth.background.shape[1:] == (3, 8, 8)
    with pytest.raises(InputError, match="expected 3 views of each head, got 2; make the store with --views 3"):
        StoredHeads(tmp_path / "two", seed=0, motion=True)


def test_a_late_rank_finds_the_store_finished(store, weights, tables, tmp_path, monkeypatch):
    """Both ranks see that all is done; the other one finishes before this one reads what was noted."""
    making = Making(weights, tables, "cpu", 4, CONFIG, True, "png")
    out, entry, are_done = tmp_path / "ranks", ShardWriter.entry, ShardWriter.are_done

    def rank(number: int) -> PreparedHeads:
        return prepare_generated(out, making, COUNT, PER_SHARD, 1, number, 2, save_flame)

    def late(writer: ShardWriter, shard: int) -> object:
        monkeypatch.setattr(ShardWriter, "entry", entry)
        assert rank(1).finished
        return entry(writer, shard)

    def noticed(writer: ShardWriter, shards: int) -> bool:
        monkeypatch.setattr(ShardWriter, "are_done", are_done)
        monkeypatch.setattr(ShardWriter, "entry", late)
        return True

    rank(1)
    monkeypatch.setattr(ShardWriter, "are_done", noticed)
    assert rank(0).finished and contents(out) == contents(store)
