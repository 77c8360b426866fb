"""Depth, normals and meshes instead of pictures: through the library, the command, batches, and a turntable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serve.decoded import frames_of
from tests.serve.faces import picture
from triportrait import Controls, InputError, Pipeline
from triportrait.cli import main
from triportrait.core.optional_packages import fault
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.geometry_pictures import BACKGROUND
from triportrait.serve import reenactor as reenactor_module
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.live.inference import EXAMPLES
from triportrait.serve.media.provenance.verify import verify
from triportrait.serve.precision import sample_picture
from triportrait.serve.reenactor import PreparedSource

S = 128
PORTRAIT = EXAMPLES / "head-1.jpg"
FILM = Path(__file__).parents[2] / "docs" / "demo" / "driving.mp4"
GREY = round((BACKGROUND + 1) * 127.5)
needs_mesh = pytest.mark.skipif(fault("skimage") is not None, reason="needs the extra mesh")


@pytest.fixture(scope="module")
def pipe():
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def source(pipe) -> PreparedSource:
    return pipe.prepare(sample_picture(S))


@pytest.fixture(scope="module")
def head(pipe, source):
    return pipe.head(source, sample_picture(S))


def is_head(image: np.ndarray) -> np.ndarray:
    return np.abs(image.astype(int) - GREY).max(-1) > 12


def test_each_request_of_a_batch_is_shown_as_it_asks_and_pictures_stay_bit_equal(pipe, source):
    """By the parts of a batch on a GPU, which all run on a CPU, too."""
    engine = pipe._reenactor
    faces = [AlignedFace.whole(sample_picture(S)), AlignedFace.whole(picture(3, (S, S)))]
    cameras = [turned(fixed_camera(), 0.3 * i, 0.0) for i in range(4)]
    plain = [(source, faces[i % 2], Controls(camera)) for i, camera in enumerate(cameras)]
    shows = ("picture", "depth", "picture", "normals")
    mixed = [(*request[:2], replace(request[2], show=show)) for request, show in zip(plain, shows, strict=True)]
    pictures, shown = engine.reenact_many(plain), engine.reenact_many(mixed)
    for i, show in enumerate(shows):
        if show == "picture":
            assert np.array_equal(shown[i], pictures[i])
        alone = engine.reenact(*mixed[i])
        assert np.abs(shown[i].astype(int) - alone).max() <= 2, "the sums of a batch run in another order"
    assert is_head(shown[1]).any() and np.abs(shown[1].astype(int) - pictures[1]).mean() > 10


@needs_mesh
def test_a_mesh_of_a_batch_gets_its_own_head_and_its_watermark(pipe, source):
    engine, face = pipe._reenactor, AlignedFace.whole(sample_picture(S))
    other = pipe.prepare(PORTRAIT)
    requests = [
        (who, face, Controls(turned(fixed_camera(), yaw, 0.0), show=show))
        for who, yaw, show in ((source, 0.0, "depth"), (other, 0.5, "mesh"))
    ]
    plain = engine.reenact_many(requests)
    marked = engine.reenact_many(requests, torch.ones(2, 64))
    for ours, theirs, request in zip(plain, marked, requests, strict=True):
        assert np.abs(ours.astype(int) - engine.reenact(*request)).max() <= 2
        assert 0 < np.abs(ours.astype(int) - theirs).max() < 16


def test_pictures_launch_nothing_for_geometry(pipe, source, head, monkeypatch):
    for name in ("shown_images", "surface_of", "places_of"):
        monkeypatch.setattr(reenactor_module, name, lambda *_, name=name: pytest.fail(name))
    pipe.view(head)
    pipe.frame(source, sample_picture(S))
    with pytest.raises(pytest.fail.Exception, match="places_of"):
        pipe.view(head, show="depth")


@needs_mesh
def test_all_kinds_show_the_same_head_and_a_mesh_is_made_once_for_its_views(pipe, head, monkeypatch):
    made = []
    original = reenactor_module.surface_of
    monkeypatch.setattr(reenactor_module, "surface_of", lambda *words: made.append(0) or original(*words))
    for yaw_deg in (0.0, 35.0):
        camera = pipe.camera(yaw_deg)
        seen = {show: is_head(pipe.view(head, camera, show)) for show in ("depth", "normals", "mesh")}
        assert 0.2 < seen["depth"].mean() < 0.8
        assert (seen["depth"] == seen["normals"]).mean() > 0.98
        common, either = seen["depth"] & seen["mesh"], seen["depth"] | seen["mesh"]
        assert common.sum() > 0.9 * either.sum()
    assert len(made) == 1


def test_side_by_side_keeps_its_pictures_and_adds_one_of_geometry(pipe, source):
    driving, options = [picture(i, (96, 160)) for i in range(2)], {"side_by_side": True, "orbit": True}
    plain = [frame.image for frame in pipe.animate(source, driving, **options)]
    shown = list(pipe.animate(source, driving, controls=Controls(show="normals"), **options))
    for before, frame in zip(plain, shown, strict=True):
        assert frame.image.shape == (S, 5 * S, 3)
        assert np.array_equal(frame.image[:, : 4 * S], before)
        face = AlignedFace.middle(driving[frame.index], S)
        wanted = pipe._reenactor.reenact(source, face, Controls(frame.camera, show="normals"))
        assert np.array_equal(frame.image[:, 4 * S :], wanted)
    assert not np.array_equal(shown[1].image[:, 4 * S :], shown[0].image[:, 4 * S :])


@pytest.mark.parametrize("show", ["depth", pytest.param("mesh", marks=needs_mesh)])
def test_the_command_writes_marked_and_signed_films_of_geometry(tmp_path, capsys, show, pipe):
    """A film of some frames: after H.264 one or two of 128 px are too few to be sure of."""
    out = tmp_path / "out.mkv"
    command = ["reenact", str(PORTRAIT), str(FILM), str(out), "--weights", "demo", "--device", "cpu"]
    assert main([*command, "--faces", "none", "--show", show, "--frames", "4"]) == 0, capsys.readouterr().err
    assert frames_of(out).shape == (4, S, S, 3)
    assert verify(out).watermark.message is not None
    frames = pipe.animate(PORTRAIT, FILM, controls=Controls(show=show), frames=4)
    library = pipe.save(frames, tmp_path / "library.mkv", sound=FILM)
    assert library.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--show", "depth", "--paste-back"),
            "--paste-back: expected a picture, which fits into the portrait, got depth",
        ),
        (("--show", "bones"), "--show: expected"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_loaded(
    portrait_file, driving, tmp_path, words, sentence, capsys, monkeypatch
):
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    assert main(["reenact", str(portrait_file), str(driving), str(tmp_path / "out.mp4"), *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out.mp4").exists()


def test_a_program_is_refused_in_one_sentence(pipe, source, head):
    with pytest.raises(InputError, match=r"controls.show: expected one of picture, depth, normals, mesh, got 'bones'"):
        pipe.view(head, show="bones")
    with pytest.raises(InputError, match="paste_back: expected a picture"):
        pipe.animate(source, picture(0), controls=Controls(show="normals"), paste_back=True)
    with pytest.raises(InputError, match="planes: expected finite numbers"):
        pipe.view(replace(head, planes=head.planes * torch.nan), show="depth")
    for words, sentence in (
        ({"arc_deg": 400.0}, "arc_deg: expected more than 0 and up to 360, got 400"),
        ({"seconds": float("nan")}, "seconds: expected more than 0"),
        ({"show": "bones"}, "show: expected one of"),
    ):
        with pytest.raises(InputError, match=sentence):
            pipe.turntable(source, **words)


@needs_mesh
def test_a_missing_package_is_said_before_a_mesh_is_begun(portrait_file, driving, tmp_path, capsys, monkeypatch):
    from triportrait.core.geometry import surface

    monkeypatch.setattr(surface, "fault", lambda name: "is missing")
    words = ["reenact", str(portrait_file), str(driving), str(tmp_path / "out.mp4"), "--show", "mesh"]
    assert main(words) == 2
    assert "mesh: expected the package" in capsys.readouterr().err


def test_a_turntable_begins_in_front_and_shows_picture_beside_geometry(pipe, source, head):
    frames = list(pipe.turntable(source, show="depth", driving=sample_picture(S), arc_deg=90, seconds=0.32))
    assert [frame.index for frame in frames] == [*range(8)]
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(8)])
    for index, yaw_deg in ((0, 0.0), (2, 45.0), (4, 0.0), (6, -45.0)):
        camera = pipe.camera(yaw_deg)
        wanted = np.concatenate([pipe.view(head, camera), pipe.view(head, camera, "depth")], 1)
        assert np.abs(frames[index].image.astype(int) - wanted).mean() < 0.5
    around = list(pipe.turntable(source, show="picture", arc_deg=360, seconds=0.16))
    assert around[0].image.shape == (S, S, 3)
    opposite = around[2].camera.world_from_camera[0, 2, 3]
    assert opposite == pytest.approx(-4.2), "behind the head"


@needs_mesh
def test_the_turntable_s_command_writes_a_marked_film(tmp_path, capsys):
    out = tmp_path / "turn.mp4"
    words = ["turntable", str(PORTRAIT), str(out), "--seconds", "0.2", "--weights", "demo", "--device", "cpu"]
    assert main([*words, "--faces", "none"]) == 0, capsys.readouterr().err
    frames = frames_of(out)
    assert frames.shape == (5, S, 2 * S, 3)
    assert verify(out).watermark.message is not None
    assert main([*words, "--faces", "none"]) == 2, "it is there"
    assert main(["turntable", str(PORTRAIT), str(tmp_path / "a.png")]) == 2
