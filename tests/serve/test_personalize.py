"""`triportrait personalize`: which pictures are learned from, and how.

What learns is the trainer itself in one test; in the others a stand-in that says what it was given.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serve.faces import landmarks, picture
from tests.serve.making import make
from tests.serve.trainer_stand_in import S, StandIn
from triportrait import InputError, Pipeline
from triportrait.cli import main
from triportrait.core.person import load_person
from triportrait.core.render.cameras import fixed_camera
from triportrait.serve import personalizing
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.image_tensors import to_uint8
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.precision import sample_picture


@pytest.fixture(scope="module")
def pipe():
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipeline:
        yield pipeline


def crops(trainer: StandIn) -> list[np.ndarray]:
    return list(to_uint8(trainer.told["given"].image).numpy())


def test_the_trainer_makes_a_file_that_shows_what_is_nearer(command, photo, tmp_path, capsys):
    """Six steps, twice: the same bytes, readable by others, and the library's person is the file's."""
    for name in ("a", "b"):
        code, said = command(photo, tmp_path / f"{name}.safetensors", "--steps", 6, "--rank", 1)
        assert code == 0, said
        assert "6 steps in " in said
        assert f"show it with `triportrait reenact {photo} DRIVING OUT --person" in said
    file = tmp_path / "a.safetensors"
    assert file.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert file.stat().st_mode & 0o077 == 0o666 & ~os.umask(os.umask(0o022)) & 0o077
    assert sorted(tmp_path.iterdir()) == [file, tmp_path / "b.safetensors", photo], "no state is left"
    shown = {}
    for name, words in {"plain": (), "refined": ("--person", file)}.items():
        out = tmp_path / f"{name}.png"
        assert main(["reenact", *map(str, (photo, photo, out, *words)), "--weights", "demo", "--faces", "none"]) == 0
        shown[name] = read_picture(out).astype(int)
    off = {name: np.abs(image - read_picture(photo)).mean() for name, image in shown.items()}
    assert off["refined"] < 0.98 * off["plain"], "the given picture comes nearer by the command's own cameras and crops"
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipe:
        person = pipe.personalize(photo, steps=6, rank=1)
        loaded = load_person(file, pipe._reenactor.portrait)
        assert person.sha256() == loaded.sha256()
        assert torch.equal(person.planes, loaded.planes)
        assert {"source": "photo.png", "weights": "demo", "steps": 6}.items() <= loaded.card.items()


def test_what_was_learned_is_kept_until_the_file_is_there(pipe, trainer, photo, tmp_path, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise InputError("the disk is full")

    out = tmp_path / "anna.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("triportrait.serve.personalizing.save_person", refuse)
        with pytest.raises(InputError, match="the disk is full"):
            pipe.personalize(photo, out, steps=1)
    assert not trainer.forgotten
    pipe.personalize(photo, out, steps=1)
    assert trainer.forgotten == [trainer.told["state"]]


def test_pictures_folders_and_films_are_taken_evenly(pipe, trainer, photo, tmp_path):
    film = make(tmp_path / "film.mp4", [np.full((64, 64, 3), 2 * i, np.uint8) for i in range(100)])
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    pipe.personalize([photo, film, folder, picture(9)], steps=1)
    found = crops(trainer)
    assert np.array_equal(found[0], sample_picture(S))
    levels = np.array([crop.mean() for crop in found[1:-4]])
    assert 10 < len(levels) <= 19, "half of those that the portrait and one picture leave of 40"
    np.testing.assert_allclose(np.diff(levels), 2 * 99 / len(levels), atol=4)
    assert levels[-1] > 150, "to the end of the film"
    for crop, wanted in zip(found[-4:], (picture(0), picture(1), picture(2), picture(9)), strict=True):
        assert np.array_equal(crop, wanted)
    given = trainer.told["given"]
    assert given.motion.shape == (len(found), pipe.config.transformer.motion_width)
    assert torch.equal(given.motion[:1].clone(), pipe.motion(picture(0)) * 0 + pipe.motion(sample_picture(S)))
    assert given.camera.world_from_camera.shape == (len(found), 4, 4)
    assert torch.equal(given.camera.intrinsics[:1], fixed_camera().intrinsics)
    assert given.neck is given.landmarks is given.opacity is None


def test_one_film_is_led_by_the_picture_that_prepare_takes(pipe, trainer, tmp_path):
    film = make(tmp_path / "film.mp4", [picture(i) for i in range(60)])
    person = pipe.personalize(film, steps=1)
    found = crops(trainer)
    assert np.array_equal(found[0], pipe.prepare(film).face.crop)
    assert 20 <= len(found) <= 40
    assert not any(np.array_equal(found[0], other) for other in found[1:]), "the source stands there once"
    assert pipe.prepare(film, person=person).refined is not None


def test_more_pictures_than_fit_are_refused(pipe, trainer):
    with pytest.raises(InputError, match="sources: expected 1 to 40 pictures of one person, got more than 40"):
        pipe.personalize([picture(0)] * 41, steps=1)
    with pytest.raises(InputError, match="sources: expected 1 to 40 pictures of one person, got none"):
        pipe.personalize([], steps=1)
    with pytest.raises(InputError, match="sources: expected pictures of one person, or paths of them, got int"):
        pipe.personalize(3, steps=1)
    pipe.personalize(iter([picture(0)] * 3), steps=1)
    assert len(trainer.told["given"]) == 1, "the same picture again tells nothing"


class Faces:
    """Finds a face in pictures that are not black, a little lower in brighter ones."""

    def find(self, image, near=None, quick=False) -> list[Face]:
        if image.mean() < 1:
            return []
        points = np.pad(landmarks().astype(np.float32) / 4, ((0, 0), (0, 1)))
        return [Face(points, alignment_points(points), np.array([0.0, image.mean() / 1000, 0.0], np.float32))]

    def close(self) -> None: ...


def test_faces_are_found_and_what_is_known_of_them_is_given(trainer, tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(personalizing, "person_mask", lambda: lambda crop: np.full(crop.shape[:2], 51, np.uint8))
    black = np.zeros((S, S, 3), np.uint8)
    with Pipeline.from_pretrained(tiny_weights, device="cpu", faces=Faces()) as pipe:
        film = make(tmp_path / "film.mkv", [picture(5), black, np.minimum(picture(5), 252) + 3, black])
        pipe.personalize([picture(1), film], steps=1)
        given = trainer.told["given"]
        assert len(given) == 3, "frames without the face are left out"
        prepared = pipe.prepare(picture(1))
        of_512 = prepared.face.tracking.landmarks[0, :, :2]
        torch.testing.assert_close(given.landmarks[0], (of_512 + 0.5) * pipe.image_size / 512)
        assert torch.equal(given.opacity, torch.full((3, 1, pipe.image_size, pipe.image_size), 0.2))
        wanted = pipe.head(prepared, prepared.face).neck
        torch.testing.assert_close(given.neck.fine[:1], wanted.fine)
        assert not torch.equal(given.neck.fine[1], given.neck.fine[2])
        with pytest.raises(InputError, match="expected a face, found none"):
            pipe.personalize([black, picture(1)], steps=1)
        with pytest.raises(InputError, match="expected 1 to 1, counted from the left, got 2"):
            pipe.personalize(picture(1), steps=1, face=2)
        monkeypatch.setattr(personalizing, "person_mask", lambda: lambda crop: np.zeros(crop.shape[:2], np.uint8))
        pipe.personalize(picture(1), steps=1)
        assert trainer.told["given"].opacity is None, "a mask that finds nobody is not believed"


@pytest.mark.parametrize("weights", ["demo", "tiny"])
def test_a_single_picture_without_a_face_is_left_out_as_one_of_a_folder_is(
    weights, trainer, tiny_weights, tmp_path, caplog
):  # fmt: skip
    caplog.set_level("INFO", "triportrait")
    black = np.zeros((S, S, 3), np.uint8)
    dark = np.pad(black[1:], ((0, 1), (0, 0), (0, 0)), constant_values=1)
    with Pipeline.from_pretrained(weights if weights == "demo" else tiny_weights, device="cpu", faces=Faces()) as pipe:
        pipe.personalize([picture(1), black, picture(2), dark], steps=1)
        assert len(trainer.told["given"]) == 2
        assert trainer.told["given"].landmarks is not None, "those of the others are still known"
        assert "2 of the pictures show no face, and are left out" in caplog.text
        assert "its middle square is taken" not in caplog.text


def test_a_picture_that_comes_twice_is_taken_once(pipe, trainer, photo, tmp_path, caplog):
    """Or it would be learned from and kept aside at once."""
    caplog.set_level("INFO", "triportrait")
    Image.fromarray(picture(9)).save(tmp_path / "nine.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in (7, 9):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    pipe.personalize([photo, tmp_path / "nine.png", picture(9), picture(8), folder, picture(7)], steps=1)
    for crop, wanted in zip(crops(trainer), [sample_picture(S), *map(picture, (9, 8, 7))], strict=True):
        assert np.array_equal(crop, wanted)
    assert "pictures that came more than once are taken once: 3 left out" in caplog.text


RED, GREEN = (200, 30, 30), (30, 200, 30)


class TwoPeople:
    """Finds a face where a picture is red, and a larger one where it is green."""

    def find(self, image, near=None, quick=False) -> list[Face]:
        found = []
        for channel, size in ((0, 1 / 8), (1, 1 / 7)):
            ys, xs = np.nonzero((image[..., channel] > 120) & (image.sum(-1) < 400))
            if len(xs) > 400:
                points = (landmarks() - 256).astype(np.float32) * size + (xs.mean(), ys.mean())
                points = np.pad(points, ((0, 0), (0, 1))).astype(np.float32)
                found.append(Face(points, alignment_points(points), np.zeros(3, np.float32)))
        return sorted(found, key=lambda face: -face.size_px)

    def close(self) -> None: ...


def scene(red: int | None, green: int | None, wall: int = 0) -> np.ndarray:
    """People in [128, 256], seen from x - 24 to x + 24, before a wall."""
    image = np.full((128, 256, 3), wall, np.uint8)
    for middle, colour in ((red, RED), (green, GREEN)):
        if middle is not None:
            image[40:88, middle - 24 : middle + 24] = colour
            image[40:88, middle - 24 : middle + 24, 2] = middle // 2  # by which pictures differ
    return image


@pytest.fixture
def two_people():
    with Pipeline.from_pretrained("demo", device="cpu", faces=TwoPeople()) as pipe:
        yield pipe


def shown_people(trainer: StandIn) -> list[str]:
    """Whose colour is in the middle of each picture that is learned from."""
    middles = [crop[len(crop) // 2, len(crop) // 2].astype(int) for crop in crops(trainer)]
    return ["red" if red > green + 60 else "green" if green > red + 60 else "nobody" for red, green, _ in middles]


FILM = [
    *(scene(60 + n, None) for n in range(10)),  # she is there first, and moves
    *(scene(70 + n, 190 + n) for n in range(10)),  # he comes, nearer to the camera
    *(scene(None, 200 + n) for n in range(5)),  # she is hidden
    *(scene(80, 205 - n) for n in range(10)),
    *(scene(None, 80, wall=250) for _ in range(5)),  # the shot is cut: he sits in her place
    *(scene(82, None) for _ in range(5)),
]


def test_one_person_is_followed_through_a_film_with_two(trainer, two_people, tmp_path, caplog):
    caplog.set_level("INFO", "triportrait")
    film = make(tmp_path / "film.mkv", FILM)
    two_people.personalize([scene(64, None), film], steps=1)
    assert set(shown_people(trainer)) == {"red"} and len(crops(trainer)) > 15
    assert told_of_film(caplog) == (
        "film.mkv: 35 pictures, taken evenly out of 45 frames; 5 of them show a face in another place, which may be "
        "somebody else's, and are left out; 5 of them are of another shot, and are left out"
    )


def told_of_film(caplog) -> str:
    (told,) = (record.getMessage() for record in caplog.records if "taken evenly out of" in record.getMessage())
    return told[told.index("film.mkv") :]


def test_a_frame_that_shows_nobody_is_not_said_to_show_a_face(trainer, two_people, tmp_path, caplog):
    caplog.set_level("INFO", "triportrait")
    black, title = scene(None, None, wall=0), scene(None, None, wall=230)
    lit = [scene(60 + n, None, wall=120) for n in range(6)]
    film = make(tmp_path / "film.mkv", [*lit[:3], black, black, title, *lit[3:], scene(None, None, wall=120)])
    two_people.personalize([scene(64, None), film], steps=1)
    assert told_of_film(caplog) == (
        "film.mkv: 6 pictures, taken evenly out of 10 frames; 3 of them are of another shot, and are left out; "
        "1 of them show no face, and are left out"
    )


@pytest.mark.parametrize(("period", "count"), [(3, 38), (1, 38), (20, 15)])
def test_pictures_of_a_film_are_taken_evenly_from_the_frames_that_show_the_person(
    period, count, trainer, two_people, tmp_path, caplog
):  # fmt: skip
    """A third of 300 frames show her, or all, or 15: as many as fit are learned from, and all others are counted."""
    caplog.set_level("INFO", "triportrait")
    film = make(tmp_path / "film.mkv", [scene(60 + n // 3 if n % period == 0 else None, None) for n in range(300)])
    two_people.personalize([scene(30, None), scene(40, None), film], steps=1)
    found = crops(trainer)[2:]
    assert set(shown_people(trainer)) == {"red"} and len(found) == count
    places = [2 * int(crop[len(crop) // 2, len(crop) // 2, 2]) for crop in found]  # they tell when each was
    shown = np.arange(0, 300, period)
    wanted = 60 + shown[np.linspace(0, len(shown) - 1, count).round().astype(int)] // 3
    np.testing.assert_allclose(places, wanted, atol=4)
    told = f"film.mkv: {count} pictures, taken evenly out of 300 frames"
    if period > 1:
        told += f"; {300 - len(shown)} of them show no face, and are left out"
    assert told_of_film(caplog) == told


def test_a_face_is_chosen_of_the_first_picture_alone(trainer, two_people, tmp_path, caplog):
    """Of the group photo the second from the left; of all others the largest face. A film goes on from its portrait."""
    caplog.set_level("INFO", "triportrait")
    group, single = scene(190, 70), scene(100, None)
    two_people.personalize([group, single, scene(60, None), group], steps=1, face=2)
    assert shown_people(trainer) == ["red"] * 3, "the same group again is not read as somebody else's picture"
    film = make(tmp_path / "film.mkv", FILM)
    two_people.personalize([film], steps=1, face=2)
    assert set(shown_people(trainer)) == {"green"} and len(crops(trainer)) > 10
    assert "come before the frame that is the portrait, and are left out" in caplog.text
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate((group, single, scene(60, None))):
        Image.fromarray(image).save(folder / f"{number}.png")
    two_people.personalize(folder, steps=1, face=2)
    assert shown_people(trainer) == ["red"] * 3, "the portrait of a folder is not read a second time"
    with pytest.raises(InputError, match="--face: expected 1 to 1, counted from the left, got 2; source shows no more"):
        two_people.personalize([single, group], steps=1, face=2)
    two_people.personalize([single, group], steps=1)
    assert "source: 2 faces, the largest is taken; cut out another to take it" in caplog.text


def test_a_pipeline_in_half_precision_learns_in_float32(trainer, photo):
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipe:
        pipe._reenactor.dtype = torch.bfloat16
        pipe._reenactor.keep_half()
        person = pipe.personalize(photo, steps=1)
        learned = trainer.told["portrait"]
        assert {p.dtype for p in learned.parameters()} == {torch.float32}
        assert person.weights == pipe._reenactor.weights_hash
        assert pipe.prepare(photo, person=person).refined.residual.dtype == torch.bfloat16


def test_a_static_synthesizer_is_refused(trainer, photo):
    refused = pytest.raises(InputError, match="personalize: expected weights that move, got a static synthesizer")
    with Pipeline.from_pretrained("demo", device="cpu", faces="none", static=True) as pipe, refused:
        pipe.personalize(photo, steps=1)
