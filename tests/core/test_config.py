"""Sizes: the published count, the tiny preset, and what a damaged config says."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from triportrait.core.config import PRESETS, ModelConfig, RenderConfig, TransformerConfig, portrait4d_v2, tiny
from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D


def count(config):
    with torch.device("meta"):
        return sum(p.numel() for p in Portrait4D(config).parameters())


def test_the_published_network_has_its_published_size():
    assert count(portrait4d_v2()) == 224_766_123


def test_tiny_is_the_same_network_below_5_million_parameters():
    assert count(tiny()) <= 5_000_000
    assert tiny().image_size == 128
    with torch.device("meta"):
        parts = {n for n, _ in Portrait4D(tiny()).named_children()}
        assert parts == {n for n, _ in Portrait4D(portrait4d_v2()).named_children()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_json(preset):
    config = PRESETS[preset]()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d.pop("render"), "fields missing or unknown in ModelConfig: render"),
        (lambda d: d["render"].update(extra=1), "fields missing or unknown in RenderConfig: extra"),
        (lambda d: d["render"].update(num_fine="48"), "num_fine: expected int, got '48'"),
        (lambda d: d["encoder"].update(trunk_widths=[64, "a"]), "trunk_widths: expected a list of whole numbers"),
        (lambda d: d.update(neck=3), "neck: expected an object with the fields of NeckConfig, got int"),
        (lambda d: d.update(image_size=300), "image_size: expected 2 x render.plane_size"),
    ],
)
def test_a_damaged_config_is_refused_by_field(damage, message):
    values = copy.deepcopy(portrait4d_v2().to_dict())
    damage(values)
    with pytest.raises(InputError, match=message):
        ModelConfig.from_dict(values)


def test_heads_must_divide_their_tokens():
    with pytest.raises(InputError, match=r"transformer.token_width: expected a multiple of num_heads=3"):
        ModelConfig(transformer=TransformerConfig(num_heads=3))
    with pytest.raises(InputError, match="multiple of 32"):
        ModelConfig(image_size=120, render=RenderConfig(plane_size=60, neural_size=30))
