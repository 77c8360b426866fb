"""A full server: pages wait in order, take a place that is freed, and nobody keeps one for ever while others wait."""

from __future__ import annotations

import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.serve.live_in_process import Visitor, eventually, running
from triportrait.serve.live import waiting_line
from triportrait.serve.live.admission import Admission, Refusal
from triportrait.serve.live.waiting_line import WaitingLine


@pytest.fixture
def live():
    with running(sessions=1) as server:
        yield server


def test_pages_wait_in_order_and_the_next_begins_when_a_place_is_free(live):
    with Visitor(live, example=None) as one:
        two, three, four = (Visitor(live, example=None) for _ in range(3))
        assert [page.hello["is"] for page in (two, three, four)] == ["waiting"] * 3
        assert [page.hello["position"] for page in (two, three, four)] == [1, 2, 3]
        assert "the server is full: 1 session is running" in two.hello["sentence"]
        assert "this page is next: it begins by itself when a place is free" in two.hello["sentence"]
        assert "2 before this page" in four.hello["sentence"]
        assert "try again" not in four.hello["sentence"]
        three.__exit__()  # leaves the queue
        assert four.hear("waiting", seconds=5)["position"] == 2
        one.__exit__()
        began = time.monotonic()
        assert two.hear("hello", seconds=5)["session"]
        assert time.monotonic() - began < 2
        assert four.hear("waiting", seconds=5)["position"] == 1
        two.say(do="example", name="head-1")  # all is as for a page that was let in at once
        two.hear("portrait")
        two.frame(1)
        assert two.result().number == 1
        two.__exit__()
        assert four.hear("hello", seconds=5)["session"]
        four.__exit__()
    eventually(lambda: live.server.admission.active == 0 and not live.server.waiting_line.waiting)


def test_what_a_waiting_page_says_is_not_asked_for_and_its_silence_ends_it(live, monkeypatch):
    with Visitor(live, example=None), Visitor(live, example=None) as two:
        two.say(do="here")
        two.socket.send("garbage")
        two.socket.send(b"\1" * 100)
        monkeypatch.setattr(waiting_line, "SILENT_S", 0.3)
        two.say(do="here")
        assert "nothing was heard from this page while it waited" in two.hear("end", seconds=5)["sentence"]
        with pytest.raises(ConnectionClosed):
            two.socket.recv(timeout=5)
        assert not live.server.waiting_line.waiting
        assert live.server.admission.active == 1


@pytest.mark.parametrize(
    "name, how", [("IDLE_S", "without a driving picture, as others wait"), ("TURN_S", "others wait")]
)
def test_a_session_gives_its_place_up_while_others_wait(live, monkeypatch, name, how):
    monkeypatch.setattr(waiting_line, name, 0.5)
    monkeypatch.setattr(waiting_line, "WARNED_S", 1.0)
    with Visitor(live, example=None) as one:
        time.sleep(1.5)
        assert live.server.sessions, "nobody waits"
        with Visitor(live, example=None) as two:
            assert two.hello["is"] == "waiting"
            if name == "TURN_S":
                one.frame(1)
                assert "ends in 1 s" in one.hear("notice", about="place", seconds=5)["sentence"]
            assert how in one.hear("end", seconds=5)["sentence"]
            assert two.hear("hello", seconds=5)


def test_a_warning_is_taken_back_when_nobody_waits_any_more(live, monkeypatch):
    monkeypatch.setattr(waiting_line, "TURN_S", 0.2)
    with Visitor(live, example=None) as one:
        with Visitor(live, example=None):
            assert one.hear("notice", about="place", seconds=5)["sentence"]
        assert one.hear("notice", about="place", seconds=5)["sentence"] == ""


def test_who_holds_the_whole_queue_cannot_keep_others_out():
    queue = WaitingLine(Admission(0.1, 10, 1))
    first = queue.ask("10.0.0.1")
    assert first.admitted
    tickets = [queue.ask("10.0.0.1") for _ in range(waiting_line.MOST_WAITING)]
    assert isinstance(queue.ask("10.0.0.1"), Refusal)
    other = queue.ask("10.0.0.2")
    assert not isinstance(other, Refusal)
    assert tickets[-1].refused
    assert queue.waiting == waiting_line.MOST_WAITING
    assert queue.position(tickets[0]) == 1
    assert queue.position(other) == waiting_line.MOST_WAITING
    queue.leave(3.0)
    assert tickets[0].admitted
    assert not tickets[1].admitted


def test_a_place_more_lets_the_next_in():
    """Frames have come to cost less."""
    admission = Admission(0.05, 10)
    queue = WaitingLine(admission)
    assert queue.ask("a").admitted
    assert not queue.ask("a").admitted
    for _ in range(500):
        admission.measured(0.01)
    queue.let_in()
    assert not queue.waiting
    assert admission.active == 2
