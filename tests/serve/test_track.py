"""`triportrait track`: what it writes, that `reenact` reads it back as it fits by itself, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.face_models import needs_face_models
from tests.serve.raw import photo, seen
from tests.serve.tracked import FRAMES, head_film, write_film, write_pictures
from triportrait.cli import main
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.tracking.head_model import load_head_model
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.tracked import folder as folder_module
from triportrait.serve.tracking_files import TrackedFolder


@pytest.fixture
def track(capsys):
    """Run the command on a CPU; gives the exit code and the standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        code = main(["track", *map(str, arguments), "--device", "cpu"])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A head that moves, as pictures with landmarks of another tracker."""
    return write_pictures(tmp_path / "head")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "quality.csv").open() as file:
        return list(csv.DictReader(file))


def test_pictures_with_landmarks_become_a_folder_of_the_published_layout(track, pictures, tmp_path):
    out = tmp_path / "out"
    code, said = track(pictures, out, "--params", pictures, "--size", 96)
    assert code == 0, said
    assert f"a face in {FRAMES} of {FRAMES} frames" in said
    names = [f"{i + 1:05d}" for i in range(FRAMES)]
    folder = TrackedFolder(out)
    assert folder.names == names
    folder.check(names)
    assert [path.stem for path in sorted((out / "align_images").iterdir())] == names
    assert Image.open(out / "align_images" / "00001.png").size == (96, 96)
    record, landmarks = (np.load(out / name / "00001.npy") for name in ("flame_optim_params", "3dldmks_align"))
    assert (record.shape, record.dtype, landmarks.shape) == ((437,), np.float32, (68, 2))
    assert json.loads((out / "head_model.json").read_text()) == load_head_model().identity.to_dict()
    with av.open(str(out / "overlay.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == FRAMES
    assert min(Image.open(out / "curves.png").size) > 500
    assert [row["found"] for row in rows_of(out)] == ["1"] * FRAMES
    assert all(float(row["error_px"]) < 3 for row in rows_of(out)), "the open head fits a procedural one"


def test_the_heads_are_turned_as_they_were_drawn(track, pictures, tmp_path):
    assert track(pictures, tmp_path / "out", "--params", pictures, "--no-overlay", "--size", 64)[0] == 0
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    folder = TrackedFolder(tmp_path / "out")
    necks = torch.cat([folder.at(name).parameters.neck for name in folder.names]).double()
    wanted = torch.from_numpy(head_film()[2]).double()
    apart = rotation_matrices(necks) @ rotation_matrices(wanted).mT
    cosine = ((apart.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    assert torch.rad2deg(torch.acos(cosine)).max() < 4


@needs_face_models
def test_a_film_is_read_back_as_it_is_fitted_frame_by_frame(real_faces, track, tmp_path):
    """A face that is away for a frame, is left out of the folder and held in the film."""
    frames = [seen((300 + 6 * i, 170), 0.8) for i in range(FRAMES)]
    frames[3] = np.full_like(frames[3], 90)
    film = write_film(tmp_path / "film.mp4", frames)
    with Pipeline.from_pretrained("demo", device="cpu", faces="networks") as pipeline:
        code, said = track(film, tmp_path / "out", "--size", pipeline.image_size, "--no-overlay")
        assert code == 0, said
        assert "1 of 6 frames left out (no face)" in said
        assert [row["reason"] for row in rows_of(tmp_path / "out")] == ["", "", "", "no face", "", ""]
        assert TrackedFolder(tmp_path / "out").names == ["00001", "00002", "00003", "00005", "00006"]
        assert {path.name for path in (tmp_path / "out" / "segs").iterdir()} == {
            f"{i:05d}.png" for i in (1, 2, 3, 5, 6)
        }
        source = pipeline.prepare(photo(), track="fit")
        fitted = list(pipeline.animate(source, film, track="fit"))
        read = [frame.image for frame in pipeline.animate(source, tmp_path / "out")]
        quick = [frame.image for frame in pipeline.animate(source, film)]
    assert [frame.face_found for frame in fitted] == [True] * 3 + [False] + [True] * 2
    assert np.array_equal(fitted[3].image, fitted[2].image), "the last pose is held"
    shown = [frame.image for frame in fitted if frame.face_found]
    assert all(np.array_equal(a, b) for a, b in zip(shown, read, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(quick, [f.image for f in fitted], strict=True))


class TestRefusals:
    def test_without_anything_that_finds_faces(self, track, tmp_path):
        film = write_film(tmp_path / "film.mp4")
        code, said = track(film, tmp_path / "out")
        assert code == 2
        assert "triportrait fetch faces" in said
        assert not (tmp_path / "out").exists()

    @needs_face_models
    def test_a_film_without_a_face(self, real_faces, track, tmp_path):
        film = write_film(tmp_path / "film.mp4", [np.full((96, 128, 3), 40 * i, np.uint8) for i in range(3)])
        code, said = track(film, tmp_path / "out")
        assert code == 2
        assert "expected a face, found none in any of 3 frames" in said
        assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]

    def test_a_folder_that_holds_something_else(self, track, pictures, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        code, said = track(pictures, out, "--params", pictures, "--overwrite")
        assert (code, (out / "notes.txt").read_text()) == (2, "mine")
        assert "it holds notes.txt" in said

    def test_a_tracking_is_replaced_by_overwrite_alone(self, track, pictures, tmp_path):
        out, options = tmp_path / "out", ("--params", pictures, "--no-overlay", "--size", 64)
        assert track(pictures, out, *options)[0] == 0
        code, said = track(pictures, out, *options, "--frames", 2)
        assert code == 2
        assert "--overwrite" in said
        assert len(rows_of(out)) == FRAMES
        assert track(pictures, out, *options, "--frames", 2, "--overwrite")[0] == 0
        assert len(rows_of(out)) == 2
        assert {path.name for path in tmp_path.iterdir()} == {"head", "out"}, "nothing is left beside it"

    def test_what_appears_while_it_runs_is_kept(self, track, pictures, tmp_path, monkeypatch):
        out, options = tmp_path / "out", ("--params", pictures, "--no-overlay", "--size", 64)
        summary = folder_module.TrackFolder.add_summary

        def meanwhile(folder, values):
            out.mkdir()
            (out / "notes.txt").write_text("mine")
            summary(folder, values)

        monkeypatch.setattr(folder_module.TrackFolder, "add_summary", meanwhile)
        for more in ((), ("--overwrite",)):
            code, said = track(pictures, out, *options, *more)
            assert code == 2
            assert "it holds notes.txt" in said
            assert (out / "notes.txt").read_text() == "mine"
            assert {path.name for path in tmp_path.iterdir()} == {"head", "out"}
            (out / "notes.txt").unlink()
            out.rmdir()

    def test_a_second_run_to_the_same_folder_waits_outside(self, track, pictures, tmp_path):
        out = tmp_path / "out"
        with folder_module.written_folder(out, False) as first:
            code, said = track(pictures, out, "--params", pictures, "--size", 64)
            assert code == 2
            assert "another run writes it" in said
            assert first.root.is_dir()
            first.add_summary({})
        assert [path.name for path in out.glob("track.json")] == ["track.json"]
        assert {path.name for path in tmp_path.iterdir()} == {"head", "out"}

    def test_what_a_killed_run_left_is_removed(self, track, pictures, tmp_path):
        (tmp_path / ".out.part").mkdir()
        (tmp_path / ".out.part" / "00001.png").write_bytes(b"half")
        (tmp_path / ".out.lock").touch()
        assert track(pictures, tmp_path / "out", "--params", pictures, "--no-overlay", "--size", 64)[0] == 0
        assert {path.name for path in tmp_path.iterdir()} == {"head", "out"}

    def test_a_full_disk_leaves_nothing(self, track, pictures, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(folder_module.TrackFolder, "add_fit", full)
        code, said = track(pictures, tmp_path / "out", "--params", pictures, "--size", 64)
        assert code == 2
        assert "free some space" in said
        assert {path.name for path in tmp_path.iterdir()} == {"head"}

    def test_a_disk_that_is_too_small_is_seen_beforehand(self, track, pictures, tmp_path, monkeypatch):
        monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        code, said = track(pictures, tmp_path / "out", "--params", pictures)
        assert code == 2
        assert f"for {FRAMES} frames, the disk has" in said

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--size", 16), "--size: expected 64 to 2048"),
            (("--frames", 0), "--frames: expected at least 1"),
            (("--face", 0), "--face: expected at least 1"),
        ],
    )
    def test_numbers_out_of_range(self, track, pictures, tmp_path, options, words):
        code, said = track(pictures, tmp_path / "out", *options)
        assert code == 2
        assert words in said

    def test_the_input_is_not_replaced(self, track, pictures, tmp_path):
        out = tmp_path / "out"
        assert track(pictures, out, "--params", pictures, "--no-overlay", "--size", 64)[0] == 0
        code, said = track(out, out, "--overwrite")
        assert code == 2
        assert "lies in it" in said
