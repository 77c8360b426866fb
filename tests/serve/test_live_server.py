"""The live server over real sockets: frames in and results out, refusals, recordings, ends; demo weights."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import json
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.face_models import needs_face_models
from tests.serve.live_in_process import Visitor, driving, eventually, pixels, running
from triportrait.core.errors import InputError
from triportrait.serve.live import run_uvicorn, transport_ws, waiting_line
from triportrait.serve.live.inference import EXAMPLES, decode_jpeg, encode_jpeg, example_picture
from triportrait.serve.live.messages import write_frame, write_shown
from triportrait.serve.media.provenance.watermark import message_of, read


def test_a_portrait_is_shown_at_rest_then_driven_and_every_result_is_marked(live):
    with Visitor(live) as page:
        assert page.hello["side_px"] == 128
        assert page.hello["notes"] == ["a note"]
        assert page.hello["can"]["watermark"]
        at_rest = pixels(page.results[0].jpeg)
        assert at_rest.shape == (128, 128, 3)
        assert page.results[0].view
        assert page.results[0].number == 0
        frames = []
        for number, name in enumerate(("head-2", "head-3", "head-4", "head-5"), 1):
            page.frame(number, driving(name))
            result = page.result()
            frames.append(pixels(result.jpeg))
            assert (result.number, result.clock_ms, result.found) == (number, 1000.0 + number, True)
            parts = result.parts
            assert min(parts.wait, parts.faces, parts.compute, parts.encode, parts.send) >= 0
            assert parts.compute > 1
        assert all(np.abs(a - b).mean() > 0.5 for a, b in itertools.pairwise(frames))
        message = message_of(hashlib.sha256((EXAMPLES / "head-1.jpg").read_bytes()).hexdigest())
        assert read([frame.astype(np.uint8) for frame in (at_rest, *frames)]).message == message


def test_the_newest_frame_wins_and_the_rest_is_counted(live):
    with Visitor(live) as page:
        for number in range(1, 31):
            page.frame(number)
        numbers = []
        while not numbers or numbers[-1] < 30:
            numbers.append(page.result().number)
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 12
        assert page.results[-1].dropped == 30 - len(numbers)


def test_who_does_not_show_results_gets_no_more_of_them_and_then_the_newest(live):
    with Visitor(live) as page:
        number = 0
        for _ in range(transport_ws.MOST_UNSHOWN):
            number += 1
            page.frame(number)
            page.result(shown=False)
        for _ in range(6):
            number += 1
            page.frame(number)
            time.sleep(0.3)
        session = live.server.sessions[page.hello["session"]].session
        eventually(lambda: session.slots.results)
        with pytest.raises(TimeoutError):
            page.result(seconds=0.5)
        page.socket.send(write_shown(transport_ws.MOST_UNSHOWN))
        while page.result().number < number:
            pass
        assert len(page.results) < number


def test_a_face_that_holds_still_is_seen_from_new_sides(live):
    with Visitor(live) as page:
        page.frame(1)
        front = pixels(page.result().jpeg)
        page.say(do="settings", yaw_deg=40)
        turned = page.result(view=True)
        assert turned.view
        assert turned.number == 1
        assert np.abs(pixels(turned.jpeg) - front).mean() > 3
        page.say(do="settings", yaw_deg=0)
        assert np.abs(pixels(page.result(view=True).jpeg) - front).mean() < 1
        page.say(do="settings", orbit=True)
        views = [pixels(page.result(view=True).jpeg) for _ in range(3)]
        assert np.abs(views[0] - views[2]).mean() > 0.2


class SteadyClock:
    """Follows a face at 15 frames per second, whatever the machine has time for."""

    def __init__(self, follower) -> None:
        self.follower, self.count = follower, 0

    def follow(self, image, time_s):
        self.count += 1
        return self.follower.follow(image, self.count / 15)


@needs_face_models
def test_a_face_that_holds_still_makes_a_picture_that_does(live):
    """The points of a still face wander by a pixel, as each search begins where the last one ended.

    The One-Euro filter takes that out, and less of it the longer it is since the last face: measured, a cell changes
    three times as much at 2 frames per second, which is the pace of a busy machine, as at 15.
    """
    with Visitor(live) as page:
        session = live.server.sessions[page.hello["session"]].session
        session.follower = SteadyClock(session.follower)
        for number in range(1, 11):
            page.frame(number)
            page.result()
        page.say(do="neutral", on=True)
        assert page.hear("neutral")["on"] is True
        cells = []
        for number in range(11, 51):
            page.frame(number)
            cells.append(pixels(page.result().jpeg).reshape(16, 8, 16, 8, 3).mean((1, 3)))
        changes = np.abs(np.diff(cells, axis=0)).max((1, 2, 3))
        assert changes.max() < 2, changes


@pytest.mark.parametrize("setting", [{"motion_strength": 0}, {"gaze_x": 1.0}, {"neck": False}])
def test_sliders_change_how_the_face_follows(live, setting):
    with Visitor(live) as page:
        assert page.hello["can"]["neck"]
        page.frame(1, driving("head-5"))
        before = pixels(page.result().jpeg)
        page.say(do="settings", **setting)
        after = pixels(page.result(view=True).jpeg)
        assert np.abs(after - before).max() > 8
        page.say(do="settings", **{name: page.hello["settings"][name] for name in setting})
        again = pixels(page.result(view=True).jpeg)
        assert np.abs(again - before).mean() < 0.25 * np.abs(after - before).mean()


def test_a_face_is_taken_as_neutral_and_given_back(live):
    with Visitor(live) as page:
        page.say(do="neutral", on=True)
        assert "none has come yet" in page.hear("notice", about="wish")["sentence"]
        page.say(do="settings", neck=False)  # or the heads turn apart
        at_rest = pixels(page.result(view=True).jpeg)
        page.frame(1, driving("head-5"))
        absolute = pixels(page.result().jpeg)
        page.say(do="neutral", on=True)
        assert page.hear("neutral")["on"] is True
        relative = pixels(page.result(view=True).jpeg)
        assert np.abs(relative - at_rest).mean() < 0.1 * np.abs(absolute - at_rest).mean()
        page.say(do="neutral", on=False)
        assert page.hear("neutral")["on"] is False


def test_one_more_than_may_wait_is_refused_with_a_time(monkeypatch):
    monkeypatch.setattr(waiting_line, "MOST_WAITING", 0)
    with running(sessions=1) as live:
        with Visitor(live, example=None):
            with Visitor(live) as late:
                assert late.hello["is"] == "refused"
                assert 5 <= late.hello["retry_s"] <= 120
                assert "try again in" in late.hello["sentence"]
                with pytest.raises(ConnectionClosed) as closed:
                    late.socket.recv(timeout=10)
                assert closed.value.rcvd.code == 1013
            assert live.figures()['triportrait_sessions_total{how="refused"}'] == 1
        eventually(lambda: live.server.admission.active == 0)
        with Visitor(live, example=None) as page:
            assert page.hello["is"] == "hello"


def test_garbage_is_counted_told_and_in_the_end_ends_the_session(live):
    generator = np.random.default_rng(3)
    with Visitor(live) as page:
        before = live.figures()["triportrait_frames_unreadable_total"]
        for i in range(40):
            garbage = generator.bytes(int(generator.integers(0, 400)))
            page.socket.send(garbage if i % 2 else garbage.decode("latin-1"))
        page.socket.send(write_frame(1, 0.0, b"\xff\xd8 no jpeg"))
        page.hear("notice", about="frame")
        page.frame(2)
        assert page.result().number == 2
        assert live.figures()["triportrait_frames_unreadable_total"] >= before + 30
        with suppress(ConnectionClosed):  # it may end before the last of them has left
            for _ in range(transport_ws.MOST_GARBAGE):
                page.socket.send("{")
        assert "too many messages" in page.hear("end")["sentence"]
        with pytest.raises(ConnectionClosed):
            page.socket.recv(timeout=10)


def test_a_message_beyond_the_limit_ends_the_session_alone(live):
    with Visitor(live) as good, Visitor(live, example=None) as bad:
        with pytest.raises(ConnectionClosed) as closed:
            bad.socket.send(b"\1" * (5 << 20))
            while True:
                bad.socket.recv(timeout=10)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        good.frame(1)
        assert good.result().number == 1


def jpeg_of(size: tuple[int, int], kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(example_picture("head-3")).resize(size).save(out, kind)
    return out.getvalue()


def test_a_portrait_is_uploaded_and_shown(live):
    with Visitor(live) as page:
        where = f"/portrait?session={page.hello['session']}"
        status, answer = live.post(where, jpeg_of((300, 300)))
        assert status == 200
        assert answer["crop"].startswith("data:image/jpeg;base64,")
        shown = pixels(page.result(view=True).jpeg)
        assert np.abs(shown - pixels(page.results[0].jpeg)).mean() > 5
        assert live.post(where, jpeg_of((5000, 4000)))[0] == 200  # 20 megapixels
        assert live.post(where, jpeg_of((300, 300), "PNG"), "image/png")[0] == 200
        for body, kind, expected, sentence in (
            (jpeg_of((40, 40)), "image/jpeg", 422, "at least 64 px"),
            (b"no picture", "image/png", 422, "not a picture"),
            (b"{}", "application/json", 415, "expected a picture"),
            (iter([b"\0" * (1 << 20)] * 30), "image/png", 413, "at most 20 MB"),
        ):
            status, answer = live.post(where, body, kind)
            assert status == expected, answer
            assert sentence in answer["sentence"], answer
        assert live.post("/portrait?session=stranger", jpeg_of((300, 300)))[0] == 409
        page.frame(7)
        assert page.result().number == 7


def test_a_hundred_megabytes_are_refused_by_their_header(live):
    with Visitor(live, example=None) as page, socket.create_connection(("127.0.0.1", live.port), 10) as line:
        line.sendall(
            f"POST /portrait?session={page.hello['session']} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            f"Content-Length: {100 << 20}\r\n\r\n".encode()
        )
        answer = line.makefile("rb").read()  # without a byte of the body, and then the line is closed
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"at most 20 MB" in answer


@needs_face_models
def test_what_is_said_about_faces(live):
    with Visitor(live) as page:
        where = f"/portrait?session={page.hello['session']}"
        sky = np.zeros((200, 300, 3), np.uint8)
        sky[:] = np.linspace(60, 200, 300)[None, :, None]
        status, answer = live.post(where, encode_jpeg(sky))
        assert status == 200
        assert "no face was found" in answer["sentence"]
        row = np.concatenate([example_picture(f"head-{i}") for i in range(1, 6)], axis=1)
        status, answer = live.post(where, encode_jpeg(row))
        assert status == 200
        assert "5 faces were found in this portrait: the largest is taken" in answer["sentence"]
        page.frame(1)
        assert page.result().found
        page.frame(2, sky)
        held = page.result()
        assert not held.found
        assert held.number == 2
        page.frame(3)
        assert page.result().found
        sentences = [notice["sentence"] for notice in page.events if notice.get("about") == "face"]
        assert len(sentences) == 2
        assert "the last pose is held" in sentences[0]
        assert sentences[1] == ""


def test_what_is_handed_out_is_the_page_and_nothing_else(live):
    status, page, headers = live.get("/")
    assert status == 200
    assert b"<title>triportrait live</title>" in page
    assert "text/html" in headers["content-type"]
    for name, kind in (("/live.js", "text/javascript"), ("/live.css", "text/css"), ("/examples/head-1.jpg", "image/")):
        status, _, headers = live.get(name)
        assert status == 200
        assert headers["content-type"].startswith(kind)
    clip = (EXAMPLES / "driving.mp4").read_bytes()
    status, data, headers = live.get("/examples/driving.mp4", Range="bytes=100-199")
    assert status == 206
    assert data == clip[100:200]
    assert headers["content-range"] == f"bytes 100-199/{len(clip)}"
    for asks, expected in (("bytes=5-2", 200), ("bytes=-0", 416), ("bytes=99999999-", 416), ("bytes=-10", 206),
                         ("bytes=0-1,3-4", 200), ("bytes=\xb2-3", 200)):  # fmt: skip
        status, data, headers = live.get("/examples/driving.mp4", Range=asks)
        assert status == expected, asks
        assert len(data) == {200: len(clip), 206: 10, 416: 0}[status], asks
        assert status == 200 or headers["content-range"].endswith(f"/{len(clip)}")
    for path in ("/../pyproject.toml", "/%2e%2e/pyproject.toml", "/examples/../../server.py", "/docs", "/openapi.json",
                 "//etc/passwd", "/server.py", "/examples/"):  # fmt: skip
        assert live.get(path)[0] == 404, path


def test_other_sites_and_names_are_turned_away_over_the_wire(live):
    assert live.get("/", Host="evil.example")[0] == 421
    for refused in ({"origin": "https://evil.example"}, {"additional_headers": {"Sec-Fetch-Site": "cross-site"}}):
        with pytest.raises(InvalidStatus) as status:
            Visitor(live, **refused)
        assert status.value.response.status_code == 403


def test_a_token_opens_a_server_for_everybody():
    with running(host="0.0.0.0", token="correct-horse") as live:
        assert live.get("/metrics")[0] == 401
        assert live.get("/healthz")[0] == 200
        with pytest.raises(InvalidStatus):
            Visitor(live)
        with Visitor(live, None, additional_headers={"Authorization": "Bearer correct-horse"}) as page:
            assert page.hello["is"] == "hello"


def test_health_and_metrics_say_what_goes_on(live):
    with Visitor(live) as page:
        page.frame(1)
        page.result()
        health = json.loads(live.get("/healthz")[1])
        assert health["ok"]
        assert health["sessions"] >= 1
        assert health["capacity"] == 4
        figures = live.figures()
        for part in ("wait", "faces", "compute", "encode", "send", "total"):
            assert figures[f'triportrait_frame_seconds_count{{part="{part}"}}'] >= 1
        total = sum(figures[f'triportrait_frame_seconds_sum{{part="{p}"}}'] for p in
                    ("wait", "faces", "compute", "encode", "send"))  # fmt: skip
        assert total == pytest.approx(figures['triportrait_frame_seconds_sum{part="total"}'], rel=1e-6)
        assert figures["triportrait_sessions_active"] >= 1
        assert figures["process_resident_memory_bytes"] > 1e8


def test_a_fault_of_the_network_is_said_and_the_session_goes_on(live, monkeypatch):
    engine, failures = (
        live.server.engine.reenactor,
        iter([InputError("planes: not finite; check the weights"), OSError("x")]),
    )
    reenact_many = engine.reenact_many

    def failing(requests, signs=None):
        for error in failures:
            raise error
        return reenact_many(requests, signs)

    with Visitor(live) as page:
        monkeypatch.setattr(engine, "reenact_many", failing)
        page.frame(1)
        assert page.hear("notice", about="network")["sentence"].startswith("planes: not finite")
        page.frame(2)
        assert "the network failed" in page.hear("notice", about="network")["sentence"]
        page.frame(3)
        assert page.result().number == 3


def test_a_page_that_falls_silent_or_idles_is_told_and_its_place_is_free(live, monkeypatch):
    for name, how in (("SILENT_S", "nothing was heard"), ("IDLE_S", "without a driving picture")):
        with monkeypatch.context() as patch:
            patch.setattr(transport_ws, name, 0.3)
            with Visitor(live, example=None) as page:
                assert how in page.hear("end", seconds=10)["sentence"]
            eventually(lambda: not live.server.sessions)


def test_a_session_leaves_nothing_behind(live):
    eventually(lambda: not live.server.sessions)
    before = live.figures()
    files = Path(live.server.recordings._folder.name)
    files_before = sorted(files.iterdir())
    page = Visitor(live)
    connection = live.server.sessions[page.hello["session"]]
    references = [weakref.ref(thing) for thing in (connection, connection.session, connection.session.portrait)]
    page.say(do="record", on=True)
    page.hear("recording")
    page.frame(1)
    page.result()
    eventually(lambda: sorted(files.iterdir()) != files_before)
    page.say(do="settings", yaw_deg=5)
    page.result(view=True)
    del connection
    page.socket.socket.shutdown(socket.SHUT_RDWR)  # no goodbye

    def is_collected() -> bool:
        gc.collect()
        return not any(reference() for reference in references)

    eventually(is_collected)
    assert live.server.admission.active == 0
    assert not live.server.worker._sessions
    eventually(lambda: sorted(files.iterdir()) == files_before)  # nothing of the recording that nobody stopped
    after = eventually(lambda: (f := live.figures())["triportrait_tasks"] <= before["triportrait_tasks"] and f)
    assert after["triportrait_threads"] <= before["triportrait_threads"] + 2
    assert after["process_open_fds"] <= before["process_open_fds"] + 1


def test_a_stop_ends_open_sessions_within_seconds():
    with running() as live:
        page = Visitor(live)
        page.frame(1)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert not live.server.worker.alive
    assert not live.server.sessions
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            page.socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


@pytest.mark.parametrize("answered", [False, True])
def test_a_connection_that_never_finishes_to_ask_is_closed(live, monkeypatch, answered):
    monkeypatch.setattr(run_uvicorn, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", live.port), 10) as silent:
        if answered:  # the connection is kept after an answer
            for _ in range(2):
                silent.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += (part := silent.recv(4096))
                    assert part
                time.sleep(0.5)  # longer than a request may take: between two it is no matter
        silent.sendall(b"GET / HT")
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert silent.recv(10) == b""
        assert time.monotonic() - began < 5


def test_sessions_share_the_network_and_each_gets_its_own_face(live):
    with Visitor(live) as one, Visitor(live, "head-4") as two:
        for number in range(1, 4):
            one.frame(number, driving("head-2"))
            two.frame(number, driving("head-2"))
            assert one.result().number == two.result().number == number
        assert np.abs(pixels(one.results[-1].jpeg) - pixels(two.results[-1].jpeg)).mean() > 5
    assert decode_jpeg(one.results[-1].jpeg).shape == (128, 128, 3)
