"""Blendshapes come from a user's task: its network is read strictly, computed as numpy does, and kept whole."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from tests.core.faces.point_network import make_task, mixer, mixer_by_hand
from tests.core.faces.tflite_files import Writer
from triportrait.core.errors import InputError
from triportrait.core.faces import task_file
from triportrait.core.faces.blendshapes import NAMES, POINTS, Blendshapes, PointNetwork
from triportrait.core.faces.expressions import MEASURES, Expressions, geometric_measures
from triportrait.core.faces.point_operators import PAIRS, SINGLES, check_point_graph
from triportrait.core.faces.store import read_origin
from triportrait.core.faces.task_file import KEPT, keep_blendshapes, load_blendshapes, read_task
from triportrait.core.faces.tflite import parse_tflite


def meshes(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 478, 3, generator=torch.Generator().manual_seed(3)) * 300


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_tables():
    assert len(NAMES) == len(set(NAMES)) == 52
    assert len(POINTS) == 146
    assert list(POINTS) == sorted(set(POINTS))
    assert POINTS[-10:] == tuple(range(468, 478)), "the irises"
    assert sum(name.endswith("Left") for name in NAMES) == sum(name.endswith("Right") for name in NAMES)


def test_a_network_with_every_operator_gives_numpy_s_numbers():
    network = Blendshapes(parse_tflite(mixer().file(), "net", check_point_graph))
    points = meshes()
    found = network(points)
    expected = np.stack([mixer_by_hand(face[list(POINTS), :2].double().numpy()) for face in points])
    assert found.shape == (3, 52)
    assert np.abs(found.numpy() - expected).max() < 2e-6
    assert np.ptp(expected) > 0.3, "nothing is compared"
    assert torch.equal(network(points[1:2])[0], network(points[1:2])[0])
    assert (network(points[1:2])[0] - found[1]).abs().max() < 1e-6
    assert network(points[:0]).shape == (0, 52)


NUMPY_PAIRS = {
    "ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "DIV": np.divide, "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum, "SQUARED_DIFFERENCE": lambda a, b: (a - b) ** 2,
}  # fmt: skip
NUMPY_SINGLES = {
    "RELU": lambda a: np.maximum(a, 0), "LOGISTIC": lambda a: 1 / (1 + np.exp(-a)), "TANH": np.tanh, "SQRT": np.sqrt,
    "RSQRT": lambda a: a**-0.5, "NEG": np.negative, "SQUARE": np.square,
    "HARD_SWISH": lambda a: a * np.clip(a + 3, 0, 6) / 6,
}  # fmt: skip


def alone(kind: str, shape, result, options=None, constants=()) -> PointNetwork:
    file = Writer(inputs=["x"], outputs=["y"])
    names = [file.value("x", shape)]
    names += [file.constant(f"c{k}", array) for k, array in enumerate(constants)]
    file.operator(kind, names, file.value("y", result), options)
    return PointNetwork(parse_tflite(file.file(), "net", check_point_graph))


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (2, 3, 4)])
def test_pairs_are_broadcast(kind, shape):
    x = np.random.default_rng(1).uniform(0.5, 3, (5, 3, 4)).astype(np.float32)
    other = np.random.default_rng(2).uniform(0.5, 3, shape).astype(np.float32)
    result = np.broadcast_shapes((3, 4), shape)
    found = alone(kind, (3, 4), result, {"activation": "NONE"}, [other])(torch.from_numpy(x))
    expected = np.stack([NUMPY_PAIRS[kind](one, other) for one in x])
    assert np.allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", SINGLES)
def test_singles(kind):
    x = np.random.default_rng(3).uniform(0.1 if "SQRT" in kind else -4, 4, (2, 3, 5)).astype(np.float32)
    found = alone(kind, (3, 5), (3, 5))(torch.from_numpy(x))
    assert np.allclose(found.numpy(), NUMPY_SINGLES[kind](x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6"])
def test_a_layer_without_its_dimensions_kept(activation):
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(2, 3, 2, 4)).astype(np.float32) * 4, rng.normal(size=(5, 4)).astype(np.float32)
    found = alone("FULLY_CONNECTED", (3, 2, 4), (6, 5), {"activation": activation}, [w])(torch.from_numpy(x)).numpy()
    low, high = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6)}[activation]
    assert np.allclose(found, np.clip(x.reshape(2, 6, 4) @ w.T, low, high), atol=1e-5)


W = np.ones((5, 4), np.float32)
REFUSED = {
    "weights that do not fit": (("FULLY_CONNECTED", (3, 3), (3, 5), {"activation": "NONE"}, [W]), "weights for 4"),
    "other weights' format": (
        ("FULLY_CONNECTED", (3, 4), (3, 5), {"activation": "NONE", "weights_format": 1}, [W]), "weights_format 1",
    ),
    "shapes that do not fit": (
        ("SUB", (3, 4), (3, 4), {"activation": "NONE"}, [np.ones(3, np.float32)]), "inputs of shapes [3, 4] and [3]",
    ),
    "an axis that is not there": (("SUM", (3, 4), (3,), {"axes": [2]}), "names the axes [2] of 2"),
    "an axis twice": (("MEAN", (3, 4), (3,), {"axes": [1, -1]}), "names the axes [1, 1] of 2"),
    "an order of other dimensions": (("TRANSPOSE", (3, 4), (4, 3), {"perm": [1]}), "orders 1 of 2"),
    "another count": (("RESHAPE", (3, 4), (13,)), "has 12 numbers for the shape [13]"),
    "a declared shape": (("NEG", (3, 4), (4, 3)), "has shape [4, 3], not [3, 4]"),
    "a wide window": (
        ("CONV_2D", (1, 3, 3, 4), (1, 1, 1, 5), {"padding": "VALID"}, [np.ones((5, 3, 3, 4), np.float32)]),
        "a window of more than one place",
    ),
    "a network of pictures": (("DEPTH_TO_SPACE", (1, 2, 2, 4), (1, 4, 4, 1), {"block_size": 2}), "which is not among"),
    "huge": (("NEG", (4096, 4096), (4096, 4096)), "of shape [4096, 4096]"),
    "huge by repetition": (
        ("ADD", (1, 40_000), (40_000, 40_000), {"activation": "NONE"}, [np.ones((40_000, 1), np.float32)]),
        "of shape [40000, 40000]",
    ),
    "not finite": (
        ("ADD", (3, 4), (3, 4), {"activation": "NONE"}, [np.array([np.nan], np.float32)]), "finite floating point",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_such_network_has_is_refused_in_a_sentence(case):
    operator, said = REFUSED[case]
    with pytest.raises(InputError, match=r"^net: expected a TFLite model of a face network, got one") as refusal:
        alone(*operator)
    assert said in str(refusal.value)


def test_an_output_that_is_named_twice_is_refused_as_in_networks_of_pictures():
    file = Writer(inputs=["x"], outputs=["y", "y"])
    file.value("x", (3, 4))
    file.operator("NEG", ["x"], file.value("y", (3, 4)), {})
    with pytest.raises(InputError, match="names an output twice"):
        parse_tflite(file.file(), "net", check_point_graph)


def test_networks_of_pictures_still_need_their_operators():
    with pytest.raises(InputError, match="needs the operator SUB, which is not among"):
        parse_tflite(with_a_difference(), "net")


def with_a_difference() -> bytes:
    file = Writer(inputs=["x"], outputs=["y"])
    file.value("x", (1, 4))
    file.operator("SUB", ["x", "x"], file.value("y", (1, 4)), {"activation": "NONE"})
    return file.file()


def test_damaged_networks_are_read_or_refused():
    data, rng = mixer().file(), np.random.default_rng(6)
    for _ in range(150):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            changed[place] = rng.integers(0, 256)
        try:
            PointNetwork(parse_tflite(bytes(changed), "net", check_point_graph))
        except InputError as error:
            assert str(error).startswith("net: expected")
        except ValueError as error:
            assert str(error) == "expected a network with one input and one output"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_task_is_kept_and_used(compression, cache, tmp_path):
    points = meshes()
    before = Expressions()(points)
    assert (before.kind, before.names) == ("geometry", MEASURES)
    assert torch.equal(before.values, geometric_measures(points))
    assert not cache.exists()
    task = make_task(tmp_path / "face_landmarker.task", mixer().file(), compression)
    folder = keep_blendshapes(task)
    assert {path.name for path in folder.iterdir()} == {KEPT, "index.json"}
    assert {path.name for path in cache.iterdir()} == {"face-blendshapes"}
    assert read_origin(folder / KEPT)["licence"] == "Apache-2.0"
    after = Expressions()(points)
    assert (after.kind, after.names) == ("blendshapes", NAMES)
    expected = mixer_by_hand(points[0, list(POINTS), :2].double().numpy())
    assert np.abs(after.values[0].numpy() - expected).max() < 2e-6
    assert torch.equal(after.of("jawOpen"), after.values[:, 25])
    keep_blendshapes(task)
    assert {path.name for path in cache.iterdir()} == {"face-blendshapes"}


def bad_task(case: str, path) -> None:
    network = mixer().file()
    make_task(path, {"no network": b"hello", "other points": mixer(points=100).file(), "other shapes":
                     mixer(shapes=51).file()}.get(case, network),
              zipfile.ZIP_LZMA if case == "lzma" else zipfile.ZIP_DEFLATED,
              "../face_blendshapes.tflite" if case == "another name" else "")  # fmt: skip
    data = path.read_bytes()
    if case == "no zip":
        path.write_bytes(network)
    elif case == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif case == "damaged":
        path.write_bytes(data[:400] + bytes(40) + data[440:])
    elif case == "encrypted":
        place = data.rindex(b"PK\1\2") + 8
        path.write_bytes(data[:place] + b"\1" + data[place + 1 :])
    elif case == "bomb":
        make_task(path, bytes(task_file.MOST_NETWORK + 1), zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 100_000
    elif case == "many files":
        with zipfile.ZipFile(path, "a") as archive:
            for number in range(task_file.MOST_MEMBERS):
                archive.writestr(f"{number}", b"")
    elif case == "large":
        with path.open("wb") as file:
            file.truncate(task_file.MOST_TASK + 1)
    elif case == "missing":
        path.unlink()


BAD = {
    "no zip": "got a file that is no zip file or is damaged (File is not a zip file)",
    "cut": "got a file that is no zip file or is damaged", "damaged": "no zip file or is damaged",
    "encrypted": "no zip file or is damaged", "lzma": "got one with compression 14",
    "another name": "got one with 0 files face_blendshapes.tflite of 3", "bomb": "has 8,388,609 bytes",
    "many files": "of 67", "large": "got a file of 67,108,865 bytes", "missing": "no such file or directory",
    "no network": "expected a TFLite model of a face network", "other points": "takes [1, 100, 2], not [1, 146, 2]",
    "other shapes": "gives [51], not [52]",
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_task_is_refused_and_leaves_nothing(case, cache, tmp_path):
    path = tmp_path / "face_landmarker.task"
    bad_task(case, path)
    with pytest.raises(InputError) as refusal:
        keep_blendshapes(path)
    assert str(refusal.value).startswith(f"{path}")
    assert BAD[case] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not cache.exists()


@pytest.mark.parametrize("case", ["a bit", "cut", "no index", "an empty folder", "another index", "no network"])
def test_a_damaged_cache_is_said(case, cache, tmp_path):
    folder = keep_blendshapes(make_task(tmp_path / "task", mixer().file()))
    kept, index = folder / KEPT, folder / "index.json"
    if case == "a bit":
        kept.write_bytes(kept.read_bytes()[:-5] + b"\0" + kept.read_bytes()[-4:])
    elif case == "cut":
        kept.write_bytes(kept.read_bytes()[:-5])
    elif case == "another index":
        index.write_text("[]")
    elif case == "no network":
        kept.unlink()
    else:
        index.unlink()
        if case == "an empty folder":
            kept.unlink()
    with pytest.raises(InputError, match=r"^face blendshapes: .* are damaged \(.*--task .* or remove the folder"):
        Expressions()
    keep_blendshapes(tmp_path / "task")
    assert load_blendshapes() is not None


def test_read_task_gives_the_bytes_of_the_network(tmp_path):
    assert read_task(make_task(tmp_path / "task", b"some bytes")) == b"some bytes"
