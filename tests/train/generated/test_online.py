"""Pictures of drawn heads, and what GenHead knows behind them: against the generator itself, called head by head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.train.generated.little_heads import little_config
from triportrait.core.errors import InputError
from triportrait.core.genhead.deformation import face_points, straighten
from triportrait.core.genhead.weights import genhead_fingerprint
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.render.face_maps import FaceMaps, landmark_pixels
from triportrait.train.data.generated.draws import DYNAMIC, GeneratedConfig, draw_heads
from triportrait.train.data.generated.generate import HeadMaker
from triportrait.train.data.generated.online import OnlineHeads

CONFIG = GeneratedConfig(points=300, static_share=DYNAMIC)


@pytest.fixture(scope="module")
def heads(opened):
    return draw_heads(opened, little_config(), 3, 0, 5, CONFIG)


@pytest.fixture(scope="module")
def made(generator, heads):
    return HeadMaker(generator, CONFIG, positions=True, features=True, at_a_time=2).pictures(heads, range(3))


@pytest.mark.parametrize("k, view", [(0, 0), (1, 0), (1, 2), (4, 1)])
def test_a_picture_is_what_the_generator_draws(k, view, generator, heads, made):
    one = heads.take(slice(k, k + 1))
    with torch.no_grad():
        seen = generator(
            one.latent, one.shape[:, :12], one.expression[:, view, :10], one.pose[:, view], one.eyes[:, view],
            camera_from_label(one.camera[:, view]), camera_from_label(one.mapping_camera), truncation=0.95,
            size=generator.config.ray_size, jitter=one.jitter[:, view],
        )  # fmt: skip
    found, expected = made[view], seen.rendering
    assert torch.allclose(found.image[k], expected.image[0].clamp(-1, 1), atol=1e-4)
    assert torch.allclose(found.opacity[k], expected.opacity[0], atol=1e-5)
    assert torch.allclose(found.depth[k], expected.depth[0], atol=1e-5)
    assert torch.allclose(found.truth.foreground[k], expected.foreground[0], atol=1e-5)
    assert torch.allclose(found.truth.background[k], expected.background[0], atol=1e-5)
    assert torch.equal(found.motion[k], one.motion[0, view])
    assert found.image.shape[1:] == (3, 64, 64) and found.opacity.shape[1:] == (1, 8, 8) and found.neck is None
    assert found.origin[k] == f"generated head {k}"


@pytest.mark.parametrize("view", [0, 2])
def test_l_t_compares_planes_at_coarse_samples_beside_eyes_and_mouth(view, generator, heads, made):
    shape = heads.shape[:, :12]
    with torch.no_grad():
        styles = generator.styles(
            heads.latent, generator.condition(camera_from_label(heads.mapping_camera), shape), CONFIG.truncation
        )
        planes = generator.paint(styles, generator.background_styles(heads.latent)).planes
        posed = generator.pose(shape, heads.expression[:, view, :10], heads.pose[:, view], heads.eyes[:, view])
        camera = camera_from_label(heads.camera[:, view])
        masks = generator.masks(posed, camera)
        points = made[view].truth.points
        canonical = face_points(straighten(points, posed), posed, generator.regions) / 0.65
    beside = (masks.eye + masks.mouth)[:, 0] == 0  # [B, h, h]
    assert not beside.all() and beside.any(), "the test means something"
    seen = points - camera.world_from_camera[:, None, :3, 3]
    along = seen.norm(dim=-1)
    local = (seen @ camera.world_from_camera[:, :3, :3]) / along[..., None]
    f = camera.intrinsics[0, 0, 0]
    column, row = ((c * f + 0.5) * 8 - 0.5 for c in (local[..., 0] / -local[..., 2], local[..., 1] / local[..., 2]))
    assert torch.allclose(column, column.round(), atol=1e-3) and torch.allclose(row, row.round(), atol=1e-3)
    for k in range(len(points)):
        assert beside[k, row[k].round().long(), column[k].round().long()].all(), "no ray of eyes or mouth"
    first, step = camera.axis_distance - 0.65, 1.3 / 5
    ramp = first[:, None] + step * (torch.arange(6) + heads.jitter[:, view])  # [B, S]
    assert ((along[..., None] - ramp[:, None]).abs().amin(-1) < 1e-4).all(), "at the coarse depths"
    axes = ((0, 1), (1, 2), (2, 0))
    features = [
        F.grid_sample(planes[:, 3 + n].permute(0, 3, 1, 2), canonical[:, None][..., list(pair)], align_corners=False)
        for n, pair in enumerate(axes)
    ]
    expected = torch.stack(features).mean(0)[:, :, 0].mT  # [B, P, C]
    assert torch.allclose(made[view].truth.plane_feature, expected, atol=1e-4)


def test_landmarks_and_positions_are_those_of_the_mesh(generator, heads, made):
    camera = camera_from_label(heads.camera[:, 1])
    betas = torch.cat([heads.shape[:, :12], heads.expression[:, 1, :10]], 1)
    with torch.no_grad():
        vertices, _ = generator.neck.flame(betas, torch.zeros(5, 3), heads.pose[:, 1, 3:], heads.eyes[:, 1])
        points = generator.neck.flame.landmarks(vertices)[:, :68]
        up = landmark_pixels(points, camera, 64)
        positions = FaceMaps(generator.neck).positions(vertices, camera, 64)
    assert torch.allclose(made[1].points, points, atol=1e-5)
    assert torch.allclose(made[1].landmarks, torch.stack([up[..., 0], 64 - up[..., 1]], -1), atol=1e-3)
    assert (made[1].positions - positions).abs().mean() < 1e-4 and positions.abs().max() > 0.1


def test_how_many_are_made_together_changes_nothing(generator, heads, made):
    alone = HeadMaker(generator, CONFIG, at_a_time=1).pictures(heads, [2])[0]
    assert torch.allclose(alone.image, made[2].image, atol=1e-4)
    assert torch.allclose(alone.truth.points, made[2].truth.points, atol=1e-6)
    assert alone.positions is None and alone.truth.foreground is None and alone.truth.background.shape[1] == 3


def test_heads_on_the_way(generator, tables):
    source = OnlineHeads(generator, tables, seed=3, motion=True, positions=True, config=CONFIG)
    assert source.generator == genhead_fingerprint(generator) and len(source.generator) == 16
    assert source.head_model.is_same(source.model.identity) and source.image_size == 64 and not source.has_features
    assert source.log_numbers() == {}
    batch = source.batch(source.draw(4, np.random.default_rng(0), 8))
    assert torch.equal(batch.is_static, torch.tensor([False, True, False, True]))
    assert torch.equal(batch.motion.motion, batch.target.motion)
    assert torch.equal((batch.source.motion == batch.target.motion).all(1), batch.is_static)
    assert batch.source.origin == tuple(f"generated head {k}" for k in (8, 9, 10, 11))
    assert batch.target.truth is not None and batch.source.truth is None and batch.motion.truth is None
    later = source.batch(source.draw(2, np.random.default_rng(9), 10))
    assert torch.allclose(later.target.image, batch.target.image[2:], atol=1e-4), "the number of a head decides"
    assert 0 < source.log_numbers()["generator_s"] < 60 and source.log_numbers() == {}
    static = OnlineHeads(generator, tables, seed=3, config=GeneratedConfig(points=10))
    batch = static.batch(static.draw(1, np.random.default_rng(0), 0))
    assert batch.motion is None and batch.is_static.all() and batch.source.positions is None
    assert not torch.allclose(batch.source.image, batch.target.image, atol=1e-2), "two views"


def test_a_source_makes_triples(generator, tables):
    with pytest.raises(InputError, match="views: expected 3, source, motion and target, got 2"):
        OnlineHeads(generator, tables, 0, config=GeneratedConfig(views=2))
