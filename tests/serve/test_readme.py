"""What the README shows works as it stands there."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest

from tests.face_models import needs_face_models, why_missing
from tests.serve.decoded import frames_of
from tests.serve.making import make
from triportrait import Pipeline
from triportrait.cli import JOBS, main
from triportrait.serve.media.pictures.picture_file import read_picture

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def files_named(tmp_path, monkeypatch) -> None:
    """Stand in a folder with the photograph and the video that the examples name."""
    photo = Path(__file__).parents[1] / "data" / "photo.jpg"
    shutil.copy(photo, tmp_path / "photo.jpg")
    make(tmp_path / "talk.mp4", [read_picture(photo)] * 3, sound="aac")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIPORTRAIT_WEIGHTS", "")


def test_the_python_example_finds_the_face(real_faces, files_named, tmp_path, caplog):
    """On a photograph and a video of it: where the networks are the faces are found."""
    caplog.set_level(logging.INFO)
    (code,) = re.findall(r"<!-- python -->\n```python\n(.*?)```\n<!-- /python -->", README, re.S)
    assert len(code.strip().splitlines()) == 5
    names: dict = {}
    exec(code, names)
    names["pipe"].close()
    assert len(frames_of(tmp_path / "out.mp4")) == 3
    if why_missing is None:
        assert names["frames"].tracker.seen == 3
        assert "middle square" not in caplog.text


@needs_face_models
def test_the_example_of_expressions_runs(files_named):
    page = (Path(__file__).parents[2] / "docs" / "faces" / "expressions.md").read_text()
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], names)
    found = names["found"]
    assert found.values.shape == (1, len(found.names))
    assert found.values.isfinite().all()


def test_the_examples_of_the_library_s_page_run(files_named):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    first, *others = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(first, {})
    with Pipeline.from_pretrained("demo", device="cpu") as pipe:
        names = {"pipe": pipe, "pictures": [read_picture("photo.jpg")] * 2}
        exec("".join(others), names)
        assert names["front"].shape == names["near"].shape == (pipe.image_size, pipe.image_size, 3)
        head = names["points"][names["on_the_head"]]
        assert (head.abs().amax(0) < pipe.config.render.box_side / 2).all()
        assert head[:, 2].max() > 0.25, "the face lies in front of the neck's joint"


@pytest.mark.parametrize("job", JOBS)
def test_the_options_it_names_exist(job, capsys):
    lines = re.findall(rf"triportrait {job} .*", README)
    assert lines
    for line in lines:
        inner = re.findall(r"^\S+ \S+ ([a-z0-9]+)", line) if job in ("profile", "train", "prepare", "evaluate") else []
        with pytest.raises(SystemExit):
            main([job, *inner, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        named = set(re.findall(r"--[a-z-]+", line.split("#")[0]))
        assert named <= known, named - known


def test_the_two_commands_set_everything_up_themselves():
    commands = re.findall(r"```\n(python3 -m venv .*)\n```", README)
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "\n" not in command
    assert ".venv/bin/triportrait demo out.mp4 " in commands[0]
    assert commands[1].endswith(".venv/bin/pytest -n 2")


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
    assert "-m tests.serve.soak" in called
    assert "tests/train/kills.py" in called
    for one in called:
        path = root / (one.removeprefix("-m ").replace(".", "/") + ".py" if one.startswith("-m") else one)
        assert path.is_file(), one
        if not one.startswith("-m") and "sys.path.insert" not in (code := path.read_text()):
            assert not re.search(r"^ *(from|import) (tests|docs)\b", code, re.M), one
