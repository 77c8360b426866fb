"""Only regular files are opened, no more of them is read than is wanted, and JSON is strict."""

from __future__ import annotations

import json
import os
import socket
import struct

import pytest

from triportrait.core.errors import InputError
from triportrait.core.files import (
    MOST_HEADER,
    check_regular,
    check_tensor_file,
    opened,
    parsed_json,
    read_bytes,
    read_json,
)


def irregular(folder):
    """What is no file, by its kind."""
    os.mkfifo(folder / "pipe")
    (folder / "link to a pipe").symlink_to(folder / "pipe")
    (folder / "link to a device").symlink_to("/dev/zero")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return {
        "a pipe": [folder / "pipe", folder / "link to a pipe"],
        "a device": [folder / "link to a device", "/dev/zero", "/dev/tty"],
        "a socket": [folder / "socket"],
    }


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    for kind, paths in irregular(tmp_path.relative_to(tmp_path)).items():
        for path in paths:
            for read in (check_regular, opened, lambda p: read_bytes(p, 9), read_json, check_tensor_file):
                with pytest.raises(InputError, match=f"expected a file, this is {kind}; name a regular file"):
                    read(path)
    for read in (check_regular, opened, read_json):
        with pytest.raises(IsADirectoryError):
            read("folder")


def test_what_is_put_there_meanwhile_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    result = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: result)
    with pytest.raises(InputError, match="this is a pipe"):
        opened(tmp_path / "pipe")


def test_a_file_is_read_whole_and_within_its_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"123456")
    (tmp_path / "link").symlink_to("file")
    with opened(tmp_path / "link") as file:
        assert os.get_blocking(file.fileno())
        assert file.read() == b"123456"
    assert read_bytes(tmp_path / "file", 6) == b"123456"
    with pytest.raises(InputError, match="expected at most 5 bytes, got 6; name another file"):
        read_bytes(tmp_path / "file", 5)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        opened("a\0b")


WRONG = {
    "a name twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "c stands twice in one object"),
    "no number": ('{"a": NaN}', "NaN is no finite number"),
    "infinite": ("[-Infinity]", "-Infinity is no finite number"),
    "infinite by its exponent": ("1e999", "1e999 is no finite number"),
    "a large number": ('{"a": 1' + "0" * 400 + "}", "a is a number of about 401 digits"),
    "a large number in a list": ('{"a": [1, 1' + "0" * 40 + "]}", "a is a number of about 41 digits"),
    "a larger number": ('{"a": 1' + "0" * 9000 + "}", "digits"),
    "deep": ("[" * 100 + "]" * 100, "more than 64 deep"),
    "deeper": ("[" * 100_000 + "]" * 100_000, "more than 64 deep"),
    "cut": ('{"a": ', "Expecting value"),
    "no letters": (b'"\xff"', "utf-8"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_strict_json_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "x.json")


def test_json_that_is_right_comes_back():
    value = {"a": [1, -2.5, "é", None, True, {"b": 2**63}]}
    assert parsed_json(json.dumps(value)) == value
    assert str(parsed_json("[NaN]", finite=False)) == "[nan]"


def header(folder, text, length=None):
    data = text.encode() if isinstance(text, str) else text
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(data) if length is None else length) + data)
    return path


def test_the_header_of_tensors_is_bounded_and_names_each_once(tmp_path):
    one = '"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
    for told in ("", ', "__metadata__": {"a": "b"}'):
        assert check_tensor_file(header(tmp_path, f"{{{one}{told}}}")) == json.loads(f"{{{one}{told}}}")
    assert not check_tensor_file(header(tmp_path, '{"__metadata__": null}'))
    for path, message in (
        (lambda: header(tmp_path, f"{{{one}, {one}}}"), "a stands twice"),
        (lambda: header(tmp_path, "[]"), "no object"),
        (lambda: header(tmp_path, "{}", 2**62), "header is cut"),
        (lambda: header(tmp_path, b" " * (MOST_HEADER + 1)), "header has 8,388,609 bytes, 8,388,608 at most"),
        (lambda: header(tmp_path, b"\0", 0), "Expecting value"),
        (lambda: header(tmp_path, '{"__metadata__": {"person": 5}}'), "its metadata are no object of texts"),
        (lambda: header(tmp_path, '{"__metadata__": ["person"]}'), "its metadata are no object of texts"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tensor_file(path())
    (tmp_path / "x.safetensors").write_bytes(b"\0")
    with pytest.raises(ValueError, match="header is cut"):
        check_tensor_file(tmp_path / "x.safetensors")
