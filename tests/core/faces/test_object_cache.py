"""Machine code that is kept from one process to the next: only whole code of this user's own is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from triportrait.core.faces import object_cache
from triportrait.core.faces.object_cache import FOLDER, MOST_FILES, object_code


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def made(recipe: str = "recipe") -> tuple[bytes, int]:
    """The code, and how often it was compiled."""
    calls = []

    def make() -> bytes:
        calls.append(recipe)
        return b"code of " + recipe.encode()

    return object_code(recipe, make), len(calls)


def test_code_is_compiled_once(folder):
    assert made() == (b"code of recipe", 1)
    assert made() == (b"code of recipe", 0)
    assert made("another") == (b"code of another", 1)
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600] * 2
    assert folder.stat().st_mode & 0o777 == 0o700


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _replaced(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _open_to_all(file: Path) -> None:
    file.chmod(0o666)


def _in_an_open_folder(file: Path) -> None:
    file.parent.chmod(0o777)


def _linked(file: Path) -> None:
    content, elsewhere = file.read_bytes(), file.parent.parent / "elsewhere"
    elsewhere.write_bytes(content)
    file.unlink()
    file.symlink_to(elsewhere)


@pytest.mark.parametrize("spoil", [_cut, _replaced, _emptied, _open_to_all, _in_an_open_folder, _linked])
def test_code_that_may_be_another_s_is_compiled_anew(folder, spoil):
    made()
    (file,) = folder.iterdir()
    spoil(file)
    assert made() == (b"code of recipe", 1)


def test_another_user_s_code_is_not_run(folder, monkeypatch):
    made()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert made() == (b"code of recipe", 1)


def test_without_a_place_each_process_compiles(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "file"))
    assert made() == made() == (b"code of recipe", 1)


def test_the_oldest_code_goes(folder, monkeypatch):
    for number in range(MOST_FILES + 3):
        made(str(number))
        for file in folder.iterdir():  # the clock may be coarse
            os.utime(file, (file.stat().st_mtime - 10,) * 2)
    assert len(list(folder.iterdir())) == MOST_FILES
    assert made(str(MOST_FILES + 2))[1] == 0
    assert made("0")[1] == 1
    monkeypatch.setattr(object_cache, "LARGEST", 10)
    assert made(str(MOST_FILES + 2))[1] == 1
