"""What clients may say, and how often: numbers, names and switches of any kind and size; demo weights."""

from __future__ import annotations

import time

from tests.serve.live_in_process import Visitor, driving
from triportrait.serve.live import transport_ws
from triportrait.serve.live.inference import encode_jpeg
from triportrait.serve.live.messages import write_frame

HUGE, DEEP, HALF = "9" * 4000, "[" * 900 + "]" * 900, '"\\ud800"'
WRONG = [  # what is done, and with which JSON
    *(("settings", f'"yaw_deg": {value}') for value in (HUGE, "-" + HUGE, HUGE * 2, "1e999", "NaN", "true", DEEP)),
    *(("settings", f'"show": {value}') for value in ("1", HUGE, "null", "[]", HALF, '"bones"', '"mesh"')),
    *(("settings", f'"neck": {value}') for value in ("1", HUGE, "null", '"on"')),
    *(("example", f'"name": {value}') for value in (HUGE, DEEP, HALF, "null", '"head-99"')),
    *(("offer", f'"sdp": {value}') for value in (HUGE, DEEP, HALF, '{"a": 1}')),
    *(("neutral", f'"on": {value}') for value in (HUGE, "1", HALF)),
    *(("record", f'"on": {value}') for value in (HUGE, '"yes"', DEEP)),
    ("settings", '"changed": 1'), ("settings", f'"{"n" * 5000}": 1'), ("settings", f"{HALF}: 1"), ("neutral", '"x": 1'),
    ("d" * 5000, '"x": 1'), ("here", '"do": 1'), ("\\ud800", '"x": 1'),
]  # fmt: skip
TEXTS = [f'{{"do": "{do}", {rest}}}' for do, rest in WRONG]


def test_numbers_and_values_of_any_kind_are_a_sentence_and_the_session_goes_on(live, caplog):
    with Visitor(live) as page:
        for text in (*TEXTS, "[" * 60_000, "null", "9" * 5000, f'{{"do": {HUGE}}}'):
            page.socket.send(text)
            sentence = page.hear("notice", "answer", seconds=10)["sentence"]
            assert sentence, text[:60]
            assert len(sentence) < 250, text[:60]
            assert "\n" not in sentence, text[:60]
        for number, clock in ((2**32 - 1, float("nan")), (0, float("inf")), (5, -1e308)):
            page.socket.send(write_frame(number, clock, encode_jpeg(driving())))
            assert page.result().number == number
        page.frame(7)
        assert page.result().number == 7
    assert not [record for record in caplog.records if record.exc_info]


def test_messages_without_end_are_read_no_faster_than_a_page_sends_them(live, monkeypatch):
    with Visitor(live) as page:
        changes = []
        monkeypatch.setattr(live.server.worker, "settings_changed", changes.append)
        page.say(do="settings", yaw_deg=0)
        for i in range(4000):
            page.say(do="settings", yaw_deg=i % 40)
        time.sleep(0.5)
        assert len(changes) < transport_ws.MESSAGES_AT_ONCE + 10 * transport_ws.MESSAGES_PER_S
