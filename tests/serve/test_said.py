"""What names, folders and files say reaches a terminal or a log on one line, escaped and short."""

from __future__ import annotations

import json
import logging
import shutil

import av
import pytest
from PIL import Image

from tests.serve.attacks import DOCS
from tests.serve.faces import picture
from tests.serve.making import make
from triportrait.cli import main
from triportrait.core.log_lines import JsonFormatter

NAME = "a\x1b[2J\n\u202eb"


def said_of(capsys) -> str:
    told = capsys.readouterr()
    both = told.out + told.err
    for line in both.splitlines():
        assert line.isprintable(), line[:200]
        assert len(line) <= 1000, line[:200]
    assert both.count("\n") == len(both.splitlines())
    assert "\x1b" not in both
    return both


def test_names_of_files_and_folders(tmp_path, capsys):
    """Source, frames, a damaged one among them, output, weights: in the story, in warnings and in the closing line."""
    frames = tmp_path / f"frames{NAME}"
    frames.mkdir()
    for i in range(3):
        Image.fromarray(picture(i)).save(frames / f"{NAME}{i}.png")
    data = (frames / f"{NAME}1.png").read_bytes()
    (frames / f"{NAME}1.png").write_bytes(data[: len(data) // 2])
    weights = tmp_path / f"w{NAME}"
    shutil.copytree(DOCS.parent / "core" / "weights" / "demo", weights)
    common = ["--weights", str(weights), "--faces", "none"]
    assert main(["reenact", str(frames), str(frames), str(tmp_path / f"{NAME}.mp4"), *common]) == 0
    said = said_of(capsys)
    assert r"a\x1b[2J\n\u202eb" in said
    assert "1 of 3 pictures are damaged" in said
    assert main(["verify", str(tmp_path / f"{NAME}.mp4")]) == 0
    said_of(capsys)
    assert main(["doctor", "--weights", str(weights)]) == 0
    said_of(capsys)
    assert main(["reenact", str(frames), str(tmp_path / NAME), str(tmp_path / "x.mp4"), *common, "-v"]) == 2
    assert "Traceback" in said_of(capsys)


def test_metadata_of_a_film(tmp_path, capsys):
    film = tmp_path / "film.webm"
    make(tmp_path / "plain.mp4", [picture(i) for i in range(3)], pts=[0, 3600, 7200])
    with av.open(str(tmp_path / "plain.mp4")) as given, av.open(str(film), "w") as out:
        out.metadata["title"] = NAME * 1000
        stream = out.add_stream("libvpx-vp9", rate=25, width=128, height=128, pix_fmt="yuv420p")
        for frame in given.decode(video=0):
            out.mux(stream.encode(frame.reformat(128, 128, "yuv420p")))
        out.mux(stream.encode())
    command = [
        "reenact",
        str(DOCS / "demo" / "portrait.jpg"),
        str(film),
        str(tmp_path / "out.mp4"),
        "--weights",
        "demo",
    ]
    assert main([*command, "--faces", "none"]) == 0
    assert main(["verify", str(film), "--json"]) == 1
    said_of(capsys)


@pytest.mark.parametrize("text", [NAME, "\x9b2J\x7f", "x" * 3_000_000])
def test_lines_of_the_live_log(text):
    record = logging.makeLogRecord({"msg": text, "fields": {"reason": text, "n": 3}})
    line = JsonFormatter().format(record)
    told = json.loads(line)
    assert line.isprintable()
    assert len(line) < 3000
    assert told["n"] == 3
    assert told["message"].isprintable()
    try:
        raise ValueError(text)
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert len(line) < 30_000
    assert "traceback" in json.loads(line)
