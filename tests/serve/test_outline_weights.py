"""What a head model without a table makes of the jaw line that face networks see: an outline, which counts little."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch

from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.network_landmarks import OUTLINE_WEIGHT, weights_for_networks
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.tracked import film_fit
from triportrait.serve.tracked.fitted_frames import FollowedFaces


@pytest.fixture(scope="module")
def flame():
    """A head model of whose landmarks no table tells."""
    return dataclasses.replace(load_head_model(), identity=ModelIdentity("FLAME 2020", ""))


@pytest.fixture
def fitted_weights(monkeypatch, flame):
    """Fit two frames and return the weights that the fit was handed."""
    model = flame.points()
    betas = torch.zeros(2, model.num_shape + model.num_expression, dtype=torch.float64)
    place = torch.tensor([0.0, 0.0, -4.0], dtype=torch.float64)
    points = film_fit_camera().project(model.points(betas, torch.zeros(2, 9, dtype=torch.float64)) + place).numpy()
    weights = np.ones((2, 70))
    weights[:, 68:] = 0
    faces = FollowedFaces(
        np.arange(2), np.arange(2) / 25, np.zeros(2, int), np.tile([0.0, 0.0, 512.0], (2, 1)),
        points[:, :68].astype(np.float32), points, weights, {}, 0, 1,
    )  # fmt: skip
    handed = []
    fit = film_fit.fit_clip
    monkeypatch.setattr(film_fit, "fit_clip", lambda *a, **k: handed.append(a[2]) or fit(*a, **k))

    def call(model, provider):
        handed.clear()
        film_fit.fit_film(faces, model, provider=provider)
        return handed[0].numpy()

    return call


def film_fit_camera():
    from triportrait.core.tracking.clip_fit import CAMERA

    return CAMERA


@pytest.fixture
def networks():
    """Stand for the networks, of which nothing is asked here."""
    return NetworkFaces.__new__(NetworkFaces)


def test_the_jaw_counts_little_for_a_model_without_a_table(fitted_weights, flame, networks, caplog):
    with caplog.at_level(logging.INFO):
        weights = fitted_weights(flame, networks)
    assert OUTLINE_WEIGHT == 0.1
    assert (weights[:, :17] == 0.1).all() and (weights[:, 17:68] == 1).all() and not weights[:, 68:].any()
    (said,) = [record.getMessage() for record in caplog.records if "jaw line" in record.getMessage()]
    assert said.startswith("FLAME 2020: no table")


def test_it_counts_fully_where_a_table_or_a_file_says_where_it_is(fitted_weights, flame, networks, caplog):
    with caplog.at_level(logging.INFO):
        for model, provider in ((load_head_model(), networks), (flame, None)):
            assert (fitted_weights(model, provider)[:, :68] == 1).all()
    assert "jaw line" not in caplog.text


def test_a_picture_is_weighed_alike(flame):
    weights = torch.ones(70)
    assert weights_for_networks(flame, weights)[:17].eq(0.1).all()
    assert weights.eq(1).all(), "what is handed in stays as it is"
