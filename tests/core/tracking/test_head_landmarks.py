"""What a bare file lacks: taken from files beside it, or derived; landmarks and eyelids."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tests.core.synthetic import flame_tables
from tests.core.tracking import head_files as files
from tests.core.tracking.head_files import SPLIT
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame, rotation_matrices
from triportrait.core.published.convert import FlameOptions, convert
from triportrait.core.published.flame_assets import Assets
from triportrait.core.tracking.completing import completed, nearest_on_surface, registered_landmarks
from triportrait.core.tracking.head_model import (
    load_head_model,
)


class TestAssets:
    def test_landmarks_from_a_dictionary_inside_an_array(self, first):
        published = files.landmark_dictionary()
        np.testing.assert_array_equal(first.flame["landmark70_faces"], published["full_lmk_faces_idx"])
        np.testing.assert_array_equal(first.flame["contour_faces"], published["dynamic_lmk_faces_idx"])
        np.testing.assert_array_equal(first.flame["landmark53_faces"], published["static_lmk_faces_idx"])
        assert first.derived["landmark70"] == "from landmark_embedding_with_eyes.npy"

    def test_landmarks_without_pupils_get_those_of_the_eyeballs(self, content, tmp_path):
        (tmp_path / "landmark_embedding.npy").write_bytes(files.object_array(files.landmark_dictionary(68)))
        path = files.as_npz(tmp_path / "flame2020.npz", content)
        model = load_head_model(path, directions=SPLIT, assets=[tmp_path])
        pupils = model.flame.landmarks(model.flame["template"][None])[0, 68:]
        true = load_head_model()
        shift = model.flame["template"][0] - true.flame["template"][0]
        torch.testing.assert_close(
            pupils, true.flame.landmarks(true.flame["template"][None])[0, 68:] + shift, atol=2e-3, rtol=0
        )
        assert "pupils are the foremost points" in model.derived["landmark70"]
        assert model.flame["landmark53_faces"].shape == (53,)

    def test_eyelids_coarse_mesh_and_regions(self, content, tmp_path):
        draw = np.random.default_rng(0)
        lids = [draw.normal(size=(5023, 3)), draw.normal(size=(1, 5023, 3)).astype(np.float32)]
        for name, array in zip("lr", lids, strict=True):
            np.save(tmp_path / f"{name}_eyelid.npy", array)
        coarse = {
            "a": draw.integers(0, 5023, (730, 3)), "b": draw.random((730, 3)),
            "c": draw.integers(0, 730, (1394, 3)), "d": draw.integers(0, 5024, (1394, 50)),
        }  # fmt: skip
        (tmp_path / "simplify_baricentric2.npy").write_bytes(files.object_array(coarse))
        masks = {
            "left_eyeball": np.arange(5),
            "right_eyeball": np.arange(3, 9),
            "lips": np.arange(4),
            "face": np.arange(9),
        }
        files.as_pickle(tmp_path / "FLAME_masks.pkl", masks, False)
        path = files.as_npz(tmp_path / "flame2020.npz", content)
        model = load_head_model(path, directions=SPLIT, assets=[tmp_path])
        assert model.num_eyelids == 2
        torch.testing.assert_close(model.flame["eyelid_directions"][..., 0], 3 * torch.from_numpy(lids[0]).float())
        torch.testing.assert_close(model.flame["eyelid_directions"][..., 1], 3 * torch.from_numpy(lids[1][0]))
        for name, key in (("coarse_vertices", "a"), ("coarse_faces", "c"), ("coarse_face_regions", "d")):
            np.testing.assert_array_equal(model.mesh[name], coarse[key])
        assert model.mesh["eye_idxs"].tolist() == list(range(9))
        written = convert(path, tmp_path / "w", flame=FlameOptions(directions=SPLIT, assets=(tmp_path,))).parts[0]
        again = load_head_model(tmp_path / "w")
        assert again.identity.is_same(model.identity)
        torch.testing.assert_close(again.flame["eyelid_directions"], model.flame["eyelid_directions"])
        assert written.kind == "flame"

    @pytest.mark.parametrize(
        ("name", "make", "words"),
        [
            ("l_eyelid.npy", lambda p: np.save(p, np.zeros((5023, 3))), "got the left one; name both"),
            ("eyelid.npy", lambda p: np.save(p, np.zeros((5023, 3))), "expected the name l_eyelid.npy or r_eyelid.npy"),
            ("x.npy", lambda p: np.save(p, np.zeros(3)), "expected landmarks, regions, a coarse mesh or eyelids"),
            (
                "landmark_embedding.npy",
                lambda p: p.write_bytes(files.object_array(files.landmark_dictionary(60))),
                "full_lmk_faces_idx: expected 70 or 68 landmarks",
            ),
        ],
    )
    def test_assets_that_are_none(self, content, name, make, words, tmp_path):
        path = files.as_npz(tmp_path / "flame2020.npz", content)
        make(tmp_path / name)
        with pytest.raises(InputError, match=words):
            load_head_model(path, directions=SPLIT, assets=[tmp_path / name])


class TestDerived:
    def test_landmarks_of_another_shape_of_the_same_surface(self):
        """The registration finds them on a head whose shape, size and place are others."""
        head = load_head_model()
        tables = files.open_tables()
        random = torch.Generator().manual_seed(2)
        betas = torch.cat([1.2 * torch.randn(1, 12, generator=random), torch.zeros(1, 10)], 1)
        vertices, _ = head.flame(betas, torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 6))
        turn = rotation_matrices(torch.tensor([0.02, 0.0, 0.03]))
        moved = 1.1 * vertices[0] @ turn.T + torch.tensor([0.02, -0.05, 0.01])
        other = tables | {"template": moved, "faces": tables["faces"][:-70]}
        found = registered_landmarks(other, tables, head.num_shape)
        corners = moved[other["faces"][found["landmark70_faces"][0]]]
        places = (corners * found["landmark70_barycentrics"][0][..., None]).sum(1)
        error_mm = (places - moved[-70:]).norm(dim=-1) / 3 * 1000
        assert error_mm.mean() < 2.5
        assert error_mm[68:].max() < 2  # an eye that is turned by a degree has its front elsewhere

    def test_the_nearest_points_are_those_of_a_dense_search(self):
        generator = torch.Generator().manual_seed(0)
        vertices, points = torch.randn(6, 3, generator=generator), torch.randn(9, 3, generator=generator)
        faces = torch.tensor([[0, 1, 2], [2, 3, 4], [1, 4, 5], [0, 3, 5]])
        allowed = torch.tensor([True, True, False, True])
        number, shares = nearest_on_surface(points, vertices, faces, allowed)
        steps = torch.linspace(0, 1, 201)
        a, b = torch.meshgrid(steps, steps, indexing="ij")
        grid = torch.stack([1 - a - b, a, b], -1)[a + b <= 1]
        for point, face, share in zip(points, number, shares, strict=True):
            distance = (vertices[faces[face]].T @ share - point).norm()
            dense = (grid @ vertices[faces[allowed]] - point).norm(dim=-1).min()
            assert abs(distance - dense) < 0.01
            assert distance <= dense + 1e-6
            assert allowed[face]
            assert (share >= 0).all()

    def test_a_model_of_the_same_topology_lends_its_tables(self, content, first, tmp_path, caplog):
        path = files.as_pickle(tmp_path / "FLAME2020" / "generic_model.pkl", content)
        assets = tmp_path / "landmark_embedding.npy"
        assets.write_bytes(files.object_array(files.landmark_dictionary()))
        convert(path, tmp_path / "lender", flame=FlameOptions(directions=SPLIT, assets=(assets,)))
        other = files.as_npz(tmp_path / "flame2023.npz", files.entries(seed=5))
        with caplog.at_level(logging.INFO):
            model = load_head_model(other, directions=SPLIT, tables_from=tmp_path / "lender")
        torch.testing.assert_close(model.flame["contour_faces"], first.flame["contour_faces"])
        assert model.identity.name == "FLAME 2023"
        assert not model.identity.is_same(first.identity)
        assert model.derived["landmark70"].startswith("lent by")
        assert len(caplog.messages) == 1
        with pytest.raises(InputError, match="the same topology to lend tables, got one of another"):
            load_head_model(other, directions=SPLIT, tables_from="open-head")

    @pytest.mark.parametrize(
        ("bare", "full", "points"), [("landmark68", "landmark70", 68), ("landmark51", "landmark53", 51)]
    )
    def test_what_the_user_brings_counts_more_than_what_is_lent(self, first, bare, full, points):
        draw = torch.Generator().manual_seed(3)
        faces = torch.randint(0, files.FACES, (1, points) if points == 68 else (points,), generator=draw)
        shares = torch.full((*faces.shape, 3), 1 / 3)
        coarse = {
            "coarse_vertices": torch.arange(12).view(4, 3), "coarse_barycentrics": torch.full((4, 3), 1 / 3),
            "coarse_faces": torch.tensor([[0, 1, 2], [1, 2, 3]]),
        }  # fmt: skip
        marks = {f"{bare}_faces": faces, f"{bare}_barycentrics": shares}
        brought = Assets(marks, coarse, dict.fromkeys([*marks, *coarse], "mine.npy"))
        lent = dict(first.flame.named_buffers())
        regions = {"coarse_face_regions": torch.zeros(1394, 50).long(), "lips_idxs": torch.arange(4)}
        lender = ("the lender", lent, {**first.mesh, **regions})
        landmarks = ("landmark", "contour")
        flame = {name: table for name, table in lent.items() if not name.startswith(landmarks)}
        whole = completed(flame, {}, brought, lender, files.open_tables(), 12)
        assert whole.flame[f"{full}_faces"].flatten()[:-2].tolist() == faces.flatten().tolist()
        assert whole.derived[full].startswith("from mine.npy; pupils are")
        assert whole.derived["contour"] == "lent by the lender"
        assert "coarse_face_regions" not in whole.mesh, "they are of another coarse mesh"
        assert whole.mesh["coarse_faces"] is coarse["coarse_faces"]
        assert whole.mesh["lips_idxs"].tolist() == [0, 1, 2, 3]
        borrowed = completed(flame, {}, None, lender, files.open_tables(), 12)
        assert torch.equal(borrowed.flame["landmark70_faces"], lent["landmark70_faces"])
        assert borrowed.mesh["coarse_face_regions"].shape == (1394, 50)


def loops(flame: Flame, vertices: torch.Tensor, degrees: float) -> torch.Tensor:
    """The 70 points of one head that turned by an angle to its left, one by one."""
    whole = max(-39, min(39, round(degrees)))
    row = whole + 39 if whole > 0 else -whole
    places = [(flame["contour_faces"][row, i], flame["contour_barycentrics"][row, i]) for i in range(17)]
    places += [(flame["landmark53_faces"][i], flame["landmark53_barycentrics"][i]) for i in range(53)]
    points = []
    for face, share in places:
        point = torch.zeros(3)
        for corner in range(3):
            point = point + share[corner] * vertices[flame["faces"][face, corner]]
        points.append(point)
    return torch.stack(points)


class TestLandmarksAndEyelids:
    @pytest.mark.parametrize("degrees", [0.0, 0.4, 1.0, -1.0, 20.4, -20.6, 39.2, -39.2, 70.0, -70.0])
    def test_the_contour_follows_the_turn(self, first, degrees):
        turn = rotation_matrices(torch.tensor([[0.0, np.deg2rad(degrees), 0.0]], dtype=torch.float32))
        vertices = first.flame["template"][None]
        found = first.flame.landmarks_with_contour(vertices, turn)
        torch.testing.assert_close(found[0], loops(first.flame, vertices[0], degrees))

    def test_a_nod_chooses_no_other_row(self, first):
        turn = rotation_matrices(torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.3, 0.0]]))
        rows = first.flame.landmarks_with_contour(first.flame["template"].expand(2, -1, -1), turn)
        torch.testing.assert_close(rows[0], loops(first.flame, first.flame["template"], 0.0))

    def test_without_a_table_it_says_so(self):
        flame = load_head_model().flame
        with pytest.raises(InputError, match="expected a head model with the table of the contour"):
            flame.landmarks_with_contour(flame["template"][None], torch.eye(3)[None])

    def test_lids_move_with_the_head_and_move_no_joint(self):
        tables = flame_tables()
        lids = torch.randn(len(tables["template"]), 3, 2, generator=torch.Generator().manual_seed(0)) * 0.01
        flame = Flame({**tables, "pose_directions": 0 * tables["pose_directions"], "eyelid_directions": lids})
        turn, still = torch.tensor([[0.0, 0.4, 0.0]]), torch.zeros(1, 3)
        arguments = torch.zeros(1, 400), turn, still, torch.zeros(1, 6)
        before, joints = flame(*arguments)
        after, same = flame(*arguments, torch.tensor([[1.0, 0.5]]))
        torch.testing.assert_close(joints, same)
        above = flame["skinning_weights"][:, 1] == 1
        expected = (lids[..., 0] + 0.5 * lids[..., 1]) @ rotation_matrices(turn)[0].T
        torch.testing.assert_close((after - before)[0][above], expected[above], atol=1e-6, rtol=0)
        assert flame.num_eyelids == 2
        with pytest.raises(InputError, match="eyelids: expected a head model that has them"):
            Flame(tables)(*arguments, torch.zeros(1, 2))
