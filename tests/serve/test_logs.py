"""What is logged, from the modules to the terminal: the options of every job, and what a host program chooses."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from types import ModuleType

import pytest
from tqdm import tqdm

from tests.log_json import FIELDS, log_objects
from triportrait.cli import JOBS, main
from triportrait.core.errors import InputError
from triportrait.core.log_lines import JsonFormatter, TerminalFormatter
from triportrait.log_options import HELP
from triportrait.serve.jobs.doctor import Doctor

logger = logging.getLogger("triportrait.core.somewhere")
FLAGS = ("-v", "--verbose", "--quiet", "--log-json")


def speaks(self: Doctor) -> int:
    """Stands where a job runs: something on each level, from ours and from a library's own logger."""
    logger.debug("a detail")
    logger.info("a step")
    logger.warning("a doubt")
    logging.getLogger("other_library").warning("from elsewhere")
    return 0


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("job", JOBS)
def test_every_job_takes_the_options_of_logging(job, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main([job, flag, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr()
    assert told.out.endswith(f"{HELP}\n")
    assert told.err == ""
    assert main([job, "--no-such-option", flag]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    sentence = json.loads(last)["message"] if flag == "--log-json" else last
    assert f"{job}: " in sentence


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ([], ["a step", "warning: a doubt"]),
        (["-v"], ["a detail", "a step", "warning: a doubt"]),
        (["--quiet"], ["warning: a doubt"]),
    ],
)
def test_what_is_shown(flags, lines, capsys, monkeypatch):
    monkeypatch.setattr(Doctor, "run", speaks)
    assert main(["doctor", *flags]) == 0
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("flags", [[], ["--log-json"]])
def test_a_line_does_not_end_in_a_progress_bar(flags, capsys, monkeypatch):
    def shows_a_bar(self: Doctor) -> int:
        with tqdm(total=2, file=sys.stderr, mininterval=0, desc="training") as bar:
            bar.update()
            speaks(self)
        return 0

    monkeypatch.setattr(Doctor, "run", shows_a_bar)
    assert main(["doctor", *flags]) == 0
    lines = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    said = [line for line in lines if "a step" in line or "a doubt" in line]
    assert len(said) == 2
    assert not any("training" in line for line in said)


def test_a_tqdm_that_is_loaded_by_half_shows_no_bar(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setattr(Doctor, "run", speaks)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err.splitlines() == ["a step", "warning: a doubt"]


@pytest.mark.parametrize("when", ["clear", "refresh"])
def test_a_bar_that_cannot_be_drawn_costs_no_line_and_no_caller(when, capsys, monkeypatch):
    """Of a bar whose terminal is gone, before the line or after it."""

    def is_gone(*given: object, **named: object) -> None:
        raise OSError(f"no terminal to {when} it in")

    def shows_a_bar(self: Doctor) -> int:
        with tqdm(total=2, file=sys.stderr, desc="training"), monkeypatch.context() as broken:
            broken.setattr(tqdm, when, is_gone)
            return speaks(self)

    monkeypatch.setattr(Doctor, "run", shows_a_bar)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().err
    assert [said.count(f"{line}\n") for line in ("a step", "warning: a doubt")] == [1, 1]
    assert said.count(f"OSError: no terminal to {when} it in") == 2


def test_of_several_processes_the_first_speaks_and_all_tell_of_errors(capsys, monkeypatch):
    monkeypatch.setattr(Doctor, "run", speaks)
    monkeypatch.setenv("RANK", "1")
    assert main(["doctor", "-v"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["animate"]) == 2
    assert capsys.readouterr().err.startswith("triportrait: job: expected one of")


def test_json_lines_are_all_that_comes(capsys, monkeypatch):
    def warns(self):
        warnings.warn("a number\nover two lines", stacklevel=1)
        return speaks(self)

    monkeypatch.setattr(Doctor, "run", warns)
    assert main(["--log-json", "doctor"]) == 0
    lines = log_objects(capsys.readouterr().err)
    assert [line["level"] for line in lines] == ["warning", "info", "warning", "warning"]
    assert [line["logger"] for line in lines] == ["py.warnings", logger.name, logger.name, "other_library"]
    assert "a number" in lines[0]["message"]
    assert all(set(line) == FIELDS for line in lines)


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("broken"), 1), (KeyboardInterrupt(), 130)])
def test_an_end_that_nobody_wanted_is_a_json_line_too(error, code, capsys, monkeypatch):
    def ends(self):
        raise error

    monkeypatch.setattr(Doctor, "run", ends)
    assert main(["doctor", "--log-json"]) == code
    (line,) = log_objects(capsys.readouterr().err)
    assert line["level"] == ("critical" if code == 1 else "error")
    assert ("RuntimeError: broken" in line.get("traceback", "")) == (code == 1)
    if code == 1:
        with pytest.raises(RuntimeError):
            main(["doctor"])


def test_a_command_leaves_logging_as_it_was(capsys):
    ours, root = logging.getLogger("triportrait"), logging.getLogger()
    before = ours.level, list(ours.handlers), list(root.handlers), warnings.showwarning
    for flag in FLAGS:
        main(["animate", flag])
    assert (ours.level, ours.handlers, root.handlers, warnings.showwarning) == before


def test_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "triportrait", "convert", str(tmp_path / "none.pkl"), str(tmp_path / "w")]
    done = subprocess.run([*command, "--log-json", "-v"], capture_output=True, text=True, check=False)
    (line,) = log_objects(done.stderr)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "none.pkl" in line["message"]
    assert "InputError" in line["traceback"]


def test_a_host_program_decides_by_itself():
    """No module touches logging when it is imported; the host's handler hears us, until it mutes us."""
    code = """
import importlib, logging, pkgutil
heard = []
class Heard(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())
root, ours = logging.getLogger(), logging.getLogger("triportrait")
root.addHandler(Heard())
import triportrait
for module in pkgutil.walk_packages(triportrait.__path__, "triportrait."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert ours.handlers == [] and ours.level == logging.NOTSET and ours.propagate, ours
assert len(root.handlers) == 1 and root.level == logging.WARNING, root
del heard[:]
logging.getLogger("triportrait.serve.faces").warning("one")
ours.setLevel(logging.CRITICAL)
logging.getLogger("triportrait.serve.faces").warning("two")
assert heard == ["one"], heard
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_traceback_shows_no_codes_either():
    try:
        try:
            raise ValueError("\x1b[2J" + "line\n" * 1_000_000)
        except ValueError as error:
            raise InputError("a sentence") from error
    except InputError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "a sentence", (), sys.exc_info())
    told = TerminalFormatter().format(record)
    assert "\x1b" not in told
    assert "test_logs.py" in told
    assert told.endswith("\ntriportrait: a sentence")
    assert len(told.splitlines()) <= 102
    assert JsonFormatter().format(record).isprintable()
