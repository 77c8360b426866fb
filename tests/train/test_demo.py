"""`triportrait demo`: who is shown, that the tiles are what the captions say, and what it leaves behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.log_json import log_objects
from tests.serve.making import packets_of
from tests.train import little, trained
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Driving
from triportrait.serve.media.provenance.manifest import installed, read_manifest
from triportrait.serve.media.provenance.watermark import read
from triportrait.serve.media.video.writer import write_video
from triportrait.train import demo_tiles
from triportrait.train.data.pictures import neck_grids
from triportrait.train.data.scene_sampling import motion, take_pictures
from triportrait.train.demo_tiles import CAST_HEADS, CAST_SEED, Character, characters, tiles
from triportrait.train.evaluation.protocol import Sitter, driving_seed, renderer, unseen
from triportrait.train.runs.weights import Cast, Trained
from triportrait.train.stages.motion import read_motion


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained.write(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture(scope="module")
def character(weights) -> Character:
    return Character(weights, seed=3, head=1, other=6, frames=8, tile=128)


@pytest.fixture(scope="module")
def made(character) -> np.ndarray:
    return np.stack(list(tiles([character])))


def shown(image: torch.Tensor) -> np.ndarray:
    return ((image[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).numpy()


def near(picture: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(picture - wanted).max() <= 1.0)


# the tiles


def test_the_second_tile_is_another_head_that_moves(character, made):
    assert made.shape == (8, 4, 128, 128, 3)
    assert made.dtype == np.uint8
    face, other = motion(driving_seed(3), 6, 8, 25), Sitter.of(driving_seed(3), 6)
    _, camera = unseen(driving_seed(3), 6)
    for frame in (0, 6):
        view = take_pictures(renderer(), other.identity, face.take([frame]), other.light, camera, 128)
        assert near(made[frame, 1], shown(view.image)), frame
    assert np.abs(made[0, 1].astype(int) - made[3, 1]).max() > 50, "it stands still"


def test_the_first_tile_is_the_source_with_open_eyes(character, made):
    assert (made[:, 0] == made[0, 0]).all()
    sitter, (face, camera) = Sitter.of(3, 1), unseen(3, 1)
    calm = face.replace(blink_left=0.3 * face.blink_left, blink_right=0.3 * face.blink_right, neck=0.3 * face.neck)
    view = take_pictures(renderer(), sitter.identity, calm, sitter.light, camera, 128)
    assert near(made[0, 0], shown(view.image))


def test_the_results_are_the_network_s(character, made, weights):
    """Step by step: 128 px shrunk to the network's 64, motion read off them, the neck of the source's head."""
    portrait, encoder = load_portrait(weights), load_motion_encoder(weights)
    face, frame = character.face(), 6
    other, sitter = Sitter.of(driving_seed(3), 6), Sitter.of(3, 1)
    _, camera = unseen(driving_seed(3), 6)
    view = take_pictures(renderer(), other.identity, face.take([frame]), other.light, camera, 128)
    driving = F.avg_pool2d(view.image, 2)
    source_face, source_camera = unseen(3, 1)
    calm = {name: 0.3 * getattr(source_face, name) for name in ("blink_left", "blink_right", "neck")}
    taken = take_pictures(renderer(), sitter.identity, source_face.replace(**calm), sitter.light, source_camera, 128)
    source = F.avg_pool2d(taken.image, 2)
    v_s = read_motion(encoder, source, taken.landmarks / 2)
    v_d = read_motion(encoder, driving, view.landmarks / 2)
    neck = neck_grids(sitter.identity, face.take([frame]), little.model())
    head = portrait.reenact(portrait.prepare(source, v_s), Driving(v_d, neck))
    moving = turned(fixed_camera(), math.radians(-40), math.radians(0))
    for tile, seen in ((2, camera), (3, moving)):
        wanted = F.interpolate(portrait.render(head, seen).image, scale_factor=2, mode="bicubic")
        assert near(made[frame, tile], shown(wanted.clamp(-1, 1))), tile
    for one, other_one in ((made[:, 2], made[:, 3]), (made[0, 2], made[3, 2])):
        assert np.abs(one.astype(int) - other_one).max() > 10, "these weights tell neither sides nor frames apart"


def test_the_moving_view_goes_to_both_sides_and_comes_back(character):
    path = np.degrees([replace(character, frames=100).orbit(frame) for frame in range(100)])
    assert path[0].tolist() == [0, 0]
    assert path[25, 0] == pytest.approx(40)
    assert path[75, 0] == pytest.approx(-40)
    assert 5 < path[:, 1].max() < 15
    assert -15 < path[:, 1].min() < -5
    assert np.abs(np.diff(path, axis=0)).max() < 3, "it jumps"


def test_the_liveliest_frame_has_open_eyes_and_a_turned_view(weights):
    for other in (6, 22, 15):
        one = Character(weights, 0, 1, other, 100, 256)
        face, frame = one.face(), one.liveliest()
        assert max(face.blink_left[frame], face.blink_right[frame]) < 0.5
        assert abs(one.orbit(frame)[0]) > math.radians(15)


# who is shown


def of_cast(weights: Path, count: int) -> Trained:
    return Trained(weights, little.model(), Cast(CAST_SEED, count), {})


def test_who_is_shown(weights):
    known = of_cast(weights, 64)
    chosen = characters(known, 3, 4.0)
    assert [one.head for one in chosen] == list(CAST_HEADS[:3])
    assert {one.frames for one in chosen} == {100}
    assert len({one.other for one in chosen}) == 3
    assert {one.tile for one in chosen} == {256}
    assert [one.head for one in characters(known, 1, 0.04, (5, 9))] == [5, 9]
    every = characters(of_cast(weights, 30), 30, 1)
    assert sorted(one.head for one in every) == list(range(30))
    assert every[0].head == CAST_HEADS[0]
    others = Trained(weights, little.model(), Cast(CAST_SEED + 1, 64), {})
    assert [one.head for one in characters(others, 3, 1)] == [0, 1, 2], "the chosen ones are the package's"


BAD_NUMBERS = {
    "none": ((0, 4.0, None), "--characters: expected 1 to 32, got 0"),
    "many": ((33, 4.0, None), "--characters: expected 1 to 32, got 33"),
    "short": ((3, 0.0, None), "--seconds: expected 0.04 to 60, got 0"),
    "long": ((3, 61.0, None), "--seconds: expected 0.04 to 60, got 61"),
    "no number": ((3, math.nan, None), "--seconds: expected"),
    "a stranger": ((3, 4.0, (0, 64)), "--cast-heads: expected numbers from 0 to 63, the cast, got 64"),
    "below": ((3, 4.0, (-1,)), "--cast-heads: expected numbers from 0 to 63, the cast, got -1"),
    "nobody": ((3, 4.0, ()), "--cast-heads: expected 1 to 32, got 0"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_who_cannot_be_shown(case, weights):
    numbers, said = BAD_NUMBERS[case]
    with pytest.raises(InputError) as found:
        characters(of_cast(weights, 64), *numbers)
    assert str(found.value).startswith(said)
    assert "\n" not in str(found.value)


# the card around them


def test_the_tiles_stand_on_a_card_with_captions():
    four = np.stack([np.full((65, 65, 3), 50 * k, np.uint8) for k in range(4)])
    frame = demo_tiles.framed(four, "left", "right")
    height, width = frame.shape[:2]
    assert height % 2 == width % 2 == 0
    assert frame.dtype == np.uint8
    tops = [np.argwhere((frame == 50 * k).all(-1) & (np.arange(width) // 73 == k)[None]).min(0) for k in (1, 2, 3)]
    for k, (top, left) in zip((1, 2, 3), tops, strict=True):
        assert (frame[top : top + 65, left : left + 65] == 50 * k).all()
        assert len(np.unique(frame[:top, left : left + 65].reshape(-1, 3), axis=0)) > 3, "no caption above"
    bottom = tops[0][0] + 65
    for half in (frame[bottom:, : width // 2], frame[bottom:, width // 2 :]):
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 3, "nothing is said below"
    assert (demo_tiles.framed(four * 0, "left", "right")[:bottom] != frame[:bottom]).any(), (
        "a frame keeps another's tiles"
    )


def test_videos_are_written_frame_by_frame(tmp_path):
    taken = []

    def frames():
        for k in range(3):
            taken.append(k)
            yield np.full((32, 48, 3), 40 * k, np.uint8)

    write_video(tmp_path / "a.mp4", frames(), 25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [f.shape for f in found] == [(32, 48, 3)] * 3
    assert taken == [0, 1, 2]
    assert [round(float(f.mean())) for f in found] == pytest.approx([0, 40, 80], abs=4)
    write_video(tmp_path / "b.mp4", np.stack([np.full((32, 48, 3), 40 * k, np.uint8) for k in range(3)]), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


# the command


def test_the_command_writes_a_video_and_a_picture(weights, tmp_path, capsys):
    out, png = tmp_path / "out.mp4", tmp_path / "frame.png"
    job = ["demo", str(out), "--weights", str(weights), "--seconds", "0.08", "--cast-heads", "1,0"]
    assert cli.main([*job, "--frame", str(png), "--log-json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    log_objects(printed.err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frame.png", "out.mp4"]
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 25
        found = [f.to_ndarray(format="rgb24").astype(int) for f in container.decode(stream)]
    assert len(found) == 4
    assert found[0].shape[1] > 4 * 256
    picture = np.asarray(Image.open(png)).astype(int)
    first = Character(weights, 3, 1, 6, 2, 256)
    apart = [np.abs(picture - frame).mean() for frame in found]
    assert int(np.argmin(apart)) == first.liveliest()
    assert min(apart) < 2
    assert np.abs(found[1] - found[2]).mean() > 5, "the second head is the first"
    assert cli.main([*job, "--log-json"]) == 2
    (line,) = log_objects(capsys.readouterr().err)
    assert "--overwrite" in line["message"]
    for file, marked in ((out, found), (png, [picture])):
        manifest = read_manifest(file) if installed() else None
        message = None
        if installed():
            assert manifest is not None
            assert not manifest.altered
            assert manifest.generation is not None
            message = int(manifest.generation["watermark_message"], 16)
        read_off = read([frame.astype(np.uint8) for frame in marked]).message
        assert read_off is not None and message in (None, read_off), "the watermark is not found"
    before = packets_of(out)
    assert cli.main([*job, "--overwrite"]) == 0 and packets_of(out) == before, "not the same again"


BAD = {
    "ending": (["out.avi"], "out.avi: the ending .mp4 is wanted, .avi came"),
    "picture": (["out.mp4", "--frame", "a.jpg"], "a.jpg: the ending .png is wanted, .jpg came"),
    "place": (["no/out.mp4"], "does not exist"),
    "seconds": (["out.mp4", "--seconds", "0"], "--seconds: expected 0.04 to 60, got 0"),
    "head": (["out.mp4", "--cast-heads", "7"], "--cast-heads: expected numbers from 0 to 1, the cast, got 7"),
    "no head": (["out.mp4", "--cast-heads", "1,x"], "--cast-heads: expected numbers such as 21,34,53, got '1,x'"),
    "too many": (["out.mp4", "--characters", "3"], "--characters: expected up to 2, the cast of these weights, got 3"),
    "both": (
        ["out.mp4", "--characters", "1", "--cast-heads", "0"],
        "--characters: expected nothing beside --cast-heads",
    ),
    "weights": (["out.mp4", "--weights", "nowhere"], "nowhere: no such weights folder"),
    "too much": (["out.mp4", "more.mp4"], "'more.mp4' is one argument too many"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_any_work(case, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triportrait.train.jobs.procedural_demo.tiles", lambda *_: pytest.fail("worked"))
    arguments, said = BAD[case]
    assert cli.main(["demo", "--weights", str(weights), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0], lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (InputError("no room; make some"), 2)])
def test_nothing_is_left_when_it_ends_early(error, code, weights, tmp_path, monkeypatch):
    frames: list[int] = []

    def late(*_: object) -> np.ndarray:
        frames.append(1)
        if len(frames) == 90:  # by now the encoder has written some
            raise error
        return np.full((32, 32, 3), len(frames), np.uint8)

    monkeypatch.setattr("triportrait.train.jobs.procedural_demo.framed", late)
    monkeypatch.setattr("triportrait.train.jobs.procedural_demo.tiles", lambda shown: [None] * 100)
    job = ["demo", str(tmp_path / "out.mp4"), "--weights", str(weights), "--characters", "1"]
    assert cli.main([*job, "--frame", str(tmp_path / "a.png")]) == code
    assert len(frames) == 90
    assert list(tmp_path.iterdir()) == []
