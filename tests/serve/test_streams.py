"""Closed, full and broken streams, and signals, cost neither the work nor the exit code."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys

import pytest

from triportrait import cli
from triportrait.serve.jobs import doctor
from triportrait.serve.media.video.clips import open_clip

# What is printed waits in a buffer, as it does for users; some machines that test switch that off.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
COMMAND = f"{shlex.quote(sys.executable)} -m triportrait"


@pytest.mark.parametrize("arguments, code", [("doctor --help", 0), ("doctor --colour", 2)])
@pytest.mark.parametrize(
    "streams", ["<&- >&- 2>&-", "2>&-", ">&-", "2>&1 >/dev/full", ">/dev/full 2>/dev/full", "2>&1 | :"]
)
def test_short_answers_need_no_listener(arguments, code, streams):
    if "full" in streams and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    shell = f"set -o pipefail; {{ sleep 0.1; {COMMAND} {arguments}; }} {streams}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=BUFFERED)
    assert done.returncode == code, done.stderr
    for said in (done.stdout, done.stderr):
        assert "Traceback" not in said
        assert "Exception ignored" not in said


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_video_is_made_though_nobody_listens(portrait_file, driving, tiny_weights, tmp_path, streams):
    if "full" in streams and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    arguments = ["reenact", str(portrait_file), str(driving), str(tmp_path / "out.mp4"), "--weights", str(tiny_weights)]
    arguments += ["--faces", "none"]
    shell = f"{COMMAND} {shlex.join(arguments)} -v {streams}"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, env=BUFFERED).returncode == 0
    clip = open_clip(tmp_path / "out.mp4")
    assert len(list(clip.frames())) == 4
    assert clip.warnings == []


def test_a_stream_that_fails_in_the_middle(monkeypatch, capsys):
    class Broken:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        flush = fileno = isatty = lambda self: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe"))

    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(doctor.Doctor, "run", lambda self: print("a row"))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == ""
    assert isinstance(sys.stdout, Broken)


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(doctor.Doctor, "run", lambda self: print("größe \udcff"))
    assert cli.main(["doctor"]) == 0
    assert stream.buffer.getvalue() == b"gr\\xf6\\xdfe \\udcff\n"


@pytest.mark.parametrize("more", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_impatience_does_not_interrupt_the_cleaning(portrait_file, driving, tiny_weights, tmp_path, more):
    """One Ctrl-C while streaming, two more signals while the partial output is removed."""
    before = sorted(tmp_path.iterdir())
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background hands it on ignored
        "from triportrait.serve.media.provenance.stamp import Stamp\n"
        "from triportrait.serve.media.video.writer import VideoWriter\n"
        "from triportrait.cli import main\n"
        "def slow(self, image):\n"
        "    print('streaming', flush=True)\n"
        "    time.sleep(3)\n"
        "    return image\n"
        "def leave(self, *error):\n"
        "    print('cleaning', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    original(self, *error)\n"
        "Stamp.mark = slow\n"
        "original, VideoWriter.__exit__ = VideoWriter.__exit__, leave\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["reenact", str(portrait_file), str(driving), str(tmp_path / "out.mp4"), "--weights", str(tiny_weights)]
    arguments += ["--faces", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "streaming\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(more)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.endswith("triportrait: interrupted; nothing half-written is left\n")
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_ignored_stays_ignored(monkeypatch):
    seen = {}

    def look(self):
        seen.update({s: signal.getsignal(s) for s in (signal.SIGHUP, signal.SIGTERM)})

    monkeypatch.setattr(doctor.Doctor, "run", look)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert cli.main(["doctor"]) == 0
        assert seen[signal.SIGHUP] is signal.SIG_IGN
        assert callable(seen[signal.SIGTERM])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
