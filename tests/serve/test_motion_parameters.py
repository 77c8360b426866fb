"""Weights that move by the parameters of tracked faces: no picture is read, those of other models are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.face_models import needs_face_models
from tests.serve.raw import photo, seen
from tests.serve.tracked import FRAMES, write_film
from tests.train import little
from triportrait.core.checkpoint import save_motion_encoder, save_weights
from triportrait.core.errors import InputError
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.core.motion.parameter_encoder import ParameterEncoder, flame_parameters
from triportrait.core.motion.small_encoder import HEAD_COLUMNS
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.tracking.head_model import load_head_model
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.head_pose import neck_parameters
from triportrait.serve.followed_frames import can_follow
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracking_files import HeadParameters, Tracking
from triportrait.serve.weight_loading import load_weights
from triportrait.train.stages.initialize import initialize, initialize_motion

SIDE = 64


def made_portrait() -> Portrait4D:
    """The smallest network for 109 parameters, loud enough to show what moves it."""
    model = little.model()
    transformer = replace(model.transformer, motion_width=109)
    made = Portrait4D(replace(model, transformer=transformer))
    initialize(made, 0)
    initialize_motion(made, 0)
    with torch.no_grad():
        made.superres.style.fill_(1.0)  # type: ignore[union-attr]
        made.volume.field.density.bias.fill_(4.0)
        made.reconstructor.plane_decoder.out.weight.mul_(8.0)
    return made


@pytest.fixture(scope="module")
def portrait() -> Portrait4D:
    return made_portrait()


@pytest.fixture(scope="module")
def engine(portrait) -> Reenactor:
    return Reenactor(portrait, flame_parameters(PUBLISHED_MODEL))


def tracked(seed: int, size: float = 1.0, grey: int = 128, model: ModelIdentity = PUBLISHED_MODEL) -> AlignedFace:
    """A grey picture of a face whose parameters are known."""
    rng = torch.Generator().manual_seed(seed)
    shape, expression, neck, jaw, eyes = (size * torch.randn(1, n, generator=rng) for n in (300, 100, 3, 3, 6))
    parameters = HeadParameters(fixed_camera(), shape, expression, neck, jaw, eyes, model)
    return AlignedFace.whole(np.full((SIDE, SIDE, 3), grey, np.uint8), Tracking(parameters))


def test_motion_is_the_parameters_and_no_picture_is_read(engine):
    face = tracked(1)
    known = face.tracking.parameters
    assert known is not None
    assert torch.equal(engine.motion(face), torch.cat([known.expression, known.jaw, known.eyes], 1))
    source = engine.prepare(tracked(0))
    frames = [engine.reenact(source, tracked(*which)) for which in ((1, 1.0, 10), (1, 1.0, 250), (2, 1.0, 10))]
    assert np.array_equal(frames[0], frames[1]), "what the driving picture shows does not matter"
    assert not np.array_equal(frames[0], frames[2])
    own = engine.reenact(source, tracked(1), Controls(motion_strength=0.0))
    assert np.array_equal(own, engine.reenact(source, tracked(0)))
    many = engine.reenact_many([(source, tracked(1), Controls()), (source, tracked(2), Controls())])
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(many, (frames[0], frames[2]), strict=True))
    assert not engine.can_steer_gaze
    assert not can_follow(engine)


def test_before_the_first_face_the_source_keeps_its_own(engine):
    source, nobody = engine.prepare(tracked(0)), AlignedFace.whole(np.full((SIDE, SIDE, 3), 128, np.uint8))
    kept = engine.reenact(source, nobody, Controls(motion_strength=0.0))
    assert np.array_equal(kept, engine.reenact(source, tracked(0), Controls(neck=False)))


def test_parameters_are_taken_in_their_units(portrait):
    halved = Reenactor(portrait, flame_parameters(PUBLISHED_MODEL, (0.5,) * 109))
    plain = Reenactor(portrait, flame_parameters(PUBLISHED_MODEL))
    assert torch.equal(halved.motion(tracked(1)), plain.motion(tracked(1)) * 2)


def test_a_face_without_parameters_is_refused(engine):
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    neck_alone = AlignedFace.whole(grey, Tracking(neck_parameters(torch.zeros(1, 3))))
    for face in (AlignedFace.whole(grey), neck_alone):
        with pytest.raises(InputError, match="parameters of a tracked face, as these weights read no pictures"):
            engine.prepare(face)
        with pytest.raises(InputError, match="motion: expected the parameters of a tracked face"):
            engine.reenact(engine.prepare(tracked(0)), face)


def test_parameters_of_another_head_model_are_refused(portrait):
    mine, other = ModelIdentity("open head", "0" * 16), ModelIdentity("FLAME 2023", "8" * 16)
    engine = Reenactor(portrait, flame_parameters(mine))
    engine.prepare(tracked(0, model=mine))
    for model, name in ((other, "FLAME 2023"), (PUBLISHED_MODEL, "FLAME 2020")):
        with pytest.raises(InputError, match=rf"expected parameters of open head .* got those of {name}"):
            engine.prepare(tracked(0, model=model))


def test_weights_that_say_nothing_of_a_head_model_take_the_published_one_alone(portrait):
    engine = Reenactor(portrait, flame_parameters(None))
    engine.prepare(tracked(0, model=PUBLISHED_MODEL))
    with pytest.raises(InputError, match=r"expected parameters of FLAME 2020 .* got those of open head"):
        engine.prepare(tracked(0, model=ModelIdentity("open head", "0" * 16)))


def test_numbers_that_no_tracker_gives_are_refused(portrait):
    heads = ParameterEncoder(HEAD_COLUMNS)
    with pytest.raises(InputError, match=r"these weights take jaw 1, smile 1, .* which no tracker of faces gives"):
        Reenactor(portrait, heads).prepare(tracked(0))


def test_a_folder_of_row_f_is_served_and_one_without_its_encoder_is_refused(tmp_path):
    portrait = made_portrait()
    card = {"network": "reenactment", "motion": "parameters"}
    save_weights(tmp_path, "portrait", portrait.state_dict(), portrait.config, card)
    with pytest.raises(InputError, match="expected one whose motion is read off pictures"):
        load_weights(str(tmp_path))
    save_motion_encoder(tmp_path, {}, flame_parameters(PUBLISHED_MODEL), {})
    _, encoder = load_weights(str(tmp_path))
    assert encoder.card() == flame_parameters(PUBLISHED_MODEL).card()


@needs_face_models
def test_the_front_door_fits_a_film_and_moves_weights_by_its_parameters(real_faces, tmp_path):
    """Row F end to end: the head model that is fitted is the encoder's, and the expression alone moves the picture."""
    portrait, identity = made_portrait(), load_head_model("open-head").identity
    card = {"network": "reenactment", "motion": "parameters"}
    save_weights(tmp_path / "weights", "portrait", portrait.state_dict(), portrait.config, card)
    save_motion_encoder(tmp_path / "weights", {}, flame_parameters(identity), {})
    film = write_film(tmp_path / "film.mp4", [seen((300 + 6 * i, 170), 0.8) for i in range(FRAMES)])
    with Pipeline.from_pretrained(str(tmp_path / "weights"), device="cpu", faces="networks") as pipeline:
        with pytest.raises(InputError, match="expected the parameters of a tracked face"):
            pipeline.prepare(photo())
        source = pipeline.prepare(photo(), track="fit")
        frames = [frame.image for frame in pipeline.animate(source, film, track="fit")]
        still = Controls(motion_strength=0.0)
        kept = [frame.image for frame in pipeline.animate(source, film, controls=still, track="fit")]
    assert len(frames) == FRAMES
    assert all(not np.array_equal(a, b) for a, b in zip(frames, kept, strict=True))
