"""`prepare pictures`: stills of every sort become a store, or are dropped for a reason; it may be stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.face_models import needs_face_models
from triportrait import cli
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import load_head_model
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.picture_quality import blur
from triportrait.train.data.picture_store import taking
from triportrait.train.data.picture_store.listing import listed_pictures, listing_digest
from triportrait.train.data.picture_store.preparing import prepare_pictures, read_dropped
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.taking import Wanted
from triportrait.train.jobs.prepare_pictures import Pictures
from triportrait.train.jobs.prepare_videos import Videos

DATA = Path(__file__).parents[1] / "data"
PORTRAIT = Path(__file__).parents[2] / "serve" / "sample.jpg"  # 256 px, aligned
HEAD = Path(__file__).parents[2] / "serve" / "live" / "page" / "examples" / "head-1.jpg"  # 320 px
WANTED = Wanted(size=128, format="jpeg", most_enlarged=1.28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve pictures, four of which show one face that can be used, in three folders."""
    root = tmp_path_factory.mktemp("pictures") / "in"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    with Image.open(PORTRAIT) as opened:
        face = opened.convert("RGB")
    face.save(root / "a2.png")
    face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "a10.webp", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the phone lay on its side
    face.transpose(Image.Transpose.ROTATE_90).save(root / "sub" / "turned.jpg", exif=exif, quality=95)
    face.convert("L").save(root / "sub" / "grey.bmp")
    face.filter(ImageFilter.GaussianBlur(5)).save(root / "sub" / "soft.png")
    face.resize((80, 80)).save(root / "sub" / "tiny.png")
    face.crop((0, 0, 128, 256)).save(root / "sub" / "half.png")
    Image.new("RGB", (200, 200), (90, 120, 30)).save(root / "sub" / "deep" / "wall.png")
    wide = Image.new("RGB", (480, 256), (128, 128, 128))
    wide.paste(face, (0, 0))
    wide.paste(face.resize((150, 150)), (170, 50))
    wide.save(root / "sub" / "deep" / "pair.png")
    with Image.open(HEAD) as opened:
        hidden = opened.convert("RGB")
    hidden.paste((120, 80, 40), (0, 152, 320, 231))
    hidden.save(root / "sub" / "deep" / "bar.png")
    (root / "sub" / "deep" / "cut.jpg").write_bytes(PORTRAIT.read_bytes()[:4000])
    (root / "sub" / "deep" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (root / "notes.txt").write_text("no picture")
    face.save(root / ".hidden" / "x.png")
    return root


def test_folders_are_listed_in_the_order_of_people(folder, tmp_path):
    pictures, others = listed_pictures(folder)
    names = [str(path.relative_to(folder)) for path in pictures]
    assert names[:2] == ["a2.png", "a10.webp"] and len(names) == 12 and not any("hidden" in name for name in names)
    assert [path.name for path in others] == ["notes.txt"]
    assert len(listed_pictures(folder, folder / "sub")[0]) == 2, "the store may lie in the folder"
    again = tmp_path / "moved"
    shutil.copytree(folder, again)
    assert listing_digest(again, listed_pictures(again)[0]) == listing_digest(folder, pictures)
    (again / "a2.png").write_bytes(b"other")
    assert listing_digest(again, listed_pictures(again)[0]) != listing_digest(folder, pictures)


def test_of_a_published_folder_only_aligned_pictures_are_taken(folder, tmp_path):
    for name in ("align_images", "segs", "bfm_vis"):
        (tmp_path / "clip" / name).mkdir(parents=True)
        shutil.copy(folder / "a2.png", tmp_path / "clip" / name / "1.png")
    pictures, others = listed_pictures(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in pictures] == ["clip/align_images/1.png"] and others == []


def test_what_a_blur_takes_is_measured():
    with Image.open(PORTRAIT) as face:
        sharp = face.convert("RGB").resize((512, 512))
    values = [blur(np.asarray(sharp.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0, 2, 4, 8)]
    assert values == sorted(values) and values[0] < 0.5 and 0.6 < values[2] < 0.8 and values[3] > 0.8
    assert blur(np.zeros((64, 64, 3), np.uint8)) == 1
    rng = np.random.default_rng(0)
    assert blur(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) < 0.2


@needs_face_models
def test_stills_become_a_store_and_others_are_dropped_for_a_reason(folder, tmp_path):
    done = prepare_pictures(folder, tmp_path / "store", WANTED, per_shard=4, workers=1)
    dropped = {Path(one.source).name: one.reason for one in read_dropped(tmp_path / "store")}
    assert dropped == {
        "bomb.png": "unreadable", "cut.jpg": "unreadable", "pair.png": "two people", "wall.png": "no face",
        "half.png": "cut off", "soft.png": "blurred", "tiny.png": "too small", "bar.png": "occluded",
    }  # fmt: skip
    assert (done.listed, done.kept, sum(done.dropped.values()), done.others) == (12, 4, 8, 1)
    store = PictureStore(tmp_path / "store", contents=True)
    assert store.head_model == load_head_model().identity
    rows = {str(store.row(k)["source"]): k for k in range(4)}
    upright, mirrored, turned, grey = (rows[n] for n in ("a2.png", "a10.webp", "sub/turned.jpg", "sub/grey.bmp"))
    assert np.abs(store.picture(turned).astype(int) - store.picture(upright)).mean() < 6, "the orientation is followed"
    assert np.abs(store.picture(grey).astype(int).std(-1)).max() <= 12, "grey stays grey, but for JPEG"
    assert np.abs(store.picture(mirrored)[:, ::-1].astype(int) - store.picture(upright)).mean() < 12
    for picture in range(4):
        row = store.row(picture)
        assert np.abs(row["camera"][[19, 16, 20]] - [0, 4.757182, 4.757182]).max() < 1e-3
        assert np.any(row["shape"] != 0) and np.any(row["expression"] != 0) and row["error_px"] < 4
        assert "motion" not in row
        mask = store.mask(picture)
        assert mask[64:90, 50:78].mean() > 0.95 and 0.3 < mask.mean() < 0.9 and mask[:10, :10].mean() < 0.2


@needs_face_models
def test_ranks_and_a_kill_leave_the_same_store(folder, tmp_path, monkeypatch):
    wanted = Wanted(size=64, format="png", most_enlarged=0.64)
    prepare_pictures(folder, tmp_path / "whole", wanted, per_shard=3, workers=1)
    looked: list[str] = []
    look = taking._look

    def killed(batch: taking.Batch, k: int) -> object:
        looked.append(batch.paths[k])
        if len(looked) == 5:
            raise KeyboardInterrupt
        return look(batch, k)

    monkeypatch.setattr(taking, "_look", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_pictures(folder, tmp_path / "store", wanted, per_shard=3, workers=1)
    with pytest.raises(InputError, match="begun with size 64, now it is 128"):
        prepare_pictures(folder, tmp_path / "store", Wanted(size=128, most_enlarged=0.64), per_shard=3)
    looked.clear()
    monkeypatch.setattr(taking, "_look", lambda batch, k: looked.append(batch.paths[k]) or look(batch, k))
    second = prepare_pictures(folder, tmp_path / "store", wanted, 3, 1, rank=1, ranks=2)
    assert not second.finished, "the first rank has two shards left"
    first = prepare_pictures(folder, tmp_path / "store", wanted, 3, 1, rank=0, ranks=2)
    assert first.finished and len(looked) == 9, "the first shard was done before the kill"
    files = {path.name: sha256(path) for path in (tmp_path / "whole").iterdir()}
    assert {path.name: sha256(path) for path in (tmp_path / "store").iterdir()} == files
    assert prepare_pictures(folder, tmp_path / "store", wanted, 3).already_there
    with pytest.raises(InputError, match="this store is finished, with per_shard 3, now it is 4"):
        prepare_pictures(folder, tmp_path / "store", wanted, 4)


@needs_face_models
def test_landmarks_beside_a_picture_are_taken(folder, tmp_path, monkeypatch):
    (tmp_path / "in" / "landmarks").mkdir(parents=True)
    shutil.copy(folder / "a2.png", tmp_path / "in")
    with Image.open(folder / "a2.png") as opened:
        (face, *_) = NetworkFaces().find(np.asarray(opened.convert("RGB")))
    np.save(tmp_path / "in" / "landmarks" / "a2.npy", face.points[:, :2])
    monkeypatch.setattr(NetworkFaces, "find", lambda *_: pytest.fail("the face is known"))
    wanted = dataclasses.replace(WANTED, most_error_px=25.0)  # the files are fitted as any tracker's
    prepare_pictures(tmp_path / "in", tmp_path / "store", wanted, workers=1)
    store = PictureStore(tmp_path / "store")
    assert len(store) == 1 and float(store.row(0)["error_px"]) > 10
    np.save(tmp_path / "in" / "landmarks" / "a2.npy", face.points[:5, :2])
    with pytest.raises(InputError, match=r"all 1 were dropped \(unreadable 1\)"):
        prepare_pictures(tmp_path / "in", tmp_path / "other", WANTED, workers=1)


@needs_face_models
def test_a_motion_encoder_adds_motion(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a2.png", "a10.webp"):
        shutil.copy(folder / name, tmp_path / "in")
    demo = Path(__file__).parents[2] / "core" / "weights" / "demo"
    words = [
        str(tmp_path / "in"),
        str(tmp_path / "store"),
        "--size",
        "128",
        "--most-enlarged",
        "1.28",
        "--workers",
        "1",
    ]
    assert cli.main(["prepare", "pictures", *words, "--motion", str(demo)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "store")
    store = PictureStore(tmp_path / "store")
    width = store.index["motion"]["width"]
    motions = np.stack([store.row(k)["motion"] for k in range(2)])
    assert motions.shape == (2, width) and np.abs(motions[0] - motions[1]).max() > 0
    assert json.loads((tmp_path / "store" / "index.json").read_text())["motion"]["width"] == width


REFUSED = {
    "missing": ([], "nothing is there"),
    "size": (["--size", "8"], "size: expected 64 to 2048, got 8"),
    "face": (["--face", "0"], "face: expected 1 or more"),
    "blur": (["--most-blur", "2"], "most-blur: expected 0 to 1"),
    "shard": (["--per-shard", "0"], "per-shard: expected 1 to"),
    "workers": (["--workers", "0"], "workers: expected 1 to 256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_and_folders_are_checked_before_any_work(case, tmp_path, capsys):
    words, said = REFUSED[case]
    assert cli.main(["prepare", "pictures", str(tmp_path / "in"), str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("none")
    assert cli.main(["prepare", "pictures", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "expected pictures in this folder or in those in it, got none, only 1 other files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_films_and_stills_have_one_name_and_one_default_for_a_limit():
    stills = {field.name: field.default for field in dataclasses.fields(Pictures) if field.name != "size"}
    films = {field.name: field.default for field in dataclasses.fields(Videos)}
    options = {field.name: field.default for field in dataclasses.fields(FilmOptions)}
    shared = [name for name in stills if name.startswith(("most_", "other_"))]
    assert len(shared) == 6
    assert {name: stills[name] for name in shared} == {name: films.get(name) for name in shared}
    assert {name: stills[name] for name in shared} == {name: options[name] for name in shared}
