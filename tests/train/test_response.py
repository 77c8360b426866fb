"""Correlation and gain: 1 for the truth, half a gain for half the motion, nought for a dead network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.train import little
from triportrait.train.data.heads.paint import Part
from triportrait.train.data.heads.population import EXPRESSION_AXES, Expression
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.evaluation.motion_response import AXES, Probe, Response, face_mask, responses, take_probe

PROBED = ("jaw", "blink right", "blink", "gaze x")


@pytest.fixture(scope="module")
def probe(studio) -> Probe:
    who, light = population(0, 2)
    return take_probe(studio.renderer, who, light, expressions(5, 2, 1), filming_cameras(5, 2), little.model(), PROBED)


def all_equal(found: dict[str, Response], correlation: float, gain: float) -> bool:
    return all(
        value.correlation == pytest.approx(correlation, abs=1e-4) and value.gain == pytest.approx(gain, abs=1e-4)
        for value in found.values()
    )


def rest_of(probe: Probe) -> Tensor:
    return probe.ends["jaw"][0].image


REENACTMENTS: dict[str, tuple[Callable[[Probe, Pictures], Tensor], float, float]] = {
    "the truth": (lambda probe, driving: driving.image, 1, 1),
    "the truth in another light": (lambda probe, driving: driving.image - 0.3, 1, 1),
    "half of the motion": (lambda probe, driving: torch.lerp(rest_of(probe), driving.image, 0.5), 1, 0.5),
    "too much of it": (lambda probe, driving: torch.lerp(rest_of(probe), driving.image, 1.5), 1, 1.5),
    "the opposite": (lambda probe, driving: 2 * rest_of(probe) - driving.image, -1, -1),
    "a dead network": (lambda probe, driving: probe.source.image, 0, 0),
}


@pytest.mark.parametrize("case", REENACTMENTS)
def test_responses_by_what_is_fed_back(case, probe):
    reenact, correlation, gain = REENACTMENTS[case]
    found = responses(probe, lambda source, driving: reenact(probe, driving))
    assert list(found) == list(PROBED)
    assert all_equal(found, correlation, gain), found


def test_noise_lowers_the_correlation_and_hardly_the_gain(probe):
    generator = torch.Generator().manual_seed(0)

    def noisy(source: Pictures, driving: Pictures) -> Tensor:
        return driving.image + 0.3 * torch.randn(driving.image.shape, generator=generator)

    found = responses(probe, noisy)["jaw"]
    assert 0.1 < found.correlation < 0.9
    assert found.gain == pytest.approx(1, abs=0.25)


def test_what_happens_beside_the_face_does_not_count(probe):
    behind = {id(p): float(k) for k, pair in enumerate(probe.ends.values()) for p in pair}

    def busy(source: Pictures, driving: Pictures) -> Tensor:
        outside = torch.ones(2, 1, 64, 64)
        for pair in probe.ends.values():
            for pictures in pair:
                outside = outside * (1 - face_mask(pictures))
        return driving.image + behind[id(driving)] * outside

    assert all_equal(responses(probe, busy), 1, 1)


def test_the_source_is_what_is_reenacted(probe):
    asked = []
    responses(probe, lambda source, driving: asked.append(source) or driving.image)
    assert asked
    assert all(source is probe.source for source in asked)


def test_a_probe_moves_along_one_axis_at_a_time(probe):
    quiet = torch.zeros(2, 9)
    for axis, (before, after) in probe.ends.items():
        names, low, high = AXES[axis]
        for pictures, value in ((before, low), (after, high)):
            wanted = quiet.clone()
            wanted[:, [EXPRESSION_AXES.index(name) for name in names]] = value
            torch.testing.assert_close(pictures.motion, wanted)
            assert torch.equal(pictures.camera.world_from_camera, filming_cameras(5, 2).world_from_camera)
        assert (after.image - before.image).abs().amax() > 0.2, axis
    assert torch.equal(probe.source.motion, expressions(5, 2, 1).vector)
    assert set(AXES["blink"][0]) == {"blink_left", "blink_right"}
    named = {name for names, _, _ in AXES.values() for name in names}
    assert named == set(Expression.__dataclass_fields__) - {"neck"}, "every axis of an expression is probed"


def test_the_face_is_skin_eyes_brows_and_mouth(probe):
    parts, mask = probe.source.parts, face_mask(probe.source)
    assert parts is not None
    assert mask.shape == (2, 1, 64, 64)
    inside = set(parts[mask[:, 0] == 1].tolist())
    outside = set(parts[mask[:, 0] == 0].tolist())
    assert inside == {Part.SKIN, Part.EYES, Part.BROWS, Part.MOUTH}
    assert not inside & outside
    assert 0.05 < mask.mean() < 0.6
