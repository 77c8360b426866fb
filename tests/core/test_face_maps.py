"""The correspondence map and the masks of FLAME's regions, on made tables in the published layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.synthetic import flame_tables, mesh_tables, sphere
from triportrait.core.config import portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import FIXED_POSITION, fixed_camera, turned
from triportrait.core.render.face_maps import FaceMaps, Region, landmark_pixels
from triportrait.core.types import PUBLISHED_FOCAL

SIZE = 128
LEFT, RIGHT = (0.07, 0.32, 0.26), (-0.07, 0.32, 0.26)  # centres of eyeballs, scene units; the head's left is +x
RADIUS = 0.05


def tables() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An egg with two eyeballs, and the published lists of its regions; the mouth is a patch below the eyes."""
    flame = flame_tables()
    egg, ball, ball_faces = flame["template"], *sphere(6, 8)
    ball = ball - ball.mean(0)
    ball = ball / ball.norm(dim=-1, keepdim=True) * RADIUS
    flame["template"] = torch.cat([egg, *(ball + torch.tensor(centre) for centre in (LEFT, RIGHT))])
    flame["faces"] = torch.cat([flame["faces"], *(ball_faces + len(egg) + i * len(ball) for i in range(2))])
    more, count = 2 * len(ball), len(flame["template"])
    for name, axis in (("shape_directions", 0), ("joint_regressor", 1), ("skinning_weights", 0)):
        shape = list(flame[name].shape)
        shape[axis] = more
        flame[name] = torch.cat([flame[name], torch.zeros(shape)], axis)
    flame["skinning_weights"][len(egg) : len(egg) + len(ball), 3] = 1
    flame["skinning_weights"][len(egg) + len(ball) :, 4] = 1
    flame["pose_directions"] = torch.zeros(36, 3 * count)
    inner = (egg[:, 2] > 0.2) & (egg[:, 0].abs() < 0.05) & ((egg[:, 1] - 0.1).abs() < 0.06)
    regions = {
        "eye_idxs": torch.arange(len(egg), count),
        "face_idxs": torch.arange(len(egg)),
        "noinmouth_idxs": torch.cat([(~inner).nonzero()[:, 0], torch.arange(len(egg), count)]),
    }
    return flame, regions


def field(regions: bool = True) -> NeckField:
    flame, lists = tables()
    return NeckField(portrait4d_v2().neck, 1.3, flame, mesh_tables(flame) | (lists if regions else {}))


@pytest.fixture(scope="module")
def maps() -> FaceMaps:
    return FaceMaps(field())


def posed(**pose: Tensor) -> Tensor:
    zeros = {"betas": torch.zeros(1, 400), "neck": torch.zeros(1, 3), "jaw": torch.tensor([[0.3, 0, 0]]),
             "eyes": torch.zeros(1, 6)}  # fmt: skip
    return field().flame(**zeros | pose)[0]


def by_hand(point: Tensor, size: int = SIZE) -> tuple[float, float]:
    """Where the fixed camera sees a point: x to the right and y down."""
    x, y, z = (point - torch.tensor(FIXED_POSITION)).tolist()
    return size * (0.5 + PUBLISHED_FOCAL * x / -z), size * (0.5 - PUBLISHED_FOCAL * y / -z)


def test_a_known_vertex_is_where_the_conventions_say(maps):
    """The left eye's foremost vertex is in the upper right of a frontal picture, and shows where it is at rest."""
    vertices = posed()
    eye = maps._field.mesh["eye_idxs"][: len(maps._field.mesh["eye_idxs"]) // 2]
    foremost = eye[vertices[0, eye, 2].argmax()]
    x, y = by_hand(vertices[0, foremost])
    assert x > SIZE / 2 > y
    positions = maps.positions(vertices, fixed_camera(), SIZE)
    assert positions.shape == (1, 3, SIZE, SIZE)
    expected = (vertices[0, foremost] - torch.tensor([0, 0, 0.5])) / 0.6
    torch.testing.assert_close(positions[0, :, int(y), int(x)], expected, atol=0.02, rtol=0)
    landmark = landmark_pixels(vertices[:, foremost, None], fixed_camera(), SIZE)[0, 0]
    assert landmark.tolist() == pytest.approx([x, SIZE - y], abs=1e-3)  # y runs up


def test_positions_are_those_of_the_canonical_face_under_any_pose_and_camera(maps):
    camera = turned(fixed_camera(), 0.4, 0.1)
    vertices = posed(betas=0.5 * torch.ones(1, 400), neck=torch.tensor([[0.1, 0.4, 0.0]]))
    positions = maps.positions(vertices, camera, SIZE)
    seen = positions.abs().sum(1) > 0
    assert 0.1 < seen.float().mean() < 0.6
    rest = posed()[0] / 0.6
    rest[maps._field.mesh["eye_idxs"], 2] -= 0.5 / 0.6
    low, high = rest.amin(0), rest.amax(0)
    for axis in range(3):
        values = positions[:, axis][seen]
        assert low[axis] - 1e-5 <= values.min() and values.max() <= high[axis] + 1e-5
    # the same picture of the face at rest shows the same places: a face is named by where it is, not by where it went
    whole = maps.positions(posed(), fixed_camera(), SIZE)
    assert not torch.equal(whole, positions)


def test_eyes_cover_discs_and_the_face_is_seen_without_them(maps):
    vertices, camera = posed(), fixed_camera()
    eyes = maps.mask("eyes", vertices, camera, SIZE)[0, 0]
    row, column = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for centre in (LEFT, RIGHT):
        x, y = by_hand(torch.tensor(centre))
        radius = SIZE * PUBLISHED_FOCAL * RADIUS / (FIXED_POSITION[2] - centre[2])
        expected |= (row - y) ** 2 + (column - x) ** 2 < radius**2
    assert (eyes.bool() != expected).sum() < 0.3 * expected.sum()  # a ball of few faces
    face = maps.mask("face without eyes", vertices, camera, SIZE)[0, 0]
    positions = maps.positions(vertices, camera, SIZE)[0]
    assert torch.equal(positions.abs().sum(0) > 0, (face + eyes) > 0)


def test_the_mouth_s_inside_is_a_hole_that_the_whole_head_covers(maps):
    vertices, camera = posed(), fixed_camera()
    head = maps.mask("head", vertices, camera, SIZE)
    rest = maps.mask("no inner mouth", vertices, camera, SIZE)
    hole = (head - rest)[0, 0]
    assert hole.min() == 0
    row, column = hole.nonzero(as_tuple=True)
    assert 20 < len(row) < 0.2 * head.sum()
    x, y = by_hand(torch.tensor([0.0, 0.1, 0.3]))
    assert abs(column.float().mean() + 0.5 - x) < 2
    assert abs(row.float().mean() + 0.5 - y) < 6


def test_the_head_is_drawn_from_both_sides_and_the_others_from_the_front(maps):
    """From inside of the egg, where all faces are turned away."""
    camera = fixed_camera()
    camera.world_from_camera[0, :3, 3] = torch.tensor([0.0, 0.25, 0.05])
    vertices = posed()
    assert maps.mask("head", vertices, camera, 32).any()
    assert not maps.mask("face without eyes", vertices, camera, 32).any()


def test_what_follows_from_flame_alone_needs_no_tables(maps):
    bare = FaceMaps(field(regions=False))
    vertices, camera = posed(neck=torch.tensor([[0.0, 0.3, 0.0]])), fixed_camera()
    regions: list[Region] = ["eyes", "face without eyes", "head"]
    for region in regions:
        assert torch.equal(bare.mask(region, vertices, camera, 64), maps.mask(region, vertices, camera, 64))
    assert torch.equal(bare.positions(vertices, camera, 64), maps.positions(vertices, camera, 64))
    sentence = r"noinmouth_idxs: expected this table of a published .* 'no inner mouth'; convert the published portrait"
    with pytest.raises(InputError, match=sentence):
        bare.mask("no inner mouth", vertices, camera)


def test_a_mesh_without_eyeballs_has_positions_and_no_eyes():
    flame = flame_tables()
    maps = FaceMaps(NeckField(portrait4d_v2().neck, 1.3, flame, mesh_tables(flame)))
    vertices = flame["template"][None]
    assert maps.positions(vertices, fixed_camera(), 32).any()
    with pytest.raises(InputError, match="eye_idxs: expected this table"):
        maps.mask("eyes", vertices, fixed_camera())
    with pytest.raises(InputError, match=r"region: expected one of eyes, .*, head, got 'ears'; choose one"):
        maps.mask("ears", vertices, fixed_camera())  # type: ignore[arg-type]


def test_a_region_that_names_a_vertex_that_is_not_there_is_refused():
    broken = field()
    broken.mesh.register_buffer("noinmouth_idxs", torch.tensor([0, 10_000]))
    with pytest.raises(InputError, match="noinmouth_idxs: expected whole numbers from 0 to"):
        FaceMaps(broken)


def test_a_batch_is_its_members_and_one_camera_serves_all(maps):
    vertices = torch.cat([posed(), posed(neck=torch.tensor([[0.0, 0.5, 0.0]]))])
    both = maps.positions(vertices, fixed_camera(), 64)
    assert torch.equal(both[1:], maps.positions(vertices[1:], fixed_camera(), 64))
