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
def seen(ran) -> dict[str, Any]:
    """What `python -m tests.fake_gpu.following` writes."""
    return ran("tests.fake_gpu.following")


@pytest.fixture(scope="module")
def rows(seen) -> dict[str, Any]:
    """Counts by what was done."""
    return seen["rows"]


@pytest.mark.parametrize("kind", ["still", "turned, marked", "normals"])
def test_a_followed_frame_uploads_itself_and_waits_for_its_picture_alone(rows, kind):
    frame = rows[kind]
    up, down = frame["copies"]["host to device"], frame["copies"]["device to host"]
    assert frame["replays"] == 1 and frame["launches"] <= LAUNCHES, frame["launched"]
    assert frame["waits"] == {"event": 2}, "the picture, and whether it is finite and the face was there"
    assert (up["count"], up["waiting"], down["waiting"]) == (2, 0, 0)
    assert RAW <= up["bytes"] <= RAW + NUMBERS
    assert PICTURE <= down["bytes"] <= PICTURE + NUMBERS


@pytest.mark.parametrize("kind", ["still", "turned, marked", "normals"])
def test_it_is_captured_when_its_canvas_is_first_used(rows, kind):
    assert rows[f"{kind}: first"]["waits"]["capture"] == 1
    assert "capture" not in rows[kind]["waits"]


@pytest.mark.parametrize("kind", ["still", "turned, marked", "normals"])
def test_two_faces_share_a_graph(rows, kind):
    both = rows[f"{kind}: two"]
    assert both["replays"] == 1 and both["waits"] == {"event": 2}
    assert both["copies"]["host to device"]["count"] == 3
    assert both["copies"]["host to device"]["bytes"] <= 2 * (RAW + NUMBERS)


@pytest.mark.parametrize(
    "kind, shown, passes, replays", [("refined", 1, 1, 0), ("refined beside another", 3, 2, 1)]
)  # fmt: skip
def test_refined_frames_run_launch_by_launch_and_wait_for_their_pictures_alone(rows, kind, shown, passes, replays):
    """The two of one person are one pass; the one beside them keeps its graph, and nothing is captured."""
    frame = rows[kind]
    up, down = frame["copies"]["host to device"], frame["copies"]["device to host"]
    assert frame["replays"] == replays and frame["waits"] == {"event": 2 * passes}
    assert frame["launched"]["march_forward.march"] == 1
    assert (up["count"], up["waiting"], down["waiting"]) == (shown + passes, 0, 0)
    assert shown * RAW <= up["bytes"] <= shown * (RAW + NUMBERS)


def test_what_a_graph_cannot_hold_is_seen(seen):
    number, table, square = seen["faults"]
    assert "_local_scalar_dense" in number and "host to device" in table and "device to host" in square


def test_a_film_is_sought_once_and_then_followed_by_one_graph_a_frame(seen):
    """Through `Pipeline.animate`; a second film has the first one's graphs."""
    film = seen["film"]
    assert film["sought"] == [1, 1], "the first frame of each alone"
    counts = {name: row for name, row in film["rows"].items() if not name.endswith("frame 0")}
    assert len(counts) == 6
    for name, frame in counts.items():
        up = frame["copies"]["host to device"]
        assert frame["replays"] == 1 and frame["waits"] == {"event": 2} and frame["launches"] <= LAUNCHES, name
        assert (up["count"], up["waiting"]) == (2, 0) and film["raw"] <= up["bytes"] <= film["raw"] + NUMBERS
    firsts = [film["rows"][f"{turn} film: frame 0"]["waits"] for turn in ("first", "second")]
    assert "capture" in firsts[0] and "capture" not in firsts[1]
