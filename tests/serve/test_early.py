"""What can be known at the start is refused at the start: before the weights are loaded, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.faces import landmarks, parameters, picture
from tests.serve.making import as_a_stranger, make
from triportrait import cli
from triportrait.core.portrait import Portrait4D
from triportrait.serve import pipeline
from triportrait.serve import source_and_driving as inputs
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.reenactor import Reenactor


@pytest.fixture
def refused(run, monkeypatch, tmp_path):
    """Run the command and see it refuse with one sentence; gives the sentence."""

    def call(*arguments: object, as_whom: AbstractContextManager[None] | None = None) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "load_weights", lambda *_: pytest.fail("the weights were loaded"))
            before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
            with as_whom or nullcontext():
                code, said = run(*arguments)
        lines = [line for line in said.splitlines() if not line.startswith("source: ")]
        assert code == 2, said
        assert len(lines) == 1, said
        assert lines[0].startswith("triportrait: "), said
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        return lines[0]

    return call


@pytest.fixture
def frames(tmp_path) -> Path:
    """A plain folder of 12 driving pictures."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    return folder


def test_no_input_picture_is_overwritten(refused, portrait_file, frames, clip_folder, tmp_path):
    for out in (frames / "1.png", frames / "11.png", portrait_file):
        assert "this is the input" in refused(portrait_file, frames, out, "--frames", 1, "--overwrite")
    inside = clip_folder / "align_images" / "00000.png"
    assert "this is the input" in refused(clip_folder, portrait_file, inside, "--overwrite")
    link = tmp_path / "link.mp4"
    os.link(clip_folder / "flame_optim_params" / "00001.npy", link)
    assert "this is the input" in refused(portrait_file, clip_folder, link, "--overwrite")


@pytest.mark.parametrize("kind", ["flame_optim_params", "3dldmks_align"])
def test_a_missing_file_of_a_picture(refused, run, portrait_file, clip_folder, tmp_path, kind):
    (clip_folder / kind / "00002.npy").unlink()
    out = tmp_path / "out.mp4"
    assert f"{kind}/00002.npy: no such file" in refused(portrait_file, clip_folder, out)
    assert run(portrait_file, clip_folder, out, "--frames", 2)[0] == 0
    (clip_folder / kind / "00000.npy").unlink()
    source = clip_folder / "align_images" / "00000.png"
    assert f"{kind}/00000.npy: no such file" in refused(source, portrait_file, tmp_path / "other.png")


def test_a_damaged_file_in_the_middle(refused, portrait_file, clip_folder, tmp_path):
    np.save(clip_folder / "flame_optim_params" / "00002.npy", parameters(neck=(0, 99, 0)))
    assert "00002.npy: expected neck numbers" in refused(portrait_file, clip_folder, tmp_path / "out.mp4")


def test_too_few_files_for_a_video(refused, run, portrait_file, driving, clip_folder, tmp_path):
    arguments = (portrait_file, driving, tmp_path / "out.mp4", "--driving-params", clip_folder)
    sentence = f"{clip_folder}: holds files for 3 frames, {driving} has more; track the rest or pass --frames 3"
    assert sentence in refused(*arguments)
    assert sentence in refused(*arguments, "--frames", 4)
    assert run(*arguments, "--frames", 3)[0] == 0
    for file in clip_folder.glob("*/*.npy"):
        file.unlink()
    assert "holds files for no frame" in refused(portrait_file, driving, tmp_path / "o.mp4", *arguments[3:])


def test_twelve_files_without_leading_zeros_drive_in_their_order(run, portrait_file, tmp_path, monkeypatch):
    root = tmp_path / "tracked"
    for folder in ("flame_optim_params", "3dldmks_align"):
        (root / folder).mkdir(parents=True)
        (root / folder / "._0.npy").write_bytes(b"of another system")
    for i in range(12):
        np.save(root / "flame_optim_params" / f"{i}.npy", parameters(neck=(0, 0.01 * i, 0)))
        np.save(root / "3dldmks_align" / f"{i}.npy", landmarks())
    seen = []

    def spy(self, source, face, controls):
        seen.append(round(100 * face.tracking.parameters.neck[0, 1].item()))
        return face

    monkeypatch.setattr(Reenactor, "head", spy)
    monkeypatch.setattr(Reenactor, "views", lambda self, head, cameras, shows: [head.crop])
    video = make(tmp_path / "twelve.mp4", [picture(i) for i in range(12)])
    code, said = run(portrait_file, video, tmp_path / "out.mp4", "--driving-params", root)
    assert code == 0, said
    assert seen == list(range(12)), said


def test_the_intrinsics_of_the_driving_parameters_are_used(run, portrait_file, clip_folder, tmp_path, monkeypatch):
    longer = parameters()
    longer[[16, 20]] = 6.5, 6.25
    np.save(clip_folder / "flame_optim_params" / "00001.npy", longer)
    seen = []
    render = Portrait4D.render

    def spy(self, head, camera):
        seen.append((camera.intrinsics[0, 0, 0].item(), camera.intrinsics[0, 1, 1].item()))
        return render(self, head, camera)

    monkeypatch.setattr(Portrait4D, "render", spy)
    assert run(portrait_file, clip_folder, tmp_path / "out.mkv")[0] == 0
    usual = pytest.approx((4.757182, 4.757182))
    assert seen == [usual, pytest.approx((6.5, 6.25)), usual]


def test_folders_of_pictures(refused, run, portrait_file, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(Reenactor, "head", lambda self, source, face, controls: face)
    monkeypatch.setattr(Reenactor, "views", lambda self, head, cameras, shows: [head.crop])
    out = tmp_path / "out.mp4"
    (frames / "5.png").write_bytes((frames / "5.png").read_bytes()[:3000])
    code, said = run(portrait_file, frames, out, "--frames", 7)
    assert code == 0
    assert "1 of 12 pictures are damaged and were left out, the first is 5.png" in said
    assert ": 6 frames in" in said
    (frames / "12.png").write_text("no picture")
    assert "12.png: this is not a picture" in refused(portrait_file, frames, tmp_path / "o.mp4")
    (frames / "12.png").unlink()
    (frames / "12.png").symlink_to("nowhere.png")
    assert "12.png: this link leads nowhere" in refused(portrait_file, frames, tmp_path / "o.mp4")


def test_still_pictures_of_a_phone(refused, portrait_file, driving, tmp_path):
    photo = tmp_path / "photo.heic"
    photo.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    for source, drives in ((photo, driving), (portrait_file, photo)):
        sentence = refused(source, drives, tmp_path / "out.mp4")
        assert sentence.startswith(f"triportrait: {photo}: HEIC pictures cannot be read; save it as PNG or JPEG (")


def test_a_picture_holds_one_frame(refused, run, portrait_file, driving, frames, tmp_path):
    for drives in (driving, frames):
        sentence = refused(portrait_file, drives, tmp_path / "out.png")
        assert "pass --frames 1, give a single driving picture, or name an output with a video ending" in sentence
    assert "no ending came" in refused(portrait_file, driving, tmp_path / "out")
    assert ".mp4 .mov .mkv .webm .png" in refused(portrait_file, driving, tmp_path / "out.xyz", "--frames", 1)
    assert run(portrait_file, frames / "1.png", tmp_path / "out.png")[0] == 0
    assert run(portrait_file, frames / "1.png", tmp_path / "out.mp4")[0] == 0


def test_a_video_that_promises_one_frame_and_holds_more(run, portrait_file, driving, tmp_path, monkeypatch):
    opened = inputs.open_clip

    def promising(path, *words):
        clip = opened(path, *words)
        clip.frame_count = 1
        return clip

    monkeypatch.setattr(inputs, "open_clip", promising)
    code, said = run(portrait_file, driving, tmp_path / "out.png")
    assert code == 0
    assert ": 1 frame in" in said
    assert read_picture(tmp_path / "out.png").shape == (128, 128, 3)


def test_a_folder_that_takes_no_files(refused, portrait_file, driving):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets no stranger in
        os.chmod(folder, 0o755)
        inputs = [shutil.copy(file, folder) for file in (portrait_file, driving)]
        closed = Path(folder) / "closed"
        closed.mkdir()
        closed.chmod(0o555)
        sentence = refused(*inputs, closed / "out.mp4", as_whom=as_a_stranger())
        assert os.listdir(closed) == []
    assert sentence.endswith("out.mp4: it could not be written (permission denied); choose another folder")


def test_an_output_that_appears_during_the_run_is_kept(run, portrait_file, driving, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    mark = Stamp.mark
    monkeypatch.setattr(Stamp, "mark", lambda self, image: out.write_bytes(b"mine") and mark(self, image))
    code, said = run(portrait_file, driving, out)
    assert code == 2
    assert "appeared meanwhile" in said
    assert out.read_bytes() == b"mine"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert run(portrait_file, driving, out, "--overwrite")[0] == 0
    assert out.stat().st_size > 4


def test_weights_of_the_static_synthesizer_are_shown_without_motion_alone(
    portrait_file, driving, tiny_weights, tmp_path, capsys
):
    folder = tmp_path / "w"
    shutil.copytree(tiny_weights, folder)
    card = json.loads((folder / "portrait.json").read_text())
    line = (
        f"weights {folder}: expected a reenactment network (stage 2), got a static synthesizer (stage 1); name weights "
        "that move, or let `triportrait reenact --static` show these without motion"
    )
    for i, (noted, options, refused) in enumerate(
        (
            ({"file": "portrait4d-static-genhead512.pkl"}, [], True),
            ({"network": "static synthesizer"}, [], True),
            ({"file": "portrait4d-static.pkl"}, ["--static"], False),
            ({"network": "reenactment"}, ["--static"], False),
            ({"network": "reenactment"}, [], False),
            ({"file": "v2.pkl"}, [], False),
        )
    ):
        (folder / "portrait.json").write_text(json.dumps(card | {"provenance": noted}))
        arguments = [str(portrait_file), str(driving), str(tmp_path / f"{i}.png"), "--frames", "1", *options]
        assert cli.main(["reenact", *arguments, "--weights", str(folder)]) == (2 if refused else 0)
        assert (line in capsys.readouterr().err) == refused
        assert (tmp_path / f"{i}.png").exists() != refused
