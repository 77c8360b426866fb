"""An output appears whole, under a name that was free, or not at all; and the reason is the true one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serve.making import H, W, as_a_stranger, make, moving, scene
from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.serve.media.output_file import check_output
from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["links", "no links"])
def file_system(request, monkeypatch):
    """Once as it is, once as one without hard links."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)


def test_what_appears_meanwhile_is_kept(tmp_path, file_system):
    out = tmp_path / "out.mp4"
    with (
        pytest.raises(InputError, match=r"out.mp4: it appeared meanwhile .*; pass --overwrite to replace it"),
        VideoWriter(out, size_px=(W, H), fps=30) as writer,
    ):
        writer.write(moving(0), 0)
        out.write_bytes(b"somebody's")
    assert out.read_bytes() == b"somebody's"
    assert os.listdir(tmp_path) == ["out.mp4"]
    with VideoWriter(out, size_px=(W, H), fps=30, overwrite=True) as writer:
        writer.write(moving(0), 0)
    assert len(list(open_clip(out).frames())) == 1
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_of_two_writers_of_one_output_the_first_wins(tmp_path, file_system):
    out = tmp_path / "out.png"
    with replacing(out, False) as first:
        first.write_bytes(b"first")
        with pytest.raises(InputError, match="appeared meanwhile"), replacing(out, False) as second:
            second.write_bytes(b"second")
            with replacing(out, False) as third:
                third.write_bytes(b"third")
        assert out.read_bytes() == b"third"
        out.unlink()
    assert out.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_picture_replaces_only_when_told(tmp_path, file_system):
    write_picture(tmp_path / "a.png", scene())
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        write_picture(tmp_path / "a.png", scene()[::-1])
    assert (tmp_path / "a.png").read_bytes() == before
    write_picture(tmp_path / "a.png", scene()[::-1], overwrite=True)
    assert (tmp_path / "a.png").read_bytes() != before
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_reserved_name_is_given_back_when_the_file_cannot_come(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"no space left on device\); free some space or choose another folder"):
        write_picture(tmp_path / "a.png", scene())
    assert os.listdir(tmp_path) == []


def test_the_reason_is_the_true_one(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with as_a_stranger(), pytest.raises(InputError) as caught:
            check_output(Path(folder) / "a.mp4")
    assert str(caught.value).endswith("could not be written (permission denied); choose another folder")
    if os.path.isdir("/proc"):
        with pytest.raises(InputError, match=r"\(its folder /proc takes no new files\); choose another folder"):
            check_output("/proc/x.mp4")
    (tmp_path / "gone").mkdir()
    with (
        pytest.raises(InputError, match=r"\(its folder .*/gone is gone\); choose another folder"),
        VideoWriter(tmp_path / "gone" / "a.mp4", size_px=(W, H), fps=30) as writer,
    ):
        writer.write(moving(0), 0)
        shutil.rmtree(tmp_path / "gone")


def test_every_file_of_the_driving_clip_is_an_input(tmp_path):
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", scene())
    files = open_clip(tmp_path).files
    assert [file.name for file in files] == ["0.png", "1.png", "2.png"]
    with pytest.raises(InputError, match=r"1.png: this is the input"):
        check_output(tmp_path / "1.png", True, (".png",), sources=files)
    driving = make(tmp_path / "a.mp4", 2)
    assert open_clip(driving).files == [driving]
    with suppress(FileNotFoundError):
        os.link(driving, tmp_path / "same.mp4")
    with pytest.raises(InputError, match=r"same.mp4: this is the input"):
        check_output(tmp_path / "same.mp4", True, sources=[driving])
