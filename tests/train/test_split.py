"""Identities that are held out: by their hash alone, written in the set, checked, and never trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.train import little, tracked
from tests.train.runs import hashes, refused
from tests.train.splits import SEED, between
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.frames import AvDecoder
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.clip_store.tracks import HeadTracks
from triportrait.train.data.pictures import PictureSet
from triportrait.train.data.split import (
    SPLIT,
    Split,
    check_share,
    head_identity,
    place,
    read_identities,
    read_split,
    split_data,
)
from triportrait.train.stages import static


@pytest.fixture
def clips(little_clips, tmp_path) -> Path:
    return Path(shutil.copytree(little_clips, tmp_path / "clips"))


@pytest.fixture
def heads(little_folder, tmp_path) -> Path:
    return Path(shutil.copytree(little_folder, tmp_path / "heads"))


def test_a_hash_decides_and_nobody_moves_when_others_come():
    few, many = ([f"person {i}" for i in range(count)] for count in (200, 2000))
    held = [set(Split(0.1, 0, "file", {who: who for who in people}).held_out) for people in (few, many)]
    assert held[0] == held[1] & set(few)
    assert 150 < len(held[1]) < 250, "a tenth of 2,000"
    assert held[1] <= set(Split(0.2, 0, "file", {who: who for who in many}).held_out), "a larger share holds out more"
    assert held[1] != set(Split(0.1, 1, "file", {who: who for who in many}).held_out)


def test_a_head_is_on_the_same_side_in_a_set_and_in_a_clip_store(heads, clips):
    share = between(0, 2)
    of_heads, of_clips = (split_data(folder, share)[0] for folder in (heads, clips))
    shared = set(of_heads.identities.values())
    assert len(shared) == 2
    assert set(of_heads.held_out) == set(of_clips.held_out) & shared


def test_a_clip_of_a_held_out_person_is_never_drawn(clips):
    split, already = split_data(clips, between(0, 5))
    assert not already
    trained, held_out = split.sides()
    assert sorted(trained + held_out) == list(range(5))
    assert len(held_out) == 1
    store = ClipStore(clips)
    tracks = HeadTracks(little.model(), little.torch.device("cpu"))
    data = ClipPictures(store, little.model(), tracks, 0, AvDecoder(), chosen=trained)
    assert data.heads == 4
    drawn = [data.clip_at(image) for image in range(12)]
    assert [sorted(drawn[i : i + 4]) for i in (0, 4, 8)] == [trained] * 3, "each of the others once in an epoch"
    (clips / f"{store.clips[trained[0]]}.mp4").unlink()
    seen: set[str] = set()
    for image in range(24):  # also what comes in the place of a damaged clip
        seen |= set(data.pairs(1, 0.0, np.random.default_rng(image), image)[0].origin)
    assert seen == {str(clips / f"{store.clips[clip]}.mp4") for clip in trained[1:]}


def test_a_held_out_head_is_not_even_in_memory(heads):
    split, _ = split_data(heads, between(0, 2))
    trained, _ = split.sides()
    cast = PictureSet(heads, little.model(), chosen=trained)
    assert (cast.heads, len(cast)) == (1, 6)
    stage = dataclasses.replace(little.config().stage1, batch=16)
    batch = static.draw([cast], stage, np.random.default_rng(0))
    assert set(batch.source.origin + batch.target.origin) == {str(heads / f"head_00000{trained[0]}.npz")}


def test_all_clips_of_a_video_are_on_one_side(tmp_path, capsys):
    store = tmp_path / "store"
    tracked.write_store(store)
    index = json.loads((store / "index.json").read_text())
    names = [clip["name"] for clip in index["clips"]]
    assert names == [f"clip_{i}" for i in range(len(names))]
    lines = [f"train/Clip+{'one_-Video' if i < 2 else f'video{i}'}+P{i}+C0+F1-50.mp4" for i in range(len(names))]
    (tmp_path / "whose.txt").write_text("\n".join(lines) + "\n")
    share = sum(sorted(place(who, 0) for who in ("one_-Video", "video2", "video3"))[:2]) / 2
    split, _ = split_data(store, share, identities=tmp_path / "whose.txt")
    assert split.known_by == "file"
    assert list(split.identities.values()) == ["one_-Video", "one_-Video", *(f"video{i}" for i in range(2, len(names)))]
    sides = [set(side) for side in split.sides()]
    assert any({0, 1} <= side for side in sides)
    assert split_data(store, share)[1], "who they are is known from then on"
    capsys.readouterr()
    (tmp_path / "short.txt").write_text("one\n")
    (tmp_path / "gap.txt").write_text("one\n\nthree\n")
    (store / SPLIT).unlink()
    for file, said in (("short.txt", "lines, one for each record, got 1; mend it"), ("gap.txt", "line 2 is empty")):
        assert said in refused(["prepare", "split", store, "--identities", tmp_path / file], capsys)
    assert not (store / SPLIT).exists()
    assert split_data(store, 0.6)[0].sentence().endswith("clips, each of which counts as a person held out")
    assert read_identities(tmp_path / "whose.txt")[0] == "one_-Video"


def test_prepare_splits_what_it_makes_and_what_is_there(heads, clips, tmp_path, capsys):
    before = hashes(clips)
    assert cli.main(["prepare", "split", str(clips), "--share", f"{between(0, 5)}"]) == 0
    assert "1 of 5 identities held out" in capsys.readouterr().err
    after = hashes(clips)
    assert after.pop(SPLIT)
    assert after == before, "only one file is written"
    assert cli.main(["prepare", "check", str(clips)]) == 0
    assert "1 of 5 identities held out" in capsys.readouterr().out
    words = ["prepare", "clips", str(clips), "--split", f"{between(0, 5)}"]
    words += [f"--{name}={value}" for name, value in little.CLIPS.items()]
    assert cli.main(words) == 0, "as after a kill between the last clip and the split"
    (clips / SPLIT).unlink()
    assert cli.main(words) == 0
    assert hashes(clips)[SPLIT]
    fresh = tmp_path / "fresh"
    made = ["prepare", "heads", str(fresh), "--seed=3", "--count=2", "--expressions=1", "--views=1", "--size=64"]
    assert cli.main([*made, "--antialias=1", "--split", f"{between(0, 2)}"]) == 0
    split = read_split(fresh)
    assert split is not None
    assert len(split.held_out) == 1


def test_what_cannot_be_split_is_refused_before_any_work(clips, tmp_path, capsys):
    new, places = tmp_path / "new", sorted(place(head_identity(SEED, head), 0) for head in range(5))
    few = ["prepare", "clips", new, "--seed", SEED, "--count", 5]
    for share, said in (
        (0, "expected a share between 0 and 1, got 0"),
        (1.5, "expected a share between 0 and 1, got 1.5"),
        (places[0] / 2, "holds out none of the 5 identities"),
        ((1 + places[-1]) / 2, "leaves none of the 5 identities"),
    ):
        assert said in refused([*few, "--split", share], capsys)
    assert "expected two identities or more to split, got 1" in refused([*few, "--count", 1, "--split", 0.5], capsys)
    assert not new.exists()
    with pytest.raises(InputError, match="is the least that holds one out") as said_least:
        check_share(places[0] / 2, 0, [head_identity(SEED, head) for head in range(5)], "x")
    least = float(str(said_least.value).split("decide; ")[1].split()[0])
    check_share(least, 0, [head_identity(SEED, head) for head in range(5)], "x")
    split_data(clips, between(0, 5))
    before = hashes(clips)
    assert "it is split already with share" in refused(["prepare", "split", clips, "--share", 0.7], capsys)
    words = ["prepare", "split", clips, "--share", between(0, 5), "--seed", 1]
    assert "it is split already with seed 0, now it is 1; say the same, or remove" in refused(words, capsys)
    (tmp_path / "whose.txt").write_text("a\n" * 5)
    words = ["prepare", "split", clips, "--identities", tmp_path / "whose.txt"]
    assert "expected no file for procedural heads" in refused(words, capsys)
    assert hashes(clips) == before
    assert "a folder of heads is wanted, nothing is there" in refused(["prepare", "split", tmp_path / "none"], capsys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda split: split | {"share": 0.9}, "damaged or was changed"),
        (lambda split: split | {"held_out": []}, "damaged or was changed"),
        (lambda split: split | {"identities": 7}, "damaged or was changed"),
        (lambda split: split | {"seed": True}, "damaged or was changed"),
        (lambda split: [], "damaged or was changed"),
        (None, "it is of others"),
    ],
)
def test_a_split_that_was_changed_is_found(change, said, clips, capsys):
    split_data(clips, between(0, 5))
    path = clips / SPLIT
    if change is None:  # of another store
        identities = {f"clip_{i:06d}": head_identity(SEED + 1, i) for i in range(5)}
        plain = Split(between(0, 5, SEED + 1), 0, "heads", identities).plain()
    else:
        plain = change(json.loads(path.read_text()))
    path.write_text(json.dumps(plain))
    sentence = refused(["prepare", "check", clips], capsys)
    assert sentence.startswith(f"{path}: expected")
    assert said in sentence
