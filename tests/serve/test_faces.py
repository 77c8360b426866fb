"""Faces without a finder: alignment, pose, smoothing, following, pasting back; made-up landmarks are the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serve.faces import picture
from tests.serve.raw import face
from triportrait.core.motion.motion_crop import CENTRED_ANCHORS, anchors_of
from triportrait.core.render.cameras import fixed_camera
from triportrait.serve.faces.alignment import MEAN_FACE, Alignment, align, alignment_points, middle_square
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.head_pose import (
    UPRIGHT_IN_FLAME,
    matrix_of,
    parameters_of,
    rotation_between,
    turn_of,
    vector_of,
)
from triportrait.serve.faces.paste_back import LARGEST_SIDE_PX, PasteBack, registered
from triportrait.serve.faces.searching import Searches, first_face
from triportrait.serve.faces.smoothing import OneEuro
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.video.clips import Frame

EMPTY = np.zeros((360, 640, 3), np.uint8)


class TestAlignment:
    def published(self, image: np.ndarray, points: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The published procedure, said again: resized to whole pixels, padded, cut out."""
        height, width = image.shape[:2]
        up = np.stack([points[:, 0], height - 1 - points[:, 1]], 1)
        rows = np.zeros((10, 8))
        rows[0::2, :3], rows[0::2, 3], rows[1::2, 4:7], rows[1::2, 7] = MEAN_FACE, 1, MEAN_FACE, 1
        k = np.linalg.lstsq(rows, up.reshape(10), rcond=None)[0]
        s = 180 / ((np.linalg.norm(k[:3]) + np.linalg.norm(k[4:7])) / 2)
        tx, ty = k[3], k[7]
        w, h = int(width * s), int(height * s)
        left, top = int(w / 2 - 256 + (tx - width / 2) * s), int(h / 2 - 256 + (height / 2 - ty) * s)
        resized = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.LANCZOS))
        most = max(0, -left, -top, left + 512 - w, top + 512 - h)
        padded = np.pad(resized, ((most, most), (most, most), (0, 0)), mode="edge")
        crop = padded[top + most : top + most + 512, left + most : left + most + 512]
        marks = np.stack([landmarks[:, 0], height - 1 - landmarks[:, 1]], 1)
        marks = (marks - (tx, ty) + (width / 2, height / 2)) * s - (w / 2 - 256, h / 2 - 256)
        return crop, np.stack([marks[:, 0], 512 - marks[:, 1]], 1)

    @pytest.mark.parametrize("at, width", [((320, 180), 60), ((150, 110), 90), ((520, 300), 200)])
    def test_it_is_the_published_one(self, at, width):
        image = picture(5, (360, 640))
        one = face(at, width, (0.1, -0.3, 0.1))
        placed = align(one.alignment)
        crop, marks = self.published(image, one.alignment.astype(float), one.points)
        # The published square stands on whole pixels: up to one of them apart.
        assert np.abs(placed.to_aligned(one.points)[:, :2] - marks).max() < 2.1 + placed.scale / 2
        assert np.abs(placed.crop(image, 512).astype(int) - crop).mean() < 1.5

    def test_a_frontal_face_lies_where_the_motion_crop_looks_for_one(self):
        flat = MEAN_FACE[:, :2] * (70, -70) + (300, 200)
        placed = align(flat)
        eyes = placed.to_aligned(flat)
        # The published crop stands half a pixel of either picture beside its own landmarks.
        assert eyes[0] == pytest.approx(CENTRED_ANCHORS[0], abs=2)
        assert (eyes[3] + eyes[4]) / 2 == pytest.approx(CENTRED_ANCHORS[2], abs=2)
        assert placed.scale == pytest.approx(180 / 70)

    def test_the_crop_is_where_the_map_says(self):
        image = np.zeros((300, 400, 3), np.uint8)
        image[118:121, 213:216] = 255  # around (214, 119)
        placed = Alignment(150.3, 60.7, 123.4)
        crop = placed.crop(image, 512).astype(float)[..., 0]
        ys, xs = np.mgrid[:512, :512]
        found = np.array([(xs * crop).sum(), (ys * crop).sum()]) / crop.sum()
        assert found == pytest.approx(placed.to_aligned(np.array([214.0, 119.0])), abs=0.05)
        assert placed.to_picture(placed.to_aligned(np.array([[7.0, 9.0, 3.0]]))) == pytest.approx(
            np.array([[7, 9, 3.0]])
        )

    def test_beyond_the_picture_its_edge_is_repeated(self):
        image = picture(2, (100, 100))
        crop = Alignment(-100.0, -100.0, 300.0).crop(image, 300)
        assert crop.shape == (300, 300, 3)
        assert np.abs(crop[100:200, 100:200].astype(int) - image).max() <= 1
        assert np.abs(crop[20, 20].astype(int) - image[0, 0]).max() <= 1
        assert np.abs(crop[150, 290].astype(int) - image[50, 99]).max() <= 1

    def test_a_square_far_beyond_the_picture_is_cut_as_if_all_of_it_were_there(self):
        image = np.random.default_rng(4).integers(0, 256, (60, 90, 3)).astype(np.uint8)
        for square in (Alignment(-200.3, -90.6, 351.7), Alignment(20.2, 30.9, 300.0), Alignment(85.0, -400.0, 420.0)):
            x, y = (np.arange(-700, 800).clip(0, n - 1) for n in (90, 60))
            box = [700 + c for c in (square.left, square.top, square.left + square.side, square.top + square.side)]
            whole = Image.fromarray(image[y[:, None], x[None]]).resize((64, 64), Image.Resampling.LANCZOS, box=box)
            assert np.abs(square.crop(image, 64).astype(int) - np.asarray(whole)).max() <= 1

    def test_a_square_that_shows_a_patch_of_the_picture_or_none_of_it_fits_not(self):
        image = np.zeros((60, 90, 3), np.uint8)
        assert Alignment(-100.0, -100.0, 300.0).fits(image)
        assert not Alignment(-100.0, -100.0, 400.0).fits(image)
        assert not Alignment(91.0, 0.0, 50.0).fits(image)
        assert not Alignment(0.0, -51.0, 50.0).fits(image)

    @pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.arange(10).reshape(5, 2) * 1e-9])
    def test_points_of_no_face_have_no_place(self, points):
        assert align(points) is None

    def test_a_blink_does_not_move_the_square(self):
        open_eyes = face()
        points = open_eyes.points.copy()
        points[[37, 38, 43, 44], 1] = points[[41, 40, 47, 46], 1]
        assert align(alignment_points(points)) == align(open_eyes.alignment)

    def test_the_middle_square_of_a_picture_on_its_side(self):
        assert middle_square(np.zeros((200, 300, 3))) == Alignment(50, 0, 200)


class TestPose:
    @pytest.mark.parametrize("turn", [(0, 0, 0), (0.3, 0, 0), (0, -0.6, 0), (0.2, 0.4, -0.3), (-0.4, 0.9, 0.1)])
    def test_the_turn_of_a_head_is_found(self, turn):
        assert vector_of(turn_of(face(turn=turn))) == pytest.approx(turn, abs=1e-4)
        flat = face(turn=turn)
        flat.points[:, 2] = 0
        assert vector_of(turn_of(flat)) == pytest.approx(turn, abs=1e-4)

    def test_a_turn_that_is_known_is_taken(self):
        known = Face(face().points, face().alignment, np.array([0.1, 0.2, 0.3], np.float32))
        assert vector_of(turn_of(known)) == pytest.approx((0.1, 0.2, 0.3), abs=1e-6)

    @pytest.mark.parametrize("vector", [(0, 0, 0), (1e-9, 0, 0), (0, 3.14, 0), (1.5, -1.2, 0.4), (0, 0, -3.1)])
    def test_vectors_and_matrices_are_inverse(self, vector):
        assert matrix_of(vector_of(matrix_of(np.array(vector)))) == pytest.approx(matrix_of(np.array(vector)), abs=1e-6)

    def test_no_mirror_image_is_taken_for_a_turn(self):
        points = np.random.default_rng(0).normal(size=(13, 3))
        found = rotation_between(points, points * (-1, 1, 1))
        assert np.linalg.det(found) == pytest.approx(1)

    def test_a_moved_camera_sees_what_a_turned_neck_shows(self):
        turn = matrix_of(np.array([0.2, -0.4, 0.1]))
        parameters = parameters_of(turn)
        point = torch.tensor([0.1, 0.2, 0.3, 1.0], dtype=torch.float64)
        turned = torch.cat([torch.from_numpy(turn) @ point[:3], point[3:]])
        views = [torch.linalg.inv(c.world_from_camera[0].double()) for c in (fixed_camera(), parameters.camera)]
        assert views[0] @ turned == pytest.approx(views[1] @ point, abs=1e-6)
        assert parameters.neck[0].numpy() == pytest.approx((0.2, -0.4, 0.1), abs=1e-6)
        others = (parameters.shape, parameters.expression, parameters.jaw, parameters.eyes)
        assert [p.shape[1] for p in others] == [300, 100, 3, 6]
        assert not any(p.any() for p in others)

    def test_flame_rests_with_its_head_up(self):
        assert parameters_of(np.eye(3), flame=True).neck[0].numpy() == pytest.approx(UPRIGHT_IN_FLAME, abs=1e-6)


class TestSmoothing:
    def test_noise_goes_and_a_step_is_followed(self):
        noise = np.random.default_rng(0).normal(size=(200, 5))
        still = OneEuro(0.02, 0.0)
        out = np.array([still(x, i / 25) for i, x in enumerate(noise)])
        assert out[50:].std() < 0.35 * noise.std()
        moving = OneEuro(0.02, 0.1)
        out = np.array([moving(np.array([10.0 * i]), i / 25)[0] for i in range(40)])
        assert 0 < 10 * 39 - out[39] < 15

    def test_times_count_not_frames(self):
        ends = []
        for fps in (25, 100):
            smooth = OneEuro(0.01, 0.0)
            for i in range(2 * fps):
                value = smooth(np.array([float(i >= fps)]), i / fps)
            ends.append(value[0])
        assert ends[0] == pytest.approx(ends[1], abs=0.03)
        assert 0.5 < ends[0] < 1

    def test_what_moves_together_shares_a_speed(self):
        """Noise of single points does not open the filter of a group, a common motion does."""
        rng = np.random.default_rng(1)
        one, many = OneEuro(0.02, 0.1), OneEuro(0.02, 0.1, groups=[slice(0, 20)])
        noise = rng.normal(size=(100, 20, 2))
        steps = [
            np.abs(np.diff([smooth(x, i / 25) for i, x in enumerate(noise)], axis=0))[20:].mean()
            for smooth in (one, many)
        ]
        assert steps[1] < 0.7 * steps[0]


class Finder:
    """Gives the faces that a test says are in the next frame."""

    def __init__(self) -> None:
        self.faces: list[Face] = []
        self.asked_near: list[bool] = []

    def find(self, image, near=None, quick=False):
        self.asked_near.append(near is not None)
        return sorted(self.faces, key=lambda f: -f.size_px)

    def close(self) -> None:
        pass


def colourful(seed: int) -> np.ndarray:
    return np.full((360, 640, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)


class TestFollowing:
    def still(self, smooth: bool, frames: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A face that holds still under landmark noise of 1 px, where its square has about 512 px: middles, scales,
        anchors in the picture, turns in degrees."""
        rng, tracker = np.random.default_rng(0), FaceTracker(None, 32, smooth=smooth)
        got = [
            tracker.follow(EMPTY, i / 25, [face(width_px=180, noise=rng.normal(size=(68, 3)))]) for i in range(frames)
        ]
        anchors = [f.placed.to_picture(anchors_of(f.tracking.landmarks)[0].numpy()) for f in got]
        return (
            np.array([f.placed.middle for f in got])[25:],
            np.array([f.placed.scale for f in got])[25:],
            np.array(anchors)[25:],
            np.degrees([f.tracking.parameters.neck[0].numpy() for f in got])[25:],
        )

    def test_a_still_face_stands_still(self, record_row):
        """The bounds that docs/faces states: movement from frame to frame, with and without smoothing."""
        raw, smooth = self.still(False), self.still(True)

        def step(values: np.ndarray) -> float:
            return float(np.abs(np.diff(values, axis=0)).mean())

        rows = {
            "middle of the square, px": (step(raw[0]), step(smooth[0]), 0.15),
            "anchors of the motion crop, px": (step(raw[2]), step(smooth[2]), 0.15),
            "turn of the head, degrees": (step(raw[3]), step(smooth[3]), 0.10),
            "size of the square, standard deviation in %": (
                100 * raw[1].std() / raw[1].mean(), 100 * smooth[1].std() / smooth[1].mean(), 0.05,
            ),
        }  # fmt: skip
        for what, (before, after, bound) in rows.items():
            record_row("a still face under landmark noise of 1 px", (what, f"{before:.3f}", f"{after:.3f}"))
            assert after < bound, (what, before, after)
            assert before > 4 * after, (what, before, after)

    def test_smoothing_lags_little(self):
        """10 px a frame, half a head's width a second."""
        smooth, raw = FaceTracker(None, 32), FaceTracker(None, 32, smooth=False)
        for i in range(30):
            one = face((100 + 10 * i, 180), 180)
            eyes = [
                f.placed.to_picture(anchors_of(f.tracking.landmarks)[0].numpy())
                for f in (t.follow(EMPTY, i / 25, [one]) for t in (smooth, raw))
            ]
        assert np.abs(eyes[0] - eyes[1]).max() < 4
        assert smooth.follow(EMPTY, 30 / 25, [one]).placed.side == pytest.approx(align(one.alignment).side, rel=0.02)

    def test_someone_who_comes_near_stays_in_the_square(self):
        tracker = FaceTracker(None, 32)
        for i in range(50):
            one = face(width_px=60 + 2 * i)
            placed = tracker.follow(EMPTY, i / 25, [one]).placed
            assert abs(placed.side / align(one.alignment).side - 1) < 0.09
        assert tracker.cuts == 0

    def test_a_face_that_leaves_is_held_and_found_again(self):
        finder = Finder()
        tracker = FaceTracker(finder, 32)
        before = tracker.follow(picture(1, (360, 640)), 0.0)
        assert not before.found
        assert before.tracking.landmarks is None
        assert before.placed == Alignment(140, 0, 360)
        finder.faces = [face((200, 150), 80, (0, 0.3, 0))]
        seen = tracker.follow(picture(1, (360, 640)), 0.04)
        assert seen.found
        assert seen.tracking.parameters.neck[0, 1] == pytest.approx(0.3, abs=1e-3)
        finder.faces = []
        for i in range(3):
            held = tracker.follow(picture(1, (360, 640)), 0.08 + 0.04 * i)
            assert not held.found
            assert held.tracking is seen.tracking
            assert held.crop is seen.crop
        finder.faces = [face((450, 200), 80)]
        again = tracker.follow(picture(1, (360, 640)), 0.3)
        assert again.found
        assert again.placed.middle == pytest.approx(align(finder.faces[0].alignment).middle)
        assert (tracker.seen, tracker.lost) == (2, 4)
        assert finder.asked_near == [False, False, True, False, False, False]

    def test_a_cut_starts_anew(self):
        """The new shot's face is taken as it is: nothing of the old shot's place, size or turn is left."""
        finder = Finder()
        tracker = FaceTracker(finder, 32)
        finder.faces = [face((300, 180), 80, (0, 0.4, 0))]
        for i in range(10):
            tracker.follow(colourful(1), i / 25)
        finder.faces = [face((310, 185), 95, (0, -0.4, 0))]
        after = tracker.follow(colourful(2), 10 / 25)
        assert tracker.cuts == 1
        assert finder.asked_near[-1] is False
        assert after.placed.side == pytest.approx(align(finder.faces[0].alignment).side)
        assert after.tracking.parameters.neck[0, 1] == pytest.approx(-0.4, abs=1e-3)

    @pytest.mark.parametrize("missed", [1, 3])
    def test_a_cut_starts_anew_where_the_face_is_found_later(self, missed):
        """As above, but the new shot's first frames show no face."""
        finder = Finder()
        tracker = FaceTracker(finder, 32)
        finder.faces = [face((300, 180), 80, (0, 0.4, 0))]
        for i in range(10):
            tracker.follow(colourful(1), i / 25)
        finder.faces = []
        for i in range(missed):
            assert not tracker.follow(colourful(2), (10 + i) / 25).found
        finder.faces = [face((310, 185), 95, (0, -0.4, 0))]
        after = tracker.follow(colourful(2), (10 + missed) / 25)
        assert tracker.cuts == 1
        assert after.placed.side == pytest.approx(align(finder.faces[0].alignment).side)
        assert after.tracking.parameters.neck[0, 1] == pytest.approx(-0.4, abs=1e-3)

    def test_a_jump_is_a_cut_too(self):
        tracker = FaceTracker(None, 32)
        tracker.follow(EMPTY, 0.0, [face((150, 180), 80)])
        after = tracker.follow(EMPTY, 0.04, [face((450, 180), 80)])
        assert tracker.cuts == 1
        assert after.placed.middle == pytest.approx(align(face((450, 180), 80).alignment).middle)

    def test_the_same_one_of_several_is_followed(self):
        """The largest, though another grows larger; a number counts from the left."""
        for number, x in ((None, 450), (1, 150), (2, 300), (3, 450)):
            finder = Finder()
            tracker = FaceTracker(finder, 32, face=number)
            for i in range(20):
                finder.faces = [face((300, 180), 50), face((450, 180), 62 - i), face((150, 180), 40 + 2 * i)]
                followed = tracker.follow(EMPTY, i / 25)
            assert followed.placed.to_picture(anchors_of(followed.tracking.landmarks)[0].numpy())[:2, 0].mean() == (
                pytest.approx(x, abs=2)
            )
            assert tracker.most_faces == 3
            assert tracker.cuts == 0

    def test_frames_of_one_picture_are_no_cut(self):
        tracker = FaceTracker(None, 32)
        image = picture(3, (360, 640))
        for i in range(5):
            tracker.follow(np.roll(image, 12 * i, axis=1), i / 25, [face((200 + 12 * i, 180), 80)])
        assert tracker.cuts == 0


class Slow(Finder):
    """Finds only when it is not to be quick, and only there where a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.quick: list[bool] = []

    def find(self, image, near=None, quick=False):
        self.quick.append(quick)
        return [] if quick and near is None else super().find(image, near, quick)


class TestSearching:
    def test_a_face_that_only_a_slow_search_sees_is_followed_from_the_first_frame(self):
        finder, film = Slow(), [picture(1, (360, 640))] * 50
        finder.faces = [face((200, 150), 20)]
        tracker = FaceTracker(finder, 32)
        assert all([tracker.follow(image, i / 25).found for i, image in enumerate(film)])
        assert finder.quick == [False] + [True] * 49

    def test_it_comes_back_after_a_loss_and_after_a_cut(self):
        finder, image = Slow(), picture(1, (360, 640))
        tracker = FaceTracker(finder, 32)
        finder.faces = [face((200, 150), 20)]
        assert tracker.follow(image, 0.0).found
        finder.faces = []
        found = [tracker.follow(image, 0.04 * i).found for i in range(1, 12)]
        assert not any(found)
        finder.faces = [face((300, 150), 20)]
        later = [tracker.follow(image, 0.04 * i).found for i in range(12, 40)]
        assert later.index(True) <= 12
        assert all(later[later.index(True) :])
        finder.faces = []
        tracker.follow(colourful(2), 1.6)
        finder.faces = [face((250, 150), 20)]
        assert tracker.follow(colourful(3), 1.64).found, "a cut is searched at once"

    def test_a_short_film_is_searched_slowly_a_few_times(self):
        searches = Searches()
        times_s = [i / 25 for i in range(75) if searches.due(i / 25)]
        assert len(times_s) >= 6 and max(np.diff(times_s)) <= 0.8, "a small face that is shown for a second is found"

    @pytest.mark.parametrize("cuts", [False, True])
    def test_a_film_without_a_face_is_searched_slowly_now_and_then(self, cuts):
        """Ten minutes: about one search a second, also where every frame is another shot."""
        searches, slow = Searches(), 0
        for i in range(15_000):
            if cuts:
                searches.restart()
            slow += searches.due(i / 25)
        assert 590 <= slow <= 610

    def test_the_first_frame_with_a_face_is_found_and_the_work_is_bounded(self):
        def film(count, at):
            for i in range(count):
                finder.faces = [face((200, 150), 80)] if i in at else []
                yield Frame(picture(1, (90, 160)), i / 25, i)

        finder = Finder()
        looked = first_face(film(40, {7, 8}), finder)
        assert looked.frame.index == 7
        assert looked.count == 8
        looked = first_face(film(40, {}), finder, gap_s=0.2)
        assert looked.frame is None
        assert looked.whole
        assert looked.count == 40
        finder.asked_near.clear()
        looked = first_face(film(3000, {}), finder, gap_s=0.2)
        assert looked.frame is None
        assert not looked.whole
        assert looked.count == 750
        assert len(finder.asked_near) < 750 / 5 + 35  # a quick look in each fifth of a second, a search in each second


class TestPasteBack:
    def test_the_crop_itself_gives_the_picture(self):
        image = picture(4, (300, 400))
        placed = Alignment(101.3, 52.8, 170.5)
        back = PasteBack(image, placed)
        assert back.size_px == (400, 300)
        result = back(placed.crop(image, 512))
        assert np.abs(result.astype(int) - image).max() <= 2
        assert (result[:50] == image[:50]).all()
        assert (result[:, :100] == image[:, :100]).all()

    def test_the_seam_is_soft(self):
        """A result 40 levels brighter: inside all of it, and no step of more than 6 levels on the way."""
        image = np.full((300, 400, 3), 100, np.uint8)
        result = PasteBack(image, Alignment(101.3, 52.8, 170.5))(np.full((128, 128, 3), 140, np.uint8)).astype(int)
        assert result[138, 186, 0] == 140
        assert result[54, 104, 0] == 100
        assert max(np.abs(np.diff(result, axis=axis)).max() for axis in (0, 1)) <= 6

    def test_a_result_that_is_drawn_beside_is_put_right(self):
        """The portrait's own face, drawn smaller and lower by the network, covers itself again."""
        placed, shape = Alignment(100.0, 50.0, 256.0), face((260, 240), 90).points
        drawn = (shape - 256) * 0.93 + 256 + (6, 14, 0)
        right = registered(placed, shape, drawn)
        both = right.to_picture(drawn)[:, :2], placed.to_picture(shape)[:, :2]
        assert both[0] == pytest.approx(both[1], abs=0.05)
        assert registered(placed, shape, drawn + np.array([90.0, 0, 0])) == placed
        assert registered(placed, shape, np.zeros((68, 3))) == placed

    def test_beyond_the_picture_and_in_large_ones(self):
        image = picture(6, (200, 300))
        result = PasteBack(image, Alignment(-40.0, -30.0, 200.0))(np.zeros((64, 64, 3), np.uint8))
        assert result.shape == image.shape
        assert result[70, 60].max() == 0
        assert (result[180:] == image[180:]).all()
        back = PasteBack(np.zeros((2000, 4000, 3), np.uint8), Alignment(1000, 500, 800))
        assert back.size_px == (LARGEST_SIDE_PX, 960)
        shown = back(np.full((64, 64, 3), 200, np.uint8))
        assert shown[432, 672, 0] == 200
        assert shown[432, 400, 0] == 0
