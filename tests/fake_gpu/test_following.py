"""A frame that is followed on a fake GPU: one graph, of which the host uploads the raw frame and a few numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.face_models import needs_face_models
from tests.fake_gpu.conditions import NEEDS
from tests.fake_gpu.following import HEIGHT, WIDTH

pytestmark = [*NEEDS, needs_face_models]
RAW = HEIGHT * WIDTH * 3  # bytes
NUMBERS = 7_000  # bytes, at most, beside each raw frame, and as many beside each picture
LAUNCHES = 12  # outside of the graph: what changed goes into its memory, what it gives is copied out of it
PICTURE = 128 * 128 * 3


@pytest.fixture(scope="module")
def rows(ran) -> dict[str, Any]:
    """Counts by what was done."""
    return ran("tests.fake_gpu.following")


@pytest.mark.parametrize("kind, pictures", [("still", 1), ("turned, marked", 1)])
def test_a_followed_frame_uploads_itself_and_waits_for_its_picture_alone(rows, kind, pictures):
    frame = rows[kind]
    up, down = frame["copies"]["host to device"], frame["copies"]["device to host"]
    assert frame["replays"] == 1 and frame["launches"] <= LAUNCHES, frame["launched"]
    assert frame["waits"] == {"event": 2}, "the picture, and whether it is finite and the face was there"
    assert (up["count"], up["waiting"], down["waiting"]) == (2, 0, 0)
    assert RAW <= up["bytes"] <= RAW + NUMBERS
    assert pictures * PICTURE <= down["bytes"] <= pictures * PICTURE + NUMBERS


@pytest.mark.parametrize("kind", ["still", "turned, marked"])
def test_it_is_captured_when_its_canvas_is_first_used(rows, kind):
    assert rows[f"{kind}: first"]["waits"]["capture"] == 1
    assert "capture" not in rows[kind]["waits"]


@pytest.mark.parametrize("kind", ["still", "turned, marked"])
def test_two_faces_share_a_graph(rows, kind):
    both = rows[f"{kind}: two"]
    assert both["replays"] == 1 and both["waits"] == {"event": 2}
    assert both["copies"]["host to device"]["count"] == 3
    assert both["copies"]["host to device"]["bytes"] <= 2 * (RAW + NUMBERS)
