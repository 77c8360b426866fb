"""Stored clips as stage 2 draws them: filmed, paired, shuffled, decoded in two ways, damaged, tracked by FLAME."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train import little, tracked
from tests.train.spoiling import changed, spoil
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import camera_from_label
from triportrait.train import loop
from triportrait.train.config import ReenactConfig
from triportrait.train.data.clip_pictures import ClipPictures, LruCache
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, Decoder, decode
from triportrait.train.data.clip_store.store import PROGRESS, ClipStore
from triportrait.train.data.clip_store.tracks import FlameTracks, HeadTracks, rectified_camera, rectified_necks
from triportrait.train.data.heads.rasterize import project
from triportrait.train.data.multiview import from_positions, to_positions
from triportrait.train.data.pictures import Pictures, photograph
from triportrait.train.data.resize import shrink
from triportrait.train.data.scene_sampling import filming_cameras, motion, population, take_pictures
from triportrait.train.engines.ranks import Ranks
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages.motion import motion_of
from triportrait.train.stages.stage import Stage

CPU = torch.device("cpu")
COUNT, FRAMES, SIZE = (little.CLIPS[name] for name in ("count", "frames", "size"))


def heads(folder: Path, decode: Decoder | None = None, **changes: Any) -> ClipPictures:
    tracks = HeadTracks(little.model(), CPU)
    values = {"seed": 0, "decode": decode or AvDecoder(), "positions": True, "most_skipped": 0.5} | changes
    return ClipPictures(ClipStore(folder, whole=False), little.model(), tracks, **values)


def numbers(pictures: Pictures) -> list[Tensor]:
    found = [pictures.image, pictures.opacity, pictures.landmarks, pictures.camera.world_from_camera, pictures.motion]
    if pictures.neck is not None:
        found += [pictures.neck.fine, pictures.neck.coarse]
    return found


def same(one: tuple[Pictures, Pictures], other: tuple[Pictures, Pictures]) -> bool:
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(numbers(x), numbers(y), strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def drawn(clips: ClipPictures, place: int, count: int = 4, seed: int = 0) -> tuple[Pictures, Pictures]:
    return clips.pairs(count, 0.0, np.random.default_rng([seed, place]), place)


def frames_of(clips: ClipPictures, pictures: Pictures) -> list[tuple[int, int]]:
    """Which clip and which frame each picture is."""
    faces = [clips.store.table(clip)["expression"] for clip in range(len(clips.store))]
    places = []
    for row in pictures.motion.numpy():
        (place,) = [(c, t) for c, face in enumerate(faces) for t in range(len(face)) if (face[t] == row).all()]
        places.append(place)
    return places


# filming


def test_a_clip_is_one_head_and_its_table_is_the_truth(little_clips, studio):
    store = ClipStore(little_clips, contents=True)
    assert (len(store), store.frames_of, store.size) == (COUNT, [FRAMES] * COUNT, SIZE)
    assert store.index["source"] == "heads"
    assert store.index["seed"] == 3
    who, light = population(3, COUNT)
    clip, row = 2, 3
    face, camera = motion(3, clip, FRAMES, 25).take([row]), filming_cameras(3, COUNT).take([clip])
    view = take_pictures(studio.renderer, who.take([clip]), face, light.take([clip]), camera, SIZE, 1)
    table = store.table(clip)
    told = camera_from_label(torch.from_numpy(table["camera"]))
    assert torch.equal(told.world_from_camera[row], camera.world_from_camera[0])
    assert (table["camera"] == table["camera"][0]).all(), "the camera stands"
    seen = project(torch.from_numpy(table["points"]), told, SIZE)[0][row] + 0.5
    torch.testing.assert_close(seen, view.landmarks[0], atol=1e-3, rtol=0)
    assert np.array_equal(table["expression"][row], face.vector[0])
    assert np.array_equal(table["neck"][row], face.neck[0])
    assert all(np.array_equal(table[f"identity.{n}"][row], value[clip]) for n, value in who.fields().items())
    assert np.array_equal(store.masks(clip, np.array([row]))[0], view.opacity[0, 0] >= 0.5)
    assert np.array_equal(table["positions"][row], to_positions(view.positions)[0])
    (shown,) = AvDecoder()([(store.path(clip), [row])])
    assert isinstance(shown, Tensor)
    off = (shown[0].float() - ((view.image[0] + 1) * 127.5).permute(1, 2, 0)).abs()
    assert off.mean() < 4, "the right frame, and H.264 costs little"


def test_large_pictures_keep_positions_at_a_smaller_side(tmp_path):
    film_heads(tmp_path / "s", seed=0, count=1, frames=2, size=192, antialias=1)
    assert ClipStore(tmp_path / "s").table(0)["positions"].shape == (2, 96, 96, 3)


def test_filming_goes_on_where_it_was(tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int) -> None:
        if done == 1:
            raise Killed

    few = little.CLIPS | {"count": 2, "frames": 2}
    with pytest.raises(Killed):
        film_heads(tmp_path / "a", **few, progress=kill)
    before = (tmp_path / "a" / "clip_000000.mp4").stat().st_mtime_ns
    assert (tmp_path / "a" / PROGRESS).exists()
    film_heads(tmp_path / "a", **few)
    film_heads(tmp_path / "b", **few)
    assert (tmp_path / "a" / "clip_000000.mp4").stat().st_mtime_ns == before, "what was whole is not made again"
    for name in ("clip_000000", "clip_000001"):
        for ending in (".mp4", ".npz"):
            assert (tmp_path / "a" / f"{name}{ending}").read_bytes() == (
                tmp_path / "b" / f"{name}{ending}"
            ).read_bytes()


def test_the_commands_make_what_training_reads(tmp_path, capsys):
    words = ["prepare", "clips", str(tmp_path / "clips"), "--count", "1", "--frames", "2", "--size", "32"]
    assert cli.main([*words, "--antialias", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "clips")
    assert cli.main(["prepare", "check", str(tmp_path / "clips")]) == 0
    assert capsys.readouterr().out.strip() == "1 clips of 32 px, 2 frames: whole"
    sets = ["prepare", "heads", "--out", str(tmp_path / "set"), "--count", "1", "--expressions", "2", "--views", "1"]
    assert cli.main([*sets, "--size", "32", "--antialias", "1"]) == 0
    assert json.loads((tmp_path / "set" / "index.json").read_text())["kind"] == "triportrait multi-view heads"
    capsys.readouterr()
    for more, said in (("--frames=1", "frames: expected at least 2"), ("--size=33", "H.264 takes even sizes only")):
        assert cli.main(["prepare", "clips", str(tmp_path / "new"), more]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


# pairs


def test_a_pair_is_two_frames_of_one_clip(little_clips):
    clips = heads(little_clips)
    pairs = set()
    for place in range(0, 40, 4):
        source, driving = (frames_of(clips, x) for x in drawn(clips, place))
        assert (
            [clip for clip, _ in source]
            == [clip for clip, _ in driving]
            == [clips.clip_at(place + i) for i in range(4)]
        )
        assert all(a != b for a, b in zip(source, driving, strict=True))
        pairs |= {(a[1], b[1]) for a, b in zip(source, driving, strict=True)}
    assert len(pairs) > 8, "of twelve pairs of four frames"


def test_pictures_hold_the_truth_of_their_frames(little_clips, studio):
    clips = heads(little_clips)
    source, driving = drawn(clips, 0, count=2)
    assert source.neck is None, "nothing turns the source"
    for pictures in (source, driving):
        for image, (clip, row) in zip(pictures.image, frames_of(clips, pictures), strict=True):
            stored = torch.from_numpy(decode(clips.store.path(clip), [row])[0]).permute(2, 0, 1)
            assert torch.equal(image, stored / 127.5 - 1)
    for i, (clip, row) in enumerate(frames_of(clips, driving)):
        who, light = population(3, COUNT)
        face, camera = motion(3, clip, FRAMES, 25).take([row]), filming_cameras(3, COUNT).take([clip])
        truth = photograph(studio.renderer, who.take([clip]), face, light.take([clip]), camera, little.model(), 1)
        assert (driving.image[i] - truth.image[0]).abs().mean() < 0.04
        assert (driving.opacity[i] - truth.opacity[0]).abs().mean() < 0.02
        torch.testing.assert_close(driving.landmarks[i], truth.landmarks[0], atol=1e-3, rtol=0)
        assert driving.neck is not None
        assert truth.neck is not None
        torch.testing.assert_close(driving.neck.fine[i], truth.neck.fine[0], atol=1e-6, rtol=0)
        stored = to_positions(
            take_pictures(studio.renderer, who.take([clip]), face, light.take([clip]), camera, SIZE, 1).positions
        )
        assert driving.positions is not None
        assert torch.equal(driving.positions[i], from_positions(stored)[0])
        assert driving.depth is None


def test_positions_of_a_smaller_side_cover_the_picture(little_clips, tmp_path):
    folder = changed(little_clips, tmp_path / "s", lambda t: t | {"positions": t["positions"][:, 1::2, 1::2]})
    clips = heads(folder)
    _, driving = drawn(clips, 0)
    ((clip, row), *_) = frames_of(clips, driving)
    assert driving.positions is not None
    assert driving.positions.shape == (4, 3, SIZE, SIZE)
    stored = from_positions(torch.from_numpy(clips.store.table(clip)["positions"][row])[None])[0]
    for shift in (0, 1):
        assert torch.equal(driving.positions[0][:, shift::2, shift::2], stored)


def test_landmarks_move_to_other_cameras_by_their_places_in_the_world(little_clips, studio):
    clips = heads(little_clips)
    _, driving = drawn(clips, 0)
    camera = filming_cameras(9, 4)
    who, light = population(3, COUNT)
    for i, (clip, row) in enumerate(frames_of(clips, driving)):
        face = motion(3, clip, FRAMES, 25).take([row])
        view = take_pictures(studio.renderer, who.take([clip]), face, light.take([clip]), camera.take([i]), SIZE, 1)
        moved = stage2.move_landmarks(driving, camera)[i]
        torch.testing.assert_close(moved, view.landmarks[0], atol=1e-3, rtol=0)


# order


def test_every_clip_comes_once_in_an_epoch_and_in_another_order_each_time(little_clips):
    clips, other = heads(little_clips), heads(little_clips, seed=1)
    epochs = [tuple(clips.clip_at(COUNT * e + i) for i in range(COUNT)) for e in range(8)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(epochs)) > 4
    assert epochs != [tuple(other.clip_at(COUNT * e + i) for i in range(COUNT)) for e in range(8)], "the seed decides"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_an_epoch(size, little_clips):
    """However many ranks there are, their micro-batches together are the same, and none sees what another sees."""
    clips = heads(little_clips)
    places: list[list[int]] = []
    stage = Stage(
        "toy", 3, {}, images=1000, batch=8, micro_batches=4,
        draw=lambda streams, place: places[-1].extend((place, place + 1)), phases=[], sample=lambda path: {},
    )  # fmt: skip
    for rank in range(size):
        places.append([])
        for step in range(5):
            for number in Ranks(rank, size).shard(4):
                loop._micro(stage, 0, step, number, 8 * step, torch.device("cpu"))
    assert sorted(place for own in places for place in own) == list(range(40))
    seen = [clips.clip_at(place) for own in places for place in own]
    assert {seen.count(clip) for clip in range(COUNT)} == {8}


def test_a_draw_depends_on_nothing_that_was_drawn_before(little_clips):
    used = heads(little_clips)
    for place in range(0, 24, 4):
        drawn(used, place)
    for place in (4, 20):
        assert same(drawn(used, place), drawn(heads(little_clips), place))
        assert not same(drawn(used, place), drawn(used, place, seed=1)), "the streams choose the frames"
    assert used.log_numbers()["data_frames_cached"] > 0.3
    assert used.log_numbers()["data_necks_cached"] > 0.2


def test_dali_and_pyav_make_the_same_batch(little_clips):
    pytest.importorskip("nvidia.dali")
    config = ReenactConfig(batch=4)
    ours, theirs = heads(little_clips), heads(little_clips, DaliDecoder(CPU))
    differs = False
    for place in (0, 4):
        one, other = (stage2.draw(x, config, np.random.default_rng(place), place) for x in (ours, theirs))
        for a, b in ((one.source, other.source), (one.driving, other.driving)):
            assert (a.image - b.image).abs().max() <= 2 / 127.5 + 1e-6
            differs |= not torch.equal(a.image, b.image)
            assert all(torch.equal(x, y) for x, y in zip(numbers(a)[1:], numbers(b)[1:], strict=True))
        assert torch.equal(one.camera_p.world_from_camera, other.camera_p.world_from_camera)
    assert differs, "DALI has decoded"


# damage


SPOILT = {
    "no video": "does not decode",
    "flipped bit": "is not what the index says",
    "gone": "is missing",
    "row": "neck has 3 rows for 4 frames",
    "column": "its table has no points",
    "camera": "the camera of frame 0 is no rotation",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_clip_that_cannot_be_used_is_replaced_counted_and_named(kind, little_clips, tmp_path):
    shutil.copytree(little_clips, tmp_path / "s")
    spoil(tmp_path / "s", kind, "clip_000001")
    clips = heads(tmp_path / "s", most_skipped=0.2)
    whole, used, pairs = heads(little_clips), [], {}
    for place in (0, 4, 8):
        pair = pairs[place] = drawn(clips, place)
        wanted = [clips.clip_at(place + i) for i in range(4)]
        names = [clip for clip, _ in frames_of(whole, pair[1])]
        assert 1 not in names
        assert all(a == b for a, b in zip(names, wanted, strict=True) if b != 1)
        used += wanted
    assert 1 in used
    assert list(clips.skipped) == ["clip_000001"]
    assert SPOILT[kind] in clips.skipped["clip_000001"]
    assert clips.log_numbers()["data_left_out"] == 1
    clips.check_skipped(clips.skipped)
    for place, pair in pairs.items():
        again = drawn(heads(tmp_path / "s"), place)
        assert same(again, pair), "which clip comes instead does not depend on what was drawn before"
    with pytest.raises(InputError, match=r"1 of 5 clips cannot be used, more than 10% \(clip_000001: .*--most-skipped"):
        heads(tmp_path / "s", most_skipped=0.1).check_skipped(clips.skipped)


def test_a_store_without_a_clip_that_can_be_used_is_one_sentence(little_clips, tmp_path):
    shutil.copytree(little_clips, tmp_path / "s")
    for clip in range(COUNT):
        spoil(tmp_path / "s", "no video", f"clip_{clip:06d}")
    with pytest.raises(InputError, match=r"none of 100 clips can be used \(clip_00000\d.mp4 does not decode\)"):
        drawn(heads(tmp_path / "s"), 0)


def test_another_size_is_refused(tmp_path):
    film_heads(tmp_path / "s", seed=0, count=1, frames=2, size=32, antialias=1)
    with pytest.raises(InputError, match="expected pictures of 64 px, got 32; make the store again"):
        heads(tmp_path / "s")


def test_the_cache_drops_what_was_not_used_longest():
    cache = LruCache[int](2)
    assert cache.get("a") is None
    for name, value in (("a", 1), ("b", 2)):
        cache.put(name, value)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("b"), cache.get("a"), cache.get("c")) == (None, 1, 3)
    assert (cache.hits, cache.requests) == (3, 5)


# tracked faces


def quaternion(axis: int, angle: float) -> np.ndarray:
    found = np.zeros(4)
    found[0], found[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return found


def times(*quaternions: np.ndarray) -> np.ndarray:
    product = np.array([1.0, 0, 0, 0])
    for q in quaternions:
        (a, u), (b, v) = (product[0], product[1:]), (q[0], q[1:])
        product = np.concatenate([[a * b - u @ v], a * v + b * u + np.cross(u, v)])
    return product


def vector(q: np.ndarray) -> np.ndarray:
    return 2 * np.arctan2(np.linalg.norm(q[1:]), q[0]) * q[1:] / max(np.linalg.norm(q[1:]), 1e-12)


def test_necks_are_freed_of_where_the_camera_stands():
    """Against quaternions built from the angles themselves."""
    rng = np.random.default_rng(0)
    angles = np.array([0.2, 0.4, -0.1]) + rng.uniform(-0.6, 0.6, size=(7, 3))
    frames = [times(quaternion(2, c), quaternion(1, b), quaternion(0, a)) for a, b, c in angles]
    b, c = angles[:, 1].mean(), angles[:, 2].mean()
    undo = times(quaternion(1, -b), quaternion(2, -c))
    wanted = np.stack([vector(times(undo, frame)) for frame in frames])
    found = rectified_necks(np.stack([vector(frame) for frame in frames]))
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_a_neck_that_never_moves_is_straight_but_for_its_nod():
    np.testing.assert_allclose(rectified_necks(np.tile([0.0, 0.5, 0.0], (3, 1))), 0, atol=1e-7)
    np.testing.assert_allclose(
        rectified_necks(np.tile([0.3, 0.0, 0.0], (3, 1))), np.tile([0.3, 0, 0], (3, 1)), atol=1e-7
    )
    left_and_right = np.array([[0.0, 0.1, 0], [0, 0.5, 0]])
    np.testing.assert_allclose(rectified_necks(left_and_right), [[0, -0.2, 0], [0, 0.2, 0]], atol=1e-7)


def test_a_turned_neck_beside_its_camera_looks_like_a_straight_one_before_it():
    flame = tracked.field(rigid=True).flame
    betas, jaw, eyes = (
        0.3 * torch.randn(3, 400, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, 3),
        torch.zeros(3, 6),
    )
    neck = torch.tensor([[0.3, 0.2, -0.1], [0, -0.4, 0], [0, 0, 0]])
    camera = camera_from_label(torch.from_numpy(tracked.table(0, 3)["camera"]))
    straight, joints = flame(betas, torch.zeros(3, 3), jaw, eyes)
    turned, _ = flame(betas, neck, jaw, eyes)
    assert (straight[:2] - turned[:2]).abs().amax((1, 2)).min() > 0.05
    beside = rectified_camera(camera, neck, joints[:, 1])
    torch.testing.assert_close(project(turned, beside, 512)[0], project(straight, camera, 512)[0], atol=5e-3, rtol=0)


def test_pictures_of_tracked_faces_hold_what_flame_makes_of_their_tables(tmp_path):
    store = ClipStore(tracked.write_store(tmp_path / "s"))
    field = tracked.field()
    clips = ClipPictures(store, little.model(), FlameTracks(field, 9), 0, AvDecoder())
    source, driving = drawn(clips, 0, count=3)
    for i in range(3):
        table = store.table(clips.clip_at(i))
        (s,), (d,) = (np.flatnonzero((table["motion"] == x.features[i].numpy()).all(1)) for x in (source, driving))  # type: ignore[union-attr,index]
        own = {name: torch.from_numpy(table[name]) for name in ("shape", "expression", "pose", "eyes")}
        neck = torch.from_numpy(rectified_necks(table["pose"][:, :3])).float()
        jaw = own["pose"][:, 3:]
        grid = field(own["shape"][[s]], own["expression"][[d]], neck[[d]], jaw[[d]], own["eyes"][[d]])
        assert driving.neck is not None
        assert torch.equal(driving.neck.fine[i], grid.fine[0])
        betas = torch.cat([own["shape"], own["expression"]], 1)[[d]]
        vertices, joints = field.flame(betas, neck[[d]], jaw[[d]], own["eyes"][[d]])
        camera = rectified_camera(camera_from_label(torch.from_numpy(table["camera"][[d]])), neck[[d]], joints[:, 1])
        torch.testing.assert_close(driving.camera.world_from_camera[i], camera.world_from_camera[0])
        points = field.flame.landmarks(vertices)[0, :68]
        torch.testing.assert_close(driving.points[i], points)  # type: ignore[index]
        mask = torch.from_numpy(store.masks(clips.clip_at(i), np.array([d]))).float()[:, None]
        assert torch.equal(driving.opacity[[i]], shrink(mask, 16))


def test_positions_of_a_tracked_face_are_flame_s_rest_under_the_camera():
    """Where a vertex that faces the camera is seen, the picture says where it lies on the head at rest."""
    field, table, size = tracked.field(), tracked.table(0, 3), 128
    field.mesh.register_buffer("eye_idxs", torch.arange(40))
    tracks = FlameTracks(field, None)
    seen = tracks.positions(table, [1], size)[0]  # [3, S, S]
    camera, vertices = tracks._heads(table, [1])
    flame = field.flame
    rest, _ = flame(torch.zeros(1, 400), torch.zeros(1, 3), torch.tensor([[0.3, 0, 0]]), torch.zeros(1, 6))
    wanted = rest[0].clone()
    wanted[:40, 2] -= 0.5
    pixels, forward = project(vertices, camera, size)
    corners = vertices[0, flame["faces"]]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = camera.world_from_camera[0, :3, 3] - corners.mean(1)
    frontal = nn.functional.normalize(normals, dim=-1).mul(nn.functional.normalize(towards, dim=-1)).sum(-1) > 0.6
    middles = pixels[0, flame["faces"]].mean(1)
    frontal &= ((middles > 0) & (middles < size - 1)).all(-1)
    centres = middles[frontal].round().long()
    found = seen[:, centres[:, 1], centres[:, 0]].T
    expected = wanted[flame["faces"][frontal]].mean(1) / 0.6
    assert frontal.sum() > 8
    assert (found - expected).abs().amax() < 0.03
    beside = seen.abs().sum(0) == 0
    assert 0.2 < beside.float().mean() < 0.95
    assert beside[0, 0]
    assert forward.min() > 0


def test_stored_motion_is_taken_and_not_read_again(tmp_path):
    clips = ClipPictures(
        ClipStore(tracked.write_store(tmp_path / "s")), little.model(), FlameTracks(tracked.field(), 9), 0, AvDecoder()
    )
    _, driving = drawn(clips, 0)
    assert motion_of(driving, little.encoder()) is driving.features
    assert motion_of(driving, None).shape == (len(driving.image), 109)
