"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.serve.faces import picture
from triportrait.cli import JOBS, main

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_example(tiny_weights, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "frame.png"):
        Image.fromarray(picture(1)).save(name)
    names: dict = {}
    exec(code.replace('"weights"', repr(str(tiny_weights))).replace("512)) for p", "128)) for p"), names)
    assert names["view"].image.shape == (1, 3, 128, 128) and names["view"].depth.shape == (1, 1, 64, 64)


@pytest.mark.parametrize("job", JOBS)
def test_the_options_it_names_exist(job, capsys):
    for line in re.findall(rf"triportrait {job} .*", README):
        inner = re.findall(r"^\S+ \S+ ([a-z0-9]+)", line) if job in ("profile", "train", "prepare") else []
        with pytest.raises(SystemExit):
            main([job, *inner, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        named = set(re.findall(r"--[a-z-]+", line.split("#")[0]))
        assert named <= known, named - known


def test_the_two_commands_set_everything_up_themselves():
    commands = re.findall(r"```\n(python3 -m venv .*)\n```", README)
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ") and "\n" not in command
    assert ".venv/bin/triportrait demo out.mp4 " in commands[0] and commands[1].endswith(".venv/bin/pytest -n 2")


def test_the_pictures_it_shows_are_there():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert "docs/demo/frame.png" in shown
    for name in shown:
        assert (Path(__file__).parents[2] / name).is_file(), name


def test_the_scripts_that_pages_name_can_be_called_as_they_say():
    """A script that is called by its path does not see the folders `tests` and `docs`; one called by `-m` does."""
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "tests").rglob("*.py")]
    called = {c for page in pages for c in re.findall(r"`python (-m (?:docs|tests)[\w.]+|\S+\.py)", page.read_text())}
    assert "-m tests.serve.soak" in called and "tests/train/kills.py" in called
    for one in called:
        path = root / (one.removeprefix("-m ").replace(".", "/") + ".py" if one.startswith("-m") else one)
        assert path.is_file(), one
        if not one.startswith("-m") and "sys.path.insert" not in (code := path.read_text()):
            assert not re.search(r"^ *(from|import) (tests|docs)\b", code, re.M), one
