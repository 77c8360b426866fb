"""What generated heads are made from: the published sampling, and nothing but the seed and a head's number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.train.generated.little_heads import CLIPS, FRAMES, STILLS, little_config, rows, write_tables
from triportrait.core.errors import InputError
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.render.cameras import LookAtRange
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.generated.draws import DYNAMIC, GeneratedConfig, HeadTables, draw_heads

PUBLISHED = {
    "ψ of all styles": (0.95, lambda c: c.truncation),
    "views: source, motion, target": (3, lambda c: c.views),
    "share of sampled cameras": (0.5, lambda c: c.sampled_cameras),
    "the range of those": (LookAtRange(), lambda c: c.cameras),
    "share of jaws that are opened": (0.5, lambda c: c.opened_jaws),
    "angle of those, radians": ((0.0, 0.2), lambda c: c.jaw),
    "points of L_T": (4000, lambda c: c.points),
    "static share of stage 1": (1.0, lambda c: c.static_share),
    "static share of dynamic data": (0.5, lambda c: DYNAMIC),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_the_published_code(name):
    expected, home = PUBLISHED[name]
    assert home(GeneratedConfig()) == expected


def same(one, other) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))


def test_the_seed_and_the_number_of_a_head_alone_decide(opened):
    config = GeneratedConfig(points=7)
    whole = draw_heads(opened, little_config(), 5, 3, 6, config)
    assert same(draw_heads(opened, little_config(), 5, 6, 2, config), whole.take(slice(3, 5)))
    other = draw_heads(opened, little_config(), 6, 3, 6, config)
    for name in ("latent", "shape", "camera", "expression", "eyes", "jitter", "picks"):
        assert not torch.equal(getattr(other, name), getattr(whole, name)), name
    fewer = draw_heads(opened, little_config(), 5, 3, 6, dataclasses.replace(config, views=2))
    assert torch.equal(fewer.camera, whole.camera[:, :2]) and torch.equal(fewer.latent, whole.latent)


def test_heads_are_drawn_as_published(opened):
    heads = draw_heads(opened, little_config(), 0, 0, 600, GeneratedConfig(points=2))
    B, V = heads.camera.shape[:2]
    both = np.concatenate([rows(1, STILLS)[0], rows(2, CLIPS * FRAMES)[0]])
    cameras, shapes = torch.from_numpy(both[:, :25]), torch.from_numpy(both[:, 25:])

    def row_of(values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The row that each value equals, -1 for none."""
        equal = (values[:, None] == table).all(-1)
        return torch.where(equal.any(1), equal.int().argmax(1), -1)

    row = row_of(heads.shape, shapes)
    assert set(row.tolist()) == set(range(len(both))), "stills and clips alike"
    assert torch.equal(row, row_of(heads.mapping_camera, cameras)), "the mapping is told the shape's own camera"
    seen = row_of(heads.camera.flatten(0, 1), cameras).view(B, V)
    real = seen >= 0
    assert 0.45 < real.float().mean() < 0.55, "half of the views are from real cameras"
    assert torch.equal(seen[:, 0][real[:, 0]], row[real[:, 0]]), "the first one's is the shape's"
    assert (seen[:, 1][real[:, 1]] != row[real[:, 1]]).float().mean() > 0.8, "others are any"
    assert torch.equal(heads.camera[..., 16:], cameras[:1, 16:].expand(B, V, -1)), "the lens stays"
    distances = heads.camera[..., [3, 7, 11]].norm(dim=-1)
    assert 3.64 < distances.min() < 3.8 and 4.3 < distances.max() < 4.46

    assert heads.pose[..., :3].abs().max() == 0, "the neck is straight"
    jaw = heads.pose[:, 0, 3:]
    opened_jaws = jaw[:, 0] != np.float32(0.4)
    assert 0.44 < opened_jaws.float().mean() < 0.56
    assert jaw[opened_jaws, 0].min() >= 0 and 0.18 < jaw[opened_jaws, 0].max() <= 0.2
    assert torch.equal(jaw[:, 1:], torch.tensor([0.01, 0.02]).expand(B, -1)), "about x alone"
    faces = torch.from_numpy(rows(2, CLIPS * FRAMES)[1])  # the clips', where there are some
    face, eyes = row_of(heads.expression[:, 0], faces[:, :100]), row_of(heads.eyes[:, 0], faces[:, 106:])
    assert set(face.tolist()) == set(eyes.tolist()) == set(range(len(faces)))
    assert 0.8 < (face != eyes).float().mean() < 1, "the eyes are any row's"
    assert heads.is_static.all() and torch.equal(heads.motion, heads.motion[:, :1].expand(-1, V, -1))
    assert torch.equal(heads.motion, torch.cat([heads.expression, heads.pose[..., 3:], heads.eyes], -1))
    assert abs(heads.latent.mean()) < 0.05 and abs(heads.latent.std() - 1) < 0.05
    for numbers in (heads.jitter, heads.picks):
        assert 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() < 1


def test_half_of_dynamic_heads_have_another_face_in_the_first_view(opened):
    heads = draw_heads(opened, little_config(), 0, 7, 10, GeneratedConfig(points=2, static_share=DYNAMIC))
    assert heads.is_static.sum() == 5 and heads.is_static[:2].sum() == 1, "of any run of heads"
    for k, static in enumerate(heads.is_static.tolist()):
        source, motion, target = heads.motion[k]
        assert torch.equal(motion, target) and torch.equal(source, motion) == static


def test_stills_alone_give_the_faces(tmp_path):
    found = HeadTables(write_tables(tmp_path / "tables", clips=False))
    assert (len(found), found.faces) == (STILLS, STILLS)
    heads = draw_heads(found, little_config(), 0, 0, 200, GeneratedConfig(points=2))
    assert heads.eyes.max() == np.float32(STILLS / 1000)


def test_heads_of_two_faces_need_two_rows(tmp_path):
    folder = write_tables(tmp_path / "tables", clips=False)
    for name in ("ffhq_all_shape_n_c_params.npy", "ffhq_all_motion_params.npy"):
        np.save(folder / name, np.load(folder / name)[:2])
    (folder / "index.json").unlink()  # as published
    two = HeadTables(folder)
    heads = draw_heads(two, little_config(), 0, 0, 20, GeneratedConfig(points=2, static_share=0))
    assert not (heads.expression[:, 0] == heads.expression[:, 1]).all(-1).any(), "two faces, of two rows"
    for name in ("ffhq_all_shape_n_c_params.npy", "ffhq_all_motion_params.npy"):
        np.save(folder / name, np.load(folder / name)[:1])
    one = HeadTables(folder)
    with pytest.raises(InputError, match="expected two rows of motions or more, as heads have two faces, got 1"):
        draw_heads(one, little_config(), 0, 0, 1, GeneratedConfig(static_share=DYNAMIC))
    draw_heads(one, little_config(), 0, 0, 1)


def test_tables_that_the_generator_does_not_take(tmp_path):
    identity, config = load_head_model().identity, little_config()
    with pytest.raises(InputError, match="expected tables of parameters, ffhq_all_shape_n_c_params"):
        HeadTables(tmp_path)
    beyond = HeadTables(write_tables(tmp_path / "beyond", beyond=0.1))
    with pytest.raises(InputError, match="of the 12 directions of shape that the generator knows, got others than 0"):
        beyond.check_fits(identity, config)
    other = HeadTables(write_tables(tmp_path / "other", head_model=ModelIdentity("FLAME 2020", "f" * 16)))
    with pytest.raises(InputError, match="the head model of the generator, got those of FLAME 2020"):
        other.check_fits(identity, config)
    HeadTables(write_tables(tmp_path / "right")).check_fits(identity, config)


def test_numbers_out_of_range(opened):
    with pytest.raises(InputError, match="seed: expected 0 to"):
        draw_heads(opened, little_config(), -1, 0, 1)
    with pytest.raises(InputError, match="sampled_cameras: expected a share from 0 to 1"):
        GeneratedConfig(sampled_cameras=1.5)
