"""Deformation, masks and fuses: what each of them must do whatever the numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.core.genhead.heads import two_heads
from triportrait.core.errors import InputError
from triportrait.core.genhead import deformation, masks
from triportrait.core.genhead.fuse import fuse_parts, gate_density
from triportrait.core.genhead.regions import PartRegions, part_tables
from triportrait.core.genhead.weights import neck_with_parts
from triportrait.core.motion.flame import Flame
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.tracking.head_model import load_head_model


@pytest.fixture(scope="module")
def posed(genhead):
    heads = two_heads()
    return genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])


@pytest.fixture(scope="module")
def points():
    return (torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(4)) - 0.5) * 0.8


CARRIERS = (deformation.face_points, deformation.eye_points, deformation.mouth_points)


class TestDeformation:
    @pytest.mark.parametrize("carry", CARRIERS)
    def test_a_head_at_rest_stays(self, genhead, posed, points, carry):
        rest = genhead.regions.canonical.expand(2, -1, -1)
        at_rest = dataclasses.replace(posed, target=rest, mouth_target=rest)
        torch.testing.assert_close(carry(points, at_rest, genhead.regions), points)

    @pytest.mark.parametrize("carry", CARRIERS)
    def test_a_head_that_moved_as_a_whole_is_moved_back(self, genhead, posed, points, carry):
        moved = genhead.regions.canonical + torch.tensor([0.1, -0.05, 0.2])
        there = dataclasses.replace(posed, target=moved.expand(2, -1, -1), mouth_target=moved.expand(2, -1, -1))
        back = carry(points, there, genhead.regions)
        torch.testing.assert_close(back, points - torch.tensor([0.1, -0.05, 0.2]), atol=2e-4, rtol=0)

    def test_a_vertex_goes_to_its_place_at_rest(self, genhead, posed):
        chosen = genhead.regions.face[::50]
        carried = deformation.face_points(posed.target[:, chosen], posed, genhead.regions)
        torch.testing.assert_close(
            carried, genhead.regions.canonical[chosen].expand(2, -1, -1), atol=1e-4, rtol=0
        )  # its own weight is 1e10 there

    def test_the_mouth_follows_the_jaw_and_not_the_expression(self, genhead, posed, points):
        heads = two_heads()
        smiling = genhead.pose(heads["shape"], heads["expression"] + 2, heads["pose"], heads["eyes"] + 0.2)
        args = (points, genhead.regions)
        assert torch.equal(smiling.mouth_target, posed.mouth_target)
        assert not torch.allclose(
            deformation.face_points(args[0], smiling, args[1]), deformation.face_points(args[0], posed, args[1])
        )

    def test_the_target_has_a_straight_neck(self, genhead, posed):
        heads = two_heads()
        heads["pose"][:, :3] = 0
        straight = genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])
        torch.testing.assert_close(posed.target, straight.vertices)
        assert not torch.allclose(posed.vertices[1], straight.vertices[1], atol=1e-2)

    def test_straightening_undoes_the_neck(self, genhead, posed):
        skin = genhead.regions.face[genhead.regions.canonical[genhead.regions.face, 1] > 0][::20]
        straight = deformation.straighten(posed.vertices[:, skin], posed)
        before = (posed.vertices - posed.target)[1, skin].norm(dim=1).mean()
        after = (straight - posed.target[:, skin])[1].norm(dim=1).mean()
        assert after < 0.1 * before

    def test_boxes_around_the_eyeballs(self, genhead, posed):
        eyeballs = posed.target[:, genhead.regions.eyes]  # [2, 2, L, 3]
        centre, reach = eyeballs.mean(2), eyeballs.amax(2) - eyeballs.amin(2)
        for eye in range(2):
            for share, inside in ((0.0, True), (0.59, True), (0.61, False)):
                point = centre[:, eye] + share * reach[:, eye] * torch.tensor([0.0, 1.0, 0.0])
                assert deformation.inside_eye_boxes(point[:, None], posed, genhead.regions).all() == inside
        assert deformation.inside_eye_boxes(eyeballs.flatten(1, 2), posed, genhead.regions).all()

    def test_the_nearest_of_a_list(self, points):
        vertices = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(5)) - 0.5
        chosen = torch.arange(3, 50, 2)
        distance, vertex = deformation.nearest_of(points, vertices, chosen)
        table = torch.cdist(points.double(), vertices[:, chosen].double())
        assert torch.equal(vertex, chosen[table.argmin(2)])
        torch.testing.assert_close(distance, (table.amin(2).square() + 1e-12).sqrt().float())

    def test_places_that_are_not_used_do_not_count(self, points):
        canonical = torch.randn(3, 3, generator=torch.Generator().manual_seed(6)) * 0.1
        target = (canonical + 0.05 * torch.randn(3, 3)).expand(2, -1, -1)
        nearest = torch.zeros(2, 200, dtype=torch.int64)
        alone = deformation.carry_by_neighbours(points, nearest, target, canonical, torch.tensor([[0, 3, 3]] * 3))
        torch.testing.assert_close(alone - points, (canonical[0] - target[:, :1]).expand_as(points), atol=1e-5, rtol=0)

    def test_eyelids_take_an_expression_of_their_own(self, genhead):
        heads = two_heads()
        with pytest.raises(
            InputError, match="eyelid_expression: expected a model with a list of its eyelids' vertices"
        ):
            genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"], heads["expression"])
        tables = part_tables(load_head_model().flame) | {"eyelids_idxs": torch.tensor([5, 9])}
        field = neck_with_parts(genhead.config, load_head_model().flame, tables)
        posed, closed = (
            deformation.pose_head(
                field, PartRegions(field), heads["shape"], heads["expression"], heads["pose"], heads["eyes"], lids
            )
            for lids in (None, heads["expression"] + 1)
        )
        moved = (posed.target != closed.target).any(-1).any(0).nonzero()[:, 0]
        assert moved.tolist() == [5, 9]


class TestRegions:
    def test_of_the_open_head(self, genhead):
        regions, template = genhead.regions, genhead.neck.flame["template"]
        left, right = template[regions.eyes].mean(1)
        assert left[0] > 0.05 and right[0] < -0.05
        assert not set(regions.face.tolist()) & set(regions.eyes.flatten().tolist())
        assert (template[regions.lips, 1] < template[regions.eyes[0], 1].amin()).all()
        assert (regions.neighbours[:, 0] == torch.arange(len(template))).all()
        used = regions.neighbours < len(template)
        assert used.sum(1)[regions.face].min() >= 4 and used.sum(1)[regions.lips].tolist() == [4] * 20

    def test_published_lists_stay(self):
        flame = load_head_model().flame
        given = {"lips_idxs": torch.tensor([1, 2, 3])}
        assert torch.equal(part_tables(flame, given)["lips_idxs"], given["lips_idxs"])

    @pytest.mark.parametrize(
        "damage, message",
        [
            ({"lips_idxs": torch.tensor([9999])}, "lips_idxs: expected whole numbers from 0 to 3237"),
            ({"eye_idxs": torch.tensor([1, 2, 3])}, "eye_idxs: expected as many vertices of the left eyeball"),
            ({"canonical_shape": torch.zeros(1, 5, 3)}, r"canonical_shape: expected \[1, 3238, 3\], got \[1, 5, 3\]"),
            ({"vertices_region_idxs": torch.zeros(5, 10).long()}, "expected 3238 lists of neighbours, got 5"),
            ({"vertices_region_idxs": torch.full((3238, 10), 3239)}, "expected whole numbers from 0 to 3238"),
        ],
    )
    def test_damaged_lists(self, genhead, damage, message):
        field = neck_with_parts(genhead.config, load_head_model().flame, damage)
        with pytest.raises(InputError, match=message):
            PartRegions(field)

    def test_a_head_without_eyeballs(self):
        tables = dict(load_head_model().flame.named_buffers())
        tables["skinning_weights"] = tables["skinning_weights"].clone()
        tables["skinning_weights"][:, 3] = 0
        with pytest.raises(InputError, match="expected two eyeballs of as many vertices each, got 0 and 192"):
            part_tables(Flame(tables))


def _area(polygon):
    """The area within corners [N, 3], of which x and y count."""
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs().item()


class TestMasks:
    def test_openings_of_the_open_head_lie_at_its_landmarks(self, genhead, posed):
        eyes, mouth = masks.draw_openings(genhead.neck, posed.vertices[:1], fixed_camera(), 256)
        row, column = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
        landmarks = genhead.neck.flame.landmarks(posed.vertices[:1])[0]
        for opening, corners, corner_count in ((eyes, slice(36, 48), 6), (mouth, slice(60, 68), 8)):
            pixels = masks.picture_points(landmarks[None, corners], fixed_camera(), 256)[0]
            inside = opening[0, 0] > 0
            assert inside.sum() > 20
            assert column[inside].min() >= pixels[:, 0].min() - 1 and column[inside].max() <= pixels[:, 0].max()
            assert row[inside].min() >= pixels[:, 1].min() - 1 and row[inside].max() <= pixels[:, 1].max()
            assert inside.sum().item() == pytest.approx(sum(_area(p) for p in pixels.split(corner_count)), rel=0.1)

    def test_the_lists_of_a_published_file_decide_where_they_are(self, genhead, posed):
        class Regions:
            def mask(self, region, vertices, camera, size):
                picture = torch.zeros(1, 1, 4, 4)
                rows = {"eyes": [0, 1], "face without eyes": [1], "head": [2, 3], "no inner mouth": [3]}[region]
                picture[:, :, rows] = 1
                return picture

        flame = load_head_model().flame
        field = neck_with_parts(genhead.config, flame, {"noinmouth_idxs": genhead.regions.face})
        eyes, mouth = masks.draw_openings(field, posed.vertices[:1], fixed_camera(), 4, Regions())
        assert eyes[0, 0, :, 0].tolist() == [1, 0, 0, 0] and mouth[0, 0, :, 0].tolist() == [0, 0, 1, 0]

    def test_with_lists_real_regions_are_drawn(self, genhead, posed):
        """The face without what is near the lips: the mouth's opening is there."""
        flame = load_head_model().flame
        rest = genhead.regions.canonical
        far = torch.cdist(rest[genhead.regions.face], rest[genhead.regions.lips]).amin(1) > 0.08
        field = neck_with_parts(genhead.config, flame, {"noinmouth_idxs": genhead.regions.face[far]})
        eyes, mouth = masks.draw_openings(field, posed.vertices[:1], fixed_camera(), 128)
        assert not eyes.any(), "the skin of the open head covers its eyeballs"
        rows, columns = (mouth[0, 0] > 0).nonzero(as_tuple=True)
        assert len(rows) > 50 and abs(columns.float().mean() - 64) < 3 and rows.float().mean() > 64

    def test_softening(self):
        opening = torch.zeros(1, 1, 64, 64)
        opening[..., 20:40, 20:40] = 1
        thin = torch.zeros(1, 1, 64, 64)
        thin[..., 30:33, 10:50] = 1
        made = masks.soften(opening, torch.maximum(opening, thin), 16)
        assert made.eye.shape == made.mouth.shape == (1, 1, 16, 16)
        assert made.eye.mean() == pytest.approx(opening.mean().item(), rel=1e-3)
        assert made.eye_picture[0, 0, 30, 30] == pytest.approx(1) and made.eye_picture.sum() == pytest.approx(400)
        assert 0.5 < made.eye_picture[0, 0, 30, 20] < 1 and 0 < made.eye_picture[0, 0, 30, 18] < 0.5
        assert made.mouth_picture.max() <= 1
        opened = masks.morphological_opening(thin)
        assert not opened.any() and torch.equal(masks.morphological_opening(opening), opening)
        assert masks.soften(opening, thin, 16).mouth_picture[0, 0, 31, 30] > 0.3, "the rays' mask is laid on top"

    @pytest.mark.parametrize("sigma, taps", [(1.0, 7), (2.0, 13)])
    def test_taps(self, sigma, taps):
        dot = torch.zeros(1, 1, 31, 31)
        dot[..., 15, 15] = 1
        row = masks.blur(dot, sigma)[0, 0].sum(0)
        assert (row > 0).sum() == taps and row.sum() == pytest.approx(1)
        assert row[16] / row[15] == pytest.approx(2 ** -(1 / sigma**2)) and row[17] / row[15] == pytest.approx(
            2 ** -(4 / sigma**2)
        )


class TestFuse:
    def fields(self):
        g = torch.Generator().manual_seed(7)
        density_e, density_f = (torch.randn(1, 3, 4, generator=g) for _ in range(2))
        feature_e, feature_f = (torch.rand(1, 3, 4, 2, generator=g) for _ in range(2))
        return density_e, feature_e, density_f, feature_f

    @pytest.mark.parametrize("fuse", ["hard", "auto"])
    def test_without_masks_it_is_part_f(self, fuse):
        e, c_e, f, c_f = self.fields()
        density, feature = fuse_parts(fuse, e, c_e, f, c_f, torch.zeros(1, 3, 4), torch.zeros(1, 3))
        assert torch.equal(density, f) and torch.equal(feature, c_f)

    @pytest.mark.parametrize("fuse", ["hard", "auto"])
    def test_in_an_eye_the_mask_weighs(self, fuse):
        e, c_e, f, c_f = self.fields()
        density, feature = fuse_parts(fuse, e, c_e, f, c_f, torch.full((1, 3, 4), 0.25), torch.zeros(1, 3))
        torch.testing.assert_close(density, 0.25 * e + 0.75 * f)
        torch.testing.assert_close(feature, 0.25 * c_e + 0.75 * c_f)

    def test_in_the_mouth(self):
        e, c_e, f, c_f = self.fields()
        mouth = torch.tensor([[0.5, 0.0, 1.0]])
        hard, _ = fuse_parts("hard", e, c_e, f, c_f, torch.zeros(1, 3, 4), mouth)
        torch.testing.assert_close(hard, mouth[..., None] * e + (1 - mouth[..., None]) * f)
        density, feature = fuse_parts("auto", e, c_e, f, c_f, torch.zeros(1, 3, 4), mouth)
        share = torch.stack([e, f], -1).softmax(-1)[..., None]
        torch.testing.assert_close(density[:, [0, 2]], (e + f)[:, [0, 2]])
        torch.testing.assert_close(feature[:, [0, 2]], (share[..., 0, :] * c_e + share[..., 1, :] * c_f)[:, [0, 2]])
        assert torch.equal(density[:, 1], f[:, 1])

    def test_gate(self):
        raw = torch.ones(1, 2, 3)
        inside = torch.tensor([[[True, False, True], [False, False, True]]])
        gated = gate_density(raw, inside, torch.tensor([[0.0, 0.5]]))
        assert gated.tolist() == [[[1, 0, 1], [0.5, 0.5, 1.5]]]

    def test_an_unknown_fuse(self):
        with pytest.raises(ValueError, match="fuse: expected one of hard, auto, got 'soft'"):
            fuse_parts("soft", *self.fields(), torch.zeros(1, 3, 4), torch.zeros(1, 3))
