"""The switch of the live page between picture, depth and normals: over the WebSocket, and in a browser."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serve.chromium import BINARY, Chromium
from tests.serve.live_in_process import Visitor, driving, pixels
from triportrait.core.render.geometry_pictures import BACKGROUND
from triportrait.serve.live.inference import NO_GEOMETRY
from triportrait.serve.media.provenance.watermark import read

GREY = (BACKGROUND + 1) * 127.5


def background(picture: np.ndarray) -> float:
    """How far the upper corners are from the grey behind geometry, levels."""
    return float(np.abs(np.concatenate([picture[:8, :8], picture[:8, -8:]]) - GREY).mean())


def test_a_still_face_and_frames_are_shown_as_the_session_asks_beside_another_session(live):
    with Visitor(live) as one, Visitor(live) as other:
        assert one.hello["settings"]["show"] == "picture" and list(one.hello["not_shown"]) == ["mesh"]
        at_rest = pixels(one.results[0].jpeg)
        assert background(at_rest) > 20
        shown = {}
        for show in ("normals", "depth"):
            one.say(do="settings", show=show)
            view = one.result(view=True)
            assert view.view, "the face holds still: the transformer does not run"
            shown[show] = pixels(view.jpeg)
            assert background(shown[show]) < 3
        assert np.abs(shown["normals"] - shown["depth"]).mean() > 10
        one.frame(1, driving("head-2"))
        other.frame(1, driving("head-2"))
        frame = pixels(one.result().jpeg)
        assert background(frame) < 3 and background(pixels(other.result().jpeg)) > 20
        assert read([frame.astype(np.uint8), shown["depth"].astype(np.uint8)]).message is not None
        one.say(do="settings", show="picture")
        assert background(pixels(one.result(view=True).jpeg)) > 20


def test_what_a_server_does_not_show_is_one_sentence_and_changes_nothing(live, monkeypatch):
    with Visitor(live) as page:
        page.say(do="settings", yaw_deg=9, show="mesh")
        assert "got mesh: a mesh takes" in page.hear("notice", about="message")["sentence"]
        settings = live.server.sessions[page.hello["session"]].session.settings
        assert (settings.show, settings.yaw_deg) == ("picture", 0.0)
        monkeypatch.setattr(live.server.engine, "_geometry", False)
        assert live.server.engine.not_shown == dict.fromkeys(("depth", "normals", "mesh"), NO_GEOMETRY)
        page.say(do="settings", show="depth")
        assert NO_GEOMETRY in page.hear("notice", about="message")["sentence"]


@pytest.mark.skipif(BINARY is None, reason="needs chromium")
def test_the_page_s_switch_shows_remembers_and_says_what_is_not_there(live, tmp_path):
    pressed = "[...document.querySelectorAll('#shows [aria-pressed=true]')].map(b => b.value)"
    hint = (
        "document.getElementById('show-hint').checkVisibility() ? document.getElementById('show-hint').innerText : ''"
    )
    corner = "document.getElementById('result').getContext('2d').getImageData(4, 4, 1, 1).data.join()"
    grey = f"({corner}).split(',').slice(0, 3).every(level => Math.abs(level - {GREY:.0f}) < 8)"
    with Chromium(tmp_path) as browser:
        page = browser.page()
        for visit in ("first", "second"):
            page.open(live.address + "?transport=websocket")
            page.wait("document.getElementById('state').innerText.startsWith('connected')")
            page.wait("Number(document.body.dataset.results) >= 1", 60)
            if visit == "first":
                assert page.run(pressed) == ["picture"] and page.run(hint) == ""
                assert not page.run(grey)
                page.run("document.querySelector('#shows [value=depth]').click()")
            page.wait(grey)
            assert page.run(pressed) == ["depth"] and page.run(hint).startswith("Yellow is near")
            page.wait("JSON.stringify(localStorage).includes('depth')")
        page.run("document.querySelector('#shows [value=mesh]').click()")
        assert page.run(pressed) == ["depth"]
        assert page.run(hint).startswith("Not shown here: a mesh takes")
        assert ("button", "Mesh") in page.named(), "it can be reached, and asked why"
        page.run("document.querySelector('#shows [value=mesh]').focus()")
        assert page.run("document.activeElement.getAttribute('aria-disabled')") == "true"
        page.run("document.getElementById('reset').click()")
        page.wait(f"!{grey}")
        assert page.run(pressed) == ["picture"] and page.run(hint) == ""
        assert not page.errors
