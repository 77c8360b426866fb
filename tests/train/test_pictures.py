"""Sets in memory: what is taken is what would be photographed, and another set is refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train import little
from tests.train.runs import hashes
from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.train.data import pictures
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import PictureSet, join, open_set, photograph
from triportrait.train.data.scene_sampling import cameras, expressions, population

CAST = little.CAST
POSES, VIEWS = torch.tensor([7, 0, 11, 7]), torch.tensor([2, 0, 1, 1])
SMALL = dataclasses.replace(CAST, count=2, expressions=2, views=1)


@pytest.fixture
def changed(little_folder, tmp_path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(little_folder, tmp_path / "cast")
    return tmp_path / "cast"


def test_what_is_taken_is_what_would_be_photographed(little_cast):
    who, light = population(CAST.seed, CAST.count)
    face = expressions(CAST.seed, CAST.count, CAST.expressions)
    camera = cameras(CAST.seed, CAST.count, CAST.expressions, CAST.views)
    heads = POSES // CAST.expressions
    truth = photograph(
        HeadRenderer(),
        who.take(heads),
        face.take(POSES),
        light.take(heads),
        camera.take(POSES * CAST.views + VIEWS),
        little.model(),
        antialias=1,
    )
    found = little_cast.take(POSES, VIEWS)
    assert (little_cast.heads, little_cast.poses_each, little_cast.views, len(little_cast)) == (2, 6, 3, 12)
    torch.testing.assert_close(found.image, truth.image.clamp(-1, 1), atol=1.01 / 255, rtol=0)
    torch.testing.assert_close(found.opacity, truth.opacity, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.depth, truth.depth, atol=3e-3, rtol=0)
    for name in ("landmarks", "motion"):
        assert torch.equal(getattr(found, name), getattr(truth, name)), name
    assert torch.equal(found.camera.world_from_camera, truth.camera.world_from_camera)
    assert torch.equal(found.camera.intrinsics, truth.camera.intrinsics)
    assert found.neck is not None
    assert truth.neck is not None
    for name in ("fine", "coarse"):
        torch.testing.assert_close(getattr(found.neck, name), getattr(truth.neck, name), atol=1e-4, rtol=1e-3)
    assert (found.neck.box_side, found.neck.near_squared_distance) == (1.3, NeckConfig().near_squared_distance)
    assert truth.neck.coarse.abs().max() > 0.02, "a neck is turned"
    assert truth.parts is not None
    assert truth.parts.shape == (4, 64, 64)


def test_depth_on_the_ray_grid_is_of_the_head_alone(little_cast):
    """The rim of a head is as near as the head, not half way to nothing."""
    seen = little_cast.take(torch.arange(12), torch.zeros(12, dtype=torch.long))
    covered = seen.depth > 0
    assert seen.depth[covered].min() > 3
    assert seen.depth.max() < 5
    assert covered[seen.opacity > 0.05].all()
    assert not covered[seen.opacity == 0].any()
    assert 0.1 < seen.opacity.mean() < 0.9


def test_poses_are_numbered_head_by_head(little_cast):
    number = little_cast.pose(np.array([0, 1, 1]), np.array([5, 0, 4]))
    assert number.tolist() == [5, 6, 10]


def test_joined_pictures_stand_one_behind_the_other(little_cast, little_strangers, little_folder):
    zero, one = torch.tensor([0]), torch.tensor([1])
    both = join([little_cast.take(zero, one), little_strangers.take(one, zero)])
    for part, chosen, pose, view in ((0, little_cast, zero, one), (1, little_strangers, one, zero)):
        alone = chosen.take(pose, view)
        for name in ("image", "opacity", "depth", "landmarks", "motion"):
            assert torch.equal(getattr(both, name)[part], getattr(alone, name)[0]), name
        assert both.neck is not None
        assert alone.neck is not None
        assert torch.equal(both.neck.fine[part], alone.neck.fine[0])
        assert torch.equal(both.neck.coarse[part], alone.neck.coarse[0])
        assert torch.equal(both.camera.world_from_camera[part], alone.camera.world_from_camera[0])
    straight = PictureSet(little_folder, little.model(), necks=False).take(zero, one)
    assert straight.neck is None
    assert join([little_cast.take(zero, one), straight]).neck is None


def test_a_set_is_drawn_once_and_then_read(tmp_path, monkeypatch):
    drawn, read = [], []
    one = open_set(tmp_path / "cast", SMALL, little.model(), drawing=drawn.append, reading=read.append)
    assert drawn == [1, 2]
    assert read == [1, 2]
    before = hashes(tmp_path)
    monkeypatch.setattr(pictures, "write_multiview", lambda *a, **k: pytest.fail("drawn again"))
    again = open_set(tmp_path / "cast", SMALL, little.model(), drawing=drawn.append, reading=read.append)
    assert drawn == [1, 2]
    assert read == [1, 2, 1, 2]
    assert hashes(tmp_path) == before
    poses, views = torch.arange(4), torch.zeros(4, dtype=torch.long)
    first, second = one.take(poses, views), again.take(poses, views)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.neck.fine, second.neck.fine)


def test_neck_poses_are_kept_for_the_next_time_and_only_for_the_same_numbers(tmp_path, monkeypatch):
    folder, model = tmp_path / "cast", little.model()
    poses, views = torch.arange(4), torch.zeros(4, dtype=torch.long)
    wanted = open_set(folder, SMALL, model).take(poses, views).neck
    original, made = pictures.neck_grids, []
    monkeypatch.setattr(pictures, "neck_grids", lambda *a: made.append(1) or original(*a))
    assert torch.equal(open_set(folder, SMALL, model).take(poses, views).neck.fine, wanted.fine)
    assert made == []
    other = dataclasses.replace(model, neck=dataclasses.replace(model.neck, fine_size=5))
    assert open_set(folder, SMALL, other).take(poses, views).neck.fine.shape == (4, 5, 5, 5, 4)
    assert made
    kept = next(p for p in tmp_path.iterdir() if p.is_file())
    for damage in (lambda: kept.write_bytes(kept.read_bytes()[:-50]), lambda: kept.write_text("x"), kept.unlink):
        damage()
        made.clear()
        found = open_set(folder, SMALL, model).take(poses, views).neck
        assert made
        assert torch.equal(found.fine, wanted.fine)
        assert torch.equal(found.coarse, wanted.coarse)


@pytest.mark.parametrize(
    "name, value", [("seed", 4), ("count", 3), ("expressions", 5), ("views", 2), ("size", 32), ("antialias", 2)]
)
def test_a_set_of_other_numbers_is_refused_by_the_name_of_the_number(name, value, little_folder):
    before = hashes(little_folder.parent)
    with pytest.raises(InputError, match=rf"cast: expected a set with {name} {value}, got .*; name another") as found:
        open_set(little_folder, dataclasses.replace(CAST, **{name: value}), little.model())
    assert "\n" not in str(found.value)
    assert hashes(little_folder.parent) == before


def test_a_set_of_another_size_is_refused(little_folder):
    other = dataclasses.replace(
        little.model(), image_size=128, render=dataclasses.replace(little.model().render, plane_size=64, neural_size=32)
    )
    with pytest.raises(InputError, match="cast: expected pictures of 128 px, got 64; make the set again"):
        PictureSet(little_folder, other)


def _same_length(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


DAMAGE = {
    "no index": (lambda f: (f / "index.json").unlink(), r"cast: it has no index\.json"),
    "half an index": (lambda f: (f / "index.json").write_text("{"), r"index\.json: it cannot be read as JSON"),
    "an index of something else": (
        lambda f: (f / "index.json").write_text(json.dumps({"kind": "holiday", "files": {}})),
        "cast: .*is wanted, it holds 'holiday'",
    ),
    "a head is missing": (lambda f: (f / "head_000001.npz").unlink(), r"head_000001\.npz: .*it is missing"),
    "half a head": (
        lambda f: (f / "head_000001.npz").write_bytes((f / "head_000001.npz").read_bytes()[:999]),
        r"head_000001\.npz: it is not what the index says",
    ),
    "a head of the same length": (
        lambda f: _same_length(f / "head_000001.npz"),
        r"head_000001\.npz: it cannot be read \(damaged\)",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_set_is_refused_in_one_sentence_and_kept(case, changed):
    damage, said = DAMAGE[case]
    damage(changed)
    before = hashes(changed.parent)
    with pytest.raises(InputError, match=said) as found:
        open_set(changed, CAST, little.model())
    assert "\n" not in str(found.value)
    assert hashes(changed.parent) == before


def test_no_set_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="none: a folder of heads is wanted, nothing is there"):
        PictureSet(tmp_path / "none", little.model())
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: a folder of heads is wanted, a file is there"):
        open_set(tmp_path / "file", CAST, little.model())


def test_a_drawing_that_was_stopped_leaves_nothing(tmp_path):
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_set(tmp_path / "cast", SMALL, little.model(), drawing=stop)
    assert list(tmp_path.iterdir()) == []
