"""Portraits and recordings of live sessions: which is shown, what a recording holds; demo weights."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from tests.serve.live_in_process import Visitor, driving, eventually, pixels
from triportrait.serve.live.inference import EXAMPLES, encode_jpeg
from triportrait.serve.live.recording import Recording
from triportrait.serve.media.provenance.manifest import installed, read_manifest
from triportrait.serve.media.provenance.stamp import Stamp


def test_a_recording_decodes_and_only_its_own_name_finds_it(live, tmp_path):
    with Visitor(live) as page:
        page.say(do="record", on=False)
        assert "none is running" in page.hear("notice", about="wish")["sentence"]
        page.say(do="record", on=True)
        page.hear("recording")
        page.say(do="example", name="head-4")  # the manifest names one source
        assert "a recording runs" in page.hear("notice", about="wish")["sentence"]
        for number in range(1, 7):
            page.frame(number, driving(f"head-{number % 3 + 2}"))
            page.result()
        page.say(do="record", on=False)
        recorded = page.hear("recorded")
        status, data, headers = live.get(recorded["address"])
        assert status == 200
        assert headers["content-type"] == "video/mp4"
        assert len(data) == recorded["bytes"]
        assert 'attachment; filename="triportrait-' in headers["content-disposition"]
        with av.open(io.BytesIO(data)) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert len(frames) == recorded["frames"] >= 5
        assert frames[0].shape == (128, 128, 3)
        # A result is recorded after it was sent: the last one may have come too late.
        assert min(np.abs(frames[-1].astype(int) - pixels(r.jpeg)).mean() for r in page.results[-2:]) < 6
        (tmp_path / "saved.mp4").write_bytes(data)
        if installed():
            manifest = read_manifest(tmp_path / "saved.mp4")
            assert manifest is not None
            assert not manifest.altered
            assert manifest.generation is not None
        for name in ("x", "..%2f..%2fetc%2fpasswd", recorded["address"].split("/")[-1] + ".mp4"):
            assert live.get(f"/recordings/{name}")[0] == 404
        page.say(do="record", on=True)
        page.hear("recording")
        page.say(do="record", on=False)
        assert "no picture came" in page.hear("notice", about="wish")["sentence"]


@pytest.fixture
def slow_portraits(live, monkeypatch) -> Iterator[threading.Event]:
    """Portraits are prepared when this is set."""
    go, prepare = threading.Event(), live.server.engine.reenactor.prepare

    def waiting(followed):
        assert go.wait(30)
        return prepare(followed)

    monkeypatch.setattr(live.server.engine.reenactor, "prepare", waiting)
    yield go
    go.set()


def test_a_recording_that_begins_while_a_portrait_is_under_way_keeps_its_own(live, slow_portraits):
    """Its manifest would name another source otherwise."""
    slow_portraits.set()
    with Visitor(live) as page:
        slow_portraits.clear()
        page.say(do="example", name="head-4")
        shown = live.server.sessions[page.hello["session"]].session.portrait
        page.say(do="record", on=True)
        page.hear("recording")
        slow_portraits.set()
        assert "a recording runs" in page.hear("notice", about="wish")["sentence"]
        assert live.server.sessions[page.hello["session"]].session.portrait is shown


def test_the_portrait_that_was_asked_for_last_is_shown(live):
    """An upload over a slow line is no answer to a later choice."""
    jpeg, go = encode_jpeg(driving("head-4")), threading.Event()

    def slow() -> Iterator[bytes]:
        yield jpeg[:100]
        assert go.wait(30)
        yield jpeg[100:]

    with Visitor(live) as page, ThreadPoolExecutor(1) as uploading:
        session = live.server.sessions[page.hello["session"]].session
        answer = uploading.submit(live.post, f"/portrait?session={session.id}", slow())
        eventually(lambda: session.choice.requested == 2)
        page.say(do="example", name="head-3")
        page.hear("portrait")
        go.set()
        status, body = answer.result(30)
        assert status == 422
        assert "another one was chosen meanwhile" in body["sentence"]
        sha256 = hashlib.sha256((EXAMPLES / "head-3.jpg").read_bytes()).hexdigest()
        assert session.portrait.stamp.claim.source_sha256 == sha256


def test_a_later_portrait_that_is_refused_outdates_none(live, slow_portraits):
    slow_portraits.set()
    with Visitor(live) as page:
        session = live.server.sessions[page.hello["session"]].session
        slow_portraits.clear()
        page.say(do="example", name="head-3")
        eventually(lambda: session.choice.requested == 2)
        status, body = live.post(f"/portrait?session={session.id}", b"no picture")
        assert status == 422
        assert "not a picture that can be read" in body["sentence"]
        slow_portraits.set()
        page.hear("portrait")
        sha256 = hashlib.sha256((EXAMPLES / "head-3.jpg").read_bytes()).hexdigest()
        assert session.portrait.stamp.claim.source_sha256 == sha256


def test_a_recording_holds_no_picture_of_the_portrait_before(live, monkeypatch):
    marked: dict[int, str] = {}
    recorded: list[str] = []
    go, mark, write = threading.Event(), Stamp.mark, Recording.write

    def late_mark(stamp, image):
        assert go.wait(30)
        picture = mark(stamp, image)
        marked[id(picture)] = stamp.claim.source_sha256
        return picture

    def noted(recording, picture, now_s):
        recorded.append(marked[id(picture)])
        return write(recording, picture, now_s)

    with Visitor(live) as page:
        session = live.server.sessions[page.hello["session"]].session
        monkeypatch.setattr(Stamp, "mark", late_mark)
        monkeypatch.setattr(Recording, "write", noted)
        page.frame(1)
        eventually(lambda: session.finishing)
        page.say(do="example", name="head-4")
        page.hear("portrait")
        page.say(do="record", on=True)
        page.hear("recording")
        go.set()
        page.frame(2)
        while page.result().number < 2:
            pass
        page.say(do="record", on=False)
        page.hear("recorded")
    assert set(recorded) == {hashlib.sha256((EXAMPLES / "head-4.jpg").read_bytes()).hexdigest()}


def test_a_recording_that_cannot_be_written_is_said_and_the_session_goes_on(live, monkeypatch):
    def fails(*arguments):
        raise ValueError("times must not fall")

    with Visitor(live) as page:
        page.say(do="record", on=True)
        page.hear("recording")
        monkeypatch.setattr(Recording, "write", fails)
        page.frame(1)
        assert page.hear("notice", about="record")["sentence"] == "the recording failed; see the server's log"
        assert page.hear("recording")["on"] is False
        page.frame(2)
        assert page.result().number in (1, 2)


def test_a_new_portrait_forgets_the_neutral_face_and_says_so(live):
    with Visitor(live) as page:
        page.frame(1)
        page.result()
        page.say(do="neutral", on=True)
        assert page.hear("neutral")["on"] is True
        page.say(do="example", name="head-4")
        assert page.hear("neutral")["on"] is False
