"""rasterize: closed forms, the rule of shared edges, order, what draws nothing, and bits that implementations share."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.rasterize import Raster, interpolate, operator, rasterize, spans
from triportrait.profiling.cases import CASES, make_inputs

IMPLEMENTATIONS = ["auto", "reference", "triton"]  # on a CPU `auto` draws by rows


@pytest.fixture(params=IMPLEMENTATIONS)
def each(request):
    with use_backend(request.param):
        yield


def drawn(points, faces, size=8, **options) -> Raster:
    return rasterize(torch.tensor([points]).float(), torch.tensor(faces).view(-1, 3), size, size, **options)


def same(one: Raster, other: Raster) -> None:
    assert torch.equal(one.face, other.face)
    assert torch.equal(one.barycentrics, other.barycentrics)
    assert torch.equal(one.depth, other.depth)


def soup(seed: int, faces: int, size: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles of any size whose corners often coincide, lie on centres, or are equally deep."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.randint(-size, 4 * size, (batch, faces, 2), generator=rng) / 2
    depths = torch.randint(1, 4, (batch, faces, 1), generator=rng)
    return torch.cat([places, depths], -1).float(), torch.randint(0, faces, (faces, 3), generator=rng)


def test_places_on_a_face_are_perspective_correct(each):
    corners = torch.tensor([[-1.0, -0.8, -3.0], [1.2, -0.5, -2.0], [0.1, 1.1, -5.0]], dtype=torch.float64)  # y up
    focal, size = 40.0, 32
    x, y, z = corners.unbind(-1)
    points = torch.stack([size / 2 - focal * x / z, size / 2 + focal * y / z, -z], -1)
    points[:, :2] = (points[:, :2] * 256).round() / 256  # nothing is left to be rounded
    across, down = ((points[:, i] - size / 2) * points[:, 2] / focal for i in range(2))
    corners = torch.stack([across, down, points[:, 2]], -1)  # y down, z forward
    raster = rasterize(points[None], torch.tensor([[0, 1, 2]]), size, size)
    seen = raster.face[0] == 0
    assert seen.sum() > 100
    row, column = seen.nonzero(as_tuple=True)
    middle = torch.stack([column, row], -1).double() + 0.5 - size / 2
    ray = torch.cat([middle / focal, torch.ones(len(row), 1).double()], -1)
    normal = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    depth = (corners[0] @ normal) / (ray @ normal)
    torch.testing.assert_close(raster.depth[0][seen], depth, rtol=1e-12, atol=0)
    torch.testing.assert_close(raster.barycentrics[0][seen] @ corners, ray * depth[:, None], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(raster.barycentrics[0][seen].sum(-1), torch.ones(len(row)).double())
    assert not raster.depth[0][~seen].any()
    assert not raster.barycentrics[0][~seen].any()


def test_a_square_of_centres_has_its_top_and_left_pixels_alone(each):
    square = [[2.5, 1.5, 1], [5.5, 1.5, 1], [5.5, 6.5, 1], [2.5, 6.5, 1]]
    expected = torch.full((8, 8), -1)
    for faces in ([[0, 1, 2], [0, 2, 3]], [[2, 1, 0], [3, 2, 0]], [[1, 2, 3], [3, 0, 1]]):  # any turn, any diagonal
        face = drawn(square, faces).face[0]
        expected[1:6, 2:5] = face[1:6, 2:5]
        assert (face[1:6, 2:5] >= 0).all()
        assert torch.equal(face, expected)


@pytest.mark.parametrize("shift", [0.0, 0.123])
def test_faces_that_share_edges_cover_every_centre_once(each, shift):
    rng = torch.Generator().manual_seed(1)
    size, side = 9, 4
    at = torch.arange(side) * 5 - 3.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    jitter = torch.randint(-3, 4, (side, side, 2), generator=rng) / 2
    points = torch.stack([x + jitter[..., 0] + shift, y + jitter[..., 1], torch.ones_like(x)], -1).view(1, -1, 3)
    cell = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    faces = torch.cat([torch.stack([cell, cell + 1, cell + side], -1),
                       torch.stack([cell + 1, cell + side, cell + side + 1], -1)])  # fmt: skip
    times = torch.zeros(size, size, dtype=torch.int64)
    for face in faces:
        times += rasterize(points, face[None], size, size).face[0] + 1
    assert torch.equal(times, torch.ones_like(times))


def test_of_equally_deep_faces_the_first_is_seen(each):
    corners = [[0, 0, 3], [9, 0, 3], [0, 9, 3], [9, 9, 3]]
    for first, other in (([0, 1, 2], [2, 1, 0]), ([3, 1, 2], [0, 1, 3])):
        both = drawn(corners, [first, other]).face[0]
        alone = drawn(corners, [first]).face[0]
        assert torch.equal(both == 0, alone == 0)
        assert (both[alone < 0] != 0).all()


def test_the_nearest_is_seen_whatever_the_order(each):
    corners = [[0, 0, 2], [9, 0, 2], [0, 9, 2], [0, 0, 1], [9, 0, 4], [0, 9, 1]]  # the second face cuts the first
    raster = drawn(corners, [[0, 1, 2], [3, 4, 5]])
    turned = drawn(corners, [[3, 4, 5], [0, 1, 2]])
    seen = raster.face >= 0
    assert set(raster.face[seen].tolist()) == {0, 1}
    assert torch.equal(raster.face[seen], 1 - turned.face[seen])
    assert torch.equal(raster.depth, turned.depth)
    assert (raster.depth[seen] <= 2).all()


def test_culling_leaves_out_what_runs_clockwise_in_the_picture(each):
    corners = [[1, 1, 1], [1, 7, 1], [7, 1, 1]]  # y runs down: this one is counter-clockwise
    assert (drawn(corners, [[0, 1, 2]], cull="back").face >= 0).any()
    assert (drawn(corners, [[0, 2, 1]], cull="back").face < 0).all()
    assert torch.equal(drawn(corners, [[0, 1, 2]]).face, drawn(corners, [[0, 2, 1]]).face)


UNUSABLE = {
    "behind": [0.0, 9.0, -1.0], "at the camera": [0.0, 9.0, 0.0], "NaN": [0.0, math.nan, 1.0],
    "infinite": [math.inf, 9.0, 1.0], "NaN depth": [0.0, 9.0, math.nan], "infinite depth": [0.0, 9.0, math.inf],
    "far aside": [0.0, 2.0**22, 1.0], "no area": [5.0, 1.5, 1.0],
}  # fmt: skip


@pytest.mark.parametrize("corner", UNUSABLE.values(), ids=UNUSABLE)
def test_a_face_that_cannot_be_drawn_is_left_out_and_no_other(each, corner):
    corners = [[1, 2, 1], [9, 1, 1], corner, [0, 8, 2], [8, 0, 2], [8, 8, 2]]
    raster = drawn(corners, [[0, 1, 2], [3, 4, 5]])
    assert set(raster.face.unique().tolist()) == {-1, 1}
    assert raster.depth.isfinite().all()
    assert raster.barycentrics.isfinite().all()


def test_a_corner_as_far_aside_as_may_be_is_exact(each):
    """A face two million pixels long whose edge passes between two rows of centres."""
    far = 2.0**21
    raster = drawn([[-far, 4.0, 1], [far, 4.0, 1], [far, far, 1], [-far, -far, 1]], [[0, 1, 2], [1, 0, 3]])
    assert (raster.face[0, :4] == 1).all()
    assert (raster.face[0, 4:] == 0).all()


@pytest.mark.parametrize("cull", ["none", "back"])
@pytest.mark.parametrize("moved", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_all_implementations_agree_to_the_bit(seed, moved, cull):
    points, faces = soup(seed, 20, 6)
    rng = torch.Generator().manual_seed(seed)
    points = points.double() + moved * torch.rand(points.shape, generator=rng, dtype=torch.float64)
    results = []
    for implementation in IMPLEMENTATIONS:
        with use_backend(implementation):  # type: ignore[arg-type]
            results.append(rasterize(points, faces, 6, 5, cull))
    assert (results[0].face >= 0).any()
    same(results[0], results[1])
    same(results[0], results[2])


def test_rows_agree_with_the_definition_on_a_larger_picture():
    points, faces = soup(7, 300, 64)
    points[..., :2] += torch.rand(points[..., :2].shape, generator=torch.Generator().manual_seed(0))
    with use_backend("reference"):
        expected = rasterize(points, faces, 64, 80)
    same(rasterize(points, faces, 64, 80), expected)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_do_not_change_the_result(monkeypatch, chunk):
    points, faces = soup(3, 12, 8)
    whole = rasterize(points, faces, 8, 8)
    monkeypatch.setattr(spans, "CHUNK", chunk)
    same(rasterize(points, faces, 8, 8), whole)
    monkeypatch.setattr(operator, "CPU_CHUNK", chunk)
    with use_backend("reference"):
        same(rasterize(points, faces, 8, 8), whole)


def test_nothing_to_draw_is_an_empty_picture(each):
    raster = rasterize(torch.rand(2, 4, 3), torch.empty(0, 3, dtype=torch.int64), 3, 4)
    assert (raster.face == -1).all()
    assert interpolate(torch.rand(2, 4, 5), torch.empty(0, 3, dtype=torch.int64), raster).eq(0).all()


def test_it_carries_no_gradient_and_interpolate_does():
    points, faces, *_ = make_inputs("rasterize", CASES["rasterize"].odd[1], torch.float64)
    assert points is not None and faces is not None
    raster = rasterize(points.requires_grad_(), faces, 9, 7)
    assert not any(part.requires_grad for part in raster)
    attributes = torch.rand(2, points.shape[1], 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: interpolate(x, faces, raster), attributes)


def test_interpolating_the_inverse_depth_gives_that_of_the_picture():
    """On the picture 1 / z is linear; interpolated in space, x / z is where the pixel is."""
    points, faces, *_ = make_inputs("rasterize", CASES["rasterize"].odd[1], torch.float64)
    assert points is not None and faces is not None
    points[..., :2] = (points[..., :2] * 256).round() / 256
    raster = rasterize(points, faces, 17, 9)
    x, y, z = points.unbind(-1)
    place = interpolate(torch.stack([x * z, y * z, z], -1), faces, raster)
    image, row, column = (raster.face >= 0).nonzero(as_tuple=True)
    depth = place[image, row, column, 2]
    torch.testing.assert_close(depth, raster.depth[image, row, column])
    torch.testing.assert_close(place[image, row, column, 0] / depth, column + 0.5, check_dtype=False)
    torch.testing.assert_close(place[image, row, column, 1] / depth, row + 0.5, check_dtype=False)


def test_an_attribute_that_is_no_number_stays_where_it_is_seen():
    raster = drawn([[0, 0, 1], [4, 0, 1], [0, 4, 1], [8, 8, 1], [8, 4, 1], [4, 8, 1]], [[0, 1, 2], [3, 4, 5]])
    attributes = torch.ones(1, 6, 2)
    attributes[0, 0] = math.nan
    values = interpolate(attributes, torch.arange(6).view(2, 3), raster)
    assert values[raster.face == 0].isnan().all()
    assert (values[raster.face != 0] == (raster.face[raster.face != 0] == 1)[:, None]).all()


def test_refuses_what_is_wrong_by_name():
    points, faces = torch.rand(1, 4, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"points: expected \[B, U, 3\], got \[1, 4, 2\]"):
        rasterize(points[..., :2], faces, 4, 4)
    with pytest.raises(
        ValueError, match=r"faces: expected indices from 0 to 3, got 0 to 4; give those of these points"
    ):
        rasterize(points, torch.tensor([[0, 1, 4]]), 4, 4)
    with pytest.raises(ValueError, match=r"points: expected float32 or float64, got torch.float16; convert them"):
        rasterize(points.half(), faces, 4, 4)
    with pytest.raises(ValueError, match=r"faces: expected int64, got torch.int32; convert them"):
        rasterize(points, faces.int(), 4, 4)
    with pytest.raises(ValueError, match=r"width: expected 1 to 16384 pixels, got 16385"):
        rasterize(points, faces, 4, 16385)
    with pytest.raises(ValueError, match=r"cull: expected one of none, back, got 'front'; choose one"):
        rasterize(points, faces, 4, 4, "front")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"attributes: expected \[B, U, C\] with B=1 from face, got \[2, 4, 1\]"):
        interpolate(torch.rand(2, 4, 1), faces, rasterize(points, faces, 4, 4))


COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triportrait.profiling.cases import CASES, DTYPES
from triportrait.profiling.launches import launches_of

for launch in launches_of("rasterize", CASES["rasterize"].paper, DTYPES["fp32"], False):
    names = launch.kernel.arg_names
    constants = {(names.index(name),): value for name, value in launch.constants.items()}
    source = ASTSource(launch.kernel, {name: launch.signature[name] for name in names}, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(launch.options))
    print(*sorted(set(re.findall(r"[a-z.]*f64", compiled.asm["ptx"]))))
"""


def test_a_gpu_rounds_every_product_as_the_definition_does():
    """Compiled for one: no product is fused with a sum, and the division is the exact one."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    kernels = [set(line.split()) for line in ran.stdout.splitlines()]
    assert len(kernels) == 2
    for instructions in kernels:
        assert {"mul.rn.f64", "add.rn.f64", "div.rn.f64"} <= instructions
        assert not {name for name in instructions if name.startswith(("fma", "mad"))}
