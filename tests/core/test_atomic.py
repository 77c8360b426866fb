"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from triportrait.core.atomic import put_folder, replacing, write_text
from triportrait.core.errors import InputError


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("only_writer", [False, True])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error, only_writer):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path, only_writer=only_writer) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "result.png"
    with pytest.raises(InputError, match="appeared meanwhile"), replacing(path, overwrite=False) as part:
        part.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["result.png"]


def test_what_a_kill_left_behind_is_written_over(tmp_path):
    (tmp_path / ".log.part.jsonl").write_text("left behind")
    write_text(tmp_path / "log.jsonl", "whole")
    assert (tmp_path / "log.jsonl").read_text() == "whole"
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_a_link_is_followed_and_permissions_are_those_asked_for(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link", permissions=0o600) as part:
        part.write_text("secret")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "secret"
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_a_folder_comes_back_where_the_new_one_cannot_take_its_name(tmp_path):
    folder, old = tmp_path / "run", tmp_path / ".run.old"
    folder.mkdir()
    (folder / "file").write_text("old")
    with pytest.raises(FileNotFoundError):
        put_folder(tmp_path / "absent", folder, old)
    assert (folder / "file").read_text() == "old"
    part = tmp_path / ".run.part"
    part.mkdir()
    put_folder(part, folder, old, synced=True)
    assert os.listdir(tmp_path) == ["run"]
    assert not os.listdir(folder)
