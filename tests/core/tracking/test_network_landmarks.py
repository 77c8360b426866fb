"""The open head's landmarks as face networks see them: its mesh and its parameters stay what they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.tracking import network_landmarks
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.network_landmarks import for_networks

CHIN = 8


def test_landmarks_move_and_the_mesh_does_not():
    plain = load_head_model()
    moved = for_networks(plain)
    assert moved.identity == plain.identity
    marks = plain.flame["faces"][plain.flame["landmark70_faces"][0]][:, 0]
    skin = torch.ones(len(plain.flame["template"]), dtype=torch.bool)
    skin[marks] = False
    for name in ("template", "shape_directions"):
        assert torch.equal(moved.flame[name][skin], plain.flame[name][skin])
    betas, still = torch.zeros(1, plain.flame["shape_directions"].shape[-1]), torch.zeros(1, 3)
    before, after = (
        model.flame.landmarks(model.flame(betas, still, still, torch.zeros(1, 6))[0])[0] for model in (plain, moved)
    )
    assert after[CHIN, 1] < before[CHIN, 1] - 0.01, "networks see the chin lower"
    mirrored = after[[16 - i for i in range(17)]] * torch.tensor([-1.0, 1, 1])
    assert (after[:17] - mirrored).abs().max() < 0.005, "no face leans"
    assert torch.equal(load_head_model().flame["template"], plain.flame["template"]), "the plain one is another"


def test_of_other_models_nothing_is_known():
    other = replace(load_head_model(), identity=ModelIdentity("FLAME 2020", ""))
    assert for_networks(other) is other


def test_a_table_of_another_head_is_refused(monkeypatch):
    monkeypatch.setattr(network_landmarks, "read_tensors", lambda *_: {"offsets": torch.zeros(68, 3)})
    with pytest.raises(InputError, match=r"docs\.tracking\.network_landmarks"):
        for_networks(load_head_model())
