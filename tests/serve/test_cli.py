"""The front door: help without torch, unknown jobs, doctor's screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from triportrait import __version__, cli
from triportrait.options import parse
from triportrait.serve.jobs.doctor import Doctor
from triportrait.serve.jobs.reenact import Reenact
from triportrait.serve.jobs.verify import Verify
from triportrait.train.jobs.prepare import Prepare


def test_help_lists_the_jobs_and_needs_no_torch():
    code = "import sys; from triportrait.cli import main; main(['--help']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for job in cli.JOBS:
        assert f"  {job}" in said
    assert said.endswith("False\n")


def test_python_m_is_the_command():
    said = subprocess.run(
        [sys.executable, "-m", "triportrait", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"triportrait {__version__}\n"


def test_an_unknown_job_and_an_unknown_option_end_with_2(capsys):
    assert cli.main(["animate"]) == 2
    assert capsys.readouterr().err.startswith(f"triportrait: job: expected one of {', '.join(cli.JOBS)}, got 'animate'")
    assert cli.main(["doctor", "--colour"]) == 2


LONG = 300 * "n"


@pytest.mark.parametrize(
    "words",
    [
        ["reenact", f"{LONG}.jpg", "photo.jpg", "out.png"],
        ["reenact", "photo.jpg", "photo.jpg", "out.png", "--weights", LONG],
        ["mesh", "photo.jpg", f"{LONG}.glb"],
        ["personalize", f"{LONG}.jpg", "out.safetensors"],
        ["live", "--weights", LONG],
        ["verify", LONG],
        ["convert", LONG, "weights"],
        ["demo", f"{LONG}.mp4"],
        ["prepare", "heads", LONG],
        ["prepare", "check", LONG],
        ["train", "tiny", "--out", LONG],
        ["train", "export", LONG, "weights"],
        ["train", "stage1", "--data", LONG, "--out", "run"],
    ],
    ids=lambda words: " ".join(words[:2])[:20],
)
def test_a_name_that_is_too_long_for_a_file_is_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.jpg")
    assert cli.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "too long" in said
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


LISTED = "`triportrait reenact --help` lists the options"
USAGE = "triportrait reenact SOURCE DRIVING OUT"
MISUSE = {
    "unknown option": (["--framez", "3"], f"reenact: there is no option --framez, perhaps --frames; {LISTED}"),
    "no such negation": (
        ["--no-overwrite"],
        f"reenact: there is no option --no-overwrite, perhaps --overwrite; {LISTED}",
    ),
    "only the negation": (["--neck"], f"reenact: there is no option --neck, perhaps --no-neck; {LISTED}"),
    "no whole number": (["--frames", "1e3"], f"--frames: expected a whole number, got '1e3'; {LISTED}"),
    "None": (["--frames=None"], f"--frames: expected a whole number, got 'None'; {LISTED}"),
    "no number": (["--yaw-deg", "left"], f"--yaw-deg: expected a number, got 'left'; {LISTED}"),
    "no choice": (["--device", "gpu"], f"--device: expected one of auto, cpu, cuda, got 'gpu'; {LISTED}"),
    "a long word": (["--device", "x" * 99], f"--device: expected one of auto, cpu, cuda, got '{'x' * 99}'; {LISTED}"),
    "no value": (["--frames"], f"--frames: a value is wanted, none came; {LISTED}"),
    "too many": (["d"], f"reenact: 'd' is one argument too many; {LISTED}"),
    "by name and by place": (
        ["--out", "3"],
        f"reenact: OUT came by name and by place, or 'c.mp4' is one argument too many; {USAGE}",
    ),
    "nearly what has a place": (["--outt", "3"], f"reenact: there is no option --outt, perhaps OUT; {USAGE}; {LISTED}"),
    "near to nothing": (["--bogus"], f"reenact: there is no option --bogus; {LISTED}"),
    "a letter": (["-x"], f"reenact: there is no option -x; {LISTED}"),
    "a long option": ([f"--{'x' * 5000}"], None),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_of_the_options_is_one_sentence(case, capsys):
    options, sentence = MISUSE[case]
    assert cli.main(["reenact", "a.png", "b.mp4", "c.mp4", *options]) == 2
    said = capsys.readouterr().err
    assert said == f"triportrait: {sentence}\n" if sentence is not None else len(said) < 300


NAMED = {
    "letters": "-s a.png -d b.mp4 -o c.mp4",
    "words": "--source a.png --driving b.mp4 --out c.mp4",
    "in another order, with options between": "--out=c.mp4 --frames 3 -d b.mp4 --orbit -s a.png",
    "the last": "a.png b.mp4 --frames 3 --out c.mp4",
    "the first": "-s a.png --orbit b.mp4 c.mp4",
    "the outer ones": "-o c.mp4 b.mp4 -s a.png",
    "the middle one": "a.png --driving b.mp4 c.mp4",
    "by place": "a.png b.mp4 c.mp4",
}


@pytest.mark.parametrize("line", NAMED.values(), ids=NAMED)
def test_what_has_a_place_may_be_named(line):
    parsed = parse("reenact", Reenact, line.split())
    assert [str(parsed.source), str(parsed.driving), str(parsed.out)] == ["a.png", "b.mp4", "c.mp4"]
    assert parsed.frames == (3 if "--frames" in line else None)
    assert parsed.orbit == ("--orbit" in line)


def test_named_places_of_a_kind_of_job():
    parsed = parse("prepare", Prepare, ["lmdb", "--out", "b", "--lmdb", "a"])
    assert (str(parsed.lmdb), str(parsed.out)) == ("a", "b")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("-s a -s b", f"reenact: SOURCE came twice; {USAGE}"),
        ("a b --out", f"--out: a value is wanted, none came; {USAGE}"),
        ("a --out c", f"reenact: DRIVING is missing; {LISTED}"),
    ],
)
def test_names_that_leave_a_doubt_are_one_sentence(line, sentence, capsys):
    assert cli.main(["reenact", *line.split()]) == 2
    assert capsys.readouterr().err == f"triportrait: {sentence}\n"


@pytest.mark.parametrize(
    "arguments", [["\x1b[2Jjob"], ["doctor", "--\x1b[2J"], ["convert", "\x1b[2J", "\n"], ["x" * 9999]]
)
def test_what_was_typed_is_shown_escaped_and_cut(arguments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    assert len(said) < 1100


def test_missing_arguments_are_named(capsys):
    for given, missing in (([], "SOURCE, DRIVING and OUT are"), (["a"], "DRIVING and OUT are"), (["a", "b"], "OUT is")):
        assert cli.main(["reenact", *given]) == 2
        assert capsys.readouterr().err == f"triportrait: reenact: {missing} missing; {LISTED}\n"


def test_help_names_things_as_the_sentences_do(capsys):
    said = {}
    for job in cli.JOBS:
        with pytest.raises(SystemExit):
            cli.main([job, "--help"])
        said[job] = capsys.readouterr().out
        assert f"usage: triportrait {job}" in said[job]
    assert "SOURCE DRIVING OUT\n" in said["reenact"]
    assert "FILE FOLDER\n" in said["convert"]
    everything = "".join(said.values())
    assert set(re.findall(r"--no-[a-z-]+", everything)) == {
        "--no-geometry", "--no-neck", "--no-overlay", "--no-segment", "--no-smooth", "--no-watermark",
    }  # fmt: skip
    assert "None" not in everything
    assert "driver" not in everything


def test_convert_says_what_it_wrote_and_refuses_in_one_sentence(tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(b"\x89PNG")
    assert cli.main(["convert", str(tmp_path / "x.pkl"), str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "x.pkl" in said[0]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "job, own, wanted", [("reenact", None, "passive"), ("reenact", "active", "active"), ("doctor", None, None)]
)
def test_threads_of_a_job_that_serves_wait_without_taking_a_core(job, own, wanted, monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")  # remembered, whatever the job does
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main([job, "--no-such-option"]) == 2
    assert os.environ.get("OMP_WAIT_POLICY") == wanted


@pytest.mark.parametrize(
    ("job", "arguments", "ending"), [(Doctor, [], "; nothing half-written is left"), (Verify, ["x.mp4"], "")]
)
def test_an_interrupt_is_130(job, arguments, ending, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupted)
    assert cli.main([job.__name__.lower(), *arguments]) == 130
    assert capsys.readouterr().err == f"\ntriportrait: interrupted{ending}\n", "verify writes no files"


def test_a_library_that_does_not_load_is_one_sentence():
    code = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "av":
            raise ImportError("libav.so: cannot open shared object file")
sys.meta_path.insert(0, Finder())
from triportrait.cli import main
sys.exit(main(["reenact", "a", "b", "c.mp4"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "triportrait: av is installed but does not load (libav.so: cannot open shared object file); install it again; "
        "`triportrait doctor` shows more\n"
    )


@pytest.mark.parametrize("words", ["reenact --bogus a b c", "demo --bogus", "reenact a --bogus", "train tiny --bogus"])
def test_an_option_that_there_is_not_is_named_first(words, capsys):
    """What stands after it would be taken for its value, or it for the value of a place."""
    assert cli.main(words.split()) == 2
    assert "there is no option --bogus" in capsys.readouterr().err
