"""Networks, FLAME and the lists of tensors: dotted names, settings, and refusals that name what is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.core import pickles, published_like
from triportrait.core.errors import InputError
from triportrait.core.published.network_contract import (
    INDICES,
    PARENTS,
    STORED,
    Kind,
    check_contract,
    check_filters,
    check_options,
    ignored,
    left_out,
    manifest,
    numbers_of,
)
from triportrait.core.published.networks import Network


def read(path: Path, data: bytes) -> dict[str, Network]:
    path.write_bytes(data)
    return pickles.read_networks(path)


def check_equal(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(result) == list(expected)
    for name, tensor in expected.items():
        assert result[name].dtype == tensor.dtype, name
        assert torch.equal(result[name], tensor), name


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_snapshot(tmp_path: Path, protocol: int) -> None:
    net, average, judge = pickles.network(), pickles.network(), nn.Linear(2, 2)
    root = pickles.snapshot(G=net, D=judge, G_ema=average)
    networks = read(tmp_path / "x.pkl", pickles.dump(root, protocol))
    assert list(networks) == ["G", "D", "G_ema"]
    for key, module in (("G", net), ("D", judge), ("G_ema", average)):
        check_equal(networks[key].tensors, dict(module.state_dict()))
        assert networks[key].parameters == {name for name, _ in module.named_parameters()}
    assert (networks["G"].kind, networks["D"].kind) == ("TriPlaneGenerator", "Linear")
    assert networks["D"].settings == {}
    assert networks["G"].settings == {
        "z_dim": 512,
        "rendering_kwargs": {"depth": 48, "ray": {}},
        "size": [2, 3],
        "act": "torch.nn.functional.relu",
        "scale": 0.5,
        "dtype": "torch.float16",
        "none": None,
    }
    assert not (tmp_path / "marker").exists()


def test_a_snapshot_with_one_network(tmp_path: Path) -> None:
    networks = read(tmp_path / "x.pkl", pickles.dump(pickles.snapshot(G=None, D=None, G_ema=pickles.network())))
    assert list(networks) == ["G_ema"]


def test_a_module_under_two_names(tmp_path: Path) -> None:
    net = pickles.Persistent("Net")
    net.a = net.b = nn.Linear(2, 3)
    check_equal(read(tmp_path / "x.pkl", pickles.dump({"G": net}))["G"].tensors, dict(net.state_dict()))


@pytest.mark.parametrize("nesting", [(), ("state_dict",), ("net",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint(tmp_path: Path, nesting: tuple[str, ...], prefix: str, zipped: bool) -> None:
    tensors = dict(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict())
    root: dict[str, Any] = {prefix + name: tensor for name, tensor in tensors.items()}
    for key in reversed(nesting):
        root = {"epoch": 3, key: root}
    torch.save(root, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    networks = pickles.read_networks(tmp_path / "x.pth")
    check_equal(networks[""].tensors, tensors)
    assert networks[""].parameters == frozenset()
    assert networks[""].kind == ""


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.pth")
    assert list(pickles.read_networks(tmp_path / "x.pth")[""].tensors) == ["module.a", "b"]


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ([1], "expected a dictionary of networks"),
        ({}, "got no entries"),
        ({"a": torch.ones(1), "epoch": 3}, r"got 1 entries that are not \(epoch\)"),
        ({"G": pickles.EasyDict()}, "G: expected a network module, got something without a state"),
    ],
)
def test_files_without_networks(tmp_path: Path, root: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path / "x.pkl", pickles.dump(root))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"}", "expected the entry _parameters of a network module, got none"),
        (
            pickles.members(modules=b"}" + pickles.text("m" * 101) + b"Ns"),
            "_modules: expected names of up to 100 letters",
        ),
        (pickles.members(buffers=b"}K\x01Ns"), "_buffers: expected names of up to 100 letters, got 1;"),
        (pickles.members(parameters=b"}" + pickles.text("a\nb") + b"K\x01s"), r"expected one tensor a\\nb, got"),
        (pickles.members(parameters=b"}" + pickles.text("w") + b"K\x01s"), "expected one tensor w"),
        (pickles.members(modules=b"}" + pickles.text("m") + b"K\x01s"), "expected a network module"),
        (
            pickles.members(*(b"}" + pickles.text("w") + pickles.tensor((1,), (1,)) + b"s",) * 2),
            "expected one tensor w, got another",
        ),
    ],
)
def test_modules_that_are_not(tmp_path: Path, state: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path / "x.pkl", pickles.rooted(pickles.module(state)))


# --- contracts ---


def filled(kind: Kind) -> dict[str, Tensor]:
    """Zero tensors, without memory behind them, in the shapes of a manifest."""
    shapes = {name: [7 if n is None else n for n in shape] for name, shape in manifest(kind).items()}
    tensors = {name: torch.zeros((), dtype=STORED[numbers_of(name)]).expand(shape) for name, shape in shapes.items()}
    return tensors | ({PARENTS: torch.tensor([-1, 0, 1, 1, 1])} if PARENTS in tensors else {})


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("portrait", 413), ("motion", 325), ("genhead", 281), ("discriminator", 61), ("arcface", 156),
        ("recon3d", 279), ("syncnet", 88), ("emotion", 267),
    ],
)  # fmt: skip
def test_a_complete_network_passes(kind: Kind, count: int) -> None:
    tensors = filled(kind)
    assert len(tensors) == count
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    extra = {"b4.resample_filter": torch.outer(taps, taps), "layer1.0.bn1.num_batches_tracked": torch.tensor(3)}
    check_contract(kind, tensors | extra, "x.pkl")


def test_parameter_counts_of_the_manifests() -> None:
    buffers = ("running_mean", "running_var", "w_avg", "noise_const")
    total = lambda kind: sum(math.prod(s) for n, s in manifest(kind).items() if not n.endswith(buffers))  # noqa: E731
    assert total("arcface") == 24_025_600
    assert total("discriminator") == 31_360_000


def test_the_contract_names_what_is_wrong() -> None:
    tensors = filled("discriminator")
    del tensors["b4.out.bias"]
    tensors["surplus"] = torch.ones(1)
    tensors["b4.fc.bias"] = torch.ones(2, 3)
    tensors["b4.conv.bias"] = torch.ones(512, dtype=torch.int32)
    with pytest.raises(InputError) as caught:
        check_contract("discriminator", tensors, "x.pkl: D")
    assert str(caught.value) == (
        "x.pkl: D: expected the 61 tensors of a published discriminator, got 1 missing (b4.out.bias), 1 unknown "
        "(surplus), 1 misshapen (b4.fc.bias [2, 3] for [512]), 1 mistyped (b4.conv.bias int32 for real numbers); give "
        "the file that was published for it, or leave unknown ones out with --ignore NAME"
    )
    with pytest.raises(
        InputError, match=r"61 missing \(b512.fromrgb.weight, b512.fromrgb.bias, b512.conv0.weight, ...\)"
    ):
        check_contract("discriminator", {}, "x.pkl")


def test_free_sizes_are_free_in_one_place_only() -> None:
    tensors, name = filled("genhead"), "deformer.flame_deform.masked_faces"
    check_contract("genhead", tensors | {name: torch.zeros(99, 3, dtype=torch.int32)}, "x.pkl")
    with pytest.raises(InputError, match=r"masked_faces \[99, 4\] for \['any', 3\]"):
        check_contract("genhead", tensors | {name: torch.zeros(99, 4, dtype=torch.int64)}, "x.pkl")


@pytest.mark.parametrize("filter_", [torch.ones(4, 4) / 16, torch.ones(12) / 12, published_like.FILTER + 1j])
def test_another_filter_is_refused(filter_: Tensor) -> None:
    with pytest.raises(InputError, match=r"a\.resample_filter: expected the filter outer"):
        check_filters({"a.resample_filter": filter_}, "x.pkl")
    with pytest.raises(InputError, match=r"a\.resample_filter: expected the filter outer"):
        check_contract("arcface", filled("arcface") | {"a.resample_filter": filter_}, "x.pkl")


def test_ignored_names() -> None:
    yes = "dataset_label_std superresolution.block0.conv1.noise_const resample_filter b8.conv1.resample_filter"
    also = "model.m0.b1_4.bn1.num_batches_tracked mouth_embed.1.weight model.bl0.weight model.al2.bias"
    flame = "deformer.flame_deform.flame_model.eye_pose deformer.flame_deform.flame_model.neck_pose"
    assert all(map(ignored, f"{yes} {also} {flame}".split()))
    kinds = ("portrait", "motion", "recon3d", "syncnet", "emotion")
    assert not any(ignored(name) for kind in kinds for name in manifest(kind))  # type: ignore[arg-type]
    no = "backbone.synthesis.b8.conv1.noise_const model.bn1.weight to_mouth.0.weight w_avg model.fc.weight"
    assert not any(map(ignored, no.split()))


WHOLE = (
    "masked_faces masked_eye_faces masked_lips_faces masked_face_wo_eye_faces masked_noinmouth_faces simplify_idxs "
    "simplify_faces simplify_faces_region_idxs eye_idxs face_idxs lips_idxs noinmouth_idxs vertices_region_idxs "
    "dynamic_idxs smallface_idxs masked_smallface_faces eyelids_idxs masked_eyelids_faces faces_tensor parents "
    "lmk_faces_idx dynamic_lmk_faces_idx full_lmk_faces_idx neck_kin_chain"
)


def test_which_tensors_are_indices() -> None:
    counts: dict[Kind, int] = {"portrait": 24, "genhead": 24, "motion": 0, "discriminator": 0, "arcface": 0}
    for kind, count in counts.items():
        names: dict[str, list[str]] = {"whole": [], "truth": [], "real": []}
        for name in manifest(kind):
            names[numbers_of(name)].append(name.rpartition(".")[2])
        assert sorted(names["whole"]) == sorted(WHOLE.split()[:count])
        assert names["truth"] == ["if_eye_face_simplify"] * bool(count)


FACES, COARSE = "deformer.flame_deform.flame_model.faces_tensor", "deformer.flame_deform.simplify_faces"
MASK = "deformer.flame_deform.if_eye_face_simplify"


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("w_avg", torch.int64, r"1 mistyped \(w_avg int64 for real numbers\)"),
        ("w_avg", torch.complex64, "w_avg complex64 for real numbers"),
        ("w_avg", torch.bool, "w_avg bool for real numbers"),
        (FACES, torch.float32, "faces_tensor float32 for whole numbers"),
        (FACES, torch.bool, "faces_tensor bool for whole numbers"),
        (MASK, torch.uint8, "if_eye_face_simplify uint8 for truth values"),
    ],
)
def test_another_kind_of_number_is_refused(name: str, dtype: torch.dtype, words: str) -> None:
    tensors = filled("portrait")
    with pytest.raises(InputError, match=words):
        check_contract("portrait", tensors | {name: tensors[name].to(dtype)}, "x.pkl")


ROWS = (5023, 9976, 5023, 730, 5023, 5023, 5023, 5023, 5023, 5024)  # lists of neighbours are filled with 5023


@pytest.mark.parametrize(("name", "rows"), list(zip(INDICES, ROWS, strict=True)))
def test_indices_stay_inside(name: str, rows: int) -> None:
    tensors = filled("portrait")
    table = tensors[name].clone()
    check_contract("portrait", tensors | {name: table.fill_(rows - 1)}, "x.pkl")
    for wrong in (rows, -1):
        table.view(-1)[0] = wrong
        with pytest.raises(InputError, match=rf"{name}: expected numbers from 0 to {rows - 1}, got "):
            check_contract("portrait", tensors | {name: table}, "x.pkl")


@pytest.mark.parametrize("parents", [[0, 0, 1, 1, 1], [-1, 0, 2, 1, 1], [-1, 0, 1, 9, 1], [-1, -1, 0, 1, 1]])
def test_joints_have_parents_before_them(parents: list[int]) -> None:
    with pytest.raises(InputError, match=r"parents: expected -1 and parents before their children"):
        check_contract("genhead", filled("genhead") | {PARENTS: torch.tensor(parents)}, "x.pkl")


def test_what_may_be_left_out_is_unknown() -> None:
    names = [*manifest("portrait"), "deformer.renderer.map", "deformer.renderer.face", "w_avg2", "dataset_label_std"]
    assert left_out("portrait", names, ()) == []
    assert left_out("portrait", names, ("deformer.*",)) == ["deformer.renderer.map", "deformer.renderer.face"]
    assert left_out("portrait", names, ("w_avg*", "*.map")) == ["deformer.renderer.map", "w_avg2"]


# --- options ---


def test_the_published_options_pass() -> None:
    v2 = {"img_resolution": 512, "mot_dims": 548, "num_blocks_neutral": 4, "num_blocks_motion": 4}
    more = {"motion_map_layers": 2, "has_background": True, "has_superresolution": True, "flame_full": True}
    render = {"box_warp": 1.3, "depth_resolution": 48, "depth_resolution_importance": 48, "clamp_mode": "softplus"}
    check_options({}, "x.pkl")
    check_options(v2 | more | {"rendering_kwargs": render, "use_ws_ones": False, "w_dim": 512}, "x.pkl")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mot_dims": 109}, "x.pkl: mot_dims: expected a network made with 548, got 109; give a file of the published"),
        ({"img_resolution": 256}, "img_resolution: expected .* 512, got 256"),
        ({"num_blocks_neutral": 3}, "num_blocks_neutral: expected .* 4, got 3"),
        ({"num_blocks_motion": 5}, "num_blocks_motion: expected .* 4, got 5"),
        ({"motion_map_layers": 1}, "motion_map_layers: expected .* 2, got 1"),
        ({"has_background": False}, "has_background: expected .* True, got False"),
        ({"has_superresolution": False}, "has_superresolution: expected .* True, got False"),
        ({"flame_full": False}, "flame_full: expected .* True, got False"),
        ({"rendering_kwargs": {"box_warp": 2.0}}, r"rendering_kwargs\.box_warp: expected .* 1\.3, got 2\.0"),
        ({"rendering_kwargs": {"depth_resolution": 96}}, r"\.depth_resolution: expected .* 48, got 96"),
        ({"rendering_kwargs": {"depth_resolution_importance": 0}}, "_importance: expected .* 48, got 0"),
        ({"mot_dims": "5\n\x1b[2J"}, r"got 5\\n\\x1b\[2J;"),
        ({"use_ws_ones": "perhaps"}, "use_ws_ones: expected a truth value"),
    ],
)
def test_other_options_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_options(settings, "x.pkl")


def test_long_settings_are_cut(tmp_path: Path) -> None:
    net = pickles.Persistent("Net", **{"k" * 300: "v" * 300, "rows": np.zeros((10**6, 0)), "many": np.zeros(10**5)})
    settings = read(tmp_path / "x.pkl", pickles.dump({"G": net}))["G"].settings
    assert settings == {"k" * 200: "v" * 200, "rows": "array [1000000, 0]", "many": "array [100000]"}


# --- FLAME ---


def write_flame(path: Path, protocol: int = 2, **changes: Any) -> Path:
    pickler = pickles.Python2Pickler if protocol else pickles.PublishedPickler
    path.write_bytes(pickles.dump(pickles.flame() | changes, protocol, pickler))
    return path


def test_flame(tmp_path: Path) -> None:
    result, model = pickles.read_flame(write_flame(tmp_path / "x.pkl")), pickles.flame()
    np.testing.assert_array_equal(result["template"], model["v_template"])
    np.testing.assert_array_equal(result["shape_directions"], model["shapedirs"].x)
    np.testing.assert_array_equal(result["pose_directions"], model["posedirs"])
    np.testing.assert_array_equal(result["skinning_weights"], model["weights"])
    np.testing.assert_array_equal(result["faces"], model["f"])
    assert result["parents"].tolist() == [-1, 0, 1, 1, 1]
    sparse, dense = model["J_regressor"], np.zeros((5, 5023))
    for column in range(5023):
        for place in range(sparse.indptr[column], sparse.indptr[column + 1]):
            dense[sparse.indices[place], column] += sparse.data[place]
    np.testing.assert_array_equal(result["joint_regressor"], dense)
    assert {name: array.dtype.name for name, array in result.items() if array.dtype != np.float64} == {
        "parents": "int64",
        "faces": "int64",
    }
    assert all(array.flags.c_contiguous for array in result.values())


def test_flame_in_the_text_protocol(tmp_path: Path) -> None:
    result = pickles.read_flame(write_flame(tmp_path / "x.pkl", protocol=0))
    np.testing.assert_array_equal(result["template"], pickles.flame()["v_template"])


def sparse(**changes: Any) -> Any:
    matrix = pickles.flame()["J_regressor"]
    matrix.__dict__.update(changes)
    return matrix


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v_template": None}, "v_template: expected an array, got none"),
        ({"weights": np.zeros((5023, 4))}, r"weights: expected \[5023, 5\] of real numbers, got \[5023, 4\]"),
        ({"f": np.full((9976, 3), 5023)}, "f: expected vertex numbers below 5023"),
        ({"f": np.zeros((9976, 3))}, "f: expected whole numbers, got float64"),
        (
            {"shapedirs": np.zeros((5023, 3, 150))},
            r"shapedirs: expected 300 directions of shape and 100 of expression, .* got 150; say which .* as 100\+50",
        ),
        ({"v_template": np.full((5023, 3), np.nan)}, "v_template: expected finite numbers"),
        ({"kintree_table": np.full((2, 5), 4)}, "kintree_table: expected parents before"),
        ({"J_regressor": sparse(_shape=(5, 10**12))}, "J_regressor: expected a sparse matrix"),
        ({"J_regressor": sparse(_shape=np.array([5, 5023]))}, "J_regressor: expected a sparse matrix"),
        ({"J_regressor": sparse(indices=np.full(40, 5, np.int32))}, "expected places inside"),
        ({"J_regressor": sparse(indptr=np.zeros(5024, np.int32))}, "expected places inside"),
        ({"J_regressor": sparse(indptr=np.zeros(3, np.int32))}, "expected matching parts"),
    ],
)
def test_flame_files_that_are_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        pickles.read_flame(write_flame(tmp_path / "x.pkl", **changes))
