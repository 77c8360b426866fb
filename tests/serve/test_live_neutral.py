"""A real face drives weights that know drawn heads: what the page is told, and the face that counts as neutral."""

from __future__ import annotations

from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from tests.face_models import needs_face_models
from tests.serve.live_in_process import Visitor, driving, pixels, reenactor
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.weights import DEMO
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.neutral import FIRST, SETTLED_S, STILL, STILL_S, NeutralWish
from triportrait.serve.live.weights_notice import weights_notice
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.tracking_files import Tracking
from triportrait.serve.weight_loading import RULE

REAL = Path(__file__).parents[2] / "docs" / "demo" / "driving.mp4"


@lru_cache(maxsize=1)
def real_face() -> np.ndarray:
    """A person, before anything moves: mouth closed to a smile, eyes open."""
    with closing(open_clip(REAL).frames(1)) as frames:
        return next(frame.image for frame in frames)


def eyes(jpeg: bytes) -> np.ndarray:
    """The rows and columns of head-1 where its eyes are."""
    return pixels(jpeg)[48:76, 30:98]


def follow(page: Visitor, frames: int, first: int = 1) -> bytes:
    """The picture after the real face has been sent so often."""
    for number in range(first, first + frames):
        page.frame(number, real_face())
        page.result()
    return page.results[-1].jpeg


def test_the_page_is_told_what_the_weights_know_before_a_face_drives(live):
    with Visitor(live, example=None) as page:
        notice = page.hello["weights"]
        assert notice["title"] == "Drawn heads only"
        assert notice["neutral"] is True
        for part in ("never seen a person", "photo as portrait", "without its likeness", "face that drives is misread"):
            assert part in notice["sentence"]
        assert "trained on photographs" in notice["remedy"]
        assert [line.split()[1] for line in notice["commands"]] == ["convert", "convert", "live"]
    assert "noise" in weights_notice(RULE, reenactor()).sentence
    assert weights_notice(DEMO, reenactor()).sentence.startswith("The demo weights")
    trained_here = weights_notice("runs/mine", reenactor())  # on drawn heads, too
    assert trained_here.sentence.startswith("These weights")


def test_weights_that_read_real_faces_need_no_word(monkeypatch):
    with torch.device("meta"):
        monkeypatch.setattr(reenactor(), "motion_encoder", PDFGC())
    assert weights_notice("weights", reenactor()) is None


@needs_face_models
def test_a_real_face_shuts_the_eyes_until_one_of_its_pictures_counts_as_neutral(live):
    with Visitor(live) as page:
        page.say(do="settings", motion_strength=0)
        open_eyes = eyes(follow(page, 2))  # of a head that is turned as the face is
        page.say(do="settings", motion_strength=1)
        shut = np.abs(eyes(follow(page, 3, 3)) - open_eyes).mean()
        page.say(do="neutral", on=True, when=FIRST)
        assert page.hear("neutral") == {"is": "neutral", "on": False, "waits": FIRST, "by_itself": False}
        number = 6
        while not (chosen := [m for m in page.events if m["is"] == "neutral" and m["by_itself"]]):
            follow(page, 1, number)
            number += 1
            assert number < 100
        assert chosen[0]["on"] is True
        assert chosen[0]["waits"] == ""
        assert np.abs(eyes(follow(page, 2, number)) - open_eyes).mean() < 0.5 * shut
        page.say(do="neutral", on=False)  # undone
        assert page.hear("neutral")["on"] is False
        assert np.abs(eyes(follow(page, 2, number + 2)) - open_eyes).mean() > 0.9 * shut


@needs_face_models
def test_a_wish_for_a_neutral_face_outlives_a_portrait_and_not_its_undoing(live):
    with Visitor(live) as page:
        page.say(do="neutral", on=True, when=STILL)
        assert page.hear("neutral")["waits"] == STILL
        page.say(do="example", name="head-2")
        assert page.hear("neutral")["waits"] == STILL
        page.say(do="neutral", on=False)
        assert page.hear("neutral") == {"is": "neutral", "on": False, "waits": "", "by_itself": False}
        page.say(do="neutral", on=True, when="later")
        assert "expected 'first' or 'still'" in page.hear("notice", about="wish")["sentence"]
        page.frame(1, np.full((200, 200, 3), 128, np.uint8))  # nobody is in it
        page.result()
        page.say(do="neutral", on=True)
        assert "none has come yet" in page.hear("notice", about="wish")["sentence"]


def face(change: float = 0.0, found: bool = True, roll: float = 0.0, zoom: float = 1.0) -> AlignedFace:
    """Of 68 points, of which one is moved by this share of their size; rolled, zoomed."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 80, (68, 2))
    points[40] += change * 80 * np.sqrt(2)
    points = zoom * points @ np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]) + 256
    picture = np.zeros((128, 128, 3), np.uint8)
    return AlignedFace(picture, Tracking(landmarks=torch.from_numpy(points)[None]), found, middle_square(picture))


def met_at(faces, step_s: float = 0.1) -> float | None:
    """When the wish for a still face, made at 10 s, is met."""
    wish = NeutralWish(STILL, 10.0)
    for i, followed in enumerate(faces):
        if wish.is_met_by(followed, 10.0 + i * step_s):
            assert not wish.is_met_by(followed, 100.0)  # once
            return i * step_s
    return None


def test_a_face_is_still_when_nothing_of_it_has_moved_for_a_second():
    still = [face() for _ in range(30)]
    assert SETTLED_S + STILL_S - 0.01 < met_at(still) < SETTLED_S + STILL_S + 0.15
    assert met_at([face(roll=0.01 * i, zoom=1 + 0.02 * i) for i in range(30)]) is not None  # it comes nearer
    blink = still[:8] + [face(0.2)] * 2 + still
    assert met_at(blink) > 0.99 + STILL_S  # the second begins after it
    assert met_at([face(0.1 * (i % 3)) for i in range(60)]) is None  # it talks
    assert met_at([face(found=i % 8 > 0) for i in range(60)]) is None  # it comes and goes
    assert met_at([face()] * 3, step_s=1.0) is None  # three pictures are too few to tell


def test_a_still_face_is_told_without_landmarks_by_its_picture():
    def plain(level: int) -> AlignedFace:
        picture = np.full((128, 128, 3), level, np.uint8)
        picture[40:60, 40:60] //= 2
        return AlignedFace.whole(picture)

    assert met_at([plain(100 + i % 3) for i in range(30)]) is not None
    assert met_at([plain(100 + 40 * (i % 2)) for i in range(60)]) is None


def test_driving_heads_that_talk_are_never_still(live):
    """`driving` differs from picture to picture: nothing is taken by itself."""
    with Visitor(live) as page:
        page.say(do="neutral", on=True, when=STILL)
        page.hear("neutral")
        for number in range(1, 25):
            page.frame(number, driving(f"head-{number % 3 + 2}"))
            page.result()
        assert not [m for m in page.events if m["is"] == "neutral" and m["on"]]
