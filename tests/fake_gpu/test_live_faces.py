"""Live sessions on a fake GPU: a batch of them is followed and shown by one graph, which was captured beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.face_models import needs_face_models
from tests.fake_gpu.conditions import NEEDS

pytestmark = [*NEEDS, needs_face_models]
NUMBERS = 7_000  # bytes, at most, beside each raw frame
# Graphs of faces that the host follows: planes, a view, a turned view of 1, 2, 4, 8 heads; a neck; views of geometry.
SHOWING = 13 + 8
FOLLOWING = 8 + 8  # graphs: of 1, 2, 4, 8 sessions, with necks that turn and without; the same of geometry
LAUNCHES = 24  # outside of the graph: those of one frame, and what joins two sessions' portraits and states


@pytest.fixture(scope="module")
def seen(ran) -> dict[str, Any]:
    """What `python -m tests.fake_gpu.live_faces` writes."""
    return ran("tests.fake_gpu.live_faces")


def test_two_sessions_upload_raw_frames_alone_and_wait_for_their_pictures(seen):
    batch = seen["rows"]["two sessions"]
    up = batch["copies"]["host to device"]
    assert batch["replays"] == 1 and batch["launches"] <= LAUNCHES, batch["launched"]
    assert batch["waits"] == {"event": 2}, "the pictures, and whether they are finite and the faces were there"
    assert (up["count"], up["waiting"]) == (3, 0)
    assert 2 * seen["raw"] <= up["bytes"] <= 2 * (seen["raw"] + NUMBERS)
    assert batch["copies"]["device to host"]["waiting"] == 0


def test_threads_of_faces_leave_the_device_alone(seen):
    staged = seen["rows"]["staged"]
    assert (staged["replays"], staged["launches"], staged["copies"], staged["waits"]) == (0, 0, {}, {})


def test_faces_are_searched_at_first_after_a_cut_and_where_they_were_lost(seen):
    assert {name: does for name, (does, _) in seen["does"].items()} == {
        "first": "take", "then": "follow", "cut": "hold", "lost": "take", "found": "follow",
    }  # fmt: skip
    assert all(one == other for one, other in seen["does"].values())


def test_a_face_comes_back_for_a_neutral_wish_and_once_for_all_views(seen):
    neutral, view = seen["rows"]["neutral"], seen["rows"]["view again"]
    assert neutral["copies"]["device to host"]["count"] == 2, "its crop, and its numbers"
    assert view["copies"]["device to host"]["count"] == 3, "the pictures, and whether they are finite"


def test_all_is_captured_before_anybody_is_served(seen):
    assert seen["captures"] == SHOWING + FOLLOWING
    assert seen["everything"] == {"captures": 0, "said": []}


def test_what_a_graph_cannot_hold_is_seen_at_the_start(seen):
    assert "host to device" in seen["fault"]
