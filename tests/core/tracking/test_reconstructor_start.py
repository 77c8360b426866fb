"""The start by a reconstructor: the mapper's numbers, the quick records, and which models take it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.metrics.recon3d import SIZES, Coefficients, head_rotation
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.published.convert import convert
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.reconstructor_start import (
    ReconstructorStart,
    check_takes_start,
    load_flame_mapper,
    quick_records,
    reconstructor_crop,
    start_of,
)
from triportrait.core.tracking.records import columns_of


@pytest.fixture(scope="module")
def published():
    random = torch.Generator().manual_seed(0)
    shapes = {"maps.0.weight": (512, 144), "maps.0.bias": (512,), "maps.2.weight": (403, 512), "maps.2.bias": (403,)}
    return {name: 0.05 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapper")
    torch.save(published, folder / "model-iter200000.pth")
    (written,) = convert(folder / "model-iter200000.pth", folder / "weights").parts
    assert written.kind == "flame_mapper" and written.num_values == 280_979
    return folder / "weights"


def coefficients(count=3):
    values = 0.4 * torch.randn(count, sum(SIZES), generator=torch.Generator().manual_seed(1))
    return Coefficients.of(values)


def test_the_mapper_is_two_layers_with_a_leaky_step_between(published, weights):
    given = coefficients()
    x = torch.cat([given.identity, given.expression], 1).numpy()
    hidden = x @ published["maps.0.weight"].numpy().T + published["maps.0.bias"].numpy()
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    out = hidden @ published["maps.2.weight"].numpy().T + published["maps.2.bias"].numpy()
    found = torch.cat(load_flame_mapper(weights)(given.identity, given.expression), 1)
    np.testing.assert_allclose(found.numpy(), out, atol=1e-5)


def test_a_start_has_one_shape_and_a_pose_for_each_frame(weights):
    given, mapper = coefficients(), load_flame_mapper(weights)
    start = start_of(mapper, given)
    shape, expression, jaw = (part.double() for part in mapper(given.identity, given.expression))
    torch.testing.assert_close(start.shape, shape.mean(0, keepdim=True))
    torch.testing.assert_close(start.expression, expression[None])
    torch.testing.assert_close(start.jaw, jaw[None])
    offset = torch.tensor([[0.08489475, 0.002882, 0.00353599]])
    expected = (head_rotation(offset) @ head_rotation(given.angles)).double()
    torch.testing.assert_close(start.rotation[0], expected, atol=1e-6, rtol=0)


def test_quick_records_are_those_of_the_published_estimate(weights):
    given, mapper = coefficients(), load_flame_mapper(weights)
    columns = columns_of(quick_records(mapper, given))
    vector = columns["neck"]
    camera = columns["camera"][:, :16].unflatten(1, (4, 4))
    back = rotation_matrices(-vector)
    torch.testing.assert_close(camera[:, :3, :3], back, atol=1e-5, rtol=0)
    torch.testing.assert_close(camera[:, :3, 3], back @ torch.tensor([0, 0.01, 4.2]), atol=1e-5, rtol=0)
    shape, expression, jaw = mapper(given.identity, given.expression)
    torch.testing.assert_close(torch.cat([columns[name] for name in ("shape", "expression", "jaw")], 1),
                               torch.cat([shape, expression, jaw], 1))  # fmt: skip
    assert not columns["eyes"].any()


def test_only_the_model_it_was_made_for_takes_a_start(weights, tmp_path):
    with pytest.raises(InputError, match=r"expected FLAME 2020.*got open head with 12 \+ 10"):
        check_takes_start(load_head_model())
    with pytest.raises(InputError, match="expected FLAME 2020"):
        ReconstructorStart.load(weights, load_head_model())
    with pytest.raises(InputError, match=r"no such file.*triportrait convert FILE"):
        load_flame_mapper(tmp_path)


def test_the_crop_puts_the_face_where_the_reconstructor_wants_it():
    image = np.zeros((300, 400, 3), np.uint8)
    image[140:160, 190:210] = 255  # around the tip of the nose
    points = np.zeros((68, 2))
    points[[36, 39]], points[[42, 45]] = (170, 120), (230, 120)
    points[30], points[48], points[54] = (200, 150), (175, 185), (225, 185)
    crop = reconstructor_crop(image, points)
    assert crop.shape == (224, 224, 3) and crop[:40].max() == 0
    rows, columns = np.nonzero(crop[..., 0] > 128)
    assert abs(columns.mean() - 112) < 6 and 100 < rows.mean() < 160
