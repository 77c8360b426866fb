"""What meets a user of the live page: names and keys for everything, refusals that take nothing away, a real face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.face_models import needs_face_models
from tests.serve.chromium import BINARY, Chromium, Page, write_camera
from tests.serve.live_in_process import Visitor, running
from triportrait.serve.live import waiting_line

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs chromium")
DEMO = Path(__file__).parents[2] / "docs" / "demo"

# What can be focused now, in the order of the document; each is numbered, so that it is known again.
FOCUSABLE = """
[...document.querySelectorAll('button, input, select, summary, a[href], [tabindex]')].filter(
  element => element.checkVisibility() && element.tabIndex >= 0 && !element.matches(':disabled')
).map((element, i) => { element.dataset.stop = i; return i; })
"""
USABLE = """[...document.querySelectorAll('#source button, main input, #stage-bar button')]
  .filter(element => element.matches(':enabled')).length"""
CURTAIN = "document.getElementById('curtain').checkVisibility()"
FOCUSED = "document.activeElement === document.body ? -1 : Number(document.activeElement.dataset.stop ?? -2)"


@pytest.fixture(scope="module")
def portrait_camera(tmp_path_factory) -> Path:
    """A camera before which a person holds still."""
    head = Image.open(DEMO / "portrait.jpg").resize((380, 380))
    return write_camera(tmp_path_factory.mktemp("camera") / "still.mjpeg", [(head, (130, 50))] * 30)


def opened(browser: Chromium, address: str) -> Page:
    page = browser.page()
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.open(address + "?transport=websocket")
    page.wait("document.getElementById('state').innerText.startsWith('connected')")
    page.wait("Number(document.body.dataset.results) >= 2", 60)
    return page


def pressed(page: Page) -> list[str]:
    """Which portrait and which driver are on."""
    return page.run("[...document.querySelectorAll('#source [aria-pressed=true]')].map(b => b.dataset.name ?? b.id)")


def test_everything_has_a_name_of_its_own_and_is_reached_and_used_by_keys(live, tmp_path):
    with Chromium(tmp_path) as browser:
        page = opened(browser, live.address)
        page.choose("#portrait-file", DEMO / "portrait.jpg")
        page.wait("document.querySelectorAll('#own [aria-pressed=true]').length")

        named = page.named()
        names = [name for _, name in named]
        assert all(names), named
        assert len(set(names)) == len(names), named
        roles = [role for role, _ in named]
        assert roles.count("slider") == 5, named
        assert roles.count("checkbox") == 3, named
        assert "application" in roles, named
        # The upload keeps its name with a portrait beside it.
        shown = {"Your photo", "Camera", "Example", "File", "Turn left or right", "Record", "photo 1, portrait.jpg"}
        assert shown <= set(names), named
        labels = "[...document.querySelectorAll('input:not([type=file])')].map(input => input.labels.length)"
        assert page.run(labels) == [1] * 10
        assert page.run("document.querySelectorAll('output, [aria-live], [role=status], [role=alert]').length") == 1

        stops = page.run(FOCUSABLE)
        assert len(stops) == len(named)
        reached = []
        for _ in range(len(stops) + 3):
            page.press("Tab")
            reached.append(page.run(FOCUSED))
            if reached[-1] == -1:
                break
        assert reached[:-1] == stops  # each once, in order, and out again
        assert reached[-1] == -1

        page.call("Page.setInterceptFileChooserDialog", enabled=True)
        for number, (button, key) in enumerate([("upload", "Enter"), ("film", " ")], 1):
            page.run(f"document.getElementById('{button}').focus()")
            page.press(key)
            page.wait("true")
            assert page.choosers == number
        page.run("document.getElementById('result').focus()")
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        yaw = "document.querySelector('[name=yaw_deg]').getAttribute('aria-valuetext')"
        for key, value in (
            ("ArrowRight", "5° right"),
            ("ArrowRight", "10° right"),
            ("ArrowLeft", "5° right"),
            ("Home", "front"),
        ):
            page.press(key)
            assert page.run(yaw) == value
        page.wait("document.getElementById('spoken').innerText.includes('Seen from the front')")
        for value, far in ((60, True), (30, False)):  # where holes are, it is said
            page.run(f"(s => {{ s.value = {value}; s.oninput(); }})(document.getElementById('yaw_deg'))")
            assert page.run("document.getElementById('far').checkVisibility()") is far
        assert not page.errors


def test_what_is_refused_leaves_what_runs(live, portrait_camera, tmp_path):
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "tiny.png")
    (tmp_path / "text.mp4").write_text("no video")
    with Chromium(tmp_path, portrait_camera, allow=False) as browser:
        page = opened(browser, live.address)
        assert page.run("document.getElementById('weights').checkVisibility()")  # before any face drives
        assert "never seen a person" in page.run("document.getElementById('weights').innerText")
        assert page.run("document.getElementById('upload').checkVisibility()")
        crop = page.run("document.getElementById('crop').src")

        def unharmed() -> None:
            assert pressed(page) == ["head-1", "clip"]
            assert page.run("document.getElementById('crop').src") == crop
            page.goes_on()

        page.click("camera")
        page.says("The camera was refused")
        unharmed()
        page.choose("#driving-file", tmp_path / "text.mp4")
        page.says("cannot play that file")
        unharmed()
        page.choose("#portrait-file", tmp_path / "tiny.png")
        page.says("at least 64 px")
        unharmed()
        page.run("Element.prototype.requestFullscreen = () => Promise.reject(new TypeError())")
        page.click("full")
        page.says("refuses the full screen")

        page.click("record")
        page.wait("document.getElementById('record').classList.contains('on')")
        page.goes_on()
        page.run("document.querySelector('[data-name=head-2]').click()")
        page.says("a recording runs".capitalize().replace("A r", "a r"))
        unharmed()
        page.click("record")
        page.wait("!document.getElementById('recorded').hidden", 60)
        live.server.recordings.begin, begin = lambda *_: 1 / 0, live.server.recordings.begin
        try:
            page.click("record")
            page.says("failed on the server")
        finally:
            live.server.recordings.begin = begin
        assert page.run("document.getElementById('recorded').checkVisibility()")  # the last one is still on offer
        unharmed()
        assert not [error for error in page.errors if "status of 422" not in error]


@needs_face_models
def test_a_real_face_opens_its_eyes_once_it_counts_as_neutral(live, portrait_camera, tmp_path):
    eyes = """(() => {
      const canvas = document.getElementById('result'), side = canvas.width;
      const {data} = canvas.getContext('2d').getImageData(.24 * side, .36 * side, .52 * side, .22 * side);
      return [...data].filter((_, i) => i % 4 === 1);
    })()"""
    neutral = "document.getElementById('neutral').checked"
    with Chromium(tmp_path, portrait_camera) as browser:
        page = opened(browser, live.address)

        def seen() -> np.ndarray:
            page.goes_on(6)
            return np.array(page.run(eyes), float)

        def strength(value: float) -> None:
            page.run(f"(s => {{ s.value = {value}; s.oninput(); }})(document.getElementById('motion_strength'))")

        page.click("camera")
        page.says("relax your face for a second")
        page.wait(neutral)
        page.says("counts as neutral now")
        opened_eyes = seen()
        strength(0)
        at_rest = seen()
        strength(1)
        page.run("[...document.querySelectorAll('#notices button')].at(-1).click()")  # undo
        page.wait(f"!{neutral}")
        shut = np.abs(seen() - at_rest).mean()
        assert np.abs(opened_eyes - at_rest).mean() < 0.5 * shut
        page.click("neutral")
        page.wait(neutral)
        assert np.abs(seen() - at_rest).mean() < 0.5 * shut
        page.run("document.querySelector('[data-name=head-2]').click()")  # it is the same face still
        page.wait(f"document.querySelector('[data-name=head-2]').ariaPressed === 'true' && {neutral}")

        page.choose("#driving-file", DEMO / "driving.mp4")
        page.wait(f"document.getElementById('film').ariaPressed === 'true' && {neutral}")
        page.run("[...document.querySelectorAll('#notices button')].at(-1).click()")  # undo
        page.wait(f"!{neutral}")
        page.run("document.querySelector('[data-name=head-1]').click()")
        page.wait("document.querySelector('[data-name=head-1]').ariaPressed === 'true'")
        page.goes_on(10)
        assert page.run(neutral) is False

        page.click("camera")
        page.wait(neutral)
        page.run("document.getElementById('driving').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")
        page.says("The camera has gone")
        page.wait(f"!{neutral}")  # what was neutral was another face's
        page.run("document.querySelector('#notices button').click()")  # use the example
        page.wait("document.getElementById('clip').ariaPressed === 'true'")
        page.goes_on()
        assert not page.errors


def test_an_ended_session_is_said_and_goes_on_by_any_key(live, tmp_path):
    with Chromium(tmp_path) as browser:
        page = opened(browser, live.address)
        assert page.run(USABLE) > 15
        page.run("import('/line.js').then(({say}) => { for (let i = 0; i < 110; i++) say({do: 'nonsense'}); })")
        page.wait(CURTAIN)
        for part in ("curtain", "spoken"):
            assert "too many messages" in page.run(f"document.getElementById('{part}').innerText")
        assert page.run(USABLE) == 0
        named = [name for role, name in page.named() if role in ("button", "slider", "checkbox")]
        assert sorted(named) == ["Go on", "What is this?"]
        page.press("Tab")
        assert page.run(CURTAIN)
        page.press("ArrowUp")
        page.wait("document.getElementById('state').innerText.startsWith('connected')")
        page.goes_on()
        assert not page.run(CURTAIN)
        assert page.run(USABLE) > 15
        assert not page.errors


def test_a_page_waits_for_its_place_and_begins_by_itself(tmp_path, monkeypatch):
    with running(sessions=1) as full, Chromium(tmp_path) as browser:
        with Visitor(full, example=None):
            page = browser.page()
            page.open(full.address)
            page.wait("document.getElementById('curtain').innerText.includes('you are next')")
            assert "the server is full" in page.run("document.getElementById('curtain').innerText").lower()
            assert page.run("document.getElementById('state').innerText") == "waiting for a place: you are next"
            assert page.run("document.title").startswith("Waiting for a place")
            assert page.run(USABLE) == 0
            assert page.run(CURTAIN)
            assert [name for role, name in page.named() if role == "button"] == ["What is this?"]
            monkeypatch.setattr(waiting_line, "MOST_WAITING", 1)
            second = browser.page()
            second.open(full.address)
            second.wait("document.getElementById('curtain').innerText.includes('Try again now')")  # too many wait
            assert second.run(USABLE) == 0
        page.wait("document.getElementById('state').innerText.startsWith('connected')")  # the place is free
        assert page.run("document.title").startswith("Your turn")  # the other tab is in front
        page.call("Page.bringToFront")
        page.goes_on()
        assert not page.run(CURTAIN)
        assert page.run(USABLE) > 15
        assert not page.errors
        second.click("curtain-go")
        second.wait("document.getElementById('curtain').innerText.includes('you are next')")
