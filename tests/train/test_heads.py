"""Pictures of heads: the same bits every time, and a truth that agrees with itself."""

from __future__ import annotations

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.rays import camera_rays
from triportrait.kernels.nearest_face import nearest_face
from triportrait.train.data.contact_sheets import around, posed
from triportrait.train.data.heads.anatomy import Kind
from triportrait.train.data.heads.paint import Part
from triportrait.train.data.heads.population import Expression, HairStyle, sample_expression, stream
from triportrait.train.data.heads.rasterize import project
from triportrait.train.data.heads.render import most_frequent
from triportrait.train.data.heads.shapes import rotate, rotation_matrix
from triportrait.train.data.scene_sampling import cameras

JAW, BROWS, NOSE, RIGHT_EYE, LEFT_EYE = slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 42), slice(42, 48)
OUTER_LIPS, INNER_LIPS = slice(48, 60), slice(60, 68)
FIELDS = ("image", "depth", "opacity", "parts", "positions", "landmarks", "expression", "neck")


def wide(count: int):
    return cameras(7, count, 1, 1)


def area(view, part: Part) -> torch.Tensor:
    return (view.parts == part).flatten(1).sum(1).float()


def centroid(mask: torch.Tensor) -> torch.Tensor:
    """[2] mean pixel (x, y) of a mask [S, S]."""
    rows, columns = mask.nonzero(as_tuple=True)
    return torch.stack([columns.float().mean() + 0.5, rows.float().mean() + 0.5])


def test_the_same_arguments_give_the_same_bits_and_a_batch_is_its_members(studio):
    heads, face, camera = [0, 1, 2, 3], sample_expression(4, stream(3, 1)), wide(4)
    together = studio.shoot(face, heads, 64, 2, camera)
    again = studio.shoot(face, heads, 64, 2, camera)
    for k in heads:
        alone = studio.shoot(face.take([k]), [k], 64, 2, camera.take([k]))
        for name in FIELDS:
            assert torch.equal(getattr(together, name)[k], getattr(alone, name)[0]), f"head {k}: {name}"
            assert torch.equal(getattr(together, name), getattr(again, name)), name


def test_shapes_and_ranges(studio):
    view = studio.shoot(sample_expression(2, stream(4, 1)), [0, 1], 48, 2, wide(2))
    shapes = {
        "image": (2, 3, 48, 48), "depth": (2, 1, 48, 48), "opacity": (2, 1, 48, 48), "parts": (2, 48, 48),
        "positions": (2, 3, 48, 48), "landmarks": (2, 68, 2), "expression": (2, 9), "neck": (2, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert tuple(getattr(view, name).shape) == shape, name
        assert getattr(view, name).isfinite().all(), name
    assert view.image.min() >= -1
    assert view.image.max() <= 1
    assert view.image.std() > 0.1
    assert view.opacity.min() == 0
    assert view.opacity.max() == 1
    assert view.parts.dtype == torch.int8


def test_depth_lies_on_the_mesh(studio):
    """A pixel's ray, followed to its depth, ends on a triangle of the posed mesh."""
    face, camera = sample_expression(2, stream(5, 1)), wide(2)
    view = studio.shoot(face, [0, 2], 64, 1, camera)
    origin, direction = camera_rays(camera, 64)
    points = origin + direction * view.depth.flatten(1)[..., None]
    mesh = studio.renderer.mesh
    posed_mesh = mesh.pose(studio.identity.take([0, 2]), face)
    for k in range(2):
        seen = (view.opacity[k].flatten() == 1).nonzero()[::29, 0]
        here = mesh.faces[posed_mesh.present[k, mesh.kind]]
        squared, _ = nearest_face(points[k : k + 1, seen], posed_mesh.vertices[k : k + 1], here, 0.0)
        assert len(seen) > 40
        assert squared.max().sqrt() < 2e-4


def test_opacity_is_one_inside_and_zero_outside_and_agrees_with_the_rest(studio):
    view = studio.shoot(Expression.neutral(2), [0, 5], 96, 2)
    covered = view.opacity[:, 0]
    assert covered[:, 48, 48].eq(1).all()
    assert covered[:, 2, 2].eq(0).all()
    fine = studio.shoot(Expression.neutral(2), [0, 5], 96, 1)
    assert torch.equal(fine.opacity[:, 0] > 0, fine.parts != Part.BACKGROUND)
    assert torch.equal(fine.opacity > 0, fine.depth > 0)
    assert fine.opacity.unique().tolist() == [0, 1]
    assert torch.equal((fine.positions != 0).any(1), fine.opacity[:, 0] > 0)
    # no holes: from any pixel of the head no background is enclosed by the face
    x, y = view.landmarks[:, :17].mean(1).long().unbind(-1)
    for k in range(2):
        assert covered[k, y[k] - 10 : y[k] + 10, x[k] - 10 : x[k] + 10].min() == 1
    # soft edges are the mean of samples
    fraction = covered[(covered > 0) & (covered < 1)]
    assert len(fraction) > 50
    assert torch.equal(fraction * 4, (fraction * 4).round())


def test_antialiasing_is_the_mean_of_a_larger_picture(studio):
    soft, sharp = (studio.shoot(posed({"smile": 0.5}), [1], s, a) for s, a in ((48, 2), (96, 1)))
    torch.testing.assert_close(soft.image, torch.nn.functional.avg_pool2d(sharp.image, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.landmarks * 2, sharp.landmarks, atol=1e-3, rtol=0)


@pytest.mark.parametrize("antialias", [1, 2, 3])
def test_a_pixel_is_of_the_part_that_most_of_its_samples_show(antialias):
    parts = torch.randint(0, 3, (2, 6 * antialias, 6 * antialias), generator=stream(3, 1)).to(torch.int8)
    blocks = parts.unfold(1, antialias, antialias).unfold(2, antialias, antialias).flatten(3)
    counts = torch.stack([(blocks == part).sum(-1) for part in range(len(Part))], -1)
    assert torch.equal(most_frequent(parts, antialias).long(), counts.argmax(-1))  # the first of several


def test_an_open_mouth_seen_from_the_side_shows_no_background(studio):
    """Sight lines that pass through a slit twice end in the head."""
    yaw = torch.tensor([-0.78, 0.78, -0.6, 0.6])
    shorn = studio.identity.take([0, 1, 2, 3]).replace(hair_style=torch.full((4,), int(HairStyle.SHORT)))
    face = Expression.cat([posed({"jaw": 0.6, "smile": 0.6})] * 4)
    view = studio.renderer.render(shorn, face, studio.light.take([0, 1, 2, 3]), around(yaw, yaw * 0), 128, 1)
    for k in range(4):
        left, top = (view.landmarks[k, OUTER_LIPS].amin(0) - 4).long()
        right, bottom = (view.landmarks[k, OUTER_LIPS].amax(0) + 4).long()
        for row in view.opacity[k, 0, top:bottom, left:right]:
            seen = row.nonzero()
            assert seen.max() - seen.min() + 1 == len(seen), "a row of the mouth has a hole"


def test_the_camera_is_the_network_s_camera(studio):
    """A positive yaw moves the camera to -x, so it sees the head's right side; rays and pixels agree."""
    camera = around(torch.tensor([0.6]), torch.tensor([0.0]))
    view = studio.shoot(Expression.neutral(1), [2], 96, 1, camera)
    assert camera.world_from_camera[0, 0, 3] < -1
    right, left = ((view.positions[0, 0] * s > 0.02) & (view.parts[0] == Part.SKIN) for s in (-1, 1))
    assert right.sum() > 2 * left.sum()
    nose, contour = view.landmarks[0, 30, 0], view.landmarks[0, JAW, 0]
    assert nose > contour.mean(), "the nose points away from the camera's side, to the picture's right"
    origin, direction = camera_rays(camera, 96)
    points = (origin + 4 * direction).reshape(1, -1, 3)
    pixels, _ = project(points, camera, 96)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    torch.testing.assert_close(pixels[0], torch.stack([columns, rows], -1).reshape(-1, 2), atol=2e-3, rtol=0)


def test_positions_are_the_same_for_the_same_spot_of_another_head(studio):
    """The uv of a nose tip is that of another nose tip, whatever the expression and the neck."""
    turned = Expression.neutral(2).replace(neck=torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.0]]), jaw=0.3)
    view = studio.shoot(turned, [2, 3], 128, 1)
    column, row = view.landmarks[:, 30].floor().long().unbind(-1)
    tips = torch.stack([view.positions[k, :, row[k], column[k]] for k in range(2)])
    assert (tips[0] - tips[1]).norm() < 0.03
    centre = studio.renderer.mesh.template[studio.renderer.mesh.faces[studio.renderer.mesh.kind == Kind.SKIN]]
    assert (tips[:, 2] > centre[..., 2].max() - 0.06).all()


def test_the_neck_moves_the_head_rigidly_and_leaves_the_torso(studio):
    vector = torch.tensor([[0.1, 0.3, -0.1]])
    still, moved = Expression.neutral(1), Expression.neutral(1).replace(neck=vector)
    camera = around(torch.zeros(1), torch.zeros(1))
    a, b = (studio.shoot(face, [2], 96, 1, camera) for face in (still, moved))
    mesh, who = studio.renderer.mesh, studio.identity.take([2])
    from triportrait.train.data.heads.landmarks import landmarks

    joints = landmarks(who, still)
    expected, _ = project(rotate(joints, rotation_matrix(vector)), camera, 96)
    torch.testing.assert_close(b.landmarks, expected + 0.5, atol=1e-3, rtol=0)
    assert (b.landmarks - a.landmarks).norm(dim=-1).min() > 1
    before, after = mesh.pose(who, still).vertices, mesh.pose(who, moved).vertices
    torso = mesh.faces[mesh.kind == Kind.TORSO].unique()
    skin = mesh.faces[mesh.kind == Kind.SKIN].unique()
    assert torch.equal(before[:, torso], after[:, torso])
    torch.testing.assert_close(after[:, skin], rotate(before[:, skin], rotation_matrix(vector)), atol=1e-6, rtol=0)
    assert torch.equal(b.neck, vector)


def test_a_positive_turn_of_the_neck_looks_to_the_head_s_left(studio):
    turned = Expression.neutral(1).replace(neck=torch.tensor([[0.0, 0.3, 0.0]]))
    nodding = Expression.neutral(1).replace(neck=torch.tensor([[0.2, 0.0, 0.0]]))
    rest = studio.shoot(Expression.neutral(1), [2]).landmarks[0, 30]
    assert studio.shoot(turned, [2]).landmarks[0, 30, 0] > rest[0] + 3
    assert studio.shoot(nodding, [2]).landmarks[0, 30, 1] > rest[1] + 3, "a positive nod looks down"


HEADS = [0, 2, 3, 5]


def shot(studio, **changes):
    return studio.shoot(Expression.cat([posed(changes)] * len(HEADS)), HEADS, 128)


def test_the_jaw_opens_the_mouth(studio):
    areas = torch.stack([area(shot(studio, jaw=jaw), Part.MOUTH) for jaw in (0.0, 0.5, 1.0)])
    assert (areas.diff(dim=0) > 0.3 * areas[0]).all()
    closed, wide_open = shot(studio), shot(studio, jaw=1.0)
    assert (wide_open.landmarks[:, 8, 1] - closed.landmarks[:, 8, 1] > 4).all(), "the chin drops"
    assert (wide_open.landmarks[:, 66, 1] - wide_open.landmarks[:, 62, 1] > 4).all()
    assert (wide_open.landmarks[:, RIGHT_EYE] == closed.landmarks[:, RIGHT_EYE]).all(), "the eyes stay"


def test_a_blink_removes_the_eye(studio):
    both = shot(studio, blink_left=1.0, blink_right=1.0)
    assert (area(shot(studio), Part.EYES) > 60).all()
    assert (area(both, Part.EYES) == 0).all()
    half = shot(studio, blink_left=0.5, blink_right=0.5)
    assert (area(half, Part.EYES) < 0.8 * area(shot(studio), Part.EYES)).all()
    wink = shot(studio, blink_left=1.0)
    for k in range(len(HEADS)):
        assert centroid(wink.parts[k] == Part.EYES)[0] < 64, "the eye that is left is on the picture's left"


def test_gaze_moves_the_iris(studio):
    def iris(view, k):
        dark = view.image[k].mean(0) < view.image[k][:, view.parts[k] == Part.EYES].mean()
        return centroid((view.parts[k] == Part.EYES) & dark)

    left, right, up, down = (
        shot(studio, **d) for d in ({"gaze_x": 1.0}, {"gaze_x": -1.0}, {"gaze_y": 1.0}, {"gaze_y": -1.0})
    )
    for k in range(len(HEADS)):
        assert iris(left, k)[0] > iris(right, k)[0] + 2
        assert iris(up, k)[1] < iris(down, k)[1] - 0.7
    assert torch.equal(left.landmarks, right.landmarks)


def test_brows_smile_and_pucker_move_what_they_should(studio):
    rest = shot(studio).landmarks
    up, down = (shot(studio, brow_left=v, brow_right=v) for v in (1.0, -1.0))
    assert (up.landmarks[:, BROWS, 1] < rest[:, BROWS, 1] - 1).all()
    assert (down.landmarks[:, BROWS, 1].mean(1) > rest[:, BROWS, 1].mean(1) + 1).all()
    one = shot(studio, brow_left=1.0).landmarks
    assert torch.equal(one[:, 17:22], rest[:, 17:22])
    assert (one[:, 22:27, 1] < rest[:, 22:27, 1] - 1).all()
    for k in range(len(HEADS)):
        if studio.identity.hair_style[HEADS[k]] == HairStyle.BALD:
            assert centroid(up.parts[k] == Part.BROWS)[1] < centroid(down.parts[k] == Part.BROWS)[1] - 2
    smile, frown, pucker = (shot(studio, **d).landmarks for d in ({"smile": 1.0}, {"smile": -0.7}, {"pucker": 1.0}))
    corners = [48, 54]
    assert (smile[:, corners, 1] < rest[:, corners, 1] - 1).all()
    assert (frown[:, corners, 1] > rest[:, corners, 1] + 0.7).all()

    def width(marks):
        return marks[:, 54, 0] - marks[:, 48, 0]

    assert (width(smile) > 1.1 * width(rest)).all()
    assert (width(pucker) < 0.7 * width(rest)).all()


def test_landmarks_lie_on_their_parts(studio):
    view = shot(studio, jaw=0.5)
    for k in range(len(HEADS)):
        marks, parts = view.landmarks[k], view.parts[k]
        eyes, mouth = parts == Part.EYES, parts == Part.MOUTH
        for eye, side in ((RIGHT_EYE, slice(0, 64)), (LEFT_EYE, slice(64, 128))):
            mask = torch.zeros_like(eyes)
            mask[:, side] = eyes[:, side]
            rows, columns = mask.nonzero(as_tuple=True)
            low, high = marks[eye].amin(0), marks[eye].amax(0)
            assert columns.min() + 1.5 > low[0]
            assert columns.max() - 0.5 < high[0]
            assert rows.min() + 1.5 > low[1]
            assert rows.max() - 0.5 < high[1]
            assert (centroid(mask) - marks[eye].mean(0)).norm() < 2
        rows, columns = mouth.nonzero(as_tuple=True)
        low, high = marks[OUTER_LIPS].amin(0), marks[OUTER_LIPS].amax(0)
        found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(torch.cat([low, high]), found.float(), atol=2.5, rtol=0)
        assert (marks[NOSE.start : 31, 0] - 64).abs().max() < 1, "the bridge is in the middle"
        for point in marks[NOSE].floor().long():
            assert parts[point[1], point[0]] in (Part.SKIN, Part.GLASSES)


def test_landmarks_run_in_the_usual_order(studio):
    marks = studio.shoot(Expression.neutral(1).replace(jaw=0.3), [2], 128).landmarks[0]
    assert (marks[JAW, 0].diff() > 0).all()
    assert marks[JAW, 1].argmax() == 8
    assert (marks[BROWS, 0].diff() > 0).all()
    assert (marks[27:31, 1].diff() > 0).all()
    assert (marks[31:36, 0].diff() > 0).all()
    for eye in (RIGHT_EYE, LEFT_EYE):
        x, y = marks[eye].unbind(-1)
        assert x.argmin() == 0
        assert x.argmax() == 3
        assert y[1:3].max() < y[4:6].min()
    x, y = marks[OUTER_LIPS].unbind(-1)
    assert x.argmin() == 0
    assert x.argmax() == 6
    assert y[1:6].max() < y[7:12].min()
    assert marks[INNER_LIPS, 1][1:4].max() < marks[INNER_LIPS, 1][5:8].min()


def test_every_part_and_haircut_occurs(studio):
    everyone = studio.identity.take([0] * 7).replace(hair_style=torch.arange(7), glasses=1.0, beard=0.0)
    view = studio.renderer.render(
        everyone, Expression.neutral(7), studio.light.take([0] * 7), around(torch.zeros(7), torch.zeros(7)), 96, 1
    )
    hair = area(view, Part.HAIR)
    assert hair[HairStyle.BALD] == 0
    assert (hair[1:] > 50).all()
    assert hair[HairStyle.LONG] > 1.5 * hair[HairStyle.SHORT]
    assert set(view.parts[HairStyle.SHORT].unique().tolist()) == {int(p) for p in Part}


def test_sizes_and_uneven_batches_are_refused(studio):
    with pytest.raises(InputError, match=r"^size: expected 16 to 1024 px, got 8"):
        studio.shoot(Expression.neutral(1), [0], 8)
    with pytest.raises(InputError, match=r"^antialias: expected 1 to 4, got 5"):
        studio.shoot(Expression.neutral(1), [0], 32, 5)
    with pytest.raises(InputError, match=r"^render: expected some identities"):
        studio.shoot(Expression.neutral(2), [0], 32)
    with pytest.raises(InputError, match=r"^render: expected some identities"):
        studio.shoot(Expression.neutral(0), [], 32)


def test_working_on_a_batch_at_once_gives_the_same_pictures(studio):
    """The way of a GPU, run on the CPU: only rounding may differ."""
    heads, face, camera = [0, 1, 2], sample_expression(3, stream(3, 1)), wide(3)
    single = studio.shoot(face, heads, 64, 1, camera)
    rows = studio.identity.take(heads), face, studio.light.take(heads)
    with torch.no_grad():
        at_once = studio.renderer._together(*rows, camera, 64, 1)
    for name in ("image", "depth", "opacity", "positions"):
        difference = (getattr(single, name) - getattr(at_once, name)).abs().amax(1)
        assert (difference > 1e-4).float().mean() < 1e-3, name
    torch.testing.assert_close(at_once.landmarks, single.landmarks, atol=1e-3, rtol=0)
    assert (at_once.parts != single.parts).float().mean() < 1e-3


def test_light_comes_from_where_it_is_said_to_come_from(studio):
    """The lit side of the face is the brighter one, a light overhead puts the neck into the head's shadow."""
    bald = studio.identity.take([2]).replace(hair_style=torch.tensor([int(HairStyle.BALD)]), glasses=0.0, beard=0.0)
    camera = around(torch.zeros(1), torch.zeros(1))

    def picture(*towards: float):
        direction = torch.nn.functional.normalize(torch.tensor([towards]), dim=-1)
        return studio.renderer.render(
            bald, Expression.neutral(1), studio.light.take([2]).replace(direction=direction), camera, 64, 1
        )

    def brightness(view, part: Part, columns: slice = slice(None)):
        mask = torch.zeros(64, 64, dtype=torch.bool)
        mask[:, columns] = (view.parts[0] == part)[:, columns]
        return view.image[0].mean(0)[mask].mean()

    from_left, front, above = picture(1.0, 0.3, 0.5), picture(0.0, 0.0, 1.0), picture(0.0, 1.0, 0.35)
    assert brightness(from_left, Part.SKIN, slice(36, 64)) > brightness(from_left, Part.SKIN, slice(0, 28)) + 0.1
    assert brightness(above, Part.NECK) < brightness(front, Part.NECK) - 0.25
    unshaded = brightness(above, Part.SKIN) / brightness(front, Part.SKIN)
    assert brightness(above, Part.NECK) / brightness(front, Part.NECK) < unshaded


@pytest.mark.parametrize("style", list(HairStyle))
def test_no_haircut_is_cut_by_the_picture(studio, style):
    """From the published view, every haircut at its fullest ends below the picture's upper edge."""
    full = studio.identity.take([4]).replace(
        hair_style=torch.tensor([int(style)]), hair_volume=1.3, hair_wave=1.0, forehead=1.08, hair_parting=0.5
    )
    view = studio.renderer.render(full, Expression.neutral(1), studio.light.take([4]), fixed_camera(), 64, 1)
    assert (view.opacity[0, 0, 0] == 0).all()
    assert (view.opacity[0, 0, :32, 0] == 0).all()
    assert (view.opacity[0, 0, :32, -1] == 0).all()


def test_the_ends_of_long_hair_stay_behind(studio):
    mesh, who = studio.renderer.mesh, studio.identity.take([2])
    turned = mesh.pose(who, Expression.neutral(1).replace(neck=torch.tensor([[0.2, 0.0, 0.0]])))
    rigid = rotate(turned.straight, turned.rotation)
    sheet = torch.arange(len(mesh.paint))[mesh.sheet_rows]
    height = turned.straight[0, sheet, 1]
    for rows, low, high in ((sheet[height > -0.19], 1.0, 1.0), (sheet[height < -0.34], 0.4, 0.7)):
        moved, fully = (x[:, rows] - turned.straight[:, rows] for x in (turned.vertices, rigid))
        share = moved.norm(dim=-1) / fully.norm(dim=-1)
        assert len(rows) > 20
        assert share.min() > low - 1e-3
        assert share.max() < high + 1e-3


def test_a_camera_close_by_sees_triangles_of_any_size(studio):
    """From a quarter of the distance the face fills the picture, without holes."""
    near = around(torch.zeros(1), torch.zeros(1))
    near.world_from_camera[:, 2, 3] = 0.6
    view = studio.shoot(Expression.neutral(1), [2], 512, 1, near)
    assert view.opacity.min() == 1
    assert view.image.isfinite().all()
