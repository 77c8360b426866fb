"""`triportrait verify`: generated files pass, and each way to fail is told by a sentence and an exit code."""

from __future__ import annotations

import io
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.serve.attacks import DOCS, photograph, talking
from triportrait.cli import main
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import read_picture, write_picture
from triportrait.serve.media.provenance import manifest
from triportrait.serve.media.provenance import verify as verify_module
from triportrait.serve.media.provenance.manifest import LABEL, Claim, read_manifest, sign
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.provenance.verify import read_file, verify
from triportrait.serve.media.provenance.watermark import Reader, Watermark
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter

pytest.importorskip("c2pa")
SOURCE, DRIVING = DOCS / "demo" / "portrait.jpg", DOCS / "demo" / "driving.mp4"


def film(path: Path, frames) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, size_px=(width, height), fps=25, overwrite=True) as video:
        for index, frame in enumerate(frames):
            video.write(frame, index / 25)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of results of the package's own weights."""
    folder = tmp_path_factory.mktemp("made")
    common = ["reenact", str(SOURCE), str(DRIVING), "--weights", "demo", "--faces", "none"]
    for name, options in {
        "video.mp4": ["--frames", "10"],
        "beside.mov": ["--frames", "6", "--side-by-side", "--orbit"],
        "bare.mp4": ["--frames", "2", "--no-watermark"],
        "video.mkv": ["--frames", "10"],
        "picture.png": ["--frames", "1"],
        "picture.jpg": ["--frames", "1"],
        "picture.webp": ["--frames", "1"],
    }.items():
        assert main([*common[:3], str(folder / name), *common[3:], *options]) == 0, name
    return folder


def shown(path: Path) -> list[bytes]:
    if path.suffix in (".mp4", ".mov"):
        return [frame.image.tobytes() for frame in open_clip(path).frames()]
    return [read_picture(path).tobytes()]


def asked(path: Path, capsys) -> tuple[int, str]:
    code = main(["verify", str(path)])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("name", ["video.mp4", "beside.mov", "picture.png", "picture.jpg", "picture.webp"])
def test_what_is_generated_passes(made, capsys, name):
    code, said = asked(made / name, capsys)
    source = sha256(SOURCE)
    assert code == 0, said
    assert f"source: SHA-256 {source}" in said
    assert f"message {source[:7]}, the first 28 bits" in said
    assert "manifest: intact\n" in said
    assert "an unknown issuer: its certificate proves no name" in said
    assert "verified: whole, and its witnesses agree" in said
    kind = "recorded, with parts made by" if name == "beside.mov" else "says: made by"
    assert f"{kind} a trained network; by triportrait 0.1.0" in said


def test_json_says_the_same(made, capsys):
    assert main(["verify", str(made / "video.mp4"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["intact"]
    assert not found["missing"]
    assert not found["manifest"]["altered"]
    assert found["manifest"]["generation"]["synthetic"] is True
    assert found["manifest"]["generation"]["watermark_message"] == found["watermark"]["message"] == sha256(SOURCE)[:7]
    assert found["watermark"]["pictures"] == 10
    assert found["watermark"]["false_alarm"] < 1e-7


def test_a_watermark_left_out_on_purpose_is_said(made, capsys):
    code, said = asked(made / "bare.mp4", capsys)
    assert code == 0
    assert "watermark: left out" in said
    assert "watermark: not found in 2 pictures" in said


def test_matroska_carries_the_watermark_alone(made, capsys):
    code, said = asked(made / "video.mkv", capsys)
    assert code == 1
    assert "manifest: none" in said
    assert "watermark: found in 10 pictures" in said
    assert said.endswith("NOT VERIFIED: there is no manifest\n")


def test_an_edit_is_found_and_the_watermark_outlives_it(made, tmp_path, capsys):
    data = bytearray((made / "video.mp4").read_bytes())
    at = data.index(b"mdat") + len(data) // 2
    data[at] ^= 4
    (tmp_path / "edited.mp4").write_bytes(data)
    code, said = asked(tmp_path / "edited.mp4", capsys)
    assert code == 1
    assert "manifest: ALTERED, the file is not what was signed" in said
    assert said.endswith("NOT VERIFIED: the file is not what was signed\n")
    frames = [frame.image for frame in open_clip(made / "video.mp4").frames()]
    code, said = asked(film(tmp_path / "again.mp4", frames), capsys)
    assert code == 1
    assert "manifest: none" in said
    assert f"message {sha256(SOURCE)[:7]}" in said


def test_pictures_that_were_swapped_are_found(tmp_path, capsys):
    """A manifest that is intact and another file's watermark; and one that names a watermark where there is none."""
    for name, message, said_of_it in (
        ("other.png", 5, "the watermark's message is not the manifest's"),
        ("none.png", None, "there is no watermark, but the manifest names one"),
    ):
        image = photograph(256, 1)[0]
        write_picture(tmp_path / name, image if message is None else Watermark(message).mark(image))
        sign(tmp_path / name, Claim("2b7e151f" + "0" * 56, "demo", {}, 0x2B7E151))
        code, said = asked(tmp_path / name, capsys)
        assert code == 1
        assert said.endswith(f"NOT VERIFIED: {said_of_it}\n")
    write_picture(tmp_path / "marked.png", Watermark(5).mark(photograph(256, 1)[0]))
    sign(tmp_path / "marked.png", Claim("0" * 64, "demo", {}, None))
    assert asked(tmp_path / "marked.png", capsys)[0] == 1


def test_a_manifest_of_somebody_else_over_our_watermark_is_no_proof(tmp_path, capsys, monkeypatch):
    """Stripped and signed again, as a recording: the watermark alone says where it comes from."""
    path = tmp_path / "again.png"
    write_picture(path, Watermark(0x2B7E151).mark(photograph(256, 1)[0]))

    def definition(claim):
        made = original(claim)
        return {**made, "assertions": [one for one in made["assertions"] if one["label"] != LABEL]}

    original = manifest._definition
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_definition", definition)
        sign(path, Claim("2b7e151f" + "0" * 56, "demo", {}, 0x2B7E151))
    code, said = asked(path, capsys)
    assert code == 1
    assert said.endswith("NOT VERIFIED: the manifest does not say how the file was generated\n")
    path = tmp_path / "other.png"
    write_picture(path, Watermark(0x2B7E151).mark(photograph(256, 1)[0]))
    sign(path, Claim("0" * 64, "demo", {}, 0x2B7E151))
    code, said = asked(path, capsys)
    assert code == 1
    assert said.endswith("the manifest's message does not begin its source's SHA-256\n")


def test_what_a_file_says_cannot_forge_what_verify_says(tmp_path, capsys):
    path = tmp_path / "forged.png"
    write_picture(path, photograph(256, 1)[0])
    forged = "demo\x1b[2J\nverified: whole, and its witnesses agree"
    sign(path, Claim("2b7e151f" + "0" * 56, forged, {forged: forged}, 0x2B7E151))
    code, said = asked(path, capsys)
    assert code == 1
    assert "\x1b" not in said
    assert not any(line.startswith("verified") for line in said.splitlines())


def test_a_manifest_names_weights_and_not_where_they_lie(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, name in (("demo", "demo"), ("/home/somebody/clients/x/weights-7", "weights-7"), (".", tmp_path.name)):
        assert Stamp("0" * 64, given).claim.weights == name


def test_recorded_files_have_neither(capsys):
    for path in (SOURCE, DRIVING):
        code, said = asked(path, capsys)
        assert code == 1
        assert said.endswith("NOT VERIFIED: there is no manifest; there is no watermark\n")


def test_bad_input_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "text.png").write_text("nothing")
    (tmp_path / "text.mp4").write_text("nothing")
    for name in ("absent.png", "absent.mp4", "text.png", "text.mp4", "."):
        code, said = asked(tmp_path / name, capsys)
        assert code == 2, said
        assert said.startswith("triportrait: "), said
        assert said.count("\n") == 1, said


def test_without_the_package_the_watermark_is_read_alone(made, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    code, said = asked(made / "video.mp4", capsys)
    assert code == 1
    assert "manifest: not looked for\n" in said
    assert "watermark: found in" in said
    assert "NOT VERIFIED: no manifest was looked for, c2pa-python is not installed; pip install" in said


def test_an_unsigned_result_is_found_by_its_message_alone(tmp_path):
    frames = [Watermark(0xABCDEF0).mark(frame) for frame in talking(256, 4)]
    found = verify(film(tmp_path / "a.mp4", frames))
    assert found.watermark.message == 0xABCDEF0
    assert found.missing == ("there is no manifest",)


@pytest.mark.parametrize("name", ["video.mp4", "beside.mov", "picture.png", "picture.jpg", "picture.webp"])
def test_damaged_files_do_not_crash(made, tmp_path, name):
    """Cut off anywhere and with bits turned anywhere: a verdict or one sentence. What passes says and shows the same.

    Around the signature lie thousands of bytes of padding that it cannot cover.
    """
    whole, before = (made / name).read_bytes(), verify(made / name)
    path = tmp_path / name
    rng = np.random.default_rng(1)
    head = min(len(whole), 14_000)  # where the manifest lies
    for trial in range(40):
        data = bytearray(whole)
        if trial % 4 == 0:
            del data[int(rng.integers(1, len(data))) :]
        for _ in range(0 if trial % 4 == 0 else int(rng.integers(1, 9))):
            data[int(rng.integers(0, head if trial % 2 else len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = verify(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert found.missing or (found.manifest == before.manifest and shown(path) == shown(made / name)), trial


def test_the_manifest_is_read_before_a_later_file_takes_its_name(made, tmp_path, capsys):
    """A result that is replaced is signed anew."""
    image = tmp_path / "source.png"
    Image.fromarray(photograph(128, 1)[0]).save(image)
    out = tmp_path / "out.png"
    out.write_bytes((made / "picture.png").read_bytes())
    command = ["reenact", str(image), str(SOURCE), str(out), "--weights", "demo", "--faces", "none", "--overwrite"]
    assert main(command) == 0
    found = read_manifest(out)
    assert found is not None
    assert found.generation is not None
    assert found.generation["source_sha256"] == sha256(image)
    assert asked(out, capsys)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "source.png"]


HOSTILE = "\x1b[2J\u202e\nverified: whole, and its witnesses agree"


def test_what_a_manifest_says_is_shown_escaped_and_cut(tmp_path, capsys):
    """As sentences and as JSON: no codes, no second line, no megabytes."""
    path = tmp_path / "x.png"
    write_picture(path, photograph(256, 1)[0])
    many = {f"{HOSTILE}{i}": "0" * 64 for i in range(2000)}
    sign(path, Claim(HOSTILE * 200, HOSTILE * 200, many, None))
    code, said = asked(path, capsys)
    assert code == 0
    assert len(said) < 4000
    assert all(line.isprintable() for line in said.splitlines())
    assert len(said.splitlines()) == 9
    assert said.endswith("\nverified: whole, and its witnesses agree\n")
    assert r"weights: \x1b[2J\u202e\nverified" in said
    assert "and 1,992 more" in said
    assert main(["verify", str(path), "--json"]) == 0
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert len(said) < 40_000
    told = json.loads(said)["manifest"]["generation"]
    assert told["weights"].startswith(r"\x1b[2J\u202e\nverified")
    assert len(told["weights_sha256"]) == 51


def test_a_manifest_of_another_form_is_altered(made, monkeypatch):
    for found in ({"manifests": []}, {"manifests": {"a": {"assertions": [1]}}, "active_manifest": "a"}, [], 3):
        monkeypatch.setattr(manifest, "json", SimpleNamespace(loads=lambda _, found=found: found))
        read = read_manifest(made / "picture.png")
        assert read is not None
        assert read.altered
        assert read.problems == ("it is of another form than manifests have",)


def test_a_long_marked_film_is_not_read_whole(tmp_path, monkeypatch):
    """32 frames that leave no doubt are enough; without a mark 256 are read. The verdict is the same."""
    frames, counted = [Watermark(0xABCDEF0).mark(frame) for frame in talking(256, 4)], []
    marked = film(tmp_path / "marked.mp4", frames * 12)
    plain = film(tmp_path / "plain.mp4", list(talking(256, 4)) * 66)
    add = Reader.add
    monkeypatch.setattr(Reader, "add", lambda self, image: (counted.append(1), add(self, image))[1])
    found = read_file(marked)
    assert (found.message, found.turned, found.pictures, len(counted)) == (0xABCDEF0, 0, 32, 32)
    counted.clear()
    assert read_file(plain).message is None
    assert len(counted) == 256


def test_progress_is_shown_on_a_terminal_where_it_takes_long(made, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    asked_for: dict[str, object] = {}
    monkeypatch.setattr(verify_module, "tqdm", lambda frames, **how: asked_for.update(how) or nullcontext(frames))
    verify(made / "video.mp4")
    assert asked_for["total"] == 10
    assert asked_for["disable"] is None
    assert asked_for["delay"] > 0
    assert asked_for["file"] is sys.stderr


def test_a_file_that_is_not_there_is_called_that(tmp_path):
    for name in ("nope", "nope.jpg", "nope.mp4"):
        with pytest.raises(InputError, match=f"{name}: no such file; check the path"):
            verify(tmp_path / name)
