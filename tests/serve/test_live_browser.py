"""`triportrait live` in a real headless Chromium with a fake camera; screenshots lie in $OUT where that is set."""

from __future__ import annotations

import base64
import io
import os
import signal
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.serve.chromium import BINARY, Chromium, Page, write_camera
from tests.serve.live_in_process import finder
from tests.serve.making import make
from triportrait.profiling.live.server_process import live_server
from triportrait.serve.live.inference import EXAMPLES

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs chromium")
ROOT = Path(__file__).parents[2]
WANTED = 100
STILL = 6  # grey levels of one of 256 cells: the most between pictures of a face that holds still

# Notes every picture that is shown: its number, and 16 x 16 grey levels of it.
WATCH = """
window.seen = [];
setInterval(() => {
  const shown = Number(document.body.dataset.results || 0), canvas = document.getElementById('result');
  if (!shown || shown === window.seen.at(-1)?.shown) return;
  const small = document.createElement('canvas');
  small.width = small.height = 16;
  const pen = small.getContext('2d');
  pen.drawImage(canvas, 0, 0, 16, 16);
  const grey = [...pen.getImageData(0, 0, 16, 16).data].filter((_, i) => i % 4 === 1);
  window.seen.push({shown, grey});
}, 15);
"""
# Counts what the page asks of the browser: cameras that are on, callbacks that wait; keeps the last WebSocket at hand.
INSTRUMENT = """
window.tracks = [];
window.waiting = new Set();
const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);
media.getUserMedia = async wanted => {
  const stream = await ask(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
const video = HTMLVideoElement.prototype;
const call = video.requestVideoFrameCallback, cancel = video.cancelVideoFrameCallback;
video.requestVideoFrameCallback = function(done) {
  const number = call.call(this, (...given) => { window.waiting.delete(number); done(...given); });
  window.waiting.add(number);
  return number;
};
video.cancelVideoFrameCallback = function(number) { window.waiting.delete(number); cancel.call(this, number); };
window.WebSocket = class extends WebSocket { constructor(...given) { super(...given); window.line = this; } };
"""
# Keeps the JPEG of every driving frame that the page sends.
SENT = """
window.sent = [];
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function(data) {
  if (data instanceof Uint8Array) window.sent.push(data.subarray(16).join());
  return send.call(this, data);
};
"""


@pytest.fixture(scope="module")
def server():
    with live_server(["--weights", "demo", "--sessions", "4"]) as running:
        yield running


@pytest.fixture(scope="module")
def moving_head(tmp_path_factory) -> Path:
    """A camera before which a procedural head talks, beside the middle of the picture."""
    with av.open(str(EXAMPLES / "driving.mp4")) as clip:
        heads = [frame.to_image().resize((380, 380)) for frame in islice(clip.decode(video=0), 150)]
    return write_camera(tmp_path_factory.mktemp("camera") / "head.mjpeg", [(head, (170, 60)) for head in heads])


@pytest.fixture(scope="module")
def moving_photo(tmp_path_factory) -> Path:
    """A camera before which a real photograph is panned and scaled."""
    photo, scenes = Image.open(ROOT / "docs" / "demo" / "portrait.jpg"), []
    for phase in np.linspace(0, 2 * np.pi, 120, endpoint=False):
        side = round(330 + 60 * np.sin(phase))
        place = (round(320 - side / 2 + 70 * np.sin(2 * phase)), round(240 - side / 2 + 30 * np.cos(phase)))
        scenes.append((photo.resize((side, side)), place))
    return write_camera(tmp_path_factory.mktemp("camera") / "photo.mjpeg", scenes)


@pytest.fixture(scope="module")
def still_head(tmp_path_factory) -> Path:
    """A camera before which a procedural head holds still."""
    with av.open(str(EXAMPLES / "driving.mp4")) as clip:
        head = next(clip.decode(video=0)).to_image().resize((380, 380))
    return write_camera(tmp_path_factory.mktemp("camera") / "still.mjpeg", [(head, (170, 60))] * 30)


@pytest.fixture
def shots(tmp_path) -> Path:
    folder = Path(os.environ.get("OUT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def opened(browser: Chromium, server, query: str = "", script: str = "") -> Page:
    """A new tab that is connected; `script` runs in it before the page's own."""
    page = browser.page()
    page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    page.open(server.address + query)
    page.run(WATCH)
    page.wait("document.getElementById('state').innerText.startsWith('connected')")
    return page


def seen(page: Page) -> np.ndarray:
    """[N, 256] grey levels of every picture that was shown since the last look."""
    return np.array([s["grey"] for s in page.run("window.seen.splice(0)")], float).reshape(-1, 256)


def lose_connection(page: Page) -> None:
    """Its WebSocket closes, and another one opens; needs INSTRUMENT."""
    page.run("window.old = window.line; window.line.close()")
    page.wait("window.line !== window.old && window.line.readyState === 1")


def set_slider(page: Page, name: str, value: float) -> None:
    page.run(
        f"(() => {{ const s = document.querySelector('[name={name}]'); s.value = {value};"
        " s.dispatchEvent(new Event('input')); })()"
    )


def a_session(page: Page, shots: Path, name: str, way: str) -> None:
    """Camera on, a hundred results that follow it, another view, a recording that decodes."""
    page.click("camera")
    page.wait("document.getElementById('driving-tile').classList.contains('mirrored')")
    page.wait(f"document.body.dataset.way === '{way}'")
    page.wait("Number(document.body.dataset.results) >= 10", 60)
    seen(page)
    page.wait(f"window.seen.length >= {WANTED}", 150)
    pictures = seen(page)
    assert len(pictures) >= WANTED
    changes = np.abs(np.diff(pictures, axis=0)).max(1)
    assert (changes > STILL).mean() > 0.4, changes  # the driving face moves in most frames
    assert len(np.unique(pictures.round(), axis=0)) > WANTED / 2
    page.screenshot(shots / f"{name}-front.png")

    set_slider(page, "yaw_deg", 35)
    page.wait("document.querySelector('[name=yaw_deg]').previousElementSibling.innerText === '35°'")
    before = pictures[-10:].mean(0)
    seen(page)
    page.wait("window.seen.length >= 16", 60)  # the first few were on their way
    assert np.abs(seen(page)[-8:].mean(0) - before).mean() > 3
    page.screenshot(shots / f"{name}-side.png")

    page.click("record")
    page.wait("document.getElementById('record').classList.contains('on')")
    seen(page)
    page.wait("window.seen.length >= 15", 60)
    page.screenshot(shots / f"{name}-recording.png")
    page.click("record")
    page.wait("!document.getElementById('recorded').hidden", 60)
    data = base64.b64decode(
        page.run(
            "fetch(document.getElementById('recorded').href).then(r => r.arrayBuffer())"
            ".then(b => btoa(Array.from(new Uint8Array(b), c => String.fromCharCode(c)).join('')))"
        )
    )
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) >= 10
    assert frames[0].shape == (128, 128, 3)
    assert frames[5].std() > 20
    page.screenshot(shots / f"{name}-recorded.png")
    assert not page.errors


def test_a_moving_head_before_the_camera_over_webrtc(server, moving_head, shots, tmp_path):
    with Chromium(tmp_path, moving_head) as browser:
        page = opened(browser, server)
        a_session(page, shots, "head", "webrtc")
        fps, latency = page.run("[document.body.dataset.fps, document.body.dataset.latency]")
        assert float(fps) > 1
        assert latency.endswith("ms")
        parts = page.run("[...document.querySelectorAll('#parts b')].map(b => b.innerText)")
        assert len(parts) == 5
        assert all(part.endswith(" ms") for part in parts)
        page.screenshot(shots / "narrow.png", 420, 900)


def test_a_camera_before_a_still_face_sends_one_and_the_same_picture(server, still_head, tmp_path):
    """What changes in the other tests is the driving face; `test_live_server` holds what the server makes of a still
    one."""
    with Chromium(tmp_path, still_head) as browser:
        page = opened(browser, server, "?transport=websocket", SENT)
        page.click("camera")
        page.wait("document.getElementById('driving-tile').classList.contains('mirrored')")
        page.wait("document.getElementById('neutral').checked")  # it holds still, so that it counts as neutral
        page.run("window.sent = []")
        page.wait("window.sent.length >= 40", 60)
        assert page.run("new Set(window.sent).size") == 1
        page.goes_on(20)
        assert seen(page)[-1].std() > 20, "a face is shown"


def test_a_photograph_before_the_camera_over_a_websocket(server, moving_photo, shots, tmp_path):
    with Chromium(tmp_path, moving_photo) as browser:
        page = opened(browser, server, "?transport=websocket")
        page.choose("#portrait-file", ROOT / "docs" / "demo" / "portrait.jpg")
        page.wait("document.getElementById('crop').src.startsWith('data:')")
        a_session(page, shots, "photo", "websocket")


def test_it_goes_on_after_a_lost_connection_and_hasty_clicks(server, moving_head, tmp_path):
    with Chromium(tmp_path, moving_head) as browser:
        page = opened(browser, server, "?transport=websocket", INSTRUMENT)
        for _ in range(3):
            page.click("camera")
        page.run("document.getElementById('clip').click(); document.getElementById('camera').click()")
        page.wait("document.getElementById('driving-tile').classList.contains('mirrored')")
        page.wait("Number(document.body.dataset.fps) > 1")
        assert page.run("window.tracks.filter(track => track.readyState === 'live').length") == 1

        page.choose("#portrait-file", ROOT / "docs" / "demo" / "portrait.jpg")  # sent again after a reconnection
        page.wait("!document.querySelector('#examples [aria-pressed=true]')")
        page.run("document.querySelector('[name=orbit]').click()")  # new views come while no frame is answered
        page.click("record")
        page.wait("document.getElementById('record').classList.contains('on')")
        lose_connection(page)
        assert "recording was lost" in page.sentences()
        page.goes_on(60)
        page.wait("Number(document.body.dataset.fps) > 1", 2)  # of frames that were answered; views do not count

        (tmp_path / "text.png").write_text("no picture")
        page.choose("#portrait-file", tmp_path / "text.png")
        page.says("not a picture that can be read")
        # Refused though nothing is shown yet, as after a reconnection: an example is, and the sentence stays.
        page.run('window.fetch = async () => new Response(\'{"sentence": "the server is busy"}\', {status: 503})')
        lose_connection(page)
        page.says("is busy")
        page.goes_on(20)
        assert page.run("document.getElementById('notices').innerText.includes('is busy')")

        page.run("document.getElementById('driving').pause()")
        page.goes_on(40)  # views, for over a second
        assert page.run("window.waiting.size") <= 1
        assert not [error for error in page.errors if "status of 422" not in error]  # the refusal above


def test_what_goes_wrong_is_one_sentence_and_it_goes_on(server, shots, tmp_path):
    sound = make(tmp_path / "sound.mp4", 4, sound="aac")
    only_sound = tmp_path / "only-sound.m4a"
    with av.open(str(sound)) as source, av.open(str(only_sound), "w", format="mp4") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "tiny.png")
    Image.fromarray(np.linspace(40, 220, 300 * 300 * 3).reshape(300, 300, 3).astype(np.uint8)).save(
        tmp_path / "sky.png"
    )
    (tmp_path / "text.png").write_text("no picture")

    with Chromium(tmp_path, None) as browser:  # a machine without a camera
        page = browser.page()
        page.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.RTCPeerConnection")
        page.open(server.address)
        page.run(WATCH)
        page.wait("Number(document.body.dataset.results) >= 5", 60)  # without WebRTC, by the example
        page.wait("document.body.dataset.way === 'websocket'")  # it is shown once a second

        page.click("camera")
        page.says("No camera was found")
        page.choose("#driving-file", only_sound)
        page.says("only sound")
        page.choose("#driving-file", tmp_path / "text.png")
        page.says("cannot play that file")
        page.screenshot(shots / "wrong.png")
        page.click("clip")
        page.choose("#portrait-file", tmp_path / "tiny.png")
        page.says("at least 64 px")
        page.choose("#portrait-file", tmp_path / "text.png")
        page.says("not a picture that can be read")
        page.choose("#portrait-file", tmp_path / "sky.png")
        if finder() is not None:
            page.says("No face was found in this portrait")
        page.goes_on(5)

        server.process.send_signal(signal.SIGSTOP)  # a network that stalls
        try:
            page.says("Nothing comes back", 30)
        finally:
            server.process.send_signal(signal.SIGCONT)
        page.wait("!document.getElementById('notices').innerText.includes('Nothing comes back')", 30)
        page.goes_on(5)
