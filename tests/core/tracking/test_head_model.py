"""Head models from every kind of file: what is read, what is derived, what is refused, and that none are mixed."""

from __future__ import annotations

import io
import json
import logging
import re
import struct
import zipfile

import numpy as np
import pytest
import torch

from docs.tracking.open_head import stored
from tests.core import pickles
from tests.core.synthetic import flame_tables, mesh_tables
from tests.core.tracking import head_files as files
from tests.core.tracking.head_files import SPLIT
from triportrait.core.checkpoint import load_portrait, read_tensors, save_weights
from triportrait.core.config import tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame, rescale_flame, rotation_matrices
from triportrait.core.published.array_files import read_arrays
from triportrait.core.published.convert import FlameOptions, convert
from triportrait.core.published.flame_assets import Assets
from triportrait.core.published.flame_file import version_of
from triportrait.core.tracking.completing import completed, nearest_on_surface, registered_landmarks
from triportrait.core.tracking.head_model import (
    PUBLISHED_MODEL,
    ModelIdentity,
    check_same_model,
    fingerprint,
    load_head_model,
)
from triportrait.core.weights import OPEN_HEAD_FOLDER
from triportrait.train.data.heads.linear_model import linear_head_model


@pytest.fixture(scope="module")
def content():
    return files.entries()


@pytest.fixture(scope="module")
def first(content, tmp_path_factory):
    """The model of the plainest layout, with landmarks from a file."""
    folder = tmp_path_factory.mktemp("FLAME2020")
    (folder / "landmark_embedding_with_eyes.npy").write_bytes(files.object_array(files.landmark_dictionary()))
    path = files.as_npz(folder / "generic_model.npz", content)
    return load_head_model(path, "2020", directions=SPLIT, assets=[folder / "landmark_embedding_with_eyes.npy"])


LAYOUTS = {
    "2017, pickle of Python 2, chumpy, csc": lambda c: {
        **c,
        "shapedirs": files.wrapped(c["shapedirs"]),
        "J_regressor": files.sparse(c["J_regressor"]),
        "kintree_table": (c["kintree_table"] % 2**32).astype(np.uint32),
        "bs_style": "lbs",
    },
    "2020, float32, csr": lambda c: {
        key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in c.items()
    } | {"J_regressor": files.sparse(c["J_regressor"], "csr")},
    "2023, coo, flat pose directions": lambda c: {
        **c,
        "J_regressor": files.sparse(c["J_regressor"], "coo"),
        "posedirs": c["posedirs"].reshape(-1, 36).T,
    },
    "pose directions [15069, 36], column-major": lambda c: {
        **c,
        "posedirs": np.asfortranarray(c["posedirs"].reshape(-1, 36)),
        "v_template": np.asfortranarray(c["v_template"]),
    },
    "expressions by themselves": lambda c: {
        **c, "shapedirs": c["shapedirs"][..., :30], "exprdirs": c["shapedirs"][..., 30:]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_every_layout_is_the_same_model(content, first, name, kind, tmp_path):
    changed = LAYOUTS[name](content)
    path = tmp_path / ("x.pkl" if kind == "pickle" else "x.npz")
    files.as_pickle(path, changed, "2017" in name) if kind == "pickle" else files.as_npz(path, changed)
    assets = tmp_path / "landmark_embedding.npy"
    assets.write_bytes(files.object_array(files.landmark_dictionary()))
    model = load_head_model(path, "2020", directions=SPLIT, assets=[assets])
    assert (model.num_shape, model.num_expression, model.num_eyelids) == (30, 10, 0)
    assert model.identity.is_same(first.identity)
    for table, value in first.flame.state_dict().items():
        torch.testing.assert_close(model.flame[table], value, atol=1e-6, rtol=1e-5)


def test_units_are_scaled_once_and_the_neck_is_the_origin(content, first):
    betas, still = torch.zeros(1, 40), torch.zeros(1, 3)
    _, joints = first.flame(betas, still, torch.tensor([[0.3, 0.0, 0.0]]), torch.zeros(1, 6))
    torch.testing.assert_close(joints[0, 1], torch.zeros(3), atol=1e-6, rtol=0)
    size = np.ptp(content["v_template"], axis=0)
    torch.testing.assert_close(
        first.flame["template"].max(0).values - first.flame["template"].min(0).values,
        torch.from_numpy(3 * size).float(),
    )


def test_splits_are_stated_or_refused(tmp_path):
    path = files.as_npz(tmp_path / "flame2020.npz", files.entries(100, 50))
    with pytest.raises(
        InputError, match=r"shapedirs: expected 300 .* got 150; say which they are by --flame-directions"
    ):
        load_head_model(path)
    with pytest.raises(InputError, match=r"flame-directions: expected numbers that the file has"):
        load_head_model(path, directions=(100, 60))
    model = load_head_model(path, directions=(100, 50))
    assert (model.num_shape, model.num_expression) == (100, 50)
    padded = model.padded_tables()["shape_directions"]
    torch.testing.assert_close(padded[..., 300:350], model.flame["shape_directions"][..., 100:])
    assert not padded[..., 100:300].any()
    whole = load_head_model(files.as_npz(tmp_path / "whole2020.npz", files.entries(300, 100)))
    check_same_model(model.identity, whole.identity, "x")  # the directions it has are those of the whole file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v_template": np.zeros((10475, 3))}, "expected FLAME's 5,023 vertices, got 10,475, which are SMPL-X's"),
        ({"v_template": np.zeros((778, 3))}, "got 778, which are MANO's"),
        ({"v_template": np.zeros((5143, 3))}, "got 5,143; give a file of FLAME"),
        ({"kintree_table": np.zeros((2, 4), int)}, "kintree_table: expected"),
        ({"posedirs": np.zeros((5023, 3, 27))}, r"posedirs: expected \[5023, 3, 36\] or \[36, 15069\]"),
        ({"shapedirs": np.zeros((5023, 2, 40))}, r"shapedirs: expected \[5023, 3, K\]"),
        ({"f": np.full((9976, 3), 5023)}, "f: expected vertex numbers below 5023"),
        ({"J_regressor": {"a": 1}}, "J_regressor: expected an array, got none"),
        ({"weights": np.full((5023, 5), np.inf)}, "weights: expected finite numbers"),
    ],
)
def test_files_of_something_else_get_one_sentence(content, changes, words, tmp_path):
    path = files.as_npz(tmp_path / "flame2020.npz", {**content, **changes})
    with pytest.raises(InputError, match=words):
        load_head_model(path, directions=SPLIT)


def npy(descr: bytes, shape: bytes, data: bytes, pad: int = 0) -> bytes:
    header = b"{'descr': " + descr + b", 'fortran_order': False, 'shape': " + shape + b", }" + b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(20000000,)", bytes(160_000_000)))
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "w") as archive:
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(1,)", bytes(8)))
        archive.writestr("v_template.npy", npy(b"'<f8'", b"(1,)", bytes(8)))
    return file.getvalue()


HOSTILE = {
    "an object that runs": (
        lambda: npy(b"'|O'", b"()", pickles.finish(pickles.call("os", "system", pickles.text("touch marker")))),
        "names the global os.system, which no weights file needs",
    ),
    "a header of megabytes": (lambda: npy(b"'<f8'", b"(1,)", bytes(8), 5_000_000), "has an array with a header of 5,0"),
    "a header that is code": (lambda: npy(b"__import__('os')", b"(1,)", bytes(8)), "has a header that cannot be read"),
    "a shape beyond the file": (lambda: npy(b"'<f8'", b"(10**9,)", bytes(8)), "has a header that cannot be read"),
    "more numbers than bytes": (
        lambda: npy(b"'<f8'", b"(1000000000,)", bytes(8)),
        "to have 1,000,000,000 numbers, got 8",
    ),
    "a zip bomb": (bomb, "asks for more than 4 times its own size in memory"),
    "two of one name": (twice, "two of one name"),
    "a torn zip": (lambda: bomb()[:-30], "expected a weights file, got"),
    "a dictionary nowhere": (lambda: npy(b"'|O'", b"()", b"\x80\x04K\x01."), "is to be an array of objects, got a int"),
    **{
        f"numbers {descr} that NumPy does not know": (
            lambda descr=descr: npy(b"'%s'" % descr.encode(), b"(1,)", bytes(8)),
            f"expected a weights file, .* has numbers of a kind that NumPy does not know, {re.escape(descr)}",
        )
        for descr in ("<f3", "i77", "<<f4", "|c3", "u0", ">bool")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_get_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[name]
    path = tmp_path / "flame2020.npz"
    path.write_bytes(make())
    with pytest.raises(InputError, match=words) as refusal:
        load_head_model(path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "marker").exists()


def test_an_array_of_texts_is_left_alone(tmp_path):
    path = files.as_npz(tmp_path / "x.npz", {"bs_style": "lbs", "a": np.arange(3)})
    assert read_arrays(path)["bs_style"] is None
    np.testing.assert_array_equal(read_arrays(path)["a"], np.arange(3))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("FLAME2020/generic_model.pkl", "2020"),
        ("FLAME2017/female_model.pkl", "2017"),
        ("flame2023.pkl", "2023"),
        ("FLAME2020/flame2023_no_jaw.npz", "2023-no-jaw"),
        ("flame2023_Open.pkl", "2023-open"),
    ],
)
def test_the_version_is_what_the_name_tells(name, version, tmp_path):
    assert version_of(tmp_path / name) == version
    assert version_of(tmp_path / name, "2019") == "2019", "what the user says counts more"


@pytest.mark.parametrize("name", ["generic_model.pkl", "flame_2020_or_2023.pkl", "model12020.pkl"])
def test_no_version_is_guessed(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that tells FLAME's version, .* say --flame-version 2017 or"):
        version_of(tmp_path / "models" / name)
    with pytest.raises(InputError, match=r"flame-version: expected one of 2017, 2019, 2020, .* got 2021"):
        version_of(tmp_path / name, "2021")


class TestIdentity:
    def test_rounding_and_padding_keep_the_fingerprint(self):
        tables = {name: table.double() for name, table in files.open_tables().items()}
        mine = ModelIdentity("a", fingerprint(tables, 12))
        noisy = {name: table * (1 + 1e-7) + 1e-8 for name, table in tables.items()}
        assert mine.is_same(ModelIdentity("b", fingerprint(noisy, 12)))
        padded = load_head_model().padded_tables()
        assert mine.is_same(ModelIdentity("b", fingerprint(padded, 300)))

    @pytest.mark.parametrize("name", ["template", "shape_directions"])
    def test_another_model_has_another(self, name):
        tables = files.open_tables()
        mine = ModelIdentity("a", fingerprint(tables, 12))
        moved = tables[name].clone()
        moved.flatten()[::7] += 2e-3
        assert not mine.is_same(ModelIdentity("a", fingerprint(tables | {name: moved}, 12)))
        turned = tables[name].flip(-1) if name != "template" else tables[name].flip(0)
        assert not mine.is_same(ModelIdentity("a", fingerprint(tables | {name: turned}, 12)))

    def test_a_sum_between_two_steps_is_no_difference(self):
        assert ModelIdentity("a", "0000ffff00000010").is_same(ModelIdentity("b", "ffff00000001000f"))
        assert not ModelIdentity("a", "0000ffff00000010").is_same(ModelIdentity("a", "0000ffff00000012"))

    def test_models_are_not_mixed(self):
        old, new = ModelIdentity("FLAME 2020", "0" * 16), ModelIdentity("FLAME 2023", "1" * 16)
        check_same_model(old, PUBLISHED_MODEL, "x")
        check_same_model(old, ModelIdentity("another name", "0" * 16), "x")
        with pytest.raises(InputError, match=r"x: expected parameters of FLAME 2020 \(0+\), the head model of the "
                                             r"store, got those of FLAME 2023 \(1+\); fit again"):  # fmt: skip
            check_same_model(old, new, "x", "the store")
        with pytest.raises(InputError, match="got those of FLAME 2020"):
            check_same_model(new, PUBLISHED_MODEL, "x")

    @pytest.mark.parametrize(
        "value", [None, {}, {"name": "a", "fingerprint": "12"}, {"name": 1, "fingerprint": ""}, []]
    )
    def test_a_damaged_entry_is_refused(self, value):
        with pytest.raises(InputError, match=r"head_model.json: expected the head model as a name and a fingerprint"):
            ModelIdentity.from_dict(value, "head_model.json")
        assert ModelIdentity.from_dict(PUBLISHED_MODEL.to_dict(), "x") == PUBLISHED_MODEL


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


def converted_folder(folder, tables, name):
    """Write the folder of a converted FLAME file, with a card."""
    identity = ModelIdentity(name, fingerprint(rescale_flame(tables), 300))
    marks = {"landmark70_faces": torch.zeros(1, 70).long(), "landmark70_barycentrics": torch.full((1, 70, 3), 1 / 3)}
    tables = tables | marks | {f"mesh.{part}": table for part, table in mesh_tables(tables).items()}
    save_weights(folder, "flame", tables, None, {"head_model": identity.to_dict(), "num_shape": 300})
    return folder


class TestFolders:
    def test_a_checkpoint_is_not_scaled_again(self, tmp_path, tiny_portrait):
        flame = flame_tables()
        tensors = dict(tiny_portrait.state_dict())
        tensors |= {f"neck.flame.{n}": t for n, t in flame.items()} | {
            f"neck.mesh.{n}": t for n, t in mesh_tables(flame).items()
        }
        save_weights(tmp_path, "portrait", tensors, tiny(), {})
        model = load_head_model(tmp_path)
        torch.testing.assert_close(model.flame["template"], flame["template"])
        assert model.identity.name == "FLAME 2020"
        assert (model.num_shape, model.num_expression) == (300, 100)
        field = load_portrait(tmp_path).neck
        torch.testing.assert_close(model.neck_field().flame["shape_directions"], field.flame["shape_directions"])

    def test_a_converted_file_is_scaled_once_and_carries_its_card(self, content, tmp_path, tiny_portrait):
        path = files.as_pickle(tmp_path / "FLAME2023" / "generic_model.pkl", content)
        conversion = convert(path, tmp_path / "w", flame=FlameOptions(directions=SPLIT))
        card = json.loads((tmp_path / "w" / "flame.json").read_text())["provenance"]
        assert card["head_model"]["name"] == "FLAME 2023"
        assert (card["num_shape"], card["num_expression"], card["version"]) == (30, 10, "2023")
        assert set(card["derived"]) == {"landmark70", "coarse mesh"}
        assert "landmark70: derived" in conversion.notes[0]
        stored = read_tensors(tmp_path / "w", "flame")
        torch.testing.assert_close(stored["template"], torch.from_numpy(content["v_template"]).float())
        model = load_head_model(tmp_path / "w")
        own = {name: table for name, table in stored.items() if not name.startswith("mesh.")}
        torch.testing.assert_close(model.flame["template"], rescale_flame(own)["template"])
        save_weights(tmp_path / "w", "portrait", tiny_portrait.state_dict(), tiny(), {})
        assert load_portrait(tmp_path / "w").neck.identity.is_same(model.identity)

    def test_a_card_without_a_version_is_not_guessed(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {})
        with pytest.raises(InputError, match=r"expected FLAME's version on the card, got none; convert .* again"):
            load_head_model(tmp_path)

    def test_a_card_of_other_tables_is_refused(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {"head_model": {"name": "a", "fingerprint": "0" * 16}})
        with pytest.raises(InputError, match="expected the tables that its card tells of"):
            load_head_model(tmp_path)

    def test_options_of_a_flame_file_are_not_ignored_elsewhere(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {})
        for options, words in (
            ({"directions": (1, 1)}, "directions"),
            ({"assets": [tmp_path / "nowhere"]}, "assets"),
            ({"tables_from": "open-head"}, "tables_from"),
            ({"directions": (1, 1), "assets": [tmp_path]}, "directions, assets"),
        ):
            for name in ("open-head", tmp_path):
                with pytest.raises(
                    InputError, match=rf"{name}: expected {words} with a FLAME file alone, got .* leave"
                ):
                    load_head_model(name, **options)
        with pytest.raises(InputError, match="open-head: expected version with a FLAME file alone"):
            load_head_model(version="2023")

    def test_a_version_that_is_not_that_of_the_card_is_refused(self, tmp_path, tiny_portrait):
        tables = flame_tables()
        name = converted_folder(tmp_path / "known", tables, "FLAME 2020")
        assert load_head_model(name, "2020").identity.name == "FLAME 2020"
        with pytest.raises(
            InputError, match=r"known: expected version to be that of FLAME 2020, .* got 2023; leave it"
        ):
            load_head_model(name, "2023")
        tensors = {**tiny_portrait.state_dict(), **{f"neck.flame.{n}": t for n, t in tables.items()}}
        save_weights(tmp_path / "published", "portrait", tensors, tiny(), {})
        with pytest.raises(InputError, match="published: expected version to be that of FLAME 2020"):
            load_head_model(tmp_path / "published", "2017")
        with pytest.raises(InputError, match="flame-version: expected one of"):
            load_head_model(name, "2021")

    @pytest.mark.parametrize("name", ["demo", "nowhere"])
    def test_folders_without_a_model(self, name):
        with pytest.raises(InputError, match=r"expected a weights folder with FLAME's tables|no such head model"):
            load_head_model(name)


class TestTheOpenHead:
    def test_what_is_shipped_is_what_its_maker_makes(self):
        shipped = read_tensors(OPEN_HEAD_FOLDER, "head")
        again = stored(files.open_tables())
        assert shipped.keys() == again.keys()
        assert all(torch.equal(shipped[name], again[name]) for name in again), "half precision once is half for ever"
        assert sum(table.numel() * table.element_size() for table in shipped.values()) < 700_000

    def test_fewer_heads_make_about_the_same_model(self):
        """The whole of 3,000 heads takes a minute; of 400, mean, parts and most of what varies are the same."""
        made, shipped = linear_head_model(400), files.open_tables()
        for name in ("faces", "parents", "landmark70_faces", "landmark70_barycentrics"):
            assert torch.equal(made[name], shipped[name])
        torch.testing.assert_close(made["skinning_weights"], shipped["skinning_weights"], atol=5e-4, rtol=0)
        far_mm = (made["template"] - shipped["template"]).norm(dim=-1) / 3 * 1000
        assert far_mm.mean() < 0.5
        for kind, least in ((slice(0, 12), 0.9), (slice(12, 22), 0.9)):
            bases = [t["shape_directions"][..., kind].flatten(0, 1) for t in (made, shipped)]
            span = torch.linalg.qr(bases[0])[0]
            kept = (span @ (span.T @ bases[1])).square().sum() / bases[1].square().sum()
            assert kept > least
        assert not made["pose_directions"].any()

    def test_records_go_into_its_neck_field(self):
        model = load_head_model()
        field = model.neck_field()
        random = torch.Generator().manual_seed(0)
        shape, expression = torch.zeros(2, 300), torch.zeros(2, 100)
        shape[:, :12], expression[:, :10] = torch.randn(2, 12, generator=random), torch.randn(2, 10, generator=random)
        pose = [0.1 * torch.randn(2, width, generator=random) for width in (3, 3, 6)]
        padded, _ = field.flame(torch.cat([shape, expression], 1), *pose)
        plain, _ = model.flame(torch.cat([shape[:, :12], expression[:, :10]], 1), *pose)
        torch.testing.assert_close(padded, plain)
        assert field.identity == model.identity
        assert field(shape, expression, *pose).fine.shape == (2, 24, 24, 24, 4)

    def test_a_folder_with_its_padded_tables_is_the_same_model(self, tmp_path, tiny_portrait):
        model = load_head_model()
        tables = {f"neck.{name}": table for name, table in model.neck_field().state_dict().items()}
        card = {"head_model": model.identity.to_dict()}
        save_weights(tmp_path, "portrait", {**tiny_portrait.state_dict(), **tables}, tiny(), card)
        again = load_head_model(tmp_path)
        assert (again.num_shape, again.num_expression) == (12, 10)
        assert again.identity == model.identity
        assert again.is_open


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
