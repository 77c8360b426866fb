"""Stores exported as LMDBs of the published schemas: by the wire, by name, stopped, and imported back."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train import written_pictures
from tests.train.written_clips import TRACKED_FRAMES, frames, labels, tracked
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.data.clip_store import lmdb_writing
from triportrait.train.data.clip_store.frames import decode
from triportrait.train.data.clip_store.importing import import_lmdb
from triportrait.train.data.clip_store.lmdb_writing import export_lmdb, message
from triportrait.train.data.clip_store.records import COLUMNS, is_still, open_lmdb, parse, parse_still
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.motion_encoder_file import read_motion_encoder
from triportrait.train.data.picture_store.importing import import_stills
from triportrait.train.data.picture_store.store import PictureStore

MODEL = written_pictures.MODEL
T = TRACKED_FRAMES


def records(path: Path) -> list[bytes]:
    _, found = open_lmdb(path)
    return [read() for _, read in found]


def test_a_message_is_written_as_the_wire_format_says():
    assert message({1: 3, 2: 300, 4: b"ab", 15: 0, 16: b""}) == bytes(
        [0x08, 3, 0x10, 0xAC, 0x02, 0x22, 2, *b"ab", 0x78, 0, 0x82, 0x01, 0]
    )


def test_clips_become_the_published_records_and_come_back_bit_for_bit(tmp_path):
    store = tracked(tmp_path / "store")
    out = tmp_path / "vfhq_64_3"
    done: list[tuple[int, int]] = []
    result = export_lmdb(tmp_path / "store", out, lambda *counts: done.append(counts))
    assert (result.records, result.unit, done[-1]) == (3, "clips", (3, 3))
    assert {path.name for path in out.iterdir()} == {"data.mdb", "head_model.json"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    for clip, data in enumerate(records(out)):
        assert not is_still(data)
        found, table, length = parse(data), store.table(clip), T + clip
        assert np.array_equal(found.images, decode(store.path(clip), range(length))), "the frames that the store shows"
        assert np.abs(found.images.astype(int) - frames(clip, length)).mean() < 2, "H.264 has cost little"
        assert set(np.unique(found.masks)) == {0, 255}
        assert np.array_equal(found.masks > 0, store.masks(clip, np.arange(length)) > 0)
        assert np.array_equal(found.labels, labels(clip, length))
        assert np.array_equal(found.motion, table["motion"])
    import_lmdb(out, tmp_path / "back")
    back = ClipStore(tmp_path / "back", contents=True)
    assert back.index["head_model"] == MODEL and back.frames_of == store.frames_of
    for clip in range(3):
        for name, column in store.table(clip).items():
            assert np.array_equal(back.table(clip)[name], column), name
        shown = [decode(s.path(clip), range(T)).astype(int) for s in (store, back)]
        assert np.abs(shown[0] - shown[1]).mean() < 2, "H.264 once more"


def test_an_export_that_was_stopped_goes_on(tmp_path):
    tracked(tmp_path / "store")
    export_lmdb(tmp_path / "store", tmp_path / "vfhq_64_3")
    whole = records(tmp_path / "vfhq_64_3")

    def kill(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lmdb(tmp_path / "store", tmp_path / "again_64_3", kill)
    assert not (tmp_path / "again_64_3").exists()
    done: list[int] = []
    assert export_lmdb(tmp_path / "store", tmp_path / "again_64_3", lambda n, _: done.append(n)).before == 2
    assert done == [2, 3], "what was written is not written again"
    assert records(tmp_path / "again_64_3") == whole
    with pytest.raises(KeyboardInterrupt):
        export_lmdb(tmp_path / "store", tmp_path / "other_64_3", kill)
    shutil.rmtree(tmp_path / "store")
    tracked(tmp_path / "store")
    index = tmp_path / "store" / "index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(InputError, match="an export of another store was begun here"):
        export_lmdb(tmp_path / "store", tmp_path / "other_64_3")


def test_a_kill_at_the_end_loses_nothing(tmp_path, monkeypatch):
    tracked(tmp_path / "store")
    out, put_folder = tmp_path / "vfhq_64_3", lmdb_writing.put_folder

    def before(*_: object) -> None:
        raise KeyboardInterrupt

    def after(*words: Path) -> None:
        put_folder(*words)
        raise KeyboardInterrupt

    for kill in (before, after):
        monkeypatch.setattr(lmdb_writing, "put_folder", kill)
        with pytest.raises(KeyboardInterrupt):
            export_lmdb(tmp_path / "store", out)
        assert out.exists() == (kill is after)
    assert export_lmdb(tmp_path / "store", out).before == 3
    assert {path.name for path in out.iterdir()} == {"data.mdb", "head_model.json"} and len(records(out)) == 3
    with pytest.raises(InputError, match="it exists already"):
        export_lmdb(tmp_path / "store", out)


@pytest.mark.parametrize("write", [tracked, written_pictures.write])
def test_an_export_names_the_encoder_that_read_the_motion(write, tmp_path):
    count = len(write(tmp_path / "store"))
    index = tmp_path / "store" / "index.json"
    said = json.loads(index.read_text()) | {
        "motion_encoder": "pixie",
        "motion": {"width": 548, "fingerprint": 8 * "ab"},
    }
    index.write_text(json.dumps(said))
    out = tmp_path / f"set_64_{count}"
    export_lmdb(tmp_path / "store", out)
    written = json.loads((out / "motion_encoder.json").read_text())
    assert written == {"name": "pixie", "width": 548, "fingerprint": 8 * "ab"}
    if write is not tracked:
        import_stills(out, tmp_path / "back")
        back = PictureStore(tmp_path / "back").index
        assert (back["motion_encoder"], back["motion"]) == (said["motion_encoder"], said["motion"])
    (out / "motion_encoder.json").write_text('{"name": "pixie"}')
    with pytest.raises(InputError, match="expected the name, the width and the fingerprint"):
        read_motion_encoder(out)


def test_pictures_become_the_published_records_and_come_back(tmp_path, capsys):
    store = written_pictures.write(tmp_path / "store")
    out = tmp_path / "ffhq_64_4"
    assert cli.main(["prepare", "export", str(tmp_path / "store"), str(out)]) == 0
    for place, (number, data) in enumerate(zip((0, 2, 3, 8), records(out), strict=True)):
        assert is_still(data)
        found = parse_still(data)
        assert (found.height, found.width) == (64, 64)
        assert (found.image, found.mask) == store.encoded(place), "the bytes of the store"
        assert np.array_equal(found.labels, labels(number, 1)[0])
        assert np.array_equal(found.motion, store.row(place)["motion"])
    assert cli.main(["prepare", "lmdb", str(out), str(tmp_path / "back")]) == 0
    back = PictureStore(tmp_path / "back", contents=True)
    assert (
        back.head_model is not None
        and back.head_model.to_dict() == MODEL
        and list(back.names()) == [f"picture_{k:08d}" for k in range(4)]
    )
    for place in range(4):
        assert back.encoded(place) == store.encoded(place)
        for name in (*COLUMNS, "motion"):
            assert np.array_equal(back.row(place)[name], store.row(place)[name]), name
        assert np.isnan(back.row(place)["error_px"])
    assert cli.main(["prepare", "check", str(tmp_path / "back"), "--deep"]) == 0
    assert cli.main(["prepare", "lmdb", str(out), str(tmp_path / "back")]) == 0, "it is there already"
    assert capsys.readouterr().out.count(str(tmp_path / "back")) == 2


def test_webp_becomes_png_as_the_published_loader_may_not_read_it(tmp_path):
    store = written_pictures.write(tmp_path / "store", kind="webp")
    export_lmdb(tmp_path / "store", tmp_path / "ffhq_64_4")
    found = parse_still(records(tmp_path / "ffhq_64_4")[1])
    with Image.open(io.BytesIO(found.image)) as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), store.picture(1))


def test_stills_that_cannot_be_used_are_skipped_counted_and_named(tmp_path, capsys):
    lmdb = pytest.importorskip("lmdb")
    written_pictures.write(tmp_path / "store", (tuple(range(8)),))
    out = tmp_path / "ffhq_64_8"
    export_lmdb(tmp_path / "store", out)
    first, *_ = records(out)
    small = io.BytesIO()
    Image.new("RGB", (65, 65)).save(small, "PNG")
    fields = {1: 3, 2: 64, 3: 64, 4: small.getvalue(), 5: small.getvalue(), 6: bytes(437 * 4), 7: bytes(548 * 4)}
    bad = [
        b"no message",
        first[:-9],
        message(fields),
        message(fields | {4: b"<svg/>"}),
        message(fields | {7: bytes(8)}),
    ]
    with lmdb.open(str(out), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for number, data in enumerate(bad, 2):
            transaction.put(f"{number:08d}".encode(), data)
    assert cli.main(["prepare", "lmdb", str(out), str(tmp_path / "back")]) == 2
    assert "5 of 8 records cannot be used, more than 5%" in capsys.readouterr().err
    assert import_stills(out, tmp_path / "back", most_skipped=0.7).skipped == 5
    skipped = [json.loads(line) for line in (tmp_path / "back" / "skipped.jsonl").read_text().splitlines()]
    assert [line["clip"] for line in skipped] == [f"record {number}" for number in range(2, 7)]
    said = [line["reason"] for line in skipped]
    assert "it is cut off" in said[1] and "it shows 65 x 65 px, expected 64" in said[2]
    assert "its image is no PNG" in said[3] and "mots has 2 numbers, expected 548" in said[4]
    assert len(PictureStore(tmp_path / "back")) == 3


def test_records_of_no_face_are_skipped_wherever_they_stand(tmp_path, capsys):
    """A camera that is no rotation, coefficients of no face, and what is no message at all, as the first record."""
    lmdb = pytest.importorskip("lmdb")
    written_pictures.write(tmp_path / "store", (tuple(range(12)),))
    out = tmp_path / "ffhq_64_12"
    export_lmdb(tmp_path / "store", out)
    whole = parse_still(records(out)[5])
    fields = {1: 3, 2: 64, 3: 64, 4: whole.image, 5: whole.mask, 7: whole.motion.tobytes()}
    far = whole.labels.copy()
    far[425:431] = 11
    bad = {0: b"", 1: b"no message", 5: message(fields | {6: bytes(437 * 4)}), 7: message(fields | {6: far.tobytes()})}
    with lmdb.open(str(out), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for number, data in bad.items():
            transaction.put(f"{number:08d}".encode(), data)
    words = ["prepare", "lmdb", str(out), str(tmp_path / "back"), "--most-skipped", "0.5"]
    assert cli.main(words) == 0
    skipped = [json.loads(line) for line in (tmp_path / "back" / "skipped.jsonl").read_text().splitlines()]
    assert [line["clip"] for line in skipped] == [f"record {number}" for number in bad]
    assert "is no rotation" in skipped[2]["reason"] and "pose" in skipped[3]["reason"]
    assert len(PictureStore(tmp_path / "back")) == 8
    assert "Traceback" not in capsys.readouterr().err


def test_an_lmdb_without_a_picture_that_can_be_used_is_refused(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "none"), map_size=1 << 24) as environment, environment.begin(write=True) as put:
        put.put(b"num_samples", b"1")
        put.put(b"00000000", message({1: 3, 2: 64, 3: 32, 4: b"x", 5: b"x", 6: bytes(437 * 4), 7: bytes(548 * 4)}))
    with pytest.raises(InputError, match="of its first record it has 32 x 64 px, expected a square"):
        import_stills(tmp_path / "none", tmp_path / "back")


REFUSED = {
    "motion": ({"motion": None}, "vfhq_64_3", "it has none; make the store again with --motion FOLDER"),
    "narrow": ({"motion": 9}, "vfhq_64_3", "expected motion of 548 numbers, which the published records hold, got 9"),
    "wide": ({"motion": 600}, "vfhq_64_3", "expected motion of 548 numbers, which the published records hold, got 600"),
    "parameters": ({"leave_out": "pose"}, "vfhq_64_3", "it has no pose of 6 numbers"),
    "name": ({}, "vfhq", "name it vfhq_64_3"),
    "count": ({}, "vfhq_64_4", "name it vfhq_64_3"),
    "size": ({}, "vfhq_512_3", "name it vfhq_64_3"),
    "no parent": ({}, "none/vfhq_64_3", "expected the folder in which the LMDB is made"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_before_any_work(case, tmp_path, capsys):
    options, name, said = REFUSED[case]
    tracked(tmp_path / "store", **options)
    assert cli.main(["prepare", "export", str(tmp_path / "store"), str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_no_store_a_taken_name_and_a_small_disk_are_refused(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected a clip store or a picture store, it is neither"):
        export_lmdb(tmp_path / "folder", tmp_path / "vfhq_64_3")
    tracked(tmp_path / "store")
    (tmp_path / "vfhq_64_3").mkdir()
    with pytest.raises(InputError, match="it exists already"):
        export_lmdb(tmp_path / "store", tmp_path / "vfhq_64_3")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(lmdb_writing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"GB for the LMDB, 0\.0 GB are free"):
        export_lmdb(tmp_path / "store", tmp_path / "new_64_3")


def test_a_map_that_is_too_small_grows(tmp_path, monkeypatch):
    tracked(tmp_path / "store")
    monkeypatch.setattr(lmdb_writing._Clips, "bound", lambda self: 4096)
    monkeypatch.setattr(lmdb_writing, "_SPARE", 1 << 16)
    export_lmdb(tmp_path / "store", tmp_path / "vfhq_64_3")
    assert len(records(tmp_path / "vfhq_64_3")) == 3


def test_no_more_than_a_few_records_are_in_memory(tmp_path, monkeypatch):
    written_pictures.write(tmp_path / "store", (tuple(range(9)),))
    monkeypatch.setattr(lmdb_writing, "_TOGETHER", 12_000)
    groups = []
    put = lmdb_writing._put
    monkeypatch.setattr(lmdb_writing, "_put", lambda e, r: (groups.append(sum(len(d) for _, d in r)), put(e, r)))
    export_lmdb(tmp_path / "store", tmp_path / "ffhq_64_9")
    assert len(groups) > 2 and max(groups) < 24_000
