"""Faces as the networks find them, on a real photograph and on procedural heads; skipped where they are not."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.face_models import needs_face_models
from tests.serve.decoded import frames_of, sound_packets
from tests.serve.faces import picture
from tests.serve.making import make
from tests.serve.raw import EYE_MARKS, PHOTO, eyes_off, moving_head, photo, photographs, seen
from triportrait.cli import main
from triportrait.serve.faces.head_pose import matrix_of, turn_of, vector_of
from triportrait.serve.faces.providers import face_provider
from triportrait.serve.faces.searching import tiles
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.video.clips import open_clip

pytestmark = [needs_face_models, pytest.mark.usefixtures("real_faces")]
MARKS = np.array(EYE_MARKS) - 0.5  # [2, 6, 2] pixels, the first one's middle at 0


@pytest.fixture(scope="module")
def provider():
    provider = face_provider()
    assert provider is not None
    yield provider
    provider.close()


PHOTOGRAPHS = photographs()


@pytest.mark.parametrize("case", PHOTOGRAPHS)
def test_the_eyes_are_where_a_hand_marked_them(provider, case, record_row):
    """Within 3 % of the distance between the eyes: their middles, their corners' middles, both eyes."""
    image, marks = PHOTOGRAPHS[case]
    (face,) = provider.find(image)
    off = eyes_off(face, marks)
    record_row("eyes of a photograph, % of their distance", (case, *(f"{100 * e:.1f}" for e in off)))
    assert off.max() < 0.03


def photographed_face(side_px: int) -> np.ndarray:
    """The face of the photograph and little else, uint8 [side_px, side_px, 3]."""
    face = Image.open(PHOTO).crop((120, 0, 330, 210))
    return np.asarray(face.resize((side_px, side_px), Image.Resampling.LANCZOS))


def test_a_small_face_in_a_large_picture(provider):
    large = np.full((1500, 2400, 3), 110, np.uint8)
    large[900:1050, 1700:1850] = photographed_face(150)
    (face,) = provider.find(large)
    wanted = (MARKS.mean(1) + 0.5 - (120, 0)) * (150 / 210) - 0.5 + (1700, 900)
    apart = np.linalg.norm(wanted[0] - wanted[1])
    found = np.stack([face.points[36:42, :2].mean(0), face.points[42:48, :2].mean(0)])
    assert np.linalg.norm(found - wanted, axis=1).max() < 0.05 * apart


def test_a_quick_look_sees_far_faces_by_the_full_range(provider):
    image = seen((320, 180), 0.5)
    rows = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    assert not provider._detectors[0](rows).scores.any(), "the detector of short range misses it"
    assert len(provider.find(image, quick=True)) == 1


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
    ids=["grey", "RGBA", "float", "empty"],
)
def test_other_arrays_are_refused_in_words(provider, image):
    with pytest.raises(ValueError, match=r"^expected a picture uint8 \[H, W, 3\], got "):
        provider.find(image)


def test_no_face_and_several(provider):
    assert provider.find(picture(1, (400, 400))) == []
    three = np.full((600, 1000, 3), 120, np.uint8)
    for i, size in enumerate((200, 330, 260)):
        three[100 : 100 + size, 20 + 330 * i : 20 + 330 * i + size] = photographed_face(size)
    sizes = [face.size_px for face in provider.find(three)]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    # near one of them only that one is looked for
    others = provider.find(three, near=provider.find(three)[2])
    assert len(others) == 1
    assert others[0].size_px == pytest.approx(sizes[2], rel=0.03)


def test_the_pose_of_procedural_heads(provider):
    """Turns of 3 heads against the generator's necks: no axis, no sign and no order can be wrong."""
    errors, turns = [], []
    for head in range(3):
        shown, _, necks = moving_head(head, 16, 192)
        for image, neck in list(zip(shown, necks, strict=True))[::5]:
            (face,) = provider.find(image)
            errors.append(np.degrees(np.linalg.norm(vector_of(turn_of(face) @ matrix_of(neck).T))))
            turns.append(np.degrees(np.linalg.norm(neck)))
    assert np.mean(errors) < 5.5 < np.mean(turns)
    assert max(errors) < 12


def test_a_raw_video_of_a_photograph_is_followed(provider):
    """The face pans, nears and turns in the plane: the square follows, the head's tilt is read."""
    tracker, tilts = FaceTracker(provider, 96), []
    for i in range(20):
        phase = i / 20 * 2 * np.pi
        at, scale, tilt = (380 + 60 * np.sin(phase), 170.0), 1.3 + 0.2 * np.sin(phase), 8 * np.sin(phase)
        followed = tracker.follow(seen(at, scale, tilt), i / 25)
        assert followed.found
        middle = followed.placed.to_aligned(np.array(at))
        assert np.abs(middle - 256).max() < 60
        tilts.append((tilt, np.degrees(followed.tracking.parameters.neck[0, 2].item())))
    assert tracker.lost == tracker.cuts == 0
    asked, read = np.array(tilts).T
    assert np.corrcoef(asked, read)[0, 1] > 0.95
    assert np.polyfit(asked, read, 1)[0] == pytest.approx(1, abs=0.25)


@pytest.fixture(scope="module")
def raw_video(tmp_path_factory) -> Path:
    """The photograph in a larger frame, off-centre, moving, with sound; the face leaves, and a cut ends it."""
    frames = [seen((430 + 4 * i, 160), 1.4, i - 4.0) for i in range(8)]
    frames += [np.full((360, 640, 3), 128, np.uint8)] * 3
    shown, _, _ = moving_head(1, 3, 192, into=(640, 360))
    path = tmp_path_factory.mktemp("raw") / "raw.mp4"
    return make(path, [*frames, *shown], pts=[3600 * i for i in range(14)], sound="aac")


@pytest.fixture(scope="module")
def head_picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.png"
    Image.fromarray(moving_head(0, 1, 256)[0][0]).save(path)
    return path


def test_a_raw_photograph_and_a_raw_video_need_no_other_file(demo, provider, raw_video, tmp_path):
    """The whole way: right crops of both, sound kept, and at the end it is said what was missing."""
    Image.fromarray(seen((170, 260), 1.2, 6, size=(700, 480))).save(tmp_path / "photo.png")
    out = tmp_path / "out.mkv"
    code, said = demo(tmp_path / "photo.png", raw_video, out, "--side-by-side")
    assert code == 0, said
    assert "3 of 14 frames show no face; there the last pose was held" in said
    assert "cut between shots" in said or "cuts between shots" in said
    frames = frames_of(out)
    assert frames.shape == (14, 128, 384, 3)
    sound = sound_packets(out)
    assert sound
    assert sound == sound_packets(raw_video)[: len(sound)]
    for panel in (frames[0, :, :128], frames[6, :, 128:256]):  # the same face, in the same place of both crops
        (face,) = provider.find(np.asarray(Image.fromarray(panel).resize((512, 512))))
        assert np.abs(face.points[[36, 45], 1].mean() - 222) < 30
        assert np.abs(face.points[27:31, 0].mean() - 256) < 30
    held = frames[8:11, :, 128:256].astype(int)
    assert np.abs(held - held[0]).mean() < 1
    pytest.importorskip("c2pa")
    signed = tmp_path / "out.mp4"
    assert demo(tmp_path / "photo.png", raw_video, signed)[0] == 0
    assert main(["verify", str(signed)]) == 0


def test_a_portrait_without_a_face(demo, raw_video, tmp_path, tiny_weights, capsys):
    Image.fromarray(picture(3, (300, 300))).save(tmp_path / "wall.png")
    given = [str(tmp_path / "wall.png"), str(raw_video), str(tmp_path / "out.mp4"), "--weights", str(tiny_weights)]
    assert main(["reenact", *given]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith(
        "wall.png: expected a face, found none; give another picture, or --faces none if it is aligned already"
    )
    assert not (tmp_path / "out.mp4").exists()
    # the demo weights know heads that need not look like one
    code, said = demo(tmp_path / "wall.png", raw_video, tmp_path / "out.mp4", "--frames", 1)
    assert code == 0
    assert "wall.png: no face; its middle square is taken as aligned" in said


def test_five_faces(demo, raw_video, tmp_path):
    five = np.full((300, 1200, 3), 120, np.uint8)
    for i, size in enumerate((160, 180, 230, 170, 150)):
        five[20 : 20 + size, 10 + 235 * i : 10 + 235 * i + size] = photographed_face(size)
    Image.fromarray(five).save(tmp_path / "five.png")
    given = (tmp_path / "five.png", raw_video, tmp_path / "out.png", "--frames", 1, "--overwrite", "--side-by-side")
    code, said = demo(*given)
    assert code == 0
    assert "five.png: 5 faces, the largest is taken; --face N takes another" in said
    largest = read_picture(tmp_path / "out.png")[:, :128].astype(int)
    code, said = demo(*given, "--face", 1)
    assert code == 0
    assert "5 faces" not in said
    assert np.abs(read_picture(tmp_path / "out.png")[:, :128].astype(int) - largest).mean() > 1
    code, said = demo(*given, "--face", 6)
    assert code == 2
    assert "--face: expected 1 to 5, counted from the left, got 6" in said


def test_a_video_without_a_face_leaves_the_portrait_as_it_is(demo, head_picture, tmp_path):
    wall = make(tmp_path / "wall.mp4", [picture(i, (120, 160)) for i in range(4)], pts=[0, 3600, 7200, 10800])
    code, said = demo(head_picture, wall, tmp_path / "out.mkv")
    assert code == 0
    assert "none of 4 frames shows a face; the portrait keeps its own expression" in said
    frames = frames_of(tmp_path / "out.mkv").astype(int)
    assert np.abs(frames - frames[0]).mean() < 0.5
    early, late = (
        said.index("wall.mp4: expected a face that drives, found none in 4 frames"),
        said.index("weights: demo"),
    )
    assert early < late, "it is said before any work"


def test_a_video_without_a_face_is_refused_before_any_work(head_picture, tmp_path, tiny_weights, capsys):
    wall = make(tmp_path / "wall.mp4", [picture(i, (120, 160)) for i in range(4)], pts=[0, 3600, 7200, 10800])
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    given = [str(tmp_path / "photo.png"), str(wall), str(tmp_path / "out.mp4"), "--weights", str(tiny_weights)]
    assert main(["reenact", *given]) == 2
    said = capsys.readouterr().err
    last = said.strip().splitlines()[-1]
    assert "wall.mp4: expected a face that drives, found none in 4 frames; give another, or --faces none if" in last
    assert "weights:" not in said
    assert not (tmp_path / "out.mp4").exists()
    assert main(["reenact", *given, "--faces", "none", "--frames", "1"]) == 0


SMALL_4K = Path(__file__).parents[1] / "data" / "files" / "small4k.mp4"


def test_a_small_face_in_a_large_film_is_followed(demo, provider, head_picture, tmp_path):
    """120 of 3840 px: a quick look does not see it, a search does, and from then on it is followed."""
    frames = [frame.image for frame in open_clip(SMALL_4K).frames()]
    assert provider.find(frames[0], quick=True) == []
    tracker = FaceTracker(provider, 64)
    assert all([tracker.follow(image, i / 8).found for i, image in enumerate(frames)])
    assert (tracker.seen, tracker.lost) == (6, 0)
    code, said = demo(head_picture, SMALL_4K, tmp_path / "out.mp4")
    assert code == 0
    assert "show no face" not in said
    assert "none of" not in said
    assert said.strip().splitlines()[-1].endswith("; a face in 6 of 6 driving frames")


def test_a_far_face_before_a_camera_is_found_piece_by_piece(provider):
    """In the live server: no frame takes long, and within seconds the face is followed."""
    image = np.full((1080, 1920, 3), 110, np.uint8)
    image[540:630, 640:730] = photographed_face(90)
    assert provider.find(image, quick=True) == []
    (face,), tracker = provider.find(image), FaceTracker(provider, 64, spread=True)
    found = [tracker.follow(image, i / 10) for i in range(80)]
    first = [followed.found for followed in found].index(True)
    assert all(followed.found for followed in found[first:])
    assert first < 75
    points = found[-1].placed.to_picture(found[-1].tracking.landmarks[0].numpy())
    assert np.abs(points - face.points)[:, :2].max() < 5


def test_frames_before_the_first_face_are_told_from_frames_after_it(demo, head_picture, tmp_path):
    grey = np.full((360, 640, 3), 128, np.uint8)
    face = seen((430, 160), 1.4, 0.0)
    film = make(tmp_path / "late.mp4", [grey, grey, face, face, grey], pts=[3600 * i for i in range(5)])
    code, said = demo(head_picture, film, tmp_path / "out.mp4")
    assert code == 0
    assert (
        "late.mp4: 3 of 5 frames show no face; before the first face (the first 2) the portrait kept its own "
        "expression, in the other 1 the last pose was held"
    ) in said
    assert "expected a face that drives" not in said, "each frame of a short film is looked at"


def test_the_first_frame_of_a_film_that_shows_a_face_is_the_portrait(demo, raw_video, tmp_path):
    grey = np.full((360, 640, 3), 128, np.uint8)
    film = make(
        tmp_path / "fade.mp4", [*[grey] * 5, *[seen((430, 160), 1.4, 0.0)] * 2], pts=[3600 * i for i in range(7)]
    )
    code, said = demo(film, raw_video, tmp_path / "out.png", "--frames", 1)
    assert code == 0
    assert "fade.mp4, at 0.20 s: the first that shows a face" in said
    assert "source: frame 6 of" in said
    assert "no face" not in said
    code, said = demo(film, raw_video, tmp_path / "b.png", "--frames", 1, "--face", 2)
    assert code == 2
    assert "--face: expected 1 to 1, counted from the left, got 2" in said
    wall = make(tmp_path / "wall.mp4", [grey] * 3, pts=[0, 3600, 7200])
    code, said = demo(wall, raw_video, tmp_path / "c.png", "--frames", 1)
    assert code == 0
    assert "source: the first frame of" in said
    assert "no face" in said


def test_strips_are_searched_in_few_pieces(provider):
    for shape in ((65_000, 64), (64, 65_000), (20_000, 1100)):
        image = np.full((*shape, 3), 110, np.uint8)
        for pieces in (1, 2, 3):
            found = [(x, y, tile.shape) for tile, x, y in tiles(image, pieces)]
            assert len(found) <= 16 * 2 * pieces
            seen_px = np.zeros(max(shape), bool)
            for x, y, (high, wide, _) in found:
                seen_px[max(x, y) : max(x, y) + max(high, wide)] = True
            assert seen_px.all(), "a part is in no piece"
    began = time.perf_counter()
    assert provider.find(np.full((65_000, 64, 3), 110, np.uint8)) == []
    assert time.perf_counter() - began < 3  # 13 s when there were 2,000 pieces


def test_ordinary_pictures_are_searched_in_the_pieces_they_were():
    for size, pieces, count in (((1080, 1920), 1, 3), ((1080, 1920), 2, 21), ((1080, 1920), 3, 50), ((800, 600), 1, 2)):
        assert len(list(tiles(np.zeros((*size, 3), np.uint8), pieces))) == count


def test_large_and_small_portraits(demo, raw_video, tmp_path):
    """20 megapixels; a face so small that the result must be soft; 40 px."""
    large = Image.fromarray(photo()).resize((5200, 3900), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg")
    code, said = demo(tmp_path / "large.jpg", raw_video, tmp_path / "a.png", "--frames", 1)
    assert code == 0
    assert "soft" not in said
    small = np.full((200, 200, 3), 110, np.uint8)
    small[60:120, 60:120] = photographed_face(60)
    Image.fromarray(small).save(tmp_path / "small.png")
    code, said = demo(tmp_path / "small.png", raw_video, tmp_path / "b.png", "--frames", 1)
    assert code == 0
    assert "the network takes 128; the result will be soft" in said
    Image.fromarray(small[60:100, 60:100]).save(tmp_path / "tiny.png")
    code, said = demo(tmp_path / "tiny.png", raw_video, tmp_path / "c.png", "--frames", 1)
    assert code == 2
    assert "tiny.png" in said


def test_sound_alone_cannot_drive(demo, head_picture, raw_video, tmp_path):
    with av.open(str(raw_video)) as source, av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as only:
        stream = only.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                only.mux(packet)
    code, said = demo(head_picture, tmp_path / "sound.m4a", tmp_path / "out.mp4")
    assert code == 2
    assert "it holds only sound" in said
    assert not (tmp_path / "out.mp4").exists()
