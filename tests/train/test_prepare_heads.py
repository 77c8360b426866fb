"""`triportrait prepare heads|videos|sheet`: files can be read, stay the same, and bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.runs import hashes
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.types import Camera
from triportrait.train.data import folders
from triportrait.train.data.contact_sheets import sheet
from triportrait.train.data.folders import whole_file
from triportrait.train.data.head_videos import write_clips
from triportrait.train.data.heads.population import Expression, Identity, Light, cast
from triportrait.train.data.multiview import MultiviewSet, file_name, write_multiview
from triportrait.train.data.scene_sampling import motion

SMALL = ["--size", "32", "--antialias", "1"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "heads"
    write_multiview(out, seed=4, count=2, expressions_each=2, views=3, size=32, antialias=1)
    return out


def test_a_multi_view_set_holds_what_was_rendered(stored, studio):
    data = MultiviewSet(stored, contents=True)
    assert len(data) == 2
    assert data.index["seed"] == 4
    arrays = data.head(1)
    shapes = {"image": (2, 3, 32, 32, 3), "depth": (2, 3, 32, 32), "parts": (2, 3, 32, 32), "expression": (2, 9)}
    for name, shape in shapes.items():
        assert arrays[name].shape == shape, name

    def rows(kind, prefix):
        return kind(**{n: torch.from_numpy(arrays[f"{prefix}.{n}"])[None] for n in kind.__dataclass_fields__})

    face = Expression.from_vector(torch.from_numpy(arrays["expression"][1:]), torch.from_numpy(arrays["neck"][1:]))
    camera = Camera(*(torch.from_numpy(arrays[n][1, 2:]) for n in ("world_from_camera", "intrinsics")))
    who = rows(Identity, "identity")
    assert torch.equal(who.skin[0], cast(4, 2).skin[1])
    view = studio.renderer.render(who, face, rows(Light, "light"), camera, 32, 1)
    shown = ((view.image[0] + 1) * 127.5).permute(1, 2, 0)
    assert np.abs(shown.numpy() - arrays["image"][1, 2]).max() <= 0.51
    torch.testing.assert_close(torch.from_numpy(arrays["depth"][1, 2]), view.depth[0, 0], atol=7e-5, rtol=0)
    assert np.array_equal(arrays["opacity"][1, 2], view.opacity[0, 0].numpy())
    assert np.array_equal(arrays["parts"][1, 2], view.parts[0].numpy())
    assert np.array_equal(arrays["landmarks"][1, 2], view.landmarks[0].numpy())


def test_views_of_one_expression_share_it_and_the_first_is_near_the_front(stored):
    arrays = MultiviewSet(stored).head(0)
    position = arrays["world_from_camera"][..., :3, 3]
    assert np.abs(np.arctan2(-position[:, 0, 0], position[:, 0, 2])).max() < 0.31
    assert not np.array_equal(arrays["expression"][0], arrays["expression"][1])


def test_the_same_seed_gives_the_same_files_and_a_larger_set_begins_with_a_smaller(stored, tmp_path):
    write_multiview(tmp_path / "again", seed=4, count=3, expressions_each=2, views=3, size=32, antialias=1)
    again, before = hashes(tmp_path / "again"), hashes(stored)
    for head in range(2):
        one, other = (np.load(f / file_name(head)) for f in (stored, tmp_path / "again"))
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
        assert again[file_name(head)] == before[file_name(head)], "not the same bytes"
    assert sorted(again) == [file_name(0), file_name(1), file_name(2), "index.json"]


def test_damage_is_found_before_anything_is_read(tmp_path):
    out = tmp_path / "heads"

    def fresh() -> Path:
        write_multiview(out, 0, 1, 1, 1, 16, 1, overwrite=True)
        return out / file_name(0)

    fresh().unlink()
    with pytest.raises(InputError, match="missing"):
        MultiviewSet(out)
    file = fresh()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="not what the index says"):
        MultiviewSet(out)
    file = fresh()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    MultiviewSet(out)
    with pytest.raises(InputError, match="not what the index says"):
        MultiviewSet(out, contents=True)
    fresh()
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps({**index, "files": {"../x": {}}}))
    with pytest.raises(InputError, match="no file of its folder"):
        MultiviewSet(out)
    for text, said in (("{", "cannot be read as JSON"), ("{}", "lists no files")):
        (out / "index.json").write_text(text)
        with pytest.raises(InputError, match=said):
            MultiviewSet(out)
    with pytest.raises(InputError, match="nothing is there"):
        MultiviewSet(tmp_path / "none")


def test_videos_are_h264_of_one_moving_head(tmp_path):
    out = tmp_path / "clips"
    assert cli.main(["prepare", "head-videos", str(out), "--count", "2", "--frames", "11", "--fps", "20", *SMALL]) == 0
    for head in range(2):
        with av.open(str(out / f"clip_{head:06d}.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == 20
            assert (stream.width, stream.height) == (32, 32)
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        numbers = np.load(out / f"clip_{head:06d}.npz")
        assert len(frames) == 11
        assert numbers["expression"].shape == (11, 9)
        assert numbers["landmarks"].shape == (11, 68, 2)
        face = motion(0, head, 11, 20)
        assert np.array_equal(numbers["expression"], face.vector.numpy())
        change = np.abs(np.diff(frames.astype(int), axis=0)).mean()
        assert 0.05 < change < 12
    assert numbers["neck"].shape == (11, 3)
    assert numbers["opacity"].shape == (11, 32, 32)
    write_clips(tmp_path / "again", 0, 2, 11, 20, 32, 1)
    assert hashes(out) == hashes(tmp_path / "again")


def test_a_clip_shows_what_its_numbers_say(tmp_path, studio):
    write_clips(tmp_path / "clips", 0, 1, 5, 25, 64, 1)
    with av.open(str(tmp_path / "clips" / "clip_000000.mp4")) as container:
        frame = list(container.decode(video=0))[3].to_ndarray(format="rgb24").astype(float)
    numbers = np.load(tmp_path / "clips" / "clip_000000.npz")

    def rows(kind, prefix):
        return kind(**{n: torch.from_numpy(numbers[f"{prefix}.{n}"])[None] for n in kind.__dataclass_fields__})

    face = Expression.from_vector(*(torch.from_numpy(numbers[n][3:4]) for n in ("expression", "neck")))
    camera = Camera(*(torch.from_numpy(numbers[n])[None] for n in ("world_from_camera", "intrinsics")))
    view = studio.renderer.render(rows(Identity, "identity"), face, rows(Light, "light"), camera, 64, 1)
    shown = ((view.image[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(frame - shown).mean() < 6


@pytest.mark.parametrize("kind, columns, rows", [("identities", 3, 2), ("expressions", 9, 4), ("views", 8, 2)])
def test_sheets(kind, columns, rows, tmp_path):
    count = {"identities": 5, "expressions": 2, "views": 2}[kind]
    path = tmp_path / "sheet.png"
    job = ["prepare", "sheet", "--out", str(path), "--kind", kind, "--count", str(count), *SMALL]
    assert cli.main(job) == 0
    picture = np.asarray(Image.open(path))
    assert picture.shape == (32 * rows, 32 * columns, 3)
    assert np.array_equal(picture, sheet(kind, 0, count, 32, 1))
    cells = picture.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32 * 32 * 3)
    assert len(np.unique(cells[: count if kind == "identities" else None], axis=0)) >= min(count, len(cells))
    if kind == "identities":
        assert (cells[count:] == 255).all()


@pytest.mark.parametrize(
    "job, said",
    [
        (["heads", "--count", "0"], "count: expected 1 to"),
        (["heads", "--seed", "-1"], "seed: expected"),
        (["heads", "--size", "8"], "size: expected 16 to 1024 px, got 8"),
        (["heads", "--antialias", "9"], "antialias: expected 1 to 4, got 9"),
        (["heads", "--views", "0"], "views: expected 1 to 1024, got 0"),
        (["heads", "--expressions", "0"], "expressions: expected 1 to 1024, got 0"),
        (["head-videos", "--frames", "0"], "frames: expected 1 to"),
        (["head-videos", "--fps", "1000"], "fps: expected 1 to 120, got 1000"),
        (["head-videos", "--size", "33"], "size: H.264 takes even sizes only, got 33"),
        (["sheet", "--count", "401"], "count: expected at most 400"),
        (["head-videos", "--frames", "9000"], "frames: expected up to 8,192 pictures of 128 px at a time, got 9,000"),
        (["head-videos", "--size", "1024", "--frames", "129"], "frames: expected up to 128 pictures of 1024 px"),
        (["heads", "--views", "1024", "--expressions", "9"], "expressions x views: expected up to 8,192 pictures"),
        (
            ["heads", "--count", "1000000", "--expressions", "11", "--views", "1"],
            "count x expressions: expected up to",
        ),
        (["sheet", "--kind", "expressions", "--count", "400", "--size", "1024"], "count: expected up to 128 pictures"),
        (["sheet"], "the ending .png is wanted"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(job, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("triportrait.train.data.heads.render.HeadRenderer.__init__", lambda *a: pytest.fail("worked"))
    assert cli.main(["prepare", *job, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind, name", [("heads", "out"), ("head-videos", "out"), ("sheet", "out.png")])
def test_outputs_are_kept_unless_told_otherwise(kind, name, tmp_path, capsys):
    out = tmp_path / name
    job = ["prepare", kind, "--out", str(out), "--count", "1", "--size", "16", "--antialias", "1"]
    job += ["--frames", "1"] if kind == "head-videos" else ["--views", "1"] if kind == "heads" else []
    assert cli.main(job) == 0
    assert out.exists()
    assert capsys.readouterr().out == f"{out}\n", "what was made goes to stdout"
    assert cli.main([*job, "--seed", "3"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(job) == (0 if kind == "heads" else 2), "the same set is there already"
    assert cli.main([*job, "--seed", "3", "--overwrite"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == [name], "something was left behind"


def test_folders_above_a_new_one_are_made_and_above_a_picture_are_not(tmp_path, capsys):
    few = ["--count", "1", "--size", "16", "--antialias", "1"]
    for kind, more in (("heads", ["--views", "1"]), ("head-videos", ["--frames", "1"])):
        out = tmp_path / kind / "data" / "out"
        assert cli.main(["prepare", kind, str(out), *few, *more]) == 0
        assert (out / "index.json").is_file()
    missing = ["prepare", "sheet", "--out", str(tmp_path / "none" / "out.png")]
    assert cli.main(missing) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["prepare", "head-videos", str(tmp_path / "file" / "in" / "out"), *few]) == 2
    assert "file is a file, and no folder can be made in it; name a new one" in capsys.readouterr().err
    deep = tmp_path / "deep" / "er" / "out"
    with pytest.raises(InputError, match="free some space"), folders.whole_folder(deep, False, "test", {}):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "deep").exists(), "what was made above it goes with it"


def test_a_place_is_named_once(tmp_path, capsys):
    for words, said in (([], "OUT is missing"), (["one", "--out", "two"], "expected one place, got one and two")):
        for made in ("heads", "clips", "head-videos", "sheet"):
            assert cli.main(["prepare", made, *words]) == 2
            assert said in capsys.readouterr().err


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_picture_that_appears_meanwhile_is_kept(links, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr("triportrait.train.data.folders.os.link", refused)
    out = tmp_path / "out.png"
    with pytest.raises(InputError, match=r"out\.png: it (appeared|exists)"), whole_file(out, False) as work:
        work.write_text("ours")
        out.write_text("theirs")
    assert out.read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    with whole_file(out, True) as work:
        work.write_text("ours")
    assert out.read_text() == "ours"


def test_a_set_that_lacks_heads_of_its_index_is_refused(tmp_path):
    write_multiview(tmp_path / "heads", 0, 2, 1, 1, 16, 1)
    index = json.loads((tmp_path / "heads" / "index.json").read_text())
    del index["files"]["head_000001.npz"]
    (tmp_path / "heads" / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="its index tells of 2 heads and lists 1 files; make the folder again"):
        MultiviewSet(tmp_path / "heads")


@pytest.mark.parametrize("name", ["count", "expressions", "views", "size", "depth_steps"])
@pytest.mark.parametrize("value", ["2", None, 1.5, 0, True])
def test_an_index_with_a_number_that_is_none_is_refused(name, value, tmp_path):
    write_multiview(tmp_path / "heads", 0, 1, 1, 1, 16, 1)
    index = json.loads((tmp_path / "heads" / "index.json").read_text())
    (tmp_path / "heads" / "index.json").write_text(json.dumps(index | {name: value}))
    with pytest.raises(InputError, match=f"expected a whole number as {name} in its index, got {value!r}; make the"):
        MultiviewSet(tmp_path / "heads")


@pytest.mark.parametrize("name", ["depth", "landmarks", "identity.jaw_width", "light.warmth"])
def test_a_head_that_lacks_an_array_is_refused(name, tmp_path):
    write_multiview(tmp_path / "heads", 0, 1, 1, 1, 16, 1)
    files = MultiviewSet(tmp_path / "heads")
    with np.load(path := tmp_path / "heads" / files.names[0]) as file:
        arrays = dict(file)
    del arrays[name]
    np.savez_compressed(path, **arrays)
    with pytest.raises(InputError, match=f"head_000000.npz: expected an array {name}, it holds none; make the folder"):
        files.head(0)


def test_a_stranger_s_folder_is_never_replaced(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    job = ["prepare", "heads", "--out", str(tmp_path / "mine"), "--overwrite", "--count", "1"]
    assert cli.main(job) == 2
    assert "no index.json" in capsys.readouterr().err
    write_clips(tmp_path / "clips", 0, 1, 1, 25, 16, 1)
    assert cli.main([*job[:3], str(tmp_path / "clips"), *job[4:]]) == 2
    assert "is not replaced" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_nothing_is_left_when_it_is_interrupted(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_multiview(tmp_path / "heads", 0, 2, 1, 1, 16, 1, progress=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_unknown_kinds_and_options_are_one_sentence(tmp_path, capsys):
    for job, said in (
        ([], "prepare: expected one of "),
        (["films"], "prepare: expected one of "),
        (["head-videos", "--frame", "3"], "there is no option --frame, perhaps --frames"),
        (["heads", "--count", "x"], "--count: expected a whole number, got 'x'"),
    ):
        assert cli.main(["prepare", *job, *(["--out", str(tmp_path / "out")] if job else [])]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert said in lines[0], lines


def test_a_call_of_heads_says_what_it_is_now(capsys):
    assert cli.main(["heads", "multiview", "out"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "`heads multiview` is `prepare heads` now" in said
