"""The parts of the live server by themselves: slots, admission, settings, messages, uploads, who may come in."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.serve.bombs import chunk
from triportrait.core.errors import InputError
from triportrait.core.log_lines import JsonFormatter
from triportrait.serve.faces.alignment import middle_square
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live import messages, run_uvicorn, uploads
from triportrait.serve.live.admission import Admission, HostCost
from triportrait.serve.live.byte_ranges import UnsatisfiableError, requested_range
from triportrait.serve.live.guard import COOKIE, Guard, is_loopback
from triportrait.serve.live.host_costs import host_costs
from triportrait.serve.live.inference import decode_jpeg, encode_jpeg, example_picture, examples
from triportrait.serve.live.latest_slot import LatestSlot
from triportrait.serve.live.rate_limit import TokenBucket
from triportrait.serve.live.recording import MOST_KEPT, Recordings
from triportrait.serve.live.settings import RANGES, Settings
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.tracking_files import Tracking


def test_the_newest_wins_and_what_was_lost_is_counted():
    slot: LatestSlot[int] = LatestSlot()
    assert slot.take() is None
    assert not slot
    assert [slot.put(i) for i in range(5)] == [False, True, True, True, True]
    assert slot
    assert slot.take() == 4
    assert slot.take() is None
    assert slot.dropped == 4


def test_what_is_put_back_does_not_replace_what_is_newer():
    slot: LatestSlot[int] = LatestSlot()
    assert not slot.put_back(1) and slot.take() == 1 and slot.dropped == 0
    slot.put(2)
    assert slot.put_back(1) and slot.take() == 2 and slot.dropped == 1


def test_a_slot_loses_nothing_uncounted_between_threads():
    slot: LatestSlot[int] = LatestSlot()
    taken: list[int] = []
    over = threading.Event()

    def take() -> None:
        while not over.is_set() or slot:
            if (item := slot.take()) is not None:
                taken.append(item)

    thread = threading.Thread(target=take)
    thread.start()
    for i in range(20_000):
        slot.put(i)
    over.set()
    thread.join()
    assert len(taken) + slot.dropped == 20_000
    assert taken == sorted(taken)
    assert taken[-1] == 19_999


def test_sessions_fit_while_their_frames_take_the_device_s_time_less_a_tenth():
    # 2.5 ms a frame: 400 frames/s, less a tenth, are 12 sessions of 30.
    admission = Admission(frame_s=0.0025, pace_fps=30)
    assert admission.capacity == 12
    assert [admission.enter() for _ in range(12)] == [None] * 12
    refusal = admission.enter()
    assert refusal is not None
    assert admission.active == 12
    assert "12 sessions are running" in refusal.sentence
    assert f"try again in {refusal.retry_s} s" in refusal.sentence
    assert 5 <= refusal.retry_s <= 120
    assert "would slow them below" in refusal.sentence
    limited = Admission(0.01, 10, 1)
    assert limited.enter() is None
    refusal = limited.enter()
    assert refusal is not None
    assert "1 session is running and it was told to take no more than 1" in refusal.sentence
    admission.leave(20.0)
    assert admission.enter() is None


def test_one_session_always_fits_and_slower_frames_let_fewer_in():
    assert Admission(frame_s=3.0, pace_fps=30).capacity == 1
    admission = Admission(frame_s=0.0025, pace_fps=30)
    for _ in range(500):
        admission.measured(0.010)
    assert admission.capacity == 3
    assert Admission(frame_s=3.0, pace_fps=30, max_sessions=4).capacity == 4


def test_the_slowest_part_of_the_machine_decides_how_many_sessions_fit():
    """A device of 1 ms would take 30 sessions; four threads find faces in 25 ms each: 0.9 * 4 / 0.025 / 30 = 4.8."""
    faces = {"faces": HostCost(0.025, 4), "finishing": HostCost(0.004, 4)}
    admission = Admission(frame_s=0.001, pace_fps=30, host=faces)
    assert admission.capacity == 4
    assert admission.bottleneck == "faces"
    assert Admission(frame_s=0.001, pace_fps=30).capacity == 30
    slow = Admission(frame_s=0.020, pace_fps=30, host=faces)
    assert slow.capacity == 1
    assert slow.bottleneck == "device"
    assert admission.sessions_by_part()["finishing"] == pytest.approx(30)


def test_the_parts_of_the_host_are_measured():
    class Plain:
        stamp, marks_on_device = Stamp("0" * 64, "rule"), False

        def follower(self):
            return self

        def follow(self, image, time_s):
            return AlignedFace.middle(image, 64)

        def crop_portrait(self, image):
            return AlignedFace.middle(image, 64), ""

        def decode(self, jpeg):
            return decode_jpeg(jpeg)

    costs = host_costs(Plain(), 3)
    assert set(costs) == {"faces", "finishing", "encoding", "cores"}
    assert costs["faces"].threads == costs["finishing"].threads == 3
    assert costs["encoding"].threads == os.cpu_count()
    parts = [costs[name].seconds for name in ("faces", "finishing", "encoding")]
    assert min(parts) > 0
    assert costs["cores"].seconds < sum(parts), "a session gets JPEG or VP8, not both"
    assert costs["cores"].seconds >= costs["faces"].seconds + costs["encoding"].seconds


def test_settings_are_taken_as_numbers_in_range_and_nothing_else():
    changed = Settings().changed({"yaw_deg": 20, "orbit": True, "neck": False})
    assert (changed.yaw_deg, changed.orbit, changed.neck) == (20.0, True, False)
    for wrong in ({"yaw_deg": 61}, {"yaw_deg": float("nan")}, {"yaw_deg": "20"}, {"yaw_deg": True}, {"neck": 1},
                  {"nose": 1.0}, {"changed": 1.0}, {"pitch_deg": None}, {"yaw_deg": 10**4000}, {"yaw_deg": [1]},
                  {"gaze_x": float("inf")}, {"yaw_deg": 1e308}, {"yaw_deg": {}}, {"neck": 10**400}):  # fmt: skip
        with pytest.raises(InputError):
            Settings().changed(wrong)
    assert all(least <= getattr(Settings(), name) <= most for name, (least, most) in RANGES.items())


def test_an_orbit_sways_around_the_chosen_view_and_comes_back():
    still, swaying = Settings(yaw_deg=10), Settings(yaw_deg=10, orbit=True)
    assert still.camera(1.3).world_from_camera.equal(still.camera(0.0).world_from_camera)
    poses = [swaying.camera(t).world_from_camera for t in (0.0, 1.5, 6.0)]
    assert (poses[0] - poses[1]).abs().max() > 0.1
    assert (poses[0] - poses[2]).abs().max() < 1e-5


def test_a_result_reads_back_as_it_was_written():
    parts = messages.Parts(1.5, 2.5, 3.5, 4.5, 5.5)
    data = messages.result_header(7, 123456.75, parts, 9, found=True, view=False) + b"jpeg"
    result = messages.read_result(data)
    assert result == messages.ResultOut(7, 123456.75, parts, 9, True, False, b"jpeg")
    frame = messages.read_binary(messages.write_frame(3, 1.25, b"abc"))
    assert frame == messages.FrameIn(3, 1.25, b"abc")
    assert messages.read_binary(messages.write_shown(3)) == messages.Shown(3)


@given(st.binary(max_size=64))
def test_binary_garbage_is_a_sentence_or_a_message(data):
    try:
        assert isinstance(messages.read_binary(data), messages.FrameIn | messages.Shown)
    except InputError as error:
        assert "docs/live" in str(error)


@given(st.text(max_size=64))
def test_text_garbage_is_a_sentence_or_an_object(text):
    try:
        assert isinstance(messages.read_text(text)["do"], str)
    except InputError as error:
        assert "docs/live" in str(error)


def test_deep_and_long_json_is_garbage_too():
    for text in ("[" * 50_000, '{"do": "' + "x" * 70_000 + '"}', '{"do": 3}', "3", '{"is": "x"}'):
        with pytest.raises(InputError):
            messages.read_text(text)


@given(st.binary(max_size=300))
def test_a_driving_frame_of_garbage_is_a_sentence(data):
    for start in (b"", b"\xff\xd8\xff\xe0", encode_jpeg(np.zeros((80, 80, 3), np.uint8))[:200]):
        with pytest.raises(InputError, match="driving frame"):
            decode_jpeg(start + data)


def test_a_driving_frame_must_be_a_jpeg_of_a_sane_size():
    out = io.BytesIO()
    Image.new("RGB", (100, 80)).save(out, "PNG")
    with pytest.raises(InputError, match="driving frame"):
        decode_jpeg(out.getvalue())
    jpeg = encode_jpeg(np.full((80, 100, 3), 90, np.uint8))
    assert decode_jpeg(jpeg).shape == (80, 100, 3)
    huge = bytearray(jpeg)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    with pytest.raises(InputError, match="megapixels"):
        decode_jpeg(bytes(huge))


def png_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(InputError, match="at most 50 megapixels are wanted, 30000 × 30000 px came"):
        uploads.decode(png_bomb(30_000))


@pytest.mark.parametrize("size, sentence", [((40, 40), "at least 64 px"), ((5000, 4000), "")])
def test_small_portraits_are_refused_and_large_ones_taken(size, sentence):
    out = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(out, "JPEG")
    if sentence:
        with pytest.raises(InputError, match=sentence):
            uploads.decode(out.getvalue())
    else:
        assert uploads.decode(out.getvalue()).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    "body", [b"", b"no picture", b"\0\0\0\x18ftypheic" + b"\0" * 40, b"%!PS-Adobe", b"GIF89a", b"<svg></svg>"]
)
def test_what_is_no_portrait_is_a_sentence(body):
    with pytest.raises(InputError, match=r"^portrait: .*; (save|choose|copy)"):
        uploads.decode(body)


def test_uploads_are_limited_before_and_while_they_are_read():
    with pytest.raises(uploads.Refused) as refused:
        uploads.check_head({"content-type": "image/png", "content-length": str(uploads.LARGEST_BYTES + 1)})
    assert refused.value.status == 413
    for kind in ("", "text/html", "image/svg+xml", "application/x-www-form-urlencoded"):
        with pytest.raises(uploads.Refused) as refused:
            uploads.check_head({"content-type": kind})
        assert refused.value.status == 415
    uploads.check_head({"content-type": "image/jpeg; charset=x", "content-length": "12"})
    for kind in ("image/avif", "image/pjpeg", "application/octet-stream"):  # what it is, its content says
        uploads.check_head({"content-type": kind})

    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b"\0" * (1 << 20)

    with pytest.raises(uploads.Refused) as refused:
        asyncio.run(uploads.read_body(endless()))
    assert refused.value.status == 413
    assert read == (uploads.LARGEST_BYTES >> 20) + 1


def test_an_upload_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr(uploads, "LONGEST_S", 0.05)

    async def stalled():
        yield b"\xff"
        await asyncio.sleep(60)

    with pytest.raises(uploads.Refused) as refused:
        asyncio.run(uploads.read_body(stalled()))
    assert refused.value.status == 408


def visit(guard_host: str, token: str | None, kind: str = "http", method: str = "GET", path: str = "/", query: str = "",
          **headers: str) -> tuple[int, dict[str, str]]:  # fmt: skip
    """What the guard does with a request: the status (200: let in) and the headers of the answer."""
    sent: list[dict] = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.accept"})

    async def send(message):
        sent.append(message)

    async def receive():
        return {}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "query_string": query.encode(), "headers": named}
    scope["extensions"] = {"websocket.http.response": {}}
    asyncio.run(Guard(app, guard_host, token)(scope, receive, send))
    first = sent[0]
    status = 200 if first["type"] == "websocket.accept" else first["status"]
    return status, {name.decode(): value.decode() for name, value in first.get("headers", [])}


LOCAL = "127.0.0.1:8000"


def test_only_names_of_this_machine_open_a_server_that_is_bound_to_it():
    for host in (LOCAL, "localhost:8000", "[::1]:8000", "127.8.9.1"):
        assert visit("127.0.0.1", None, host=host)[0] == 200
    for host in ("evil.example:8000", "127.0.0.1.evil.example", "", "192.168.1.7:8000", "localhost.evil.example"):
        assert visit("127.0.0.1", None, host=host)[0] == 421
    odd = ("evil.com@127.0.0.1", "127.0.0.1#x", "127.0.0.1/evil.com", "127.0.0.1?x", "a:b@localhost", "localhost:",
           "localhost:99999", "localhost:8000:1", "127.0.0.1\\x", "[::1", "::1", "localhost:8e")  # fmt: skip
    for host in odd:
        assert visit("127.0.0.1", None, host=host)[0] == visit("0.0.0.0", None, host=host)[0] == 400, host
        assert visit("127.0.0.1", None, host=LOCAL, origin=f"http://{host}")[0] in (400, 403), host
    assert visit("127.0.0.1", None, host=LOCAL, origin=f"http://{LOCAL}/")[0] == 400
    assert visit("0.0.0.0", None, host="")[0] == 400
    assert visit("127.0.0.1", None, host="[")[0] == visit("127.0.0.1", None, host=LOCAL, origin="http://[")[0] == 400


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_other_sites_are_refused(kind):
    ask = {"kind": kind, "method": "POST", "host": LOCAL}
    assert visit("127.0.0.1", None, **ask, origin=f"http://{LOCAL}")[0] == 200
    assert visit("127.0.0.1", None, **ask)[0] == 200  # no browser
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9000", "http://localhost:8000"):
        assert visit("127.0.0.1", None, **ask, origin=origin)[0] == 403
    assert visit("127.0.0.1", None, **ask, sec_fetch_site="cross-site")[0] == 403
    assert visit("127.0.0.1", None, **ask, sec_fetch_site="same-site")[0] == 403


def test_without_the_token_nothing_opens_but_the_health():
    host = {"host": "192.168.1.7:8000"}
    right, wrong = "correct-horse", "correct-hors"
    for path in ("/", "/live.js", "/metrics", "/portrait", "/recordings/x"):
        assert visit("0.0.0.0", right, path=path, **host)[0] == 401
    assert visit("0.0.0.0", right, "websocket", path="/session", **host)[0] == 401
    assert visit("0.0.0.0", right, path="/healthz", **host)[0] == 200
    assert visit("0.0.0.0", right, query=f"token={wrong}", **host)[0] == 401
    assert visit("0.0.0.0", right, path="/metrics", query=f"token={right}", **host)[0] == 401
    assert visit("0.0.0.0", right, **host, authorization=f"Bearer {wrong}")[0] == 401
    assert visit("0.0.0.0", right, **host, authorization=f"Bearer {right}")[0] == 200
    status, headers = visit("0.0.0.0", right, query=f"token={right}", **host)
    assert status == 303
    assert headers["location"] == "/"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert cookie.startswith(f"{COOKIE}_8000=") and right not in cookie, "another server of this host is sent it, too"
    assert visit("0.0.0.0", right, host="192.168.1.7:9000", cookie=cookie.split(";")[0])[0] == 401
    assert visit("0.0.0.0", right, "websocket", path="/session", **host, cookie=cookie.split(";")[0])[0] == 200
    assert visit("0.0.0.0", right, **host, cookie=f"{COOKIE}_8000={wrong}")[0] == 401
    assert visit("0.0.0.0", right, **host, cookie=f"{COOKIE}_8000=\xe9")[0] == 401
    assert visit("0.0.0.0", right, **host, cookie='a="; x')[0] == 401


def test_every_answer_forbids_what_the_page_does_not_need():
    for status, headers in (visit("127.0.0.1", None, host=LOCAL), visit("127.0.0.1", None, host="evil.example")):
        assert "default-src 'none'" in headers["content-security-policy"], status
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_which_addresses_are_this_machine():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def test_the_portraits_of_the_package_are_pictures():
    assert len(examples()) == 6
    assert all(example_picture(name).shape == (320, 320, 3) for name in examples())


def test_what_is_no_face_moves_nobody():
    """Before the first face the middle square is there, and is not to be obeyed; a face that left is."""
    blank, square = np.zeros((8, 8, 3), np.uint8), middle_square(np.zeros((8, 8, 3), np.uint8))
    seen = Tracking(landmarks=torch.zeros(1, 68, 2))
    cases = ((Tracking(), False, 0.0), (seen, False, 0.7), (seen, True, 0.7), (Tracking(), True, 0.7))
    for tracking, found, strength in cases:
        face = AlignedFace(blank, tracking, found, square)
        assert Settings(motion_strength=0.7).controls(0.0, face).motion_strength == strength


def test_ranges_are_answered_as_the_standard_says():
    size = 684_648
    assert requested_range("bytes=0-0", size) == (0, 0)
    assert requested_range("bytes=5-", size) == (5, size - 1)
    assert requested_range("bytes=-5", size) == (size - 5, size - 1)
    assert requested_range("bytes=-999999999", size) == (
        0,
        size - 1,
    )
    assert requested_range(f"bytes=5-{10**40}", size) == (5, size - 1)
    assert requested_range("Bytes= 1-2 ", size) == (1, 2)
    assert requested_range("bytes=" + "0" * 5000 + "1-2", size) == (1, 2)
    for ignored in ("", "bytes=5-2", "bytes=0-1,4-5", "bytes=x-y", "bytes=--5", "bytes=", "bytes=-", "items=0-1", "0-1",
                    "bytes=\u00b2-3", "bytes=1.5-2", "bytes=+1-2", "bytes=1-2-3"):  # fmt: skip
        assert requested_range(ignored, size) is None, ignored
    for behind in (f"bytes={size}-", "bytes=-0", "bytes=" + "9" * 5000 + "-", f"bytes={size}-{size + 1}"):
        with pytest.raises(UnsatisfiableError):
            requested_range(behind, size)


def test_what_is_asked_for_too_often_has_to_wait():
    budget = TokenBucket(10.0, 3.0)
    assert [budget.take() for _ in range(4)] == [True] * 3 + [False]
    assert budget.spend() > 0
    assert budget.spend() > 0.1
    assert TokenBucket(10.0, 3.0).spend() == 0


def test_recordings_of_one_session_do_not_push_another_s_out(tmp_path):
    class Done:
        frames, seconds = 1, 1.0

        def __init__(self, name: str) -> None:
            self.path = tmp_path / f"{name}.mp4"
            self.path.write_bytes(b"x")

        def finish(self) -> None:
            pass

    recordings = Recordings()
    for i in range(3):
        recordings.finish(Done(f"b{i}"), "b")
    for i in range(MOST_KEPT + 5):
        recordings.finish(Done(f"a{i}"), "a")
    assert [path.stem for path in sorted(tmp_path.iterdir()) if path.stem[0] == "b"] == ["b0", "b1", "b2"]
    assert len(list(tmp_path.iterdir())) == MOST_KEPT
    assert recordings.find("a20")
    assert not recordings.find("a0")
    recordings.close()


def test_one_address_does_not_take_all_connections():
    class Line:
        def __init__(self, host: str) -> None:
            self.client = (host, 1)

    lines = [Line("10.0.0.1") for _ in range(run_uvicorn.MOST_OF_ADDRESS)]
    assert run_uvicorn._has_room(("10.0.0.1", 2), lines)
    assert run_uvicorn._has_room(("10.0.0.2", 2), lines * 2)
    assert not run_uvicorn._has_room(("10.0.0.1", 2), lines * 2)
    assert run_uvicorn._has_room(("127.0.0.1", 2), [Line("127.0.0.1")] * 300), "a proxy stands before all"
    assert run_uvicorn._has_room(("::ffff:127.0.0.1", 2), [Line("::ffff:127.0.0.1")] * 300)


def test_half_a_character_in_a_log_is_written_as_its_escape():
    record = logging.makeLogRecord({"msg": "webrtc failed", "fields": {"reason": "\ud800 and ü"}})
    line = JsonFormatter().format(record)
    assert line.encode("utf-8")
    assert json.loads(line)["reason"].endswith(" and ü")
    assert "ü" in line
