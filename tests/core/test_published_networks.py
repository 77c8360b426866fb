"""Networks, FLAME and the lists of tensors: dotted names, settings, and refusals that name what is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.core import pickles
from triportrait.core.errors import InputError
from triportrait.core.published.contract import Kind, check_contract, check_filters, ignored, manifest
from triportrait.core.published.flame_file import read_flame
from triportrait.core.published.networks import Network, read_networks


def read(path: Path, data: bytes) -> dict[str, Network]:
    path.write_bytes(data)
    return read_networks(path)


def check_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


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
    networks = read_networks(tmp_path / "x.pth")
    check_equal(networks[""].tensors, tensors)
    assert networks[""].parameters == frozenset() and networks[""].kind == ""


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.pth")
    assert list(read_networks(tmp_path / "x.pth")[""].tensors) == ["module.a", "b"]


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
        (b"}", "expected the entry _parameters"),
        (pickles.members(modules=b"}" + pickles.text("m" * 101) + b"Ns"), "expected the entry _modules"),
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
    return {n: torch.zeros(()).expand([7 if m is None else m for m in s]) for n, s in manifest(kind).items()}


@pytest.mark.parametrize(("kind", "count"), [("genhead", 281), ("discriminator", 61), ("arcface", 156)])
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
    with pytest.raises(InputError) as caught:
        check_contract("discriminator", tensors, "x.pkl: D")
    assert str(caught.value) == (
        "x.pkl: D: expected the 61 tensors of a published discriminator, got 1 missing (b4.out.bias), 1 unknown "
        "(surplus), 1 misshapen (b4.fc.bias [2, 3] for [512]); give the file that was published for it"
    )
    with pytest.raises(
        InputError, match=r"61 missing \(b512.fromrgb.weight, b512.fromrgb.bias, b512.conv0.weight, ...\)"
    ):
        check_contract("discriminator", {}, "x.pkl")


def test_free_sizes_are_free_in_one_place_only() -> None:
    tensors, name = filled("genhead"), "deformer.flame_deform.masked_faces"
    check_contract("genhead", tensors | {name: torch.zeros(99, 3)}, "x.pkl")
    with pytest.raises(InputError, match=r"masked_faces \[99, 4\] for \['any', 3\]"):
        check_contract("genhead", tensors | {name: torch.zeros(99, 4)}, "x.pkl")


@pytest.mark.parametrize("filter_", [torch.ones(4, 4) / 16, torch.ones(12) / 12])
def test_another_filter_is_refused(filter_: Tensor) -> None:
    with pytest.raises(InputError, match=r"a\.resample_filter: expected the filter outer"):
        check_filters({"a.resample_filter": filter_}, "x.pkl")
    with pytest.raises(InputError, match=r"a\.resample_filter: expected the filter outer"):
        check_contract("arcface", filled("arcface") | {"a.resample_filter": filter_}, "x.pkl")


def test_ignored_names() -> None:
    yes = "dataset_label_std superresolution.block0.conv1.noise_const resample_filter b8.conv1.resample_filter"
    also = "model.bn1.num_batches_tracked mouth_embed.1.weight model.bl0.weight model.al2.bias"
    flame = "deformer.flame_deform.flame_model.eye_pose deformer.flame_deform.flame_model.neck_pose"
    assert all(map(ignored, f"{yes} {also} {flame}".split()))
    no = "backbone.synthesis.b8.conv1.noise_const model.bn1.weight to_mouth.0.weight w_avg model.fc.weight"
    assert not any(map(ignored, no.split()))


# --- FLAME ---


def write_flame(path: Path, protocol: int = 2, **changes: Any) -> Path:
    pickler = pickles.Python2Pickler if protocol else pickles.PublishedPickler
    path.write_bytes(pickles.dump(pickles.flame() | changes, protocol, pickler))
    return path


def test_flame(tmp_path: Path) -> None:
    found, given = read_flame(write_flame(tmp_path / "x.pkl")), pickles.flame()
    np.testing.assert_array_equal(found["template"], given["v_template"])
    np.testing.assert_array_equal(found["shape_directions"], given["shapedirs"].x)
    np.testing.assert_array_equal(found["pose_directions"], given["posedirs"])
    np.testing.assert_array_equal(found["skinning_weights"], given["weights"])
    np.testing.assert_array_equal(found["faces"], given["f"])
    assert found["parents"].tolist() == [-1, 0, 1, 1, 1]
    sparse, dense = given["J_regressor"], np.zeros((5, 5023))
    for column in range(5023):
        for place in range(sparse.indptr[column], sparse.indptr[column + 1]):
            dense[sparse.indices[place], column] += sparse.data[place]
    np.testing.assert_array_equal(found["joint_regressor"], dense)
    assert {name: array.dtype.name for name, array in found.items() if array.dtype != np.float64} == {
        "parents": "int64",
        "faces": "int64",
    }
    assert all(array.flags.c_contiguous for array in found.values())


def test_flame_in_the_text_protocol(tmp_path: Path) -> None:
    found = read_flame(write_flame(tmp_path / "x.pkl", protocol=0))
    np.testing.assert_array_equal(found["template"], pickles.flame()["v_template"])


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
        ({"f": np.zeros((9976, 3))}, "f: expected .* of whole numbers"),
        ({"v_template": np.full((5023, 3), np.nan)}, "v_template: expected finite numbers"),
        ({"kintree_table": np.full((2, 5), 4)}, "kintree_table: expected parents before"),
        ({"J_regressor": sparse(_shape=(5, 10**12))}, "J_regressor: expected a sparse matrix"),
        ({"J_regressor": sparse(indices=np.full(40, 5, np.int32))}, "expected places inside"),
        ({"J_regressor": sparse(indptr=np.zeros(5024, np.int32))}, "expected places inside"),
        ({"J_regressor": sparse(indptr=np.zeros(3, np.int32))}, "expected matching parts"),
    ],
)
def test_flame_files_that_are_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_flame(write_flame(tmp_path / "x.pkl", **changes))
