"""What the user calls the weights: two networks that fit each other, or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serve.faces import landmarks
from tests.train import little
from triportrait.core.checkpoint import save_weights
from triportrait.core.config import tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.weights import VARIABLE, log_weights, named_weights
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracking_files import Tracking
from triportrait.serve.weight_loading import load_weights
from triportrait.train.stages.initialize import initialize, initialize_motion


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder as training makes it: the tiny network with a small motion encoder, in half precision."""
    folder = tmp_path_factory.mktemp("trained")
    portrait = Portrait4D(tiny())
    initialize(portrait, 0)
    initialize_motion(portrait, 0)
    with torch.no_grad():
        portrait.superres.style.normal_()  # type: ignore[union-attr]
    encoder = little.encoder()
    for kind, network, sizes in (("portrait", portrait, tiny()), ("motion", encoder, encoder)):
        halves = {name: t.detach().half() for name, t in network.state_dict().items()}
        save_weights(folder, kind, halves, sizes, {"preset": "tiny"})
    return folder


def picture(seed: int, side: int = 128) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return small.repeat(side // 8, 0).repeat(side // 8, 1)


def test_a_trained_folder_is_loaded_and_reenacts_a_frame(trained):
    portrait, encoder = load_weights(str(trained))
    assert portrait.config == tiny()
    assert isinstance(encoder, SmallMotionEncoder)
    assert encoder.motion_width == portrait.config.transformer.motion_width == 9
    reenactor = Reenactor(portrait, encoder)
    tracked = Tracking(landmarks=torch.from_numpy(landmarks(0.0))[None].float())
    source, *faces = (AlignedFace.whole(picture(seed)) for seed in range(3))
    prepared = reenactor.prepare(source)
    cameras = [fixed_camera(), turned(fixed_camera(), 0.4, 0.0)]
    front, side = reenactor.views(reenactor.head(prepared, faces[0]), cameras)
    assert front.shape == side.shape == (128, 128, 3)
    assert front.dtype == np.uint8
    again, other = (reenactor.reenact(prepared, face) for face in faces)
    elsewhere = reenactor.reenact(prepared, AlignedFace.whole(picture(1), tracked))
    assert np.array_equal(front, again)
    assert not np.array_equal(front, side)
    assert not np.array_equal(front, other), "another driving picture moves nothing"
    assert not np.array_equal(front, elsewhere), "landmarks say where the face is"


def test_the_environment_may_name_the_folder(trained, monkeypatch, caplog):
    caplog.set_level("INFO", "triportrait")
    monkeypatch.setenv(VARIABLE, str(trained))
    assert load_weights(None)[0].config == tiny()
    assert named_weights(None) == str(trained)
    log_weights(None)
    assert caplog.messages[-1] == f"weights: {trained}, as ${VARIABLE} says"
    monkeypatch.setenv(VARIABLE, "")
    caplog.clear()
    for weights in (None, "demo"):
        assert named_weights(weights) == "demo"
        log_weights(weights)
    assert len(caplog.messages) == 2
    assert all("procedural heads alone" in line and "--weights FOLDER" in line for line in caplog.messages)
    log_weights(str(trained))
    assert named_weights(str(trained)) == str(trained)
    assert len(caplog.messages) == 2


def test_two_networks_that_do_not_fit_are_refused(trained, tiny_weights, tmp_path):
    for name, portrait, motion, wanted, given in (
        ("a", trained, tiny_weights, 9, 548),
        ("b", tiny_weights, trained, 548, 9),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for kind, origin in (("portrait", portrait), ("motion", motion)):
            for ending in ("json", "safetensors"):
                shutil.copy(origin / f"{kind}.{ending}", folder)
        said = f"{name}: the portrait takes motion of {wanted} numbers, the motion encoder gives {given}; "
        with pytest.raises(InputError, match=said) as found:
            load_weights(str(folder))
        assert "\n" not in str(found.value)


def test_a_small_encoder_of_another_width_is_refused(trained, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(trained, folder)
    other = SmallMotionEncoder(8, crop_size=32, widths=(8, 8, 8, 8))
    save_weights(folder, "motion", other.state_dict(), other, {})
    with pytest.raises(InputError, match="takes motion of 9 numbers, the motion encoder gives 8"):
        load_weights(str(folder))


def test_a_motion_encoder_that_is_missing_is_named(trained, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(trained, folder)
    (folder / "motion.json").unlink()
    with pytest.raises(InputError, match=r"motion\.json: no such file in the weights folder"):
        load_weights(str(folder))
