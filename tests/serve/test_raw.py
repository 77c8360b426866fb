"""`triportrait reenact` on a raw portrait and a raw, larger, off-centre driving video, faces known from files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.decoded import frames_of, sound_packets
from tests.serve.making import make
from tests.serve.raw import face, moving_head
from triportrait.serve.controls import Controls
from triportrait.serve.faces.alignment import align, alignment_points
from triportrait.serve.faces.face import AlignedFace, Face
from triportrait.serve.faces.head_pose import matrix_of
from triportrait.serve.faces.landmark_files import HeadClip, LandmarkFolder, known_beside
from triportrait.serve.faces.relative_motion import Relative
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracking_files import OF_98, TrackedFolder, read_landmarks
from triportrait.serve.weight_loading import load_weights
from triportrait.train.data.head_videos import write_clips

FRAMES = 8


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> tuple[Path, Path, np.ndarray]:
    """A procedural head in the corner of a larger frame, with sound and landmarks: the video, the folder of its
    landmarks, its aligned crops."""
    folder = tmp_path_factory.mktemp("head")
    shown, faces, _ = moving_head(2, FRAMES, 128, into=(320, 180))
    (folder / "landmarks").mkdir()
    for i, one in enumerate(faces):
        np.save(folder / "landmarks" / f"{i}.npy", one.points[:, :2])
    video = make(folder / "raw.mp4", shown, pts=[3600 * i for i in range(FRAMES)], sound="aac")
    places = [align(one.alignment) for one in faces]
    return video, folder, np.stack([place.crop(frame, 128) for place, frame in zip(places, shown, strict=True)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_clips(folder, 3, 2, 6, 25, 128)
    return folder


@pytest.fixture
def portrait(tmp_path) -> Path:
    """A procedural head, aligned well enough: 128 px."""
    shown, faces, _ = moving_head(0, 1, 128)
    Image.fromarray(shown[0]).save(tmp_path / "head.png")
    (tmp_path / "landmarks").mkdir()
    np.save(tmp_path / "landmarks" / "head.npy", faces[0].points)
    return tmp_path / "head.png"


def test_an_off_centre_face_drives_as_one_that_fills_the_frame(demo, head, portrait, tmp_path):
    """Right crop and right sound: the driving panel is the head alone, wherever it stood; the result follows."""
    video, folder, crops = head
    out = tmp_path / "out.mkv"
    given = ("--source-params", tmp_path, "--driving-params", folder)
    code, said = demo(portrait, video, out, *given, "--side-by-side")
    assert code == 0, said
    assert "landmarks" not in said, said
    _, driving, result = np.split(frames_of(out).astype(int), 3, axis=2)
    assert len(result) == FRAMES
    assert sound_packets(out)[:5] == sound_packets(video)[:5] != []
    assert np.abs(driving - crops).mean() < 12 < np.abs(driving - np.roll(crops, 24, axis=2)).mean() / 2
    assert np.abs(result[-1] - result[0]).mean() > 1


def test_a_clip_of_a_head_knows_its_own_landmarks(demo, clips, tmp_path, monkeypatch):
    seen: list[AlignedFace] = []
    follow = FaceTracker.follow
    monkeypatch.setattr(FaceTracker, "follow", lambda *given: seen.append(follow(*given)) or seen[-1])
    code, said = demo(clips / "clip_000000.mp4", clips / "clip_000001.mp4", tmp_path / "out.mkv", "--no-smooth")
    assert code == 0, said
    assert "no landmarks" not in said, said
    with np.load(clips / "clip_000001.npz") as truth:
        marks, camera, neck = truth["landmarks"], truth["world_from_camera"][:3, :3], truth["neck"]
    assert len(seen) == len(marks)
    for i, followed in enumerate(seen):
        points = followed.placed.to_picture(followed.tracking.landmarks[0].numpy())[:, :2]
        assert points == pytest.approx(marks[i] - 0.5, abs=1e-3)
        found = matrix_of(followed.tracking.parameters.neck[0].numpy())
        assert camera.T @ matrix_of(neck[i]) == pytest.approx(found, abs=1e-5)


def test_landmarks_of_another_picture_are_refused(demo, head, portrait, tmp_path):
    """What would be cut out is a patch of skin, or nothing but edge."""
    video, folder, _ = head
    file = tmp_path / "landmarks" / "head.npy"
    points = np.load(file)
    for wrong in (points * 30, points + 3000):
        np.save(file, wrong)
        code, said = demo(portrait, video, tmp_path / "o.mkv", "--source-params", tmp_path, "--driving-params", folder)
        assert code == 2, said
        assert "head.png: expected landmarks of this picture" in said, said
        assert "128 x 128 px" in said, said
    assert not (tmp_path / "o.mkv").exists()


def test_an_archive_of_somebody_else_is_left_alone(tmp_path):
    np.savez(tmp_path / "video.npz", weights=np.zeros(3))
    (tmp_path / "video.mp4").touch()
    assert known_beside(tmp_path / "video.mp4") is None


def without_a_header(path: Path) -> bytes:
    """An archive as this one, whole but for the words before its arrays, which Python cannot split."""
    file = io.BytesIO()
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(file, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, whole.read(name).replace(b"'descr'", b"'des'r'"))
    return file.getvalue()


def test_damaged_numbers_beside_a_clip_are_refused(demo, clips, portrait, tmp_path):
    moved = tmp_path / "clip.mp4"
    moved.write_bytes((clips / "clip_000001.mp4").read_bytes())
    for name, damage in {
        "cut": (clips / "clip_000001.npz").read_bytes()[:300],
        "text": b"hello",
        "empty": b"",
        "a damaged header": without_a_header(clips / "clip_000001.npz"),
    }.items():
        moved.with_suffix(".npz").write_bytes(damage)
        code, said = demo(portrait, moved, tmp_path / "out.mp4", "--source-params", tmp_path)
        assert code == 2, (name, said)
        assert "clip.npz: expected the numbers of a procedural head's clip" in said, (name, said)
    np.savez(
        moved.with_suffix(".npz"), landmarks=np.zeros((6, 68, 2)), neck=np.zeros((6, 3)), world_from_camera=np.eye(4)
    )
    code, said = demo(portrait, moved, tmp_path / "out.mp4", "--source-params", tmp_path)
    assert code == 2
    assert "clip.npz: expected the landmarks of a face, they lie in one place" in said
    assert not (tmp_path / "out.mp4").exists()


def test_a_video_without_numbers_beside_it_is_no_clip(tmp_path, clips):
    assert known_beside(clips / "none.mp4") is None
    assert known_beside(tmp_path / "a.png") is None
    assert isinstance(known_beside(clips / "clip_000000.mp4"), HeadClip)


class TestLandmarkFiles:
    def test_any_tracker_s_landmarks(self, tmp_path):
        (tmp_path / "landmarks").mkdir()
        one = face((120, 90), 50)
        np.save(tmp_path / "landmarks" / "10.npy", one.points)
        np.save(tmp_path / "landmarks" / "9.npy", one.points[:, :2])
        folder = LandmarkFolder(tmp_path)
        assert folder.names == ["9", "10"]
        assert folder.face("10").alignment == pytest.approx(one.alignment)
        assert not folder.face("9").points[:, 2].any()

    def test_of_98_landmarks_68_are_taken(self, tmp_path):
        assert len(OF_98) == 68
        assert len(set(OF_98)) == 68
        ninety_eight = np.random.default_rng(0).uniform(0, 500, (98, 2))
        np.save(tmp_path / "a.npy", ninety_eight)
        taken = read_landmarks(tmp_path / "a.npy")[0].numpy()
        # corners of the eyes and the mouth, tip of the nose, chin: WFLW's 60, 64, 68, 72, 76, 82, 54, 16
        for ours, theirs in {36: 60, 39: 64, 42: 68, 45: 72, 48: 76, 54: 82, 30: 54, 8: 16}.items():
            assert taken[ours] == pytest.approx(ninety_eight[theirs])

    def test_the_published_folder_with_98_alone(self, clip_folder):
        for file in (clip_folder / "3dldmks_align").iterdir():
            np.save(file, np.random.default_rng(1).uniform(100, 400, (98, 2)))
        (clip_folder / "3dldmks_align").rename(clip_folder / "2dldmks_align")
        assert TrackedFolder(clip_folder).at("00001").landmarks.shape == (1, 68, 2)

    def test_too_few_and_missing(self, demo, head, portrait, tmp_path):
        video, folder, _ = head
        few = tmp_path / "few" / "landmarks"
        few.mkdir(parents=True)
        for i in range(3):
            (few / f"{i}.npy").write_bytes((folder / "landmarks" / f"{i}.npy").read_bytes())
        code, said = demo(portrait, video, tmp_path / "out.mp4", "--driving-params", few.parent)
        assert code == 2
        assert "holds files for 3 frames" in said
        assert "pass --frames 3" in said
        np.save(few / "1.npy", np.zeros((68, 2)))
        code, said = demo(portrait, video, tmp_path / "out.mp4", "--driving-params", few.parent, "--frames", 3)
        assert code == 2
        assert "1.npy: expected the landmarks of a face" in said
        code, said = demo(portrait, video, tmp_path / "out.mp4", "--source-params", few.parent)
        assert code == 2
        assert "head.npy: no such file" in said


@pytest.fixture(scope="module")
def reenactor() -> Reenactor:
    return Reenactor(*load_weights("demo"))


class TestRelative:
    def followed(self, index: int) -> AlignedFace:
        shown, faces, _ = moving_head(4, index + 1, 128)
        return FaceTracker(None, 128, smooth=False).follow(shown[index], 0.0, [faces[index]])

    def test_the_first_frame_leaves_the_portrait_as_it_is(self, reenactor):
        source = self.followed(0)
        prepared = reenactor.prepare(source)
        shown, faces, _ = moving_head(5, 6, 128)
        tracker = FaceTracker(None, 128, smooth=False)
        driving = [tracker.follow(shown[i], i / 25, [faces[i]]) for i in (0, 5)]
        relative = Relative(reenactor, source.tracking)
        (first, neutral), (later, again) = (relative(face) for face in driving)
        itself = reenactor.reenact(prepared, source, Controls(neck=False)).astype(int)

        def result(face: AlignedFace, neutral) -> np.ndarray:
            return reenactor.reenact(prepared, face, Controls(neck=False, neutral=neutral)).astype(int)

        assert np.abs(result(first, neutral) - itself).max() <= 1
        assert np.abs(result(later, again) - itself).max() > 10
        # and not so without it
        assert np.abs(result(driving[0], None) - itself).max() > 10

    def test_the_neck_turns_as_the_driving_head_does_since_its_first_frame(self, reenactor):
        def turned(x: float) -> AlignedFace:
            return FaceTracker(None, 128, smooth=False).follow(np.zeros((360, 640, 3), np.uint8), 0.0,
                                                               [face(turn=(0, x, 0))])  # fmt: skip

        relative = Relative(reenactor, turned(0.15).tracking)
        necks = [relative(turned(x))[0].tracking.parameters.neck[0].numpy() for x in (0.4, 0.5, 0.1)]
        assert np.array(necks)[:, 1] == pytest.approx([0.15, 0.25, -0.15], abs=1e-3)


def test_a_still_face_makes_a_still_result(reenactor, portrait, record_row):
    """Landmark noise of 1 px where the square has 512: how much the demo weights' picture moves from frame to frame."""
    source = TestRelative().followed(0)
    prepared = reenactor.prepare(source)
    shown, faces, _ = moving_head(2, 1, 256)
    large = np.asarray(Image.fromarray(shown[0]).resize((512, 512), Image.Resampling.BICUBIC))
    half = np.array([0.5, 0.5, 0.0])
    base, moved = (faces[0].points + half) * (2, 2, 1) - half, {}
    for smooth in (False, True):
        rng, tracker, pictures = np.random.default_rng(0), FaceTracker(None, 128, smooth=smooth), []
        for i in range(35):
            points = (base + rng.normal(size=(68, 3)) * (1, 1, 0)).astype(np.float32)
            one = tracker.follow(large, i / 25, [Face(points, alignment_points(points), np.zeros(3, np.float32))])
            if i >= 15:
                pictures.append(reenactor.reenact(prepared, one, Controls(neck=False)))
        moved[smooth] = float(np.abs(np.diff(np.array(pictures, float), axis=0)).mean())
    record_row("a still face under landmark noise of 1 px", ("result, levels", *(f"{m:.3f}" for m in moved.values())))
    assert moved[True] < 0.05
    assert 2 * moved[True] < moved[False]


def test_relative_motion_by_the_command(demo, head, portrait, tmp_path):
    """The video's first frame shows the portrait with its own expression: what the portrait drives itself to."""
    video, folder, _ = head
    own, relative, absolute = (tmp_path / f"{name}.png" for name in ("own", "relative", "absolute"))
    given = ("--source-params", tmp_path, "--no-neck")
    assert demo(portrait, portrait, own, *given, "--driving-params", tmp_path)[0] == 0
    for out, options in ((relative, ("--relative",)), (absolute, ())):
        assert demo(portrait, video, out, *given, "--driving-params", folder, "--frames", 1, *options)[0] == 0
    own, relative, absolute = (read_picture(p).astype(int)[32:96, 32:96] for p in (own, relative, absolute))
    assert np.abs(relative - own).mean() < 0.4 * np.abs(absolute - own).mean()


def test_pasted_back_into_the_portrait(demo, head, tmp_path):
    """The portrait stands in a larger picture: outside its square nothing changes, inside the face moves."""
    video, folder, _ = head
    shown, faces, _ = moving_head(0, 1, 128, into=(300, 200))
    Image.fromarray(shown[0]).save(tmp_path / "large.png")
    (tmp_path / "landmarks").mkdir()
    np.save(tmp_path / "landmarks" / "large.npy", faces[0].points)
    params = ("--source-params", tmp_path, "--driving-params", folder)
    given = (tmp_path / "large.png", video, tmp_path / "out.mkv", *params)
    code, said = demo(*given, "--paste-back")
    assert code == 0, said
    frames = frames_of(tmp_path / "out.mkv").astype(int)
    assert frames.shape == (FRAMES, 200, 300, 3)
    assert np.abs(frames[:, :, :140] - shown[0][:, :140]).mean() < 2
    x, y = faces[0].centre.astype(int)
    inner = frames[:, y - 20 : y + 20, x - 20 : x + 20]
    assert np.abs(inner - shown[0][y - 20 : y + 20, x - 20 : x + 20]).mean() < 40
    assert np.abs(inner[-1] - inner[0]).mean() > 1
    code, said = demo(*given, "--paste-back", "--orbit", "--overwrite")
    assert code == 2
    assert "--paste-back: the portrait has one view" in said


def test_numbers_of_faces_start_at_one(demo, head, portrait, tmp_path):
    for option in ("--face", "--driving-face"):
        code, said = demo(portrait, head[0], tmp_path / "out.mp4", option, 0)
        assert code == 2
        assert f"{option}: expected at least 1, the leftmost face, got 0" in said


def test_missing_networks_are_said_in_one_sentence(real_faces, demo, head, portrait, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "empty"))
    code, said = demo(portrait, head[0], tmp_path / "out.png", "--frames", 1)
    assert code == 0
    assert "are missing; run `triportrait fetch faces` once (36 MB), or give landmarks" in said
    assert "nothing finds faces here (`triportrait fetch faces`); its middle square is taken as aligned" in said
    for option in ("--face", "--driving-face"):
        code, said = demo(portrait, head[0], tmp_path / "out.mp4", option, 2)
        assert code == 2
        assert f"got {option} 2 and nothing that finds them; run `triportrait fetch faces` once" in said
    code, said = demo(portrait, head[0], tmp_path / "out.mp4", "--faces", "networks")
    assert code == 2
    assert said.strip().splitlines()[-1].endswith("run `triportrait fetch faces` once (36 MB), or give landmarks")
    assert not (tmp_path / "out.mp4").exists()
