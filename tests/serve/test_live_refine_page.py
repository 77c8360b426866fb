"""A visitor refines a photo on the live page, in a headless Chromium; the refinement is a stand-in's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.serve.chromium import BINARY, Chromium, Page
from tests.serve.live_in_process import eventually, running
from tests.serve.refiner_stand_in import VARIABLE
from triportrait.serve.live.inference import EXAMPLES
from triportrait.serve.live.refining import RefineOptions

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs chromium")
PHOTO = Path(__file__).parents[2] / "docs" / "demo" / "portrait.jpg"
FOCUSED = "document.activeElement.id"


def sees(page: Page, *names: str) -> bool:
    """Whether of the parts of refining the page shows these and no others."""
    parts = "go", "run", "picture", "shown", "hint", "save"
    seen = [name for name in parts if page.run(f"document.getElementById('refine-{name}').checkVisibility()")]
    return seen == list(names)


def text(page: Page, name: str) -> str:
    return page.run(f"document.getElementById('{name}').innerText")


def test_a_photo_is_refined_compared_and_saved_by_keys(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "slow")
    options = RefineOptions(minutes=2.0, trainer="tests.serve.refiner_stand_in")
    with running(refine=options) as live, Chromium(tmp_path) as browser:
        page = browser.page()
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.open(live.address + "?transport=websocket")
        page.wait("Number(document.body.dataset.results) >= 2", 60)
        assert sees(page)  # nothing is offered for a head of the package
        page.choose("#portrait-file", PHOTO)
        page.wait("document.getElementById('refine-go').checkVisibility()")
        assert sees(page, "go", "hint")
        assert text(page, "refine-hint").startswith("About 2 minutes.")

        page.run("document.getElementById('refine-go').focus()")
        page.press("Enter")
        assert page.run(FOCUSED) == "refine-stop"  # the button that had it has gone
        page.wait("document.getElementById('refine-picture').checkVisibility()", 180)
        assert sees(page, "run", "picture")
        page.wait("/^\\d+%, \\d:\\d\\d left$/.test(document.getElementById('refine-word').innerText)")
        assert page.run("document.getElementById('refine-picture').naturalWidth") == 288
        page.wait("document.getElementById('refine-bar').value > 0")
        assert ("progressbar", "Refinement of the portrait") in roles(page)
        page.goes_on()  # frames do, beside it
        if folder := os.environ.get("OUT"):
            page.screenshot(Path(folder) / "refining.png")
        page.press("Enter")
        page.wait("document.getElementById('refine-go').checkVisibility()")
        assert page.run(FOCUSED) == "refine-go"

        monkeypatch.setenv(VARIABLE, "fails")
        page.press("Enter")
        page.says("The refinement failed on this server; the portrait stays as it was", 180)
        assert sees(page, "go", "hint")

        monkeypatch.setenv(VARIABLE, "done")
        page.press("Enter")
        page.says("The portrait is refined; switch to compare", 180)
        assert sees(page, "shown", "hint", "save")
        assert page.run("document.getElementById('refined').checked")
        assert page.run(FOCUSED) == "refined"
        for part in ("being refined", "portrait is refined"):
            assert part in page.run("document.getElementById('spoken').innerText")
        assert text(page, "refine-save").startswith("Save this person, ")
        saved = "fetch(document.getElementById('refine-save').href).then(r => r.arrayBuffer()).then(b => b.byteLength)"
        assert page.run(saved) == next(iter(live.server.refining._files.values())).size
        session = next(iter(live.server.sessions.values())).session
        for on in (False, True):
            page.press(" ")
            page.wait(f"document.getElementById('refined').checked === {str(on).lower()}")
            assert (session.portrait is session.versions.refined) is on
        page.goes_on()
        if folder := os.environ.get("OUT"):
            page.screenshot(Path(folder) / "refined.png")

        page.choose("#portrait-file", EXAMPLES / "head-3.jpg")  # another photo
        page.wait("document.getElementById('refine-go').checkVisibility()")
        assert sees(page, "go", "hint")
        page.run("document.querySelector('[data-name=own-1]').click()")
        page.wait("document.getElementById('refine-shown').checkVisibility()")  # the first is known again
        assert sees(page, "shown", "hint", "save")
        assert not page.errors
    eventually(lambda: not live.server.refining._line)


def roles(page: Page) -> list[tuple[str, str]]:
    """Role and name of what assistive technology is told of."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
