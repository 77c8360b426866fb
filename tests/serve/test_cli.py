"""The front door: help without torch, unknown jobs, doctor's screen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from triportrait import __version__
from triportrait.serve import cli
from triportrait.serve.jobs import doctor


def test_help_lists_the_jobs_and_needs_no_torch():
    code = "import sys; from triportrait.serve.cli import main; main(['--help']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for job in cli.JOBS:
        assert f"  {job}" in said
    assert said.endswith("False\n")


def test_python_m_is_the_command():
    said = subprocess.run(
        [sys.executable, "-m", "triportrait", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"triportrait {__version__}\n"


@pytest.mark.parametrize("job", cli.JOBS)
def test_each_job_has_help(job, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([job, "--help"])
    assert stop.value.code == 0 and "usage: triportrait " + job in capsys.readouterr().out


def test_an_unknown_job_and_an_unknown_option_end_with_2(capsys):
    assert cli.main(["animate"]) == 2
    assert capsys.readouterr().err.startswith(
        "triportrait: job: expected one of reenact, convert, doctor, got 'animate'"
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--colour"])
    assert stop.value.code == 2


def test_convert_says_what_it_wrote_and_refuses_in_one_sentence(tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(b"\x89PNG")
    assert cli.main(["convert", str(tmp_path / "x.pkl"), str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "x.pkl" in said[0] and not (tmp_path / "w").exists()


def test_verbose_shows_where_an_error_came_from(tmp_path, capsys):
    assert cli.main(["convert", str(tmp_path / "none.pkl"), str(tmp_path / "w"), "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130(monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor.Doctor, "run", interrupted)
    assert cli.main(["doctor"]) == 130


class TestDoctor:
    def test_a_row_for_everything(self, capsys, monkeypatch):
        monkeypatch.delenv("TRIPORTRAIT_WEIGHTS", raising=False)
        assert cli.main(["doctor"]) == 0
        said = capsys.readouterr().out
        for name in ("Python", "torch", "CUDA", "Triton", "xFormers", "DALI", "DeepSpeed", "video", "weights"):
            assert f"\n{name} " in f"\n{said}", name
        assert "H.264" in said and "--weights rule checks the installation" in said

    def test_the_weights_it_finds(self, capsys, tiny_weights, tmp_path):
        assert cli.main(["doctor", "--weights", str(tiny_weights)]) == 0
        assert "motion, portrait" in capsys.readouterr().out
        cli.main(["doctor", "--weights", str(tmp_path)])
        assert "lacking portrait, motion" in capsys.readouterr().out

    def test_what_is_missing_has_its_command(self, monkeypatch):
        def absent(name):
            raise doctor.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(doctor.metadata, "version", absent)
        rows = {row.name: row for row in doctor.examine(None)}
        assert rows["torch"].verdict == rows["xFormers"].verdict == rows["DALI"].verdict == "missing"
        assert "pip install 'triportrait[cpu]'" in rows["torch"].detail
        assert "triportrait[xformers]" in rows["xFormers"].detail

    def test_a_version_outside_the_range_is_said(self, monkeypatch):
        monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.1.0")
        rows = {row.name: row for row in doctor.examine(None)}
        assert rows["Triton"].verdict == "other" and "written for 3.6 up to below 3.8" in rows["Triton"].detail

    def test_broken_video_is_said_first(self, monkeypatch):
        original = doctor.importlib.import_module

        def broken(name):
            if name == "av":
                raise ImportError("libav.so: cannot open shared object file")
            return original(name)

        monkeypatch.setattr(doctor.importlib, "import_module", broken)
        rows = {row.name: row for row in doctor.examine(None)}
        assert rows["video"].verdict == "missing" and "libav.so" in rows["video"].detail
        assert doctor._summary(rows).startswith("reenact cannot run")
