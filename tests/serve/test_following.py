"""Faces are followed on the device as the tracker follows them on the host."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.face_models import needs_face_models
from tests.serve.following import films, finder, mesh
from tests.serve.raw import face, photo
from triportrait.core.faces.regions import Regions, crop
from triportrait.serve.faces import device_rotation, head_pose, network_faces, tracker, views
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.device_crop import cut_squares
from triportrait.serve.faces.device_views import cut_out, kept, views_around
from triportrait.serve.faces.face import AlignedFace, Face
from triportrait.serve.faces.following import FOLLOW, HOLD, TAKE, Followed, Following, Given, _jumped
from triportrait.serve.faces.tracker import FaceTracker

pytestmark = needs_face_models
SIDE = 256
CANVAS = (384, 512)
WITHIN_PX, WITHIN_DEGREES = 0.01, 0.01  # of one step from the same face
MOST_OFF = 0.01  # of the numbers of a crop, at most, are other levels, by two at most: the square is not quite the same
OFF_BY_ONE = 0.001  # of those of the same square, by one
# After twenty steps by itself: the mesh's crop rounds places, and is where the mesh was before.
DRIFT_PX, DRIFT_DEGREES = 0.5, 0.25


@cache
def following(side: int = SIDE, smooth: bool = True, flame: bool = False) -> Following:
    return Following(mesh(), side, smooth, flame)


def canvas(images: list[np.ndarray]) -> torch.Tensor:
    """Pictures in the corners of larger ones; what is beyond them must not be seen."""
    return torch.stack(
        [
            torch.nn.functional.pad(torch.from_numpy(x), (0, 0, 0, CANVAS[1] - x.shape[1], 0, CANVAS[0] - x.shape[0]))
            for x in images
        ]
    )


def found_by_host(faces: list[Face]) -> Given:
    views = [(np.nan,) * 4 if face.view is None else face.view for face in faces]
    points = np.stack([face.points for face in faces])
    return Given(torch.from_numpy(points), torch.tensor(views, dtype=torch.float64))


def step(
    follows: Following, images: list[np.ndarray], time_s: float, does: int, given: list[Face], state: Followed,
    anew: bool = False,
) -> tuple[Followed, torch.Tensor]:  # fmt: skip
    """Follow faces into one frame each."""
    count = len(images)
    with torch.inference_mode():
        return follows(
            canvas(images), torch.tensor([image.shape[:2] for image in images]),
            torch.full((count,), time_s, dtype=torch.float64), torch.full((count,), does),
            torch.full((count,), anew), found_by_host(given), state,
        )  # fmt: skip


def turn_apart_deg(neck: torch.Tensor, tracked: AlignedFace) -> float:
    """The angle between two turns of a neck, degrees."""
    assert tracked.tracking.parameters is not None
    ours, theirs = (head_pose.matrix_of(x.double().numpy()) for x in (neck, tracked.tracking.parameters.neck[0]))
    return float(np.degrees(np.linalg.norm(head_pose.vector_of(ours @ theirs.T))))


@pytest.mark.parametrize("smooth, flame", [(True, False), (False, True)])
def test_each_step_is_the_tracker_s(smooth, flame):
    follows, firsts = following(SIDE, smooth, flame), [first for _, first in films()]
    trackers = [FaceTracker(finder(), SIDE, smooth=smooth, flame=flame) for _ in firsts]
    state, count = follows.begin(len(firsts), "cpu"), 12 if smooth else 4
    for i in range(count):
        images, time_s = [frames[i] for frames, _ in films()], 0.04 * i + 0.01 * (i % 3)
        if i:
            near = found_by_host([t.near for t in trackers])
            state = state._replace(points=near.points, view=near.view)
        given = [[first] if i == 0 else None for first in firsts]
        tracked = [t.follow(image, time_s, face) for t, image, face in zip(trackers, images, given, strict=True)]
        state, found = step(follows, images, time_s, FOLLOW if i else TAKE, firsts, state)
        for k, (t, wanted) in enumerate(zip(trackers, tracked, strict=True)):
            assert found[k] and wanted.found and t.cuts == 0
            assert np.abs(state.points[k].numpy() - t.near.points).max() < WITHIN_PX
            assert (state.landmarks[k] - wanted.tracking.landmarks[0]).abs().max() < WITHIN_PX
            off = np.abs(state.crop[k].numpy().astype(int) - wanted.crop)
            assert off.max() <= 2 and (off > 0).mean() < MOST_OFF
            assert turn_apart_deg(state.neck[k], wanted) < WITHIN_DEGREES


def test_it_follows_a_film_by_itself():
    frames, first = films()[0]
    follows, track = following(), FaceTracker(finder(), SIDE)
    state = follows.begin(1, "cpu")
    for i, image in enumerate(frames):
        wanted = track.follow(image, 0.04 * i, None if i else [first])
        state, found = step(follows, [image], 0.04 * i, FOLLOW if i else TAKE, [first], state)
        assert found.all()
        assert (state.landmarks - wanted.tracking.landmarks).abs().max() < DRIFT_PX
        assert turn_apart_deg(state.neck[0], wanted) < DRIFT_DEGREES


def test_without_a_face_all_is_held_and_a_face_that_the_host_finds_is_taken():
    (frames, first), follows = films()[0], following()
    grey = np.full_like(frames[0], 60)
    state, _ = step(follows, frames[:1], 0.0, TAKE, [first], follows.begin(1, "cpu"))
    state, _ = step(follows, frames[1:2], 0.04, FOLLOW, [first], state)
    nowhere = Face(np.full((68, 3), np.nan, np.float32), np.zeros((5, 2), np.float32))
    for image, does, given in ((grey, FOLLOW, first), (frames[2], HOLD, first), (frames[2], TAKE, nowhere)):
        held, found = step(follows, [image], 0.08, does, [given], state)
        assert not found.any()
        assert all(map(torch.equal, held, state))
    on, found = step(follows, frames[5:6], 0.2, TAKE, [first], state)
    assert found.all() and not torch.equal(on.values, state.values)
    anew, _ = step(follows, frames[5:6], 0.2, TAKE, [first], state, anew=True)
    assert anew.speeds.count_nonzero() == 0 < on.speeds.count_nonzero()


def test_a_face_that_jumps_is_not_followed(monkeypatch):
    """Where the mesh lands on another face, the host decides whether the shot was cut."""
    one = face((200.0, 180.0), 90.0)
    others = [face((200.0 + x, 180.0), 90.0 * scale) for x in (0, 40, 120, 250) for scale in (0.4, 0.65, 1.0, 2.0)]
    jumped = [tracker.jumped(one, other) for other in others]
    assert 3 < sum(jumped) < len(jumped) - 3
    points = torch.from_numpy(np.stack([other.points for other in others]))
    assert _jumped(torch.from_numpy(one.points).expand_as(points), points).tolist() == jumped
    (frames, first), follows = films()[0], following()
    state, _ = step(follows, frames[:1], 0.0, TAKE, [first], follows.begin(1, "cpu"))
    for most, goes_on in ((tracker.JUMP, True), (1e-4, False)):
        monkeypatch.setattr(tracker, "JUMP", most)
        after, found = step(follows, frames[1:2], 0.04, FOLLOW, [first], state)
        assert found.all() == goes_on
        assert torch.equal(after.points, state.points) != goes_on


SQUARES = [  # left, top, side of squares, within the picture, beyond it, enlarged, reduced, and one that holds it all
    (100.3, 50.7, 200.1), (-50.0, -20.0, 700.0), (30.2, 10.9, 90.5), (0.0, 0.0, 300.0), (350.0, 250.0, 400.0),
    (-700.0, -500.0, 1500.0), (-250.0, 20.0, 260.0),
]  # fmt: skip


@pytest.mark.parametrize("square", SQUARES)
def test_a_crop_is_pillow_s(square):
    image = photo()[:300, :400].copy()
    wanted = Alignment(*square).crop(image, SIDE).astype(int)
    placed = (torch.tensor([number], dtype=torch.float64) for number in square)
    levels = canvas([image]).permute(0, 3, 1, 2).float() + 40 * (torch.arange(CANVAS[1]) >= 400)  # noise beyond it
    off = np.abs(cut_squares(levels, torch.tensor([[300, 400]]), *placed, SIDE)[0].numpy() - wanted)
    assert off.max() <= 1 and (off > 0).mean() < OFF_BY_ONE


def test_a_square_of_a_picture_in_a_larger_one_sees_the_picture_alone():
    image = photo()[:300, :400].copy()
    regions = Regions.of([(380.0, 30.0, 200.0, 0.2)])
    alone = crop(torch.from_numpy(image).permute(2, 0, 1)[None], regions, (64, 64))
    framed = crop(canvas([image]).permute(0, 3, 1, 2), regions, (64, 64), sizes=torch.tensor([[300, 400]]))
    assert torch.equal(alone, framed)
    assert not torch.equal(alone, crop(canvas([image]).permute(0, 3, 1, 2), regions, (64, 64)))


def test_turns_are_those_of_the_host():
    draw, seen = np.random.default_rng(0), []
    for _ in range(50):
        axis = draw.normal(size=3)
        turn = head_pose.matrix_of(axis / np.linalg.norm(axis) * draw.uniform(0, 2.8))
        seen.append(head_pose.FRONTAL @ turn.T * 100 + draw.normal(size=head_pose.FRONTAL.shape) * 3)
    found = device_rotation.quaternion_between(torch.from_numpy(head_pose.FRONTAL), torch.from_numpy(np.stack(seen)))
    wanted = [head_pose.vector_of(head_pose.rotation_between(head_pose.FRONTAL, each)) for each in seen]
    assert np.abs(device_rotation.vector_of(found).numpy() - np.stack(wanted)).max() < 1e-6


def test_squares_are_those_of_the_host_and_stand_still_as_long():
    faces = [face((200.0 + i, 150.0), 80.0 + 0.5 * i, (0.1, 0.2, 0.01 * i)) for i in range(12)]
    wanted = [views.view_of(one.points) for one in faces]
    device = views_around(torch.from_numpy(np.stack([one.points for one in faces])))
    assert np.abs(device.numpy() - np.array(wanted)).max() < 1e-6
    still = [views.kept(wanted[0], other) for other in wanted]
    assert 2 < sum(one == wanted[0] for one in still) < 10
    assert np.allclose(kept(device[:1].expand(12, -1), device).numpy(), np.array(still), atol=1e-6)
    assert torch.equal(kept(torch.full_like(device, torch.nan), device), device)
    around = device.new_tensor([[0.0, 0.0, 100.0, 3.13]]), device.new_tensor([[0.0, 0.0, 100.0, -3.13]])
    assert torch.equal(kept(*around), around[0]), "the two rolls are 1.3 degrees apart"


VIEWS = [(200.3, 150.2, 120.0, 0.1), (210.0, 90.0, 430.7, -0.4), (20.0, 290.0, 800.0, 0.0), (399.0, 5.0, 191.9, 3.0)]


@pytest.mark.parametrize("view", VIEWS)
def test_a_crop_for_the_mesh_is_the_host_s(view):
    image, size = photo()[:300, :400].copy(), (192, 192)
    wanted = network_faces._cut_out(image, views.View(*view), size)
    framed = canvas([image])
    framed[:, 300:], framed[:, :, 400:] = 90, 40
    ours = cut_out(framed, torch.tensor([[300, 400]]), torch.tensor([view], dtype=torch.float64), size)
    off = (ours - wanted).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < OFF_BY_ONE
