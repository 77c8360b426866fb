"""Refined portraits of the live server: people whose files it was given, and photos that visitors have refined."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serve.live_in_process import Running, Visitor, driving, eventually, finder, pixels, reenactor, running
from tests.serve.refiner_stand_in import VARIABLE, person_of
from triportrait.core.errors import InputError
from triportrait.core.person import REFINED, Person, load_person, save_person, thumbnail_of
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.jobs import live as live_job
from triportrait.serve.live import refinement, refining
from triportrait.serve.live.inference import EXAMPLES, Engine, encode_jpeg, example_picture
from triportrait.serve.live.refine_process import PREVIEW_PX, Work
from triportrait.serve.live.refining import RefineOptions, check_minutes
from triportrait.serve.live.sessions import Session
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.reenactor import Reenactor

STAND_IN = "tests.serve.refiner_stand_in"
PHOTO = (EXAMPLES / "head-5.jpg").read_bytes()
OTHER = (EXAMPLES / "head-3.jpg").read_bytes()


def person_of_example(name: str) -> Person:
    engine = Engine(reenactor(), finder(), Stamp("0" * 64, "demo"))
    face, _ = engine.crop_portrait(example_picture(name))
    return person_of(reenactor().portrait, torch.tensor(face.crop))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(refine=RefineOptions(minutes=0.1, trainer=STAND_IN)) as live:
        yield live


@pytest.fixture
def slow(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "slow")


def dropped(live: Running, page: Visitor, photo: bytes = PHOTO) -> dict:
    """What the server says of a photo that is dropped."""
    status, answer = live.post(f"/portrait?session={page.hello['session']}", photo)
    assert status == 200, answer
    return answer["refined"]


def session_of(live: Running, page: Visitor) -> Session:
    return live.server.sessions[page.hello["session"]].session


def folder_of(live: Running) -> Path:
    return Path(live.server.refining._folder.name)


def runs(page: Visitor) -> None:
    """Wait until the stand-in has made steps."""
    while not page.hear("refining").get("percent"):
        pass


def end_of(page: Visitor) -> dict:
    """Wait until a refinement has ended, however it did."""
    while (last := page.hear("refining"))["state"] in ("waiting", "running"):
        pass
    return last


def test_a_portrait_of_a_known_person_is_shown_refined_and_can_be_compared():
    people = [person_of_example("head-4"), person_of_example("head-1")]
    with running(refine=RefineOptions(people=people)) as live, Visitor(live, None) as page:
        assert page.hello["refine_minutes"] == 0
        page.say(do="example", name="head-1")
        state = page.hear("portrait")["refined"]
        assert state == {"can": True, "on": True, "own": False, "offer": False, "address": "", "bytes": 0}
        refined = pixels(page.result(view=True).jpeg)
        session = session_of(live, page)
        engine, face = live.server.engine, session.portrait.source.face
        expected = engine.reenactor.reenact(engine.reenactor.prepare(face, people[1]), face)
        assert np.abs(refined - expected).mean() < 4  # of a JPEG with a watermark
        page.say(do="refined", on=False)
        assert page.hear("refined")["on"] is False
        plain = pixels(page.result(view=True).jpeg)
        assert np.abs(plain - engine.reenactor.reenact(engine.reenactor.prepare(face), face)).mean() < 4
        assert np.abs(plain - refined).mean() > 6
        prepared = session.versions.refined
        page.say(do="refined", on=True)
        assert page.hear("refined")["on"] is True
        assert session.portrait is prepared  # it is kept, so that comparing takes no time
        assert np.abs(pixels(page.result(view=True).jpeg) - refined).mean() < 1
        page.say(do="example", name="head-2")
        assert page.hear("portrait")["refined"]["can"] is False
        page.say(do="refined", on=True)
        assert "is not refined" in page.hear("notice", about="wish")["sentence"]
        photo = io.BytesIO()
        Image.open(EXAMPLES / "head-1.jpg").save(photo, "PNG")
        assert dropped(live, page, photo.getvalue())["on"] is True  # by what it shows, whatever file it is in
        page.say(do="refine", on=True)
        assert "refines no portraits" in page.hear("notice", about="wish")["sentence"]


def test_a_photo_is_refined_beside_the_frames_shown_saved_and_gone_with_its_session(server, tmp_path):
    before = server.figures().get('triportrait_refinements_total{how="done"}', 0)
    with Visitor(server) as page:
        assert page.hello["refine_minutes"] == 0.1
        state = dropped(server, page)
        assert state["offer"] and not state["can"]
        page.frame(1)
        page.result()
        session = session_of(server, page)
        plain, driven = session.portrait, session.shown.ready
        page.say(do="refine", on=True)
        runs(page)
        assert server.figures()["triportrait_refinements_running"] == 1
        picture = page.hear("refining_picture")["picture"]
        assert picture.startswith("data:image/jpeg;base64,")
        page.frame(2)
        assert page.result().number == 2  # frames go on
        driven = session.shown.ready
        state = page.hear("refined")
        assert state["on"] and state["own"] and not state["offer"]
        assert session.shown.ready is driven  # what drives it stays: no picture at rest flickers
        assert end_of(page)["state"] == "done"
        assert session.portrait is session.versions.refined
        claim = session.portrait.stamp.claim
        assert claim.person_sha256 == session.portrait.source.refined.sha256
        assert dataclasses.replace(claim, person_sha256=None) == plain.stamp.claim
        status, data, headers = server.get(state["address"])
        assert status == 200
        assert len(data) == state["bytes"]
        assert '-person.safetensors"' in headers["content-disposition"]
        assert hashlib.sha256(data).hexdigest() == claim.person_sha256
        (tmp_path / "person.safetensors").write_bytes(data)
        person = load_person(tmp_path / "person.safetensors", reenactor().portrait)
        assert (person.card["source"], person.card["weights"]) == ("a photo of a live session", "demo")
        assert torch.equal(person.thumbnail, thumbnail_of(torch.tensor(plain.source.face.crop)))
        source = reenactor().prepare(plain.source.face, person)
        assert torch.equal(source.source.tokens, session.portrait.source.source.tokens)
        assert [path.name for path in folder_of(server).rglob("*") if path.is_file()] == ["person.safetensors"]
        page.say(do="example", name="head-1")
        assert page.hear("portrait")["refined"]["can"] is False
        assert dropped(server, page)["on"] is True  # it is known again
        for name in ("x", "..%2f..%2fetc%2fpasswd", "person.safetensors"):
            assert server.get(f"/people/{name}")[0] == 404
    eventually(lambda: not list(folder_of(server).iterdir()))
    assert server.get(state["address"])[0] == 404
    assert server.figures()['triportrait_refinements_total{how="done"}'] == before + 1
    assert not server.server.refining._files
    assert not server.server.refining._buckets


def test_a_refinement_ends_when_another_portrait_is_shown(server, slow):
    with Visitor(server) as page:
        dropped(server, page)
        session = session_of(server, page)
        page.say(do="refine", on=True)
        runs(page)
        process = server.server.refining._running._process
        assert list(folder_of(server).iterdir())
        dropped(server, page)  # the same picture once more is none
        assert session.refining is not None
        assert process.poll() is None
        assert dropped(server, page, OTHER)["offer"]
        assert end_of(page)["state"] == "cancelled"
        nothing_is_left(server, process)
        eventually(lambda: session.refining is None)


def nothing_is_left(live: Running, process: subprocess.Popen) -> None:
    """Wait until a refinement's process has ended, nobody is in line, and no file lies there."""
    eventually(lambda: process.poll() is not None)
    eventually(lambda: not list(folder_of(live).iterdir()))
    eventually(lambda: not live.server.refining._line and live.server.refining._running is None)


def test_a_recording_that_runs_keeps_its_version(server):
    """Its manifest says by whose file the portrait is refined."""
    with Visitor(server) as page:
        dropped(server, page)
        page.frame(1)
        page.result()
        page.say(do="record", on=True)
        page.hear("recording")
        page.say(do="refine", on=True)
        state = page.hear("refined")
        assert state["can"] and not state["on"]
        page.say(do="refined", on=True)
        assert "a recording runs" in page.hear("notice", about="wish")["sentence"]
        for number in (2, 3):  # a result is recorded after it was sent: the last one may come too late
            page.frame(number)
            page.result()
        page.say(do="record", on=False)
        page.hear("recorded")
        page.say(do="refined", on=True)
        assert page.hear("refined")["on"]


def test_one_is_refined_at_a_time_and_others_wait_in_line(server, slow, monkeypatch):
    """The first is cancelled, the session of the second ends while it is refined, the third leaves the line."""
    monkeypatch.setattr(refining, "MOST_IN_LINE", 2)
    with Visitor(server) as one, Visitor(server) as three:
        with Visitor(server) as two:
            for page in (one, two, three):
                assert dropped(server, page)["offer"]
            session = session_of(server, one)
            plain = session.portrait
            one.say(do="refine", on=True)
            runs(one)
            first = server.server.refining._running._process
            one.say(do="refine", on=True)
            assert "is being refined already" in one.hear("notice", about="wish")["sentence"]
            two.say(do="refine", on=True)
            waiting = two.hear("refining")
            assert (waiting["state"], waiting["before"]) == ("waiting", 1)
            assert server.figures()["triportrait_refinements_waiting"] == 1
            three.say(do="refine", on=True)
            assert "2 portraits are in line already" in three.hear("notice", about="wish")["sentence"]
            assert first.poll() is None
            one.say(do="refine", on=False)
            assert end_of(one)["state"] == "cancelled"
            assert session.portrait is plain
            eventually(lambda: first.poll() is not None)
            eventually(lambda: session.refining is None)
            runs(two)
            second, left = server.server.refining._running._process, session_of(server, two)
            three.say(do="refine", on=True)
            assert three.hear("refining")["state"] == "waiting"
            three.say(do="refine", on=False)  # who waits can leave the line
            assert end_of(three)["state"] == "cancelled"
            assert second.poll() is None
        nothing_is_left(server, second)
        eventually(lambda: left.refining is None)


@pytest.mark.parametrize(
    "how, sentence",
    [("fails", refinement.FAILED), ("breaks off", refinement.FAILED), ("no memory", "too little memory")],
)
def test_a_refinement_that_fails_says_one_sentence_and_changes_nothing(server, monkeypatch, caplog, how, sentence):
    """The last words of a process that breaks off are logged."""
    monkeypatch.setenv(VARIABLE, how)
    with Visitor(server) as page:
        dropped(server, page)
        session = session_of(server, page)
        plain = session.portrait
        page.say(do="refine", on=True)
        last = end_of(page)
        assert last["state"] == "failed"
        assert sentence in last["sentence"]
        assert "secret" not in last["sentence"]
        assert session.portrait is plain
        assert not list(folder_of(server).iterdir())
        page.frame(1)
        assert page.result().number == 1
    broken_off = [record for record in caplog.records if record.message == "a refinement broke off"]
    assert len(broken_off) == (how == "breaks off")
    for record in broken_off:
        assert record.fields["code"] == 3
        last = [*(f"line {number}" for number in range(80, 99)), "the device is gone"]
        assert record.fields["stderr"].splitlines() == last


def test_one_that_takes_far_too_long_is_ended(server, slow, monkeypatch):
    monkeypatch.setattr(refinement, "_START_S", -60 * 2 * 0.1 + 2)
    with Visitor(server) as page:
        dropped(server, page)
        page.say(do="refine", on=True)
        assert "far longer than it should" in end_of(page)["sentence"]


def test_what_cannot_be_refined_is_refused_in_a_sentence(server, slow, monkeypatch):
    monkeypatch.setattr(refining, "REFINE_AT_ONCE", 1.0)
    with Visitor(server) as page:
        page.say(do="refine", on=True)
        assert "expected a photo of your own" in page.hear("notice", about="wish")["sentence"]
        page.say(do="refine", on="yes")
        assert 'expected "on" to be true or false' in page.hear("notice", about="message")["sentence"]
        dropped(server, page)
        page.say(do="refine", on=True)
        page.hear("refining")
        page.say(do="refine", on=False)
        assert end_of(page)["state"] == "cancelled"
        page.say(do="refine", on=True)
        assert "asked for too often" in page.hear("notice", about="wish")["sentence"]
    for minutes in (0.05, 31, -1, float("nan")):
        with pytest.raises(InputError, match="--refine-minutes: expected 0, which switches refining"):
            check_minutes(minutes)
    for minutes in (None, 0, 0.1, 2, 30):
        check_minutes(minutes)


def test_a_stop_ends_what_is_refined_and_leaves_no_file(slow):
    with running(refine=RefineOptions(minutes=0.1, trainer=STAND_IN)) as live:
        page = Visitor(live)
        dropped(live, page)
        page.say(do="refine", on=True)
        runs(page)
        process, folder = live.server.refining._running._process, folder_of(live)
        assert folder.exists()
        began = time.monotonic()
    assert time.monotonic() - began < 8
    eventually(lambda: process.poll() is not None)
    assert not folder.exists()


def test_a_long_line_counts_once():
    lines = refinement.LastLines()
    lines.hear(io.BytesIO(b"".join(b"%d %s\n" % (number, b"x" * 3000) for number in range(30)) + b"the end"))
    kept = lines.text().splitlines()
    assert [line.split()[0] for line in kept] == [*map(str, range(11, 30)), "the"]
    assert {len(line) for line in kept[:-1]} == {500}


def test_the_last_words_are_told_while_more_are_said():
    """A process that was started by the one that broke off may write on and on."""

    class Endless(io.RawIOBase):
        def readline(self, size: int = -1) -> bytes:
            return b"" if self.closed or enough.is_set() else b"more\n"

    enough, lines = threading.Event(), refinement.LastLines()
    talking = threading.Thread(target=lines.hear, args=(Endless(),))
    talking.start()
    try:
        eventually(lambda: lines.text().count("more") == 20)
        for _ in range(3000):
            assert lines.text() == "\n".join(["more"] * 20)
    finally:
        enough.set()
        talking.join(10)


@pytest.mark.parametrize("with_person", [False, True])
def test_a_server_in_half_precision_keeps_weights_for_people_that_it_was_given(with_person, tmp_path, monkeypatch):
    """Without people none are kept beside the rounded ones; those of people are there before anything is served."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(live_job, "use_precision", rounded)  # the demo weights' frame is below what bf16 needs
    monkeypatch.setattr(Engine, "measure", lambda engine: 0.01)
    monkeypatch.setattr(live_job, "host_costs", lambda engine, count: {})
    save_person(tmp_path / "ada.safetensors", person_of_example("head-5"))
    given = (tmp_path / "ada.safetensors",) if with_person else ()
    try:
        server = live_job.Live(weights="demo", device="cpu", person=given)._load_and_measure()
    finally:
        torch.set_num_threads(threads)
    network = server.engine.reenactor
    assert network.is_rounded and network.reload is not None
    assert set(network._before_rounding) == (set(REFINED) if with_person else set())
    parts = network.as_loaded()
    for name in REFINED:
        kept, wanted = (each.get_submodule(name).state_dict() for each in (parts, reenactor().portrait))
        assert all(torch.equal(kept[key], wanted[key]) for key in wanted), name
    assert network.weights_hash == reenactor().weights_hash


def rounded(network: Reenactor, precision: str) -> None:
    network.dtype = torch.bfloat16
    network.keep_half()


def test_the_process_ends_with_the_server_and_leaves_no_file(tmp_path, slow):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "person.safetensors.part").write_bytes(b"half")
    face = AlignedFace.middle(driving("head-5"), reenactor().image_size)
    work = Work(face, "demo", "cpu", 0.1, folder / "person.safetensors", 1, STAND_IN)
    process = subprocess.Popen(refinement.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(pickle.dumps(work))
    process.stdin.flush()
    assert b'"told": "step"' in process.stdout.readline()
    process.stdin.close()  # as when the server is killed
    assert process.wait(20) == 1
    assert not folder.exists()
    process.stdout.close()


def test_the_preview_shows_the_portrait_as_it_is_now_and_from_the_side():
    from triportrait.serve.live.refine_process import _small_jpeg

    panels = [torch.full((96, 96, 3), level, dtype=torch.uint8) for level in (0, 80, 160, 255)]
    picture = pixels(_small_jpeg(torch.cat(panels, 1)))
    assert picture.shape == (PREVIEW_PX, 2 * PREVIEW_PX, 3)
    assert np.abs(picture[:, :100] - 80).max() < 6
    assert np.abs(picture[:, -100:] - 160).max() < 6
    assert encode_jpeg(driving())  # a page gets pictures of this size in messages
