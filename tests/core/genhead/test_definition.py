"""The parts of GenHead against a slow definition that was written without sight of them.

No stored output of the published network covers deformation, masks and fuses: two readings of the same facts that agree
are all there is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.core.genhead import definition
from triportrait.core.genhead import deformation, masks
from triportrait.core.genhead.fuse import fuse_parts, gate_density
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.kernels.rasterize import rasterize

VERTICES, SIDE, SMALL = 60, 48, 12


@dataclasses.dataclass
class Lists:
    """What the deformation reads of `PartRegions`."""

    eyes: torch.Tensor
    face: torch.Tensor
    lips: torch.Tensor
    neighbours: torch.Tensor
    canonical: torch.Tensor


@pytest.fixture(scope="module")
def lists():
    generator = torch.Generator().manual_seed(0)
    neighbours = torch.stack([torch.randperm(VERTICES, generator=generator)[:10] for _ in range(VERTICES)])
    neighbours[::3, 6:] = VERTICES  # short lists
    neighbours[5] = torch.tensor([5] + [VERTICES] * 9)
    order = torch.randperm(VERTICES, generator=generator)
    canonical = torch.randn(VERTICES, 3, generator=generator) * 0.2
    return Lists(order[:16].view(2, 8), order[16:], order[20:32], neighbours, canonical)


@pytest.fixture(scope="module")
def posed(lists):
    generator = torch.Generator().manual_seed(1)
    target, mouth = (lists.canonical + 0.05 * torch.randn(2, VERTICES, 3, generator=generator) for _ in range(2))
    return deformation.PosedHead(None, target, mouth, target)


@pytest.fixture(scope="module")
def points():
    return torch.randn(2, 80, 3, generator=torch.Generator().manual_seed(2)) * 0.25


@pytest.mark.parametrize("part", ["face", "eyes", "mouth"])
def test_points_are_carried_as_defined(lists, posed, points, part):
    carry = {
        "face": deformation.face_points, "eyes": deformation.eye_points, "mouth": deformation.mouth_points
    }[part]  # fmt: skip
    chosen = {"face": lists.face, "eyes": lists.eyes.flatten(), "mouth": lists.lips}[part]
    target = posed.mouth_target if part == "mouth" else posed.target
    found = carry(points, posed, lists)
    for head in range(2):
        wanted = definition.to_canonical(
            points[head].double().numpy(), chosen.numpy(), target[head].double().numpy(),
            lists.canonical.double().numpy(), lists.neighbours.numpy(),
        )  # fmt: skip
        np.testing.assert_allclose(found[head], wanted, atol=1e-5)


def test_eye_boxes_are_as_defined(lists, posed, points):
    found = deformation.inside_eye_boxes(points, posed, lists)
    assert 0.05 < found.float().mean() < 0.95
    for head in range(2):
        left, right = posed.target[head][lists.eyes].double().numpy()
        np.testing.assert_array_equal(found[head], definition.in_eye_box(points[head].double().numpy(), left, right))


@pytest.mark.parametrize("cull", ["none", "back"])
def test_silhouettes_are_as_defined(cull):
    generator = torch.Generator().manual_seed(3)
    vertices = torch.randn(1, 24, 3, generator=generator) * 0.2
    faces = torch.stack([torch.randperm(24, generator=generator)[:3] for _ in range(9)])
    camera = fixed_camera()
    drawn = rasterize(picture_points(vertices, camera, SIDE), faces, SIDE, SIDE, cull).face[0] >= 0
    wanted = definition.covered(
        vertices[0].double().numpy(), faces.numpy(), camera.world_from_camera[0].double().numpy(), SIDE, cull == "back"
    )
    assert 0.02 < wanted.mean() < 0.98
    assert (drawn.numpy() != (wanted > 0)).sum() <= 2  # middles that lie on an edge to the last bit


@pytest.fixture(scope="module")
def silhouettes():
    """Four silhouettes with straight and ragged rims, float32 [S, S]."""
    down, across = np.mgrid[:SIDE, :SIDE]
    balls = ((down - 20) ** 2 + (across - 18) ** 2 < 90).astype(np.float32)
    face = (down > 22 + 3 * np.sin(across)).astype(np.float32)
    head = ((down - 24) ** 2 + (across - 24) ** 2 < 500).astype(np.float32)
    no_mouth = head * (((down - 30) ** 2 / 40 + (across - 24) ** 2 / 160) > 1) * (across != 40)
    return balls, face, head, no_mouth.astype(np.float32)


@pytest.mark.parametrize("size", [SMALL, SIDE])
def test_masks_are_softened_as_defined(silhouettes, size):
    balls, face, head, no_mouth = silhouettes
    eye, mouth = (torch.from_numpy(mask)[None, None] for mask in (balls * (1 - face), head * (1 - no_mouth)))
    found = masks.soften(eye, mouth, size)
    eye_picture, eye_small = definition.eye_masks(balls.astype(float), face.astype(float), size)
    mouth_picture, mouth_small = definition.mouth_masks(head.astype(float), no_mouth.astype(float), size)
    pairs = {
        "eye": (found.eye, eye_small), "eye_picture": (found.eye_picture, eye_picture),
        "mouth": (found.mouth, mouth_small), "mouth_picture": (found.mouth_picture, mouth_picture),
    }  # fmt: skip
    for name, (drawn, wanted) in pairs.items():
        assert 0 < wanted.mean() < 1, name
        np.testing.assert_allclose(drawn[0, 0], wanted, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("fuse", ["hard", "auto"])
def test_fields_are_fused_as_defined(fuse):
    generator = torch.Generator().manual_seed(4)
    R, S, C = 12, 5, 3
    raw_e, raw_f = (3 * torch.randn(1, R, S, generator=generator) for _ in range(2))
    feature_e, feature_f = (torch.rand(1, R, S, C, generator=generator) for _ in range(2))
    inside = torch.rand(1, R, S, generator=generator) < 0.5
    eye, mouth = torch.rand(1, R, generator=generator) * 0.6, torch.rand(1, R, generator=generator) * 0.4
    eye[:, ::3], mouth[:, ::2] = 0, 0
    density_e = gate_density(raw_e, inside, mouth)
    density, feature = fuse_parts(fuse, density_e, feature_e, raw_f, feature_f, eye[..., None] * inside, mouth)
    for ray in range(R):
        for sample in range(S):
            at = (0, ray, sample)
            wanted_density, wanted_feature = definition.fused(
                float(eye[0, ray]), float(mouth[0, ray]), bool(inside[at]),
                (float(raw_e[at]), feature_e[at].double().numpy()), (float(raw_f[at]), feature_f[at].double().numpy()),
                fuse == "hard",
            )  # fmt: skip
            assert float(density[at]) == pytest.approx(wanted_density, abs=1e-5)
            np.testing.assert_allclose(feature[at], wanted_feature, atol=1e-5)
