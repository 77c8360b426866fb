"""The picture store: written, stopped, damaged, read back by number and as a stream."""

from __future__ import annotations

import json
import tarfile
from itertools import islice

import numpy as np
import pytest

from tests.train import written_pictures
from tests.train.written_pictures import SETTINGS, S, mask, picture, stored, write
from triportrait import cli
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.train.data.check import check_data
from triportrait.train.data.picture_store.layout import is_picture_store
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.taking import Wanted, _judged
from triportrait.train.data.picture_store.writing import PictureWriter
from triportrait.train.data.shards import reading
from triportrait.train.data.shards.layout import BEGUN, INDEX


def test_what_is_written_comes_back(tmp_path):
    found = write(tmp_path / "s")
    assert (len(found), found.size, len(found.shards)) == (4, S, 2), "a shard without pictures has no files"
    for place, number in enumerate((0, 2, 3, 8)):
        assert np.array_equal(found.picture(place), picture(number))
        assert np.array_equal(found.mask(place), mask(number))
        row = found.row(place)
        for name, value in stored(number).numbers.items():
            assert row[name].dtype == np.float32 and np.array_equal(row[name], value)
        assert (row["number"], row["source"]) == (number, f"a/{number}.jpg")
    assert list(found.names()) == [f"picture_{number:08d}" for number in (0, 2, 3, 8)]
    assert found.head_model is not None and found.head_model.to_dict() == written_pictures.MODEL
    assert found.index["dropped"] == {"no face": 3}
    with pytest.raises(IndexError):
        found.picture(4)
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        INDEX, "shard_000000.tar", "shard_000000.npz", "shard_000002.tar", "shard_000002.npz",
    }  # fmt: skip


def test_a_shard_is_a_plain_tar(tmp_path):
    write(tmp_path / "s", kind="jpeg")
    with tarfile.open(tmp_path / "s" / "shard_000000.tar") as tar:
        assert tar.getnames()[:3] == ["00000000.jpg", "00000000.mask.png", "00000002.jpg"]
        inside = tar.extractfile("00000002.jpg")
        assert inside is not None and inside.read() == stored(2, "jpeg").image


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_pictures_lose_little(kind, tmp_path):
    found = write(tmp_path / "s", kind=kind)
    assert np.abs(found.picture(1).astype(int) - picture(2)).mean() < 3
    assert np.array_equal(found.mask(1), mask(2)), "masks lose nothing"


def test_a_writing_that_was_stopped_goes_on_with_equal_results(tmp_path):
    write(tmp_path / "whole")
    settings = SETTINGS | {"format": "png"}
    writer = PictureWriter(tmp_path / "s", settings)
    with writer.shard(0) as files:
        for number in (0, 2, 3):
            files.add(stored(number))
        files.add(written_pictures.Dropped("b/0.jpg", "no face", "none was found"))
    with pytest.raises(KeyboardInterrupt), writer.shard(2) as files:
        files.add(stored(8))
        raise KeyboardInterrupt
    (tmp_path / "s" / ".shard_000002.part.tar").write_bytes(b"what a killed process leaves")
    with pytest.raises(InputError, match="it is not finished, run its command again"):
        PictureStore(tmp_path / "s")
    assert is_picture_store(tmp_path / "s")
    with pytest.raises(InputError, match="was begun with format 'png', now it is 'webp'"):
        PictureWriter(tmp_path / "s", settings | {"format": "webp"})
    again = PictureWriter(tmp_path / "s", settings)
    assert [again.is_done(shard) for shard in range(3)] == [True, False, False]
    for shard, numbers in ((1, ()), (2, (8,))):
        with again.shard(shard) as files:
            for number in numbers:
                files.add(stored(number))
            files.add(written_pictures.Dropped(f"b/{shard}.jpg", "no face", "none was found"))
    again.finish(3, S)
    for path in (tmp_path / "whole").iterdir():
        assert sha256(path) == sha256(tmp_path / "s" / path.name), path.name
    assert not list((tmp_path / "s").glob(".*"))
    with pytest.raises(InputError, match="is finished"):
        PictureWriter(tmp_path / "s", settings)


def test_a_shard_that_was_changed_is_written_again(tmp_path):
    writer = PictureWriter(tmp_path / "s", SETTINGS)
    with writer.shard(0) as files:
        files.add(stored(1))
    assert writer.is_done(0)
    tar = tmp_path / "s" / "shard_000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert not writer.is_done(0)
    with writer.shard(0) as files:
        assert not PictureWriter(tmp_path / "s", SETTINGS).are_done(1), "no other process may finish meanwhile"
        files.add(stored(1))
    assert writer.are_done(1)


@pytest.mark.parametrize(("name", "value"), [("shape", 2e3), ("pose", 11.0), ("camera", 0.0), ("error_px", np.nan)])
def test_a_fit_of_no_face_is_a_bad_fit(name, value):
    numbers = dict(stored(1).numbers)
    assert _judged(numbers, 0.0, 0.0, Wanted()) is None
    wrong = _judged(numbers | {name: np.full_like(numbers[name], value)}, 0.0, 0.0, Wanted())
    assert wrong is not None and wrong[0] == "bad fit"


def test_two_processes_may_finish(tmp_path, monkeypatch):
    writers = [PictureWriter(tmp_path / "s", SETTINGS) for _ in range(2)]
    for shard, writer in enumerate(writers):
        with writer.shard(shard) as files:
            files.add(stored(shard))
    assert all(writer.are_done(2) for writer in writers)
    for writer in writers:
        writer.finish(2, S)
    assert len(PictureStore(tmp_path / "s", contents=True)) == 2


def test_a_store_without_pictures_is_none(tmp_path):
    with pytest.raises(InputError, match=r"all 2 were dropped \(no face 2\)"):
        write(tmp_path / "s", ((), ()))
    assert not (tmp_path / "s" / INDEX).exists()


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    writer = PictureWriter(tmp_path / "s", SETTINGS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    said = r"could not be written \(no space left on device\); free some space, and the same command goes on"
    with pytest.raises(InputError, match=said), writer.shard(0) as files:
        files.add(stored(0))
    assert [path.name for path in (tmp_path / "s").iterdir()] == [BEGUN]


def _damaged(folder, change):
    path = folder / "shard_000000.npz"
    with np.load(path) as file:
        table = dict(file)
    np.savez_compressed(path, **change(table))
    index = json.loads((folder / INDEX).read_text())
    index["shards"][0]["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / INDEX).write_text(json.dumps(index))


DAMAGE = {
    "place reaches beyond the tar": lambda t: t | {"place": t["place"] + [10**9, 0, 0, 0]},
    "expected int64": lambda t: t | {"place": t["place"] * 1.0},
    "has no camera": lambda t: {n: v for n, v in t.items() if n != "camera"},
    "shape is not finite": lambda t: t | {"shape": t["shape"] * np.float32(np.nan)},
    "has 2 rows for 3": lambda t: t | {"pose": t["pose"][:2]},
    "camera of frame 0 is no rotation": lambda t: t | {"camera": t["camera"] * np.float32(2)},
    "number does not rise": lambda t: t | {"number": t["number"][::-1].copy()},
    "error_px is no distance": lambda t: t | {"error_px": -t["error_px"] - 1},
    "source holds": lambda t: t | {"source": t["number"]},
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_table_is_named(said, tmp_path, capsys):
    write(tmp_path / "s")
    _damaged(tmp_path / "s", DAMAGE[said])
    with pytest.raises(InputError, match=said):
        PictureStore(tmp_path / "s").picture(0)
    assert cli.main(["prepare", "check", str(tmp_path / "s")]) == 2
    assert "1 of 2 shards cannot be used (shard_000000" in capsys.readouterr().err


def test_a_check_reads_everything(tmp_path, capsys):
    write(tmp_path / "s")
    assert check_data(tmp_path / "s", deep=True) == (
        "4 pictures of 64 px in 2 shards: whole", "checksums, every table, every picture decoded",
    )  # fmt: skip
    tar = tmp_path / "s" / "shard_000000.tar"
    data = bytearray(tar.read_bytes())
    data[600:640] = bytes(40)
    tar.write_bytes(data)
    with pytest.raises(InputError, match="what the index says"):
        PictureStore(tmp_path / "s", contents=True)
    assert cli.main(["prepare", "check", str(tmp_path / "s")]) == 2
    assert "shard_000000.tar is not what the index says" in capsys.readouterr().err


def test_an_index_that_is_none_is_refused(tmp_path):
    write(tmp_path / "s")
    index = json.loads((tmp_path / "s" / INDEX).read_text())
    for change in (
        {"size": 0}, {"size": True}, {"shards": []}, {"kind": "other"}, {"shards": [{"name": "../x"}]},
        {"shards": [index["shards"][0] | {"pictures": 10**9}]},
    ):  # fmt: skip
        (tmp_path / "s" / INDEX).write_text(json.dumps(index | change))
        with pytest.raises(InputError, match="expected a picture store"):
            PictureStore(tmp_path / "s")


def test_each_picture_comes_once_in_an_epoch_whatever_the_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "WINDOW", 2)
    found = write(tmp_path / "s", tuple((3 * k, 3 * k + 1, 3 * k + 2) for k in range(5)))
    epochs = [list(found.order(7, epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] == list(found.order(7, 0)) and epochs[0] != list(found.order(8, 0))
    assert len({picture // 3 for picture in epochs[0][:6]}) == 2, "two shards at a time"
    everything = [picture for epoch in epochs for picture in epoch]
    for ranks in (1, 2, 4):
        shared = [list(islice(found.stream(7, rank, ranks), 40 // ranks)) for rank in range(ranks)]
        together = [picture for turn in zip(*shared, strict=True) for picture in turn]
        assert together == everything[: len(together)]
    assert list(islice(found.stream(7, 1, 2, start=9), 5)) == list(islice(found.stream(7, 1, 2), 14))[9:]
    epochs += [list(found.order(7, epoch)) for epoch in (3, 4)]
    everything = [picture for epoch in epochs for picture in epoch]
    assert list(islice(found.stream(7, 20, 21), 3)) == everything[20::21][:3], "more ranks than pictures"


def test_tables_in_memory_are_few(tmp_path, monkeypatch):
    found = write(tmp_path / "s", tuple((k,) for k in range(reading.TABLES_KEPT + 6)), motion=None)
    list(found.names())
    assert found._table.cache_info().currsize == reading.TABLES_KEPT


def test_each_picture_is_a_person_or_a_file_says_whose_it_is(tmp_path, capsys):
    write(tmp_path / "s", ((0, 1, 2, 3), (5, 6, 9)))
    lines = tmp_path / "who.txt"
    lines.write_text("\n".join(f"person {k // 4}" for k in range(10)))
    assert cli.main(["prepare", "split", str(tmp_path / "s"), "--share", "0.5"]) == 0
    split = json.loads((tmp_path / "s" / "split.json").read_text())
    assert (split["known_by"], len(split["identities"])) == ("pictures", 7)
    (tmp_path / "s" / "split.json").unlink()
    options = ["--share", "0.5", "--identities", str(lines)]
    assert cli.main(["prepare", "split", str(tmp_path / "s"), *options]) == 0
    split = json.loads((tmp_path / "s" / "split.json").read_text())
    assert split["identities"]["picture_00000005"] == "person 1" and len(split["held_out"]) in (1, 2)
    lines.write_text("too few\n")
    (tmp_path / "s" / "split.json").unlink()
    assert cli.main(["prepare", "split", str(tmp_path / "s"), *options]) == 2
    assert "expected 10 lines" in capsys.readouterr().err
