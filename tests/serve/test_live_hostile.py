"""What one session sends does not stop the others, nor the end of the server; demo weights, real sockets."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from tests.serve import bombs
from tests.serve.live_in_process import Visitor, driving, eventually
from triportrait.serve.live import decoder_pool
from triportrait.serve.live.decoder_pool import DecoderPool
from triportrait.serve.live.inference import encode_jpeg
from triportrait.serve.live.messages import write_frame

BOMB = bombs.scans(2000)
FOR_EVER = [sys.executable, "-c", "import time; time.sleep(1000)"]


def gaps(page: Visitor, seconds: float, first: int) -> list[float]:
    """The times between results of a session that drives at 10 frames per second."""
    moments, stop = [time.monotonic()], time.monotonic() + seconds
    over = threading.Event()

    def send() -> None:
        for number in itertools.count(first):
            if over.wait(0.1):
                return
            page.frame(number)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        while time.monotonic() < stop:
            page.result(seconds=20)
            moments.append(time.monotonic())
    finally:
        over.set()
        sending.join()
    return [b - a for a, b in itertools.pairwise(moments)]


def test_a_bomb_of_one_session_is_refused_at_once_and_another_s_results_go_on(live):
    with Visitor(live) as one, Visitor(live) as two:
        before = gaps(two, 3, 1)
        where = f"/portrait?session={one.hello['session']}"
        with ThreadPoolExecutor(1) as beside:
            watched = beside.submit(gaps, two, 5, 1000)
            for data in (BOMB, bombs.scans(90_000), bombs.scans(1500, before=b"\xff\xff")):
                one.socket.send(write_frame(1, 0.0, data[: 2 << 20]))
                assert "at most 100 scans is wanted" in one.hear("notice", about="frame")["sentence"]
                began = time.monotonic()
                status, answer = live.post(where, data)
                assert status == 422
                assert "at most 100 scans is wanted" in answer["sentence"]
                assert time.monotonic() - began < 1.0, "0.001 s of it are the refusal, the rest is the way"
            one.socket.send(write_frame(2, 0.0, bombs.jpeg((640, 480), progressive=True)))
            assert "driving frame: a JPEG of one scan is wanted" in one.hear("notice", about="frame")["sentence"]
            after = watched.result(60)
        one.frame(3)
        assert one.result().number == 3
    assert max(after) < 2 * max(before) + 0.1, (sorted(before)[-3:], sorted(after)[-3:])


def test_a_strip_is_refused_at_the_door(live):
    strip = bombs.jpeg((64, 65_000))
    with Visitor(live) as page:
        status, answer = live.post(f"/portrait?session={page.hello['session']}", strip)
        sentence = (
            "a picture at most 6 times as long as it is wide is wanted, 64 × 65000 px came; cut the face out of it"
        )
        assert status == 422
        assert sentence in answer["sentence"]
        page.socket.send(write_frame(1, 0.0, strip))
        assert sentence in page.hear("notice", about="frame")["sentence"]


def test_a_driving_frame_is_decoded_without_what_its_pixels_do_not_need(live):
    """A profile costs what its maker likes; the orientation counts."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[:40] = 200
    exif = Image.Exif()
    exif[0x0112] = 3
    out = encode_jpeg(image)
    marked = out[:2] + bombs.segment(0xE1, b"Exif\0\0" + exif.tobytes()[6:]) + out[2:]
    marked = marked[:2] + bombs.segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60_000) + marked[2:]
    from triportrait.serve.live.inference import decode_jpeg
    from triportrait.serve.media.pictures.decoding_cost import bare_jpeg

    assert len(bare_jpeg(marked)) < len(marked) - 60_000
    assert b"Exif" in bare_jpeg(marked)
    turned = decode_jpeg(marked)
    assert turned.shape == image.shape
    assert turned[:30].mean() < 10
    assert turned[-30:].mean() > 180


@pytest.fixture
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool(wall_s=0.5)
    yield pool
    pool.stop()


def test_a_decoder_that_takes_too_long_is_ended_and_replaced(decoders, monkeypatch):
    import asyncio

    async def both() -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(decoder_pool, "command", lambda: FOR_EVER)
            for future in decoders.start():
                await asyncio.wrap_future(future)
        stuck = set(decoders._all)
        began = time.monotonic()
        with pytest.raises(Exception, match=r"portrait: this picture takes more than 0.5 s to decode; save it as"):
            await decoders.decode(encode_jpeg(driving()), 1280)
        assert 0.5 < time.monotonic() - began < 3
        assert sum(process.poll() == -signal.SIGKILL for process in stuck) == 1
        decoders._wall_s = 30.0
        waiting = asyncio.create_task(decoders.decode(encode_jpeg(driving()), 1280))
        await asyncio.sleep(0.3)
        waiting.cancel()  # its page has gone: what is at it is ended, too
        await asyncio.wait({waiting})
        eventually(lambda: all(process.poll() is not None for process in stuck))
        return await decoders.decode(encode_jpeg(driving()), 200)

    assert np.array_equal(asyncio.run(both()).shape, (200, 200, 3))


def test_a_picture_without_an_end_of_its_work_is_ended_by_the_time_of_its_processor(decoders, monkeypatch):
    import asyncio

    code = """
from triportrait.serve.live import decode_process
decode_process.CPU_S = -1.0
decode_process.decode = lambda body: [0 for _ in iter(int, 1)]
decode_process.main()
"""
    monkeypatch.setattr(decoder_pool, "command", lambda: [sys.executable, "-c", code])
    decoders._wall_s = 30.0
    with pytest.raises(Exception, match="portrait: this picture takes more than 10 s to decode"):
        asyncio.run(decoders.decode(b"x", 1280))


def test_an_upload_takes_the_place_of_the_one_before_and_nobody_else_waits(live):
    """Uploads that trickle hold up their own page alone, and that one only until it sends another."""
    go = threading.Event()
    jpeg = encode_jpeg(driving("head-4"))

    def trickling() -> Iterator[bytes]:
        yield jpeg[:100]
        assert go.wait(30)
        yield jpeg[100:]

    def send(session: str) -> int:
        try:
            return live.post(f"/portrait?session={session}", trickling())[0]
        except OSError:  # it was answered, and the line closed, before all was sent
            return 409

    with Visitor(live) as one, Visitor(live) as two, ThreadPoolExecutor(6) as uploading:
        try:
            session = live.server.sessions[one.hello["session"]].session
            answers = []
            for count in range(6):
                answers.append(uploading.submit(send, session.id))
                eventually(lambda count=count: session.choice.requested == 2 + count)
            assert live.post(f"/portrait?session={two.hello['session']}", jpeg)[0] == 200
        finally:
            go.set()
        assert [answer.result(30) for answer in answers] == [409] * 5 + [200]


def test_wishes_without_end_do_not_keep_frames_from_the_network(live):
    over, worker = threading.Event(), live.server.worker

    def wish() -> None:
        time.sleep(0.01)
        if not over.is_set():
            worker.on_network(wish)

    with Visitor(live) as page:
        worker.on_network(wish)
        try:
            for number in range(1, 4):
                page.frame(number)
                assert page.result(seconds=5).number == number
        finally:
            over.set()


SERVER = """
import sys, threading
from triportrait import cli
from triportrait.serve.live import decoder_pool
from triportrait.serve.live.inference import Engine
decode = Engine.decode
def decoding(engine, jpeg):
    starts = threading.current_thread() is threading.main_thread()
    return decode(engine, jpeg) if starts else threading.Event().wait()
Engine.decode = decoding
decoder_pool.command = lambda: [sys.executable, "-c", "import time; time.sleep(1000)"]
crop = Engine.crop_portrait
def cropping(engine, image):
    found = crop(engine, image)
    if threading.current_thread().name.startswith("live-portraits"):
        Engine.crop_portrait = lambda *given: threading.Event().wait()
    return found
Engine.crop_portrait = cropping
sys.exit(cli.main(["live", "--port", "0"]))
"""


def ask(request: urllib.request.Request) -> None:
    with suppress(OSError, HTTPException):
        urllib.request.urlopen(request)


def test_a_signal_ends_the_server_within_three_seconds_whatever_its_decoders_and_finders_are_at(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", SERVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            address = process.stdout.readline().split()[-1]
            with connect(address.replace("http", "ws") + "session", max_size=None) as socket:
                session = json.loads(socket.recv(timeout=30))["session"]
                socket.send(json.dumps({"do": "example", "name": "head-1"}))
                while (
                    not isinstance(message := socket.recv(timeout=30), str) or json.loads(message)["is"] != "portrait"
                ):
                    pass
                socket.send(write_frame(1, 0.0, encode_jpeg(driving())))  # for ever in the thread of the faces
                socket.send(json.dumps({"do": "example", "name": "head-2"}))  # in that of the portraits
                request = urllib.request.Request(f"{address}portrait?session={session}", b"x" * 1000,
                                                 {"content-type": "image/png"})  # fmt: skip
                threading.Thread(target=ask, args=(request,), daemon=True).start()  # in a process
                time.sleep(1.0)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                assert time.monotonic() - began < 3.0
        finally:
            process.kill()
        assert [json.loads(line)["message"] for line in process.stderr][-1] == "stopped"
    assert not list(tmp_path.glob("triportrait-live-*")), "recordings are removed"


SMALL_SERVER = """
import atexit
from triportrait.serve.live.run_uvicorn import bind, run
from triportrait.process import stops
atexit.register(print, "clearing up", flush=True)
async def app(scope, receive, send):
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": kind + ".complete"})
        if kind == "lifespan.startup":
            print("ready", flush=True)
with stops(), bind("127.0.0.1", 0) as bound:
    run(app, bound, lambda: None)
"""


def test_a_signal_ends_the_process_without_python_clearing_up():  # of torch that takes seconds
    with subprocess.Popen([sys.executable, "-c", SMALL_SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.2)  # it says so before it hears signals
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()
