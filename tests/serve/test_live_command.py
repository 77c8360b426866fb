"""`triportrait live` and `triportrait profile live` as commands: options, address, log, stop, figures."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
import urllib.error
import urllib.request

import pytest
import torch

from tests.serve.refiner_stand_in import person_of
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.person import save_person
from triportrait.profiling.live import measure
from triportrait.profiling.live.client import metrics
from triportrait.profiling.live.server_process import live_server, stop
from triportrait.serve.jobs import live as job
from triportrait.serve.live import addresses
from triportrait.serve.live.run_uvicorn import bind
from triportrait.serve.weight_loading import load_weights

pytest.importorskip("fastapi")


def refused(capsys, *options: str) -> str:
    assert cli.main(list(options)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        (["--sessions", "0"], "--sessions: expected 1 to 64, got 0"),
        (["--token", "short"], "--token: expected 16 to 200 letters"),
        (["--token", "fifteen-letters"], "--token: expected 16 to 200 letters"),
        (["--token", "has space and;12345"], "--token: expected 16 to 200 letters"),
        (["--token", "a" * 30], "--token: expected 6 different characters at least, got 1"),
        (["--token", "a" * 30, "--token-file", "x"], "--token, --token-file: expected only one of them, got both"),
        (["--token-file", "/nowhere"], "--token-file /nowhere: it cannot be read (no such file or directory)"),
        (["--token-file", "/dev/zero"], "--token-file /dev/zero: expected a regular file with the token"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--host", "256.1.1.1"], "256.1.1.1:8000: cannot be listened on"),
        (["--certificate", "/nowhere.pem"], "/nowhere.pem"),
        (["--refine-minutes", "31"], "--refine-minutes: expected 0, which switches refining off, or 0.1 to 30, got 31"),
        (
            ["--person", "/nowhere"],
            "/nowhere: no such file; make one with `triportrait personalize PICTURE /nowhere`",
        ),
        (["--person", "/nowhere"] * 65, "--person: expected at most 64 files, got 65; leave some out"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(options, sentence, capsys):
    assert sentence in refused(capsys, "live", *options).splitlines()[-1]


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(job, "load_weights", lambda name: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        output = refused(capsys, "live", "--port", str(taken.getsockname()[1]))
    assert "cannot be listened on (address already in use)" in output


@pytest.mark.parametrize(
    "made_for, sentence",
    [
        ("nobody", "person.safetensors: not a whole person's file"),
        ("others", "person.safetensors: this person was refined for other weights (others) than demo; name those with"),
    ],
)
def test_a_person_who_cannot_be_shown_is_refused_at_the_start(tmp_path, capsys, made_for, sentence):
    file = tmp_path / "person.safetensors"
    if made_for == "nobody":
        file.write_bytes(b"no tensors")
    else:
        portrait, _ = load_weights("demo")
        person = person_of(portrait, torch.zeros(64, 64, 3, dtype=torch.uint8))
        save_person(file, dataclasses.replace(person, weights="0" * 64, card={"weights": "others"}))
    output = refused(capsys, "live", "--port", "0", "--weights", "demo", "--person", str(file))
    assert sentence in output.splitlines()[-1]


def test_what_is_not_installed_is_said_with_the_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiortc", None)
    assert "live: aiortc is not installed; `pip install -e '.[serve]'`" in refused(capsys, "live", "--port", "0")


def test_what_is_installed_and_does_not_load_is_said_with_its_reason(capsys, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "aiortc":
                raise OSError("libopus.so.0: cannot open shared object file")

    for name in [name for name in sys.modules if name.partition(".")[0] == "aiortc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    output = refused(capsys, "live", "--port", "0")
    assert "live: aiortc is installed but does not load (libopus.so.0: cannot open shared object file); `pip" in output


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--sessions", "0"], "--sessions: expected 1 to 64"),
        (["--fps", "500"], "--fps: expected 1 to 120"),
        (["--url", "example.org"], "--url: expected an address as the server prints it"),
        (["--out", "/nowhere/x.json"], "--out: expected a file in a folder that exists"),
        (["--driving", "/nowhere.mp4", "--url", "http://127.0.0.1:9"], "/nowhere.mp4"),
    ],
)
def test_profile_refuses_what_cannot_be(options, sentence, capsys):
    assert sentence in refused(capsys, "profile", "live", *options)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("from-a-file-0123456789\n")
    assert job.given_token(None, file) == "from-a-file-0123456789"
    assert job.given_token(None, None) is None
    monkeypatch.setenv("TRIPORTRAIT_TOKEN", "from-the-environment-1")
    assert job.given_token(None, None) == "from-the-environment-1"
    assert job.given_token(None, file) == "from-a-file-0123456789"
    assert job.given_token("on-the-command-line", None) == "on-the-command-line"
    for wrong, where in (
        ("short", "$TRIPORTRAIT_TOKEN: expected 16"),
        ("x" * 16, "$TRIPORTRAIT_TOKEN: expected 6 diff"),
    ):
        monkeypatch.setenv("TRIPORTRAIT_TOKEN", wrong)
        with pytest.raises(InputError) as refusal:
            job.given_token(None, None)
        assert str(refusal.value).startswith(where)
    file.write_bytes(b"\xff\0" * 5000)
    with pytest.raises(InputError, match=r"--token-file .*token: expected 16 to 200"):
        job.given_token(None, file)


def test_addresses_that_are_printed_can_be_opened_from_elsewhere(monkeypatch):
    local = ["10.0.0.5", "192.168.1.7", "2001:db8::7"]
    monkeypatch.setattr(addresses, "own_addresses", lambda: local)
    assert addresses.addresses_to_open("0.0.0.0") == local[:2]
    assert addresses.addresses_to_open("::") == local
    for host in ("127.0.0.1", "localhost", "10.0.0.5", "::1", "example.org"):
        assert addresses.addresses_to_open(host) == [host]
    monkeypatch.setattr(addresses, "own_addresses", lambda: [])
    assert addresses.addresses_to_open("0.0.0.0") == ["127.0.0.1"]
    assert addresses.addresses_to_open("::") == ["::1"]
    monkeypatch.undo()
    assert not any(addresses.is_loopback(one) or one == "0.0.0.0" for one in addresses.own_addresses())


def test_any_address_is_both_protocols():
    with bind("::", 0) as bound:
        bound.listen()
        with socket.create_connection(("127.0.0.1", bound.getsockname()[1]), 5):
            pass


def test_it_serves_is_measured_and_stops(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TRIPORTRAIT_WEIGHTS", raising=False)
    with live_server(["--host", "0.0.0.0", "--sessions", "2"]) as server:
        assert "//0.0.0.0" not in server.address
        assert "?token=" in server.address
        address = server.address
        bare = address.partition("?")[0]
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(bare)
        assert refusal.value.code == 401
        out = tmp_path / "figures.json"
        options = ["--url", address, "--sessions", "2", "--seconds", "8", "--out", str(out)]
        assert cli.main(["profile", "live", *options]) == 0
        output = capsys.readouterr().out
        assert "| end to end |" in output
        assert "2 sessions for 8 s" in output
        assert "token" not in output
        figures = json.loads(out.read_text())
        total = figures["latency_ms"]["total"]
        assert 0 < total["p50"] <= total["p90"] <= total["p99"]
        assert total["p50"] > figures["latency_ms"]["compute"]["p50"]
        assert len(figures["sessions_seen"]) == 2
        assert all(s["fps"] > 0.5 for s in figures["sessions_seen"])
        assert figures["server_MB"] > 100
        assert figures["commit"] is not None
        assert "triportrait profile live" in figures["command"]
        assert metrics(address)["triportrait_sessions_active"] == 0
        assert stop(server.process) < 8
        assert server.process.returncode == 0
    lines = [json.loads(line) for line in server.lines]
    events = [line["message"] for line in lines]
    assert events[-1] == "stopped"
    assert events.count("session began") == 2
    loaded = lines[events.index("loaded")]
    assert loaded["weights"] == "demo"
    assert loaded["watermark"] is True
    assert not any("token" in line for line in server.lines)
    assert "an end could not be told" not in events


def test_a_minute_of_driving_does_not_grow(tmp_path, capsys, monkeypatch):
    """The short form of the long latency run: rows of its table hold 24 s instead of 60, so that a minute fills two."""
    monkeypatch.setattr(measure, "ROW_S", 24.0)
    out = tmp_path / "figures.json"
    assert cli.main(["profile", "live", "--seconds", "60", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    print(output)
    figures = json.loads(out.read_text())
    assert [row["minute"] for row in figures["over_time"]] == [1, 2]
    assert "| 2 | " in output
    (session,) = figures["sessions_seen"]
    assert session["dropped"] > 0
    assert all(row["fps"] > 1 for row in figures["over_time"])
    assert figures["latency_ms"]["total"]["p50"] < 1000, "lag: 115 ms where nothing runs beside it"
    assert figures["growth"]["memory"] < 1.05


def test_growth_is_that_of_the_last_fifth_over_the_first():
    from triportrait.profiling.live.client import Sample
    from triportrait.profiling.live.measure import _growth, _over_time

    samples = [Sample(at / 10, 100 + at / 10, 0, 0, 0, 0, 0) for at in range(3000)]  # 1 ms slower each second
    assert _growth([(x.at_s, x.total) for x in samples]) == pytest.approx(370 / 130, abs=0.01)
    assert _growth([]) is None and _growth([(1.0, 0.0), (2.0, 0.0)]) is None, "a system that does not tell"
    rows = _over_time(samples, [(10.0, 500.0), (20.0, 700.0), (250.0, 600.0)])
    assert [row["minute"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["fps"] == 10 for row in rows)
    assert [row["minute"] for row in _over_time(samples[:1000], [])] == [1], "100 s hold one whole minute"
    assert rows[2]["server_MB"] is None
    assert rows[0]["p50"] == pytest.approx(130, abs=1)
    assert rows[4]["p99"] == pytest.approx(399, abs=1)
    assert rows[0]["server_MB"] == 700
    assert rows[4]["server_MB"] == 600


def test_a_server_that_does_not_start_says_why():
    with pytest.raises(InputError, match=r"did not start .*/nowhere"), live_server(["--weights", "/nowhere"]):
        pass
