"""Who is drawn: the same seed, the same people; ranges; shares."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.heads.population import (
    EXPRESSION_AXES,
    EXPRESSION_RANGES,
    HAIR_SHARES,
    IDENTITY_RANGES,
    NECK_RANGES,
    Expression,
    Identity,
    Light,
    cast,
    sample_expression,
    sample_light,
    stream,
)
from triportrait.train.data.scene_sampling import cameras, expressions, motion


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.fields().values(), b.fields().values(), strict=True))


def test_a_seed_gives_its_people_and_a_longer_cast_begins_with_a_shorter():
    assert equal(cast(5, 20), cast(5, 20))
    assert equal(cast(5, 20).take(slice(0, 3)), cast(5, 3))
    assert not torch.equal(cast(5, 3).skin, cast(6, 3).skin)
    assert equal(expressions(5, 9, 4).take(slice(0, 8)), expressions(5, 2, 4))
    assert equal(sample_light(33, stream(5, 2)).take(slice(0, 5)), sample_light(5, stream(5, 2)))
    longer, shorter = cameras(5, 9, 2, 3).world_from_camera, cameras(5, 2, 2, 3).world_from_camera
    assert torch.equal(longer[:12], shorter)


def test_numbers_fill_their_ranges():
    people, faces = cast(0, 4000), sample_expression(4000, stream(0, 1))
    for rows, ranges in ((people, IDENTITY_RANGES), (faces, EXPRESSION_RANGES)):
        for name, (low, high) in ranges.items():
            values, margin = getattr(rows, name), 0.02 * (high - low)
            assert low <= values.min() < low + margin, name
            assert high - margin < values.max() <= high, name
    for axis, (low, high) in enumerate(NECK_RANGES):
        assert low <= faces.neck[:, axis].min() < 0.9 * low
        assert 0.9 * high < faces.neck[:, axis].max() <= high
    light = sample_light(1000, stream(0, 2))
    torch.testing.assert_close(light.direction.norm(dim=-1), torch.ones(1000))
    assert (light.direction[:, 1:] > 0).all(), "the key light comes from above and in front"
    for colours in (people.skin, people.hair, people.iris, people.cloth, people.frame, light.background_a):
        assert colours.shape[1] == 3
        assert colours.min() >= 0
        assert colours.max() <= 1


def test_kinds_come_in_their_shares():
    people = cast(3, 20_000)
    counts = torch.bincount(people.hair_style, minlength=len(HAIR_SHARES)) / 20_000
    torch.testing.assert_close(counts, torch.tensor(HAIR_SHARES), atol=0.012, rtol=0)
    assert people.glasses.mean().item() == pytest.approx(0.25, abs=0.012)
    faces = sample_expression(20_000, stream(3, 1), neutral_share=0.08)
    still = (faces.vector == 0).all(-1) & (faces.neck == 0).all(-1)
    assert still.float().mean().item() == pytest.approx(0.08, abs=0.006)
    assert ((faces.smile >= 0.3) & (faces.pucker > 0)).sum() == 0, "nobody puckers while smiling"


def test_expressions_are_vectors_in_the_order_of_their_axes():
    face = sample_expression(5, stream(1, 1))
    assert face.vector.shape == (5, len(EXPRESSION_AXES)) == (5, 9)
    assert torch.equal(face.vector[:, EXPRESSION_AXES.index("gaze_x")], face.gaze_x)
    assert equal(Expression.from_vector(face.vector, face.neck), face)


@pytest.mark.parametrize("kind", [Identity, Expression, Light])
def test_rows_are_frozen_and_are_taken_joined_and_changed(kind):
    rows = {Identity: cast(0, 4), Expression: sample_expression(4, stream(0, 1)), Light: sample_light(4, stream(0, 2))}
    rows = rows[kind]
    assert len(rows) == 4
    assert equal(kind.cat([rows.take([0]), rows.take(slice(1, 4))]), rows)
    name = next(iter(rows.fields()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rows, name, None)
    changed = rows.replace(**{name: 0.5})
    assert (getattr(changed, name) == 0.5).all()
    assert not equal(changed, rows)


def test_motion_is_smooth_repeats_and_blinks():
    face = motion(2, 1, 200, 25)
    assert equal(face, motion(2, 1, 200, 25))
    assert not torch.equal(face.jaw, motion(2, 0, 200, 25).jaw)
    steps = face.vector.diff(dim=0).abs().amax(0)
    for name, step in zip(EXPRESSION_AXES, steps, strict=True):
        limit = 0.6 if name.startswith("blink") else 0.25
        assert step < limit, f"{name} jumps by {step:.2f} within a frame"
    assert face.neck.diff(dim=0).abs().max() < 0.1
    assert face.blink_left.max() > 0.9
    assert face.jaw.max() > 0.3
    for name, (low, high) in EXPRESSION_RANGES.items():
        assert low <= getattr(face, name).min()
        assert getattr(face, name).max() <= high


@pytest.mark.parametrize(
    "seed, count, said", [(-1, 1, "seed"), (2**31, 1, "seed"), (0, 0, "count"), (0, 10**7, "count")]
)
def test_seeds_and_counts_out_of_range_are_refused(seed, count, said):
    with pytest.raises(InputError, match=f"^{said}: expected"):
        cast(seed, count)
