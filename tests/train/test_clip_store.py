"""The clip store: written, stopped, damaged, read back by PyAV and by DALI, and filled from the published LMDB."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.written_clips import SETTINGS, S, T, frames, labels, store, table
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, decode
from triportrait.train.data.clip_store.importing import SKIPPED, finished_store, import_lmdb
from triportrait.train.data.clip_store.records import MOTION_WIDTH, parse
from triportrait.train.data.clip_store.store import INDEX, PROGRESS, ClipStore, ClipWriter
from triportrait.train.data.films.many import _wait_for_begin
from triportrait.train.data.motion_encoder_file import MOTION_ENCODER
from triportrait.train.data.split import place, read_split


def test_what_is_written_comes_back(tmp_path):
    found = store(tmp_path / "store")
    assert (len(found), found.frames_of, found.size) == (2, [T, T], S)
    for clip in range(2):
        assert np.array_equal(found.table(clip)["camera"], table(clip)["camera"])
        assert np.array_equal(found.masks(clip, np.array([3, 0])), frames(clip)[[3, 0], ..., 1] > 90)
        rows = [7, 0, T - 1, 7, 9]
        shown = decode(found.path(clip), rows).astype(int)
        assert np.abs(shown - frames(clip)[rows]).mean() < 2, "the right frames, and H.264 costs little"
    assert not (tmp_path / "store" / PROGRESS).exists()


def test_any_frame_is_a_few_frames_from_a_key_frame(tmp_path):
    import av

    with av.open(str(store(tmp_path / "store").path(0))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 8, 16]


def test_dali_shows_the_same_frames_as_pyav(tmp_path):
    pytest.importorskip("nvidia.dali")
    found = store(tmp_path / "store")
    requests = [(found.path(i % 2), [(3 * i) % T, (7 * i + 1) % T]) for i in range(5)]
    ours, theirs = DaliDecoder(torch.device("cpu"), batch=2)(requests), AvDecoder()(requests)
    assert [tuple(shown.shape) for shown in ours] == [(2, S, S, 3)] * 5
    for one, other in zip(ours, theirs, strict=True):
        assert (one.int() - other.int()).abs().max() <= 2


@pytest.mark.parametrize("kind", ["av", "dali"])
def test_a_video_that_does_not_decode_spoils_no_other(kind, tmp_path):
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    found = store(tmp_path / "store")
    whole = found.path(0).read_bytes()
    for name, data in (("text", b"no video" * 999), ("half", whole[: len(whole) // 2]), ("empty", b"")):
        (tmp_path / f"{name}.mp4").write_bytes(data)
    broken = [(tmp_path / f"{name}.mp4", [0, T - 1]) for name in ("text", "half", "empty")]
    decode_all = AvDecoder() if kind == "av" else DaliDecoder(torch.device("cpu"))
    sound = [(found.path(i), [3, 12]) for i in range(2)]
    shown = decode_all([sound[0], *broken, (found.path(1), [0, 99]), sound[1]])
    assert [type(frames) for frames in shown] == [torch.Tensor, *[ValueError] * 4, torch.Tensor]
    assert "text.mp4 does not decode" in str(shown[1])
    assert "no frame 99" in str(shown[4])
    for again, decoded in zip(decode_all(sound), (shown[0], shown[-1]), strict=True):
        assert torch.equal(again, decoded), "what stands beside a broken one is the same"


def test_a_store_that_was_stopped_goes_on(tmp_path):
    writer = ClipWriter(tmp_path / "s", SETTINGS)
    writer.add("clip_0", frames(0), table(0))
    writer.add("clip_1", frames(1), table(1))
    (tmp_path / "s" / "clip_1.npz").write_bytes(b"half")
    with (tmp_path / "s" / PROGRESS).open("a") as file:
        file.write('{"name": "clip_2", "fr')  # the kill came here
    with pytest.raises(InputError, match="it is not finished, run its command again"):
        ClipStore(tmp_path / "s")
    again = ClipWriter(tmp_path / "s", SETTINGS)
    assert list(again.clips) == ["clip_0"], "what is not whole is written again"
    again.add("clip_1", frames(1), table(1))
    again.finish()
    assert np.array_equal(ClipStore(tmp_path / "s", contents=True).table(1)["shape"], table(1)["shape"])
    with pytest.raises(InputError, match="this store is finished"):
        ClipWriter(tmp_path / "s", SETTINGS)


def test_a_head_model_of_another_last_digit_is_the_same(tmp_path):
    """Another machine rounds its tables otherwise; what was begun or finished here goes on there."""
    here, there, other = (
        SETTINGS | {"head_model": {"name": "open head", "fingerprint": digits}}
        for digits in ("0123456789abcdef", "0123456789abcdee", "ffff456789abcdef")
    )
    ClipWriter(tmp_path / "s", here).add("clip_0", frames(0), table(0))
    assert _wait_for_begin(tmp_path / "s", there)
    with pytest.raises(InputError, match="this store was begun from"):
        ClipWriter(tmp_path / "s", other)
    writer = ClipWriter(tmp_path / "s", there)
    assert list(writer.clips) == ["clip_0"]
    writer.finish()
    finished = finished_store(tmp_path / "s", here)
    assert finished is not None
    assert finished.written == 1
    assert not _wait_for_begin(tmp_path / "s", here)
    with pytest.raises(InputError, match="finished, with the head model open head, now it is open head"):
        finished_store(tmp_path / "s", other)


def test_other_material_in_the_folder_is_refused(tmp_path):
    ClipWriter(tmp_path / "s", SETTINGS)
    with pytest.raises(InputError, match=r"this store was begun from .*test.*, now it is .*other"):
        ClipWriter(tmp_path / "s", {"source": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected an empty folder or a store that was begun"):
        ClipWriter(tmp_path / "mine", SETTINGS)
    with pytest.raises(InputError, match="expected a clip, got none"):
        ClipWriter(tmp_path / "s", SETTINGS).finish()


@pytest.mark.parametrize("damage", ["cut video", "changed table", "gone", "index"])
def test_a_damaged_store_is_refused(damage, tmp_path):
    folder = store(tmp_path / "s").folder
    if damage == "cut video":
        (folder / "clip_1.mp4").write_bytes((folder / "clip_1.mp4").read_bytes()[:-9])
    elif damage == "changed table":
        data = bytearray((folder / "clip_0.npz").read_bytes())
        data[100] ^= 1
        (folder / "clip_0.npz").write_bytes(data)
    elif damage == "gone":
        (folder / "clip_0.mp4").unlink()
    else:
        (folder / INDEX).write_text((folder / INDEX).read_text()[:200])
    with pytest.raises(InputError, match=r"not what the index says|missing or damaged"):
        ClipStore(folder, contents=True)


BAD_TABLES = {
    "rows": (lambda t: t | {"shape": t["shape"][:-1]}, "shape has 19 rows for 20 frames"),
    "width": (lambda t: t | {"shape": t["shape"][:, :9]}, r"shape has rows of \(9,\), expected 300"),
    "nan": (lambda t: t | {"shape": t["shape"] * np.nan}, "shape is not finite"),
    "camera": (lambda t: t | {"camera": t["camera"] * 1.01}, "the camera of frame 0 is no rotation"),
    "mirror": (lambda t: t | {"camera": t["camera"] * np.where(np.arange(25) < 4, -1, 1)}, "camera .* is no rotation"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_numbers_that_cannot_be_are_refused_in_words(case, tmp_path):
    spoil, said = BAD_TABLES[case]
    writer = ClipWriter(tmp_path / "s", SETTINGS)
    with pytest.raises(ValueError, match=said):
        writer.add(
            "clip_0",
            frames(0),
            {name: np.float32(v) if v.dtype.kind == "f" else v for name, v in spoil(table(0)).items()},
        )
    assert writer.clips == {}
    assert [p.name for p in writer.folder.iterdir()] == [PROGRESS]


def test_sizes_that_no_decoder_takes_or_that_differ_are_refused(tmp_path):
    writer = ClipWriter(tmp_path / "s", SETTINGS)
    for cut, said in ((np.s_[:, :63, :63], "63 x 63, expected an even square"), (np.s_[:, :, :32], "32 x 64")):
        with pytest.raises(ValueError, match=said):
            writer.add("clip_0", frames(0)[cut], table(0))
    writer.add("clip_0", frames(0), table(0))
    with pytest.raises(ValueError, match="its frames have 32 px, the others 64"):
        writer.add("clip_1", frames(1)[:, :32, :32], table(1))


@pytest.mark.parametrize("cut", [b"", b'{"settings": {"sou'])
def test_a_kill_in_the_first_line_is_no_dead_end(cut, tmp_path):
    ClipWriter(tmp_path / "s", SETTINGS)
    (tmp_path / "s" / PROGRESS).write_bytes(cut)
    writer = ClipWriter(tmp_path / "s", SETTINGS)
    writer.add("clip_0", frames(0), table(0))
    assert list(ClipWriter(tmp_path / "s", SETTINGS).clips) == ["clip_0"]


def test_a_line_behind_a_cut_one_is_not_lost(tmp_path):
    writer = ClipWriter(tmp_path / "s", SETTINGS)
    with (tmp_path / "s" / PROGRESS).open("a") as file:
        file.write('{"name": "clip_9", "fr')
    writer.add("clip_0", frames(0), table(0))
    assert list(ClipWriter(tmp_path / "s", SETTINGS).clips) == ["clip_0"]


def test_a_video_that_does_not_decode_is_said(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"clip\.mp4 does not decode"):
        decode(path, [0])
    with pytest.raises(ValueError, match="it has no frame 99"):
        decode(store(tmp_path / "s").path(0), [1, 99])


# the published records


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(seed: int, channels: int = 1, **changes: bytes | int) -> bytes:
    """A record as the published schema writes it."""
    segs = np.repeat((frames(seed)[..., 1:2] > 90).astype(np.uint8), channels, -1)
    motion = np.random.default_rng(seed).normal(size=(T, MOTION_WIDTH + 6)).astype(np.float32)
    fields: dict[str, bytes | int] = {
        "channels": 3, "height": S, "width": S, "num": T,
        "images": frames(seed).tobytes(), "segs": segs.tobytes(), "labels": labels(seed).tobytes(),
        "mots": motion.tobytes(),
    }  # fmt: skip
    fields |= changes
    out = b""
    for number, value in enumerate(fields.values(), start=1):
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def lmdb_of(path: Path, messages: list[bytes], key: bytes = b"num_samples", subdir: bool = True) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(path), map_size=1 << 28, subdir=subdir) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number, one in enumerate(messages):
            transaction.put(f"{number:08d}".encode(), one)
        transaction.put(key, str(len(messages)).encode())
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_record_is_read_by_its_schema(channels):
    record = parse(message(1, channels) + varint(15 << 3 | 2) + varint(3) + b"new" + varint(16 << 3 | 5) + b"1234")
    assert np.array_equal(record.images, frames(1))
    assert np.array_equal(record.masks, frames(1)[..., 1] > 90)
    rows, found = labels(1), record.table()
    assert np.array_equal(
        np.concatenate([found[n] for n in ("camera", "shape", "expression", "pose", "eyes")], 1), rows
    )
    assert found["motion"].shape == (T, MOTION_WIDTH)


WRONG = {
    "cut": (message(0)[:-5], "it is cut off"),
    "empty": (b"", "it has no channels"),
    "no message": (b"\xff" * 50, "it is cut off|no protobuf"),
    "images": (message(0, images=b"123"), "images has 3 bytes, expected 245760"),
    "labels": (message(0, labels=b"1234" * 436 * T), "labels has .* bytes, expected 34960"),
    "motion": (message(0, mots=b"1234" * 100 * T), "mots has 100 numbers a frame, expected 548 or more"),
    "segs": (message(0, segs=b"1" * T), "segs has 1 bytes a frame, expected one or three for each of 4096"),
    "frames": (message(0, num=0), "it tells of 0 frames of 64 x 64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_record_that_is_none_is_refused_in_words(case):
    with pytest.raises(ValueError, match=WRONG[case][1]):
        parse(WRONG[case][0])


def test_an_lmdb_becomes_a_store(tmp_path):
    path = lmdb_of(tmp_path / "vfhq_64_3", [message(0), message(1, 3), message(2)])
    done: list[tuple[int, int]] = []
    result = import_lmdb(path, tmp_path / "out", progress=lambda *counts: done.append(counts))
    assert (result.written, result.skipped) == (3, 0)
    assert done == [(1, 3), (2, 3), (3, 3)]
    found = ClipStore(tmp_path / "out", contents=True)
    assert found.clips == ["clip_00000000", "clip_00000001", "clip_00000002"]
    for clip in range(3):
        assert np.array_equal(found.table(clip)["expression"], labels(clip)[:, 325:425])
        assert np.array_equal(found.masks(clip, np.arange(T)), frames(clip)[..., 1] > 90)
        assert np.abs(decode(found.path(clip), [4, 11]).astype(int) - frames(clip)[[4, 11]]).mean() < 2


def test_what_cannot_be_used_is_skipped_counted_and_named(tmp_path):
    spoilt = labels(1)
    spoilt[5, :3] = 0
    path = lmdb_of(tmp_path / "set", [message(0), message(1, labels=spoilt.tobytes()), message(2)[:-9]])
    with pytest.raises(InputError, match=r"2 of 3 clips cannot be used, more than 5% .*mend the source or allow"):
        import_lmdb(path, tmp_path / "out")
    result = import_lmdb(path, tmp_path / "out", most_skipped=0.7)
    assert (result.written, result.skipped) == (1, 2)
    told = [json.loads(line) for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()]
    assert [line["clip"] for line in told] == ["clip_00000001", "clip_00000002"]
    assert "the camera of frame 5 is no rotation" in told[0]["reason"]
    assert "cut off" in told[1]["reason"]
    assert json.loads((tmp_path / "out" / INDEX).read_text())["skipped"] == 2


def test_an_import_goes_on_where_it_was(tmp_path):
    path = lmdb_of(tmp_path / "set", [message(0), message(1)])

    class Killed(Exception):
        pass

    def kill(done: int, count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        import_lmdb(path, tmp_path / "out", progress=kill)
    before = (tmp_path / "out" / "clip_00000000.mp4").stat().st_mtime_ns
    assert import_lmdb(path, tmp_path / "out").written == 2
    assert (tmp_path / "out" / "clip_00000000.mp4").stat().st_mtime_ns == before, "what was whole is not made again"


def test_an_lmdb_may_be_a_single_file(tmp_path):
    """As `subdir=False` writes it; the file inside of a folder is one, too."""
    single = lmdb_of(tmp_path / "clips.lmdb", [message(0)], subdir=False)
    folder = lmdb_of(tmp_path / "set", [message(0)])
    assert single.is_file()
    assert folder.is_dir()
    for number, path in enumerate((single, folder / "data.mdb", folder)):
        assert import_lmdb(path, tmp_path / str(number)).written == 1


def test_what_is_no_lmdb_is_refused(tmp_path):
    pytest.importorskip("lmdb")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no database" * 1000)
    for name, said in (
        ("empty", "this folder holds no data.mdb"),
        ("nothing", "there is nothing"),
        ("text", "this file is none or damaged"),
    ):
        with pytest.raises(InputError, match=f"{name}: expected an LMDB, {said}"):
            import_lmdb(tmp_path / name, tmp_path / "out")
    with pytest.raises(InputError, match="expected an LMDB with the key num_samples, as the published one has"):
        import_lmdb(lmdb_of(tmp_path / "other", [], key=b"other"), tmp_path / "out")
    with pytest.raises(InputError, match="expected records in this LMDB, its num_samples is 0; name another"):
        import_lmdb(lmdb_of(tmp_path / "none", []), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_import_knows_by_whom_its_motion_was_read(tmp_path):
    path = lmdb_of(tmp_path / "set", [message(0)])
    assert not {"motion", "motion_encoder"} & stored_index(path, tmp_path / "published").keys()
    said = {"name": "PD-FGC", "width": 548, "fingerprint": "0123456789abcdef"}
    (path / MOTION_ENCODER).write_text(json.dumps(said))
    index = stored_index(path, tmp_path / "ours")
    assert index["motion_encoder"] == "PD-FGC"
    assert index["motion"] == {"width": 548, "fingerprint": "0123456789abcdef"}
    for wrong, sentence in (
        (said | {"width": 600}, "expected motion of 548 numbers, which these records hold, got 600"),
        (said | {"fingerprint": 7}, "it is damaged; export again"),
        ([], "it is damaged; export again"),
    ):
        (path / MOTION_ENCODER).write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=sentence):
            import_lmdb(path, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


def stored_index(path: Path, out: Path) -> dict:
    import_lmdb(path, out)
    return ClipStore(out).index


def test_the_command_imports_and_checks(tmp_path, capsys):
    path = lmdb_of(tmp_path / "set", [message(0), message(1)])
    out = tmp_path / "out"
    assert cli.main(["prepare", "lmdb", str(path), str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert cli.main(["prepare", "check", str(out)]) == 0
    assert capsys.readouterr().out.strip() == f"2 clips of {S} px, {2 * T} frames: whole"
    assert cli.main(["prepare", "lmdb", str(path), str(out)]) == 0
    assert "its 2 clips are there already, nothing was done" in capsys.readouterr().err
    other = lmdb_of(tmp_path / "other", [message(0)])
    assert cli.main(["prepare", "lmdb", str(other), str(out)]) == 2
    assert "this store is finished, with name 'set', now it is 'other'; name another" in capsys.readouterr().err
    assert cli.main(["prepare", "lmdb", str(path), str(tmp_path / "b"), "--most-skipped", "2"]) == 2
    assert "most-skipped: expected a share from 0 to 1, got 2.0" in capsys.readouterr().err


def test_the_command_splits_an_lmdb_by_whose_its_records_are(tmp_path, capsys):
    """Also where a damaged record is skipped: the line of each record stays its own."""
    path = lmdb_of(tmp_path / "set", [message(0), message(1)[:-9], message(2), message(3)])
    out, whose = tmp_path / "out", tmp_path / "whose.txt"
    words = ["prepare", "lmdb", str(path), str(out), "--most-skipped", "0.5", "--identities", str(whose)]
    whose.write_text("".join(f"a/Clip+{video}+P0+C{i}+F1-9.mp4\n" for i, video in enumerate("abac")))
    places = {who: place(who, 0) for who in "abc"}
    share = (places["a"] + min(at for at in places.values() if at > places["a"])) / 2  # "a" is held out
    assert cli.main([*words[:-2], "--split", "0.000001"]) == 2
    assert "holds out none of the 4 identities" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "identities: expected --split beside it" in capsys.readouterr().err
    whose.write_text(whose.read_text() + "d\n")
    assert cli.main([*words, "--split", str(share)]) == 2
    assert f"{whose}: expected 4 lines, one for each record, got 5; mend it" in capsys.readouterr().err
    assert not out.exists(), "all is checked before a clip is written"
    whose.write_text("\n".join(whose.read_text().splitlines()[:4]))
    assert cli.main([*words, "--split", str(share)]) == 0
    split = read_split(out)
    assert split is not None and split.known_by == "file"
    assert split.identities == {"clip_00000000": "a", "clip_00000002": "a", "clip_00000003": "c"}
    assert split.sides() == ([2], [0, 1]), "both clips of a"
    before = (out / "split.json").read_bytes()
    assert cli.main([*words, "--split", str(share)]) == 0
    assert (out / "split.json").read_bytes() == before
    capsys.readouterr()
    assert cli.main(["prepare", "check", str(out)]) == 0
    assert "1 of 2 identities held out" in capsys.readouterr().out
