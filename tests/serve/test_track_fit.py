"""`reenact --track fit`: parameters reach the neck field of the weights, and weights that read them as motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serve.conftest import published_motion
from tests.serve.tracked import FRAMES, head_film, write_film, write_pictures
from triportrait.cli import main
from triportrait.core.checkpoint import save_weights
from triportrait.core.config import tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.parameter_encoder import flame_parameters
from triportrait.core.seeded_weights import rule_motion_encoder, rule_portrait
from triportrait.core.tracking.head_model import load_head_model
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracked import film_fit


@pytest.fixture(scope="module")
def open_weights(tmp_path_factory) -> Path:
    """Weights whose neck field is the open head's."""
    folder, config, model = tmp_path_factory.mktemp("open"), published_motion(), load_head_model()
    portrait = rule_portrait(config)
    portrait.neck = model.neck_field(config.neck, config.render.box_side)
    card = {"head_model": model.identity.to_dict()}
    save_weights(folder, "portrait", dict(portrait.state_dict()), config, card)
    motion = {n: t for n, t in rule_motion_encoder().state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(folder, "motion", motion, None, {})
    return folder


class Knows:
    """Finds the faces of the film of a head; other pictures have none."""

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        frames, faces, _ = head_film()
        return [face for frame, face in zip(frames, faces, strict=True) if np.array_equal(frame, image)]

    def close(self) -> None: ...


def images_of(animation: object) -> list[np.ndarray]:
    return [frame.image for frame in animation]


def test_expression_jaw_and_shape_reach_the_neck_field(open_weights, monkeypatch):
    seen: list[Sequence[torch.Tensor]] = []
    forward = NeckField.forward
    monkeypatch.setattr(NeckField, "forward", lambda self, *parts: seen.append(parts) or forward(self, *parts))
    frames = head_film()[0]
    with Pipeline.from_pretrained(open_weights, device="cpu", faces=Knows()) as pipeline:
        source = pipeline.prepare(frames[0], track="fit")
        images_of(pipeline.animate(source, frames[:3], track="fit"))
        field = pipeline._reenactor.portrait.neck
    assert len(seen) == 3
    for shape, expression, neck, jaw, eyes in seen:
        assert torch.equal(shape, source.shape)
        assert min(part.abs().max() for part in (shape, expression, neck)) > 0.01
        assert jaw.abs().max() > 1e-4
        grid = forward(field, shape, expression, neck, jaw, eyes)
        for changed in (
            (torch.zeros_like(shape), expression, neck, jaw, eyes),
            (shape, torch.zeros_like(expression), neck, jaw, eyes),
            (shape, expression, neck, jaw + 0.2, eyes),
        ):
            assert (forward(field, *changed).fine - grid.fine).abs().max() > 1e-5


def test_what_track_writes_gives_the_frames_of_a_fit(open_weights, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "head")
    with Pipeline.from_pretrained(open_weights, device="cpu", faces="none") as pipeline:
        size = str(pipeline.image_size)
        options = ("--head-model", str(open_weights), "--size", size, "--no-overlay", "--device", "cpu")
        assert main(["track", str(pictures), str(tmp_path / "out"), "--params", str(pictures), *options]) == 0
        source = pipeline.prepare(pictures / "001.png", source_params=pictures, track="fit")
        fitted = images_of(pipeline.animate(source, pictures, driving_params=pictures, track="fit"))
        read = images_of(pipeline.animate(source, tmp_path / "out"))
        again = images_of(pipeline.animate(source, tmp_path / "out", track="fit", frames=2))  # its parameters are taken
        quick = images_of(pipeline.animate(source, pictures, driving_params=pictures, frames=2))
    capsys.readouterr()
    assert len(fitted) == len(read) == FRAMES
    assert all(np.array_equal(one, other) for one, other in zip(fitted, read, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(again, fitted, strict=False))
    assert not all(np.array_equal(one, other) for one, other in zip(quick, fitted, strict=False))


def test_weights_that_read_parameters_are_driven(monkeypatch):
    """Row F: motion is expression, jaw and eyes; before the first face it is the portrait's own."""
    config, model = tiny(), load_head_model()
    transformer = dataclasses.replace(config.transformer, motion_width=109)
    portrait = rule_portrait(dataclasses.replace(config, preset="parameters", transformer=transformer))
    reenactor = Reenactor(portrait, flame_parameters(model.identity))
    frames = head_film()[0]
    with Pipeline(reenactor, "rule", LazyProvider(Knows())) as pipeline:
        source = pipeline.prepare(frames[0], track="fit")
        assert source.motion.shape == (1, 109)
        driven = list(pipeline.animate(source, [np.zeros_like(frames[0]), *frames[:2]], track="fit", frames=3))
        assert [frame.face_found for frame in driven] == [False, True, True]
        assert not np.array_equal(driven[1].image, driven[2].image)
        with pytest.raises(InputError, match="--track fit"):
            images_of(pipeline.animate(source, frames[:2]))


def test_a_jaw_that_opens_moves_these_weights():
    config, model = tiny(), load_head_model()
    transformer = dataclasses.replace(config.transformer, motion_width=109)
    portrait = rule_portrait(dataclasses.replace(config, preset="parameters", transformer=transformer))
    reenactor = Reenactor(portrait, flame_parameters(model.identity))
    with Pipeline(reenactor, "rule", LazyProvider(Knows())) as pipeline:
        source = pipeline.prepare(head_film()[0][0], track="fit")
        face, parameters = source.face, source.face.tracking.parameters
        wide = dataclasses.replace(parameters, jaw=parameters.jaw + torch.tensor([[0.3, 0, 0]]))
        moved = dataclasses.replace(face, tracking=dataclasses.replace(face.tracking, parameters=wide))
        assert not np.array_equal(pipeline.frame(source, face).image, pipeline.frame(source, moved).image)


class TestShots:
    @pytest.fixture
    def two_shots(self, monkeypatch):
        """The film twice, as two shots of one person."""
        with Pipeline.from_pretrained("demo", device="cpu", faces=Knows()) as pipeline:
            from triportrait.serve.faces.tracker import FaceTracker
            from triportrait.serve.pipeline_inputs import open_driving
            from triportrait.serve.tracked.following_pass import follow_faces

            frames = head_film()[0]
            driving = open_driving(frames, None, None, None, torch.device("cpu"))
            faces = follow_faces(driving, FaceTracker(pipeline._finder(), 16, smooth=False))
        return dataclasses.replace(faces, shots=np.arange(len(faces)) // 3)

    def test_each_has_a_shape_of_its_own_unless_they_show_one_person(self, two_shots):
        model = load_head_model()
        shapes = {one: film_fit.fit_film(two_shots, model, one_person=one).records[:, 25:325] for one in (False, True)}
        assert torch.equal(shapes[False][0], shapes[False][2])
        assert not torch.equal(shapes[False][2], shapes[False][3])
        assert (shapes[True] == shapes[True][0]).all()

    def test_frames_are_not_tied_across_a_cut(self, two_shots):
        model = load_head_model()
        whole = film_fit.fit_film(two_shots, model).records
        alone = dataclasses.replace(two_shots, **{
            name: getattr(two_shots, name)[3:]
            for name in ("numbers", "times_s", "shots", "placed", "landmarks", "points", "weights")
        })  # fmt: skip
        assert torch.allclose(film_fit.fit_film(alone, model).records, whole[3:], atol=1e-5)


class TestRefusals:
    def test_pictures_that_can_be_read_once(self):
        with Pipeline.from_pretrained("demo", device="cpu", faces=Knows()) as pipeline:
            source = pipeline.prepare(head_film()[0][0])
            with pytest.raises(InputError, match="read twice"):
                pipeline.animate(source, iter(head_film()[0]), track="fit")
            with pytest.raises(InputError, match="track: expected quick or fit, got sharp"):
                pipeline.animate(source, head_film()[0], track="sharp")

    def test_nothing_that_finds_faces(self, demo, tmp_path):
        from PIL import Image

        Image.fromarray(head_film()[0][0]).save(tmp_path / "portrait.png")
        film = write_film(tmp_path / "film.mp4")
        code, said = demo(tmp_path / "portrait.png", film, tmp_path / "out.mp4", "--track", "fit")
        assert code == 2
        assert "triportrait fetch faces" in said
        assert not (tmp_path / "out.mp4").exists()
