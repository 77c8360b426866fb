"""Metrics of landmarks on faces with known openings, moves and turns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.train.evaluation_metrics.drawn import face, moved, real_face
from triportrait.core.errors import InputError
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.head_pose import FRONTAL, RIGID, matrix_of, turn_of
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Score
from triportrait.train.evaluation.metrics.face_geometry import (
    STILL_DRIVER,
    brow_heights,
    eye_distance,
    head_pose_distance,
    landmark_distance,
    lid_distance,
    lid_openings,
    mouth_opening,
    mouth_opening_distance,
)

SIMILAR = {"scale": 1.7, "turn": 0.6, "shift": (40.0, -7.0)}
SIZES = (mouth_opening, lid_openings, brow_heights)


def score(name: str, result: np.ndarray, other: np.ndarray, found: np.ndarray | None = None) -> Score:
    definition = METRICS[name]
    portion = dict(zip(definition.reads, (result, other), strict=True))
    return definition.score([portion if found is None else {**portion, "found": found}])


def test_openings_and_heights_as_they_were_drawn():
    drawn = face(mouth=0.3, lids=0.12, brows=0.45)[None]
    assert eye_distance(drawn) == pytest.approx([100])
    assert mouth_opening(drawn)[0] == pytest.approx([0.3])
    assert lid_openings(drawn)[0] == pytest.approx([0.12] * 2)
    assert brow_heights(drawn)[0] == pytest.approx([0.45] * 2)
    drawn[0, 37:39, 1], drawn[0, 40:42, 1] = 100, 100
    assert lid_openings(drawn)[0] == pytest.approx([0, 0.12]), "the face's own right eye is first and shut"
    drawn[0, 22:27, 1] -= 10
    assert brow_heights(drawn)[0] == pytest.approx([0.45, 0.55])


def test_a_real_face_has_plausible_sizes():
    photo = real_face()[None]
    assert 0 < mouth_opening(photo)[0, 0] < 0.3
    assert all(0.08 < x < 0.3 for x in lid_openings(photo)[0])
    assert all(0.2 < x < 0.6 for x in brow_heights(photo)[0])


@pytest.mark.parametrize("measure", SIZES)
@pytest.mark.parametrize("points", [face(0.2), real_face()], ids=["drawn", "photograph"])
def test_size_place_and_turn_in_the_plane_change_no_number(measure, points):
    assert measure(moved(points, **SIMILAR)[None]) == pytest.approx(measure(points[None]), abs=1e-9)


def test_distances_by_hand_and_their_invariance():
    truth = np.stack([face(0.1), face(0.2)])
    result = truth.copy()
    result[1] += (3, 4)  # 5 pixels of 100
    assert landmark_distance(result, truth) == pytest.approx([0, 0.05])
    both = [moved(points, **SIMILAR) for points in (result, truth)]
    assert landmark_distance(*both) == pytest.approx([0, 0.05])
    assert landmark_distance(2 * result, truth)[0] > 0.5, "a face twice as large is not in its place"
    deep = [np.concatenate([points, np.full((2, 68, 1), depth)], 2) for points, depth in ((result, 9), (truth, 0))]
    assert landmark_distance(*deep) == pytest.approx([0, 0.05]), "depths are not looked at"
    assert mouth_opening_distance(truth[:1], truth[1:]) == pytest.approx([0.1])
    assert mouth_opening_distance(moved(truth[:1], **SIMILAR), truth[1:]) == pytest.approx([0.1])
    assert lid_distance(face(lids=0.05)[None], face(lids=0.2)[None]) == pytest.approx([0.15])


@pytest.mark.parametrize("degrees", [0, 0.001, 10, 90, 179])
def test_the_angle_between_turns(degrees):
    start = matrix_of(np.array([0.3, -0.2, 0.1]))
    turn = matrix_of(np.radians(degrees) * np.array([0.6, 0.0, 0.8]))
    assert head_pose_distance((turn @ start)[None], start[None]) == pytest.approx([degrees], abs=1e-6)
    assert head_pose_distance(start[None], (turn @ start)[None]) == pytest.approx([degrees], abs=1e-6)


def test_a_turn_is_read_off_the_landmarks():
    """Ten degrees about the vertical, in the mean face of `head_pose`."""
    turn = matrix_of(np.array([0, np.radians(10), 0]))
    points = np.zeros((2, 68, 3))
    points[0, list(RIGID)] = FRONTAL * (1, -1, -1)
    points[1, list(RIGID)] = (FRONTAL @ turn.T) * (1, -1, -1)
    straight, turned = (turn_of(Face(each, np.zeros((5, 2)))) for each in points)
    assert head_pose_distance(turned[None], straight[None]) == pytest.approx([10], abs=1e-6)


def test_what_is_no_rotation_is_refused():
    for matrix in (2 * np.eye(3), np.diag([1.0, 1, -1]), np.zeros((3, 3))):
        with pytest.raises(InputError, match=r"result\.turn: expected rotations"):
            score("head_pose_distance", matrix[None], np.eye(3)[None])


OPENINGS = 0.15 + 0.1 * np.sin(np.arange(40) / 3)


@pytest.mark.parametrize("part", ["mouth", "lids", "brows"])
def test_correlation_and_gain_of_a_known_line(part):
    """The result moves by 0.6 of the driver, about another rest; size, place and turn of its face do not matter."""
    name = {"mouth": "mouth", "lids": "lids", "brows": "brows"}[part]
    driving = np.stack([face(**{name: x}) for x in OPENINGS])
    result = moved(np.stack([face(**{name: 0.1 + 0.6 * x}) for x in OPENINGS]), **SIMILAR)
    assert score(f"{part}_correlation", result, driving).value == pytest.approx(1)
    assert score(f"{part}_gain", result, driving).value == pytest.approx(0.6)
    against = np.stack([face(**{name: 0.5 - x}) for x in OPENINGS])
    assert score(f"{part}_correlation", against, driving).value == pytest.approx(-1)
    assert score(f"{part}_gain", against, driving).value == pytest.approx(-1)
    still = np.repeat(face()[None], 40, 0)
    assert score(f"{part}_gain", still, driving).value == pytest.approx(0, abs=1e-9)
    frozen = score(f"{part}_correlation", still, driving)
    assert frozen.value == 0 and "result" in frozen.note
    undefined = score(f"{part}_gain", driving, still)
    assert undefined.value is None and undefined.note.startswith("no motion in the driver")


def test_correlation_and_gain_beside_numpy():
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.03, 40)
    driving = np.stack([face(mouth=x) for x in OPENINGS])
    result = np.stack([face(mouth=0.2 + 0.5 * x + e) for x, e in zip(OPENINGS, noise, strict=True)])
    opened = 0.2 + 0.5 * OPENINGS + noise
    expected = np.corrcoef(opened, OPENINGS)[0, 1]
    assert score("mouth_correlation", result, driving).value == pytest.approx(expected)
    assert score("mouth_gain", result, driving).value == pytest.approx(np.polyfit(OPENINGS, opened, 1)[0])
    assert 0.3 < expected < 0.95


def test_eyes_at_different_rest_are_no_movement():
    """Each eye is compared with its own mean."""
    driving = np.stack([face(lids=x) for x in OPENINGS])
    result = driving.copy()
    result[:, [43, 44], 1] -= 7
    result[:, [47, 46], 1] += 7
    assert score("lids_gain", result, driving).value == pytest.approx(1)
    assert score("lids_correlation", result, driving).value == pytest.approx(1)


def test_jitter_of_known_noise():
    """Independent noise of σ in x and y moves a point between two frames by √(2 · 2 σ²)."""
    random = np.random.default_rng(0)
    still = np.repeat(face()[None], 400, 0)
    sigma = 0.8
    result = still + random.normal(0, sigma, still.shape)
    jitter = score("jitter_of_still_driver", result, still)
    assert jitter.value == pytest.approx(2 * sigma / 100, rel=0.02)
    assert jitter.frames == 399
    larger = score("jitter_of_still_driver", moved(result, **SIMILAR), still)
    assert larger.value == pytest.approx(jitter.value, rel=1e-6)
    assert score("jitter_of_still_driver", still, still).value == 0


def test_jitter_counts_only_where_the_driver_stands_still():
    still = np.repeat(face()[None], 6, 0)
    moving, result = still.copy(), still.copy()
    moving[3:] += (100 * STILL_DRIVER * 1.01, 0)
    result[3:] += (30, 0)  # it follows
    jitter = score("jitter_of_still_driver", result, moving)
    assert (jitter.value, jitter.frames) == (0, 4)
    slower = still.copy()
    slower[3:] += (100 * STILL_DRIVER * 0.99, 0)
    jump = score("jitter_of_still_driver", result, slower)
    assert jump.frames == 5 and jump.value == pytest.approx(0.3 / np.sqrt(5))
    walking = still + np.arange(6).reshape(6, 1, 1) * 5
    assert "stands still between no two frames" in score("jitter_of_still_driver", still, walking).note
    gap = np.array([1, 1, 1, 0, 1, 1], bool)
    assert score("jitter_of_still_driver", result, slower, gap).value == 0, "the jump lies in the gap"


def test_points_that_are_no_face_are_refused():
    nowhere = np.zeros((1, 68, 2))
    for measure in (mouth_opening, lid_openings, brow_heights):
        with pytest.raises(InputError, match="expected a distance between the eyes"):
            measure(nowhere)
    with pytest.raises(InputError, match="expected a distance between the eyes"):
        landmark_distance(face()[None], nowhere)
