"""Files that are damaged, of another kind or made to do harm are refused in a sentence, before much is done."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.core.faces.networks import wheel_file
from tests.core.faces.tflite_files import (
    Scalar,
    Vector,
    Writer,
    branches,
    flatbuffer,
    flexbuffer,
    one_operator,
    sparse_convolution,
)
from triportrait.core.errors import InputError
from triportrait.core.faces.flatbuffer import Bytes
from triportrait.core.faces.flexbuffer import read_map
from triportrait.core.faces.graph import Graph, Operator
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.store import load_graph, save_graph
from triportrait.core.faces.tflite import MOST_BYTES, parse_tflite, read_tflite

SAME = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
KERNEL = np.ones((3, 1, 1, 3), np.float32)


def network(kind="CONV_2D", constants=(KERNEL,), options=SAME, image=(1, 8, 8, 3), result=(1, 8, 8, 3)):
    return one_operator(kind, image, constants, options, result)


def model(change) -> bytes:
    """A network of one convolution with a fault in its tables."""
    file = Writer(inputs=["image"], outputs=["result"])
    file.value("image", (1, 8, 8, 3))
    file.constant("kernel", KERNEL)
    file.value("result", (1, 8, 8, 3))
    file.operator("CONV_2D", ["image", "kernel"], "result", SAME)
    table = file.model()
    change(table, table[2][0])
    return flatbuffer(table)


def put(table, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        table = table[key]
    table[last] = value


def nothing(*_):
    pass


FAULTS = {
    "no file at all": (lambda: b"", "does not begin as one"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "does not begin as one"),
    "another flatbuffer": (lambda: flatbuffer({0: Scalar("I", 3)}, b"TFL2"), "does not begin as one"),
    "another version": (lambda: model(lambda m, _: put(m, 0, Scalar("I", 2))), "has version 2, 3 is wanted"),
    "two networks": (lambda: model(lambda m, n: put(m, 2, [n, n])), "has 2 networks"),
    "no network": (lambda: model(lambda m, n: put(m, 2, [])), "has 0 networks"),
    "an unknown operator": (
        lambda: model(lambda m, n: put(m, 1, 0, {0: Scalar("b", 10), 3: Scalar("i", 10)})),
        "needs TFLite's operator number 10; known are ADD",
    ),
    "an unknown custom operator": (
        lambda: model(lambda m, n: put(m, 1, 0, {0: Scalar("b", 32), 3: Scalar("i", 32), 1: "FlexEvil\x1b[2J"})),
        "needs the custom operator FlexEvil\\x1b[2J; known are Landmarks2TransformMatrix",
    ),
    "an operator that is not listed": (
        lambda: model(lambda m, n: put(n, 3, 0, 0, Scalar("I", 7))),
        "names operator 7 of 1",
    ),
    "another number type": (lambda: model(lambda m, n: put(n, 0, 1, 1, Scalar("b", 9))), "has numbers of type int8"),
    "a number type that is none": (
        lambda: model(lambda m, n: put(n, 0, 1, 1, Scalar("b", 99))),
        "has numbers of type 99",
    ),
    "a tensor that is not there": (
        lambda: model(lambda m, n: put(n, 3, 0, 1, Vector("i", [0, 9]))),
        "names tensor 9 of 3",
    ),
    "a negative tensor": (lambda: model(lambda m, n: put(n, 3, 0, 2, Vector("i", [-1]))), "names tensor -1 of 3"),
    "a buffer that is not there": (lambda: model(lambda m, n: put(n, 0, 1, 2, Scalar("I", 9))), "names buffer 9 of 2"),
    "numbers outside of the tables": (
        lambda: model(lambda m, n: put(m, 4, 1, 1, Scalar("Q", 5))),
        "keeps numbers outside of its tables",
    ),
    "too few numbers": (lambda: model(lambda m, n: put(m, 4, 1, 0, bytes(35))), "has 35 bytes for 9 numbers of kernel"),
    "too many numbers": (
        lambda: model(lambda m, n: put(m, 4, 1, 0, bytes(40))),
        "has 40 bytes for 9 numbers of kernel",
    ),
    "a huge shape": (
        lambda: model(lambda m, n: put(n, 0, 1, 0, Vector("i", [2**31 - 1] * 4))),
        "more than 16,777,216 constant numbers",
    ),
    "a negative shape": (
        lambda: model(lambda m, n: put(n, 0, 1, 0, Vector("i", [-3, 1, 1, -3]))),
        "of shape [-3, 1, 1, -3]",
    ),
    "too many dimensions": (
        lambda: model(lambda m, n: put(n, 0, 1, 0, Vector("i", [1] * 9))),
        "lists 9 entries where 8",
    ),
    "a huge picture": (
        lambda: model(lambda m, n: put(n, 0, 0, 0, Vector("i", [1, 2**20, 2**20, 3]))),
        "has a value image of 1 x 1048576 x 1048576 x 3 numbers",
    ),
    "a batch": (lambda: model(lambda m, n: put(n, 0, 0, 0, Vector("i", [2, 8, 8, 3]))), "is not that of one picture"),
    "a result of another shape": (
        lambda: model(lambda m, n: put(n, 0, 2, 0, Vector("i", [1, 8, 8, 4]))),
        "says that result has shape [1, 8, 8, 4], not [1, 8, 8, 3]",
    ),
    "two tensors of one name": (
        lambda: model(lambda m, n: put(n, 0, 1, 3, "image")),
        "gives two tensors the same name",
    ),
    "a tensor without a name": (lambda: model(lambda m, n: put(n, 0, 1, 3, "")), "whose name is empty"),
    "a name that steers a terminal": (lambda: model(lambda m, n: put(n, 0, 1, 3, "\x1b[2J")), "whose name is \\x1b[2J"),
    "a long name": (lambda: model(lambda m, n: put(n, 0, 1, 3, "x" * 600)), "lists 600 entries where 512"),
    "an operator twice": (lambda: model(lambda m, n: put(n, 3, n[3] * 2)), "whose result has no name of its own"),
    "a circle": (
        lambda: model(lambda m, n: put(n, 3, 0, 1, Vector("i", [2, 1]))),
        "uses result in CONV_2D before it is made",
    ),
    "no operators": (lambda: model(lambda m, n: put(n, 3, [])), "has no inputs, no outputs or no operators"),
    "an output that nothing makes": (
        lambda: model(lambda m, n: put(n, 2, Vector("i", [1]))),
        "does not compute its output kernel",
    ),
    "no options": (lambda: model(lambda m, n: n[3][0].pop(4)), "has a CONV_2D without its options"),
    "options of another operator": (
        lambda: model(lambda m, n: put(n, 3, 0, 3, Scalar("B", 5))),
        "has a CONV_2D without its options",
    ),
    "a stride of zero": (lambda: network(options=SAME | {"stride_w": 0}), "has a CONV_2D that has a stride_w of 0"),
    "dilation": (
        lambda: network(options=SAME | {"dilation_h": 2}),
        "has a CONV_2D with dilation_h 2, which no face network needs",
    ),
    "an unknown activation": (
        lambda: model(lambda m, n: put(n, 3, 0, 4, 3, Scalar("b", 4))),
        "has a CONV_2D with activation 4; known are NONE, RELU, RELU6",
    ),
    "an unknown padding": (
        lambda: model(lambda m, n: put(n, 3, 0, 4, 0, Scalar("b", 4))),
        "has a CONV_2D with padding 4; known are SAME, VALID",
    ),
    "numbers that are none": (
        lambda: network(constants=(KERNEL * np.nan,)),
        "has a constant constant 0 that is not of finite floating point numbers",
    ),
    "another number of channels": (
        lambda: network(constants=(np.ones((3, 1, 1, 5), np.float32),)),
        "has a CONV_2D that has a kernel for 5 channels on 3",
    ),
    "a bias of another size": (
        lambda: network(constants=(KERNEL, np.ones(5, np.float32))),
        "has a CONV_2D that has a bias of shape [5] for 3 channels",
    ),
    "a kernel of whole numbers": (
        lambda: network(constants=(KERNEL.astype(np.int32),)),
        "uses constant 0 in CONV_2D before it is made",
    ),
    "too much work": (
        lambda: network(
            constants=(np.ones((256, 3, 3, 256), np.float32),), image=(1, 256, 256, 256), result=(1, 256, 256, 256)
        ),
        "needs more than 17,179,869,184 multiplications",
    ),
    "padding beyond bounds": (
        lambda: network("PAD", (), {"paddings": [0, 0, 5000, 0, 0, 0, 0, 0]}),
        "has a PAD that has paddings of",
    ),
    "padding that cuts": (
        lambda: network("PAD", (), {"paddings": [0, 0, -1, 0, 0, 0, 0, 0]}),
        "has a PAD that has paddings of",
    ),
    "a reshape that does not fit": (
        lambda: network("RESHAPE", (), {}, result=(1, 64, 4)),
        "has a RESHAPE that has 192 numbers for the shape [1, 64, 4]",
    ),
    "a slice beyond the end": (
        lambda: network("STRIDED_SLICE", (), {"begin": [0] * 4, "end": [1, 9, 8, 3], "strides": [1] * 4}),
        "has a STRIDED_SLICE that takes [0, 0, 0, 0] to [1, 9, 8, 3]",
    ),
    "a slice with gaps": (
        lambda: network("STRIDED_SLICE", (), {"begin": [0] * 4, "end": [1, 8, 8, 3], "strides": [1, 2, 1, 1]}),
        "has a STRIDED_SLICE that leaves out values",
    ),
    "a huge resize": (
        lambda: network("RESIZE_BILINEAR", (), {"size": [10**9, 10**9], "align_corners": 0, "half_pixel_centers": 0}),
        "has a RESIZE_BILINEAR that has a size of",
    ),
    "an unpacking of what is computed": (
        lambda: network("DEQUANTIZE", (), {}),
        "has a DEQUANTIZE of image, which is no floating point constant",
    ),
    "a sum of different shapes": (
        lambda: network("ADD", (np.ones(5, np.float32),), {}),
        "has a ADD that has inputs of shapes [1, 8, 8, 3] and [5]",
    ),
    "a sum with a larger constant": (
        lambda: network("ADD", (np.ones((1, 1, 1, 1, 3), np.float32)[0],), {}, image=(1, 8, 3), result=(1, 1, 8, 3)),
        "has a ADD with a constant of more dimensions",
    ),
    "landmarks that are not there": (
        lambda: custom({"subset_idxs": [0, 99]}),
        "has a Landmarks2TransformMatrix that names landmarks that are not among 8",
    ),
    "a turned crop": (
        lambda: custom({"target_rotation_radians": 0.5}),
        "has a Landmarks2TransformMatrix that has a target_rotation_radians of 0.5",
    ),
    "an option too many": (lambda: custom({"evil": 1}), "has a Landmarks2TransformMatrix that has the options evil,"),
    "a custom operator without options": (lambda: custom(None), "has a custom operator without options"),
}


def custom(changed) -> bytes:
    options = {"subset_idxs": [0, 1], "left_rotation_idx": 2, "right_rotation_idx": 3, "scale_x": 1.5, "scale_y": 1.5}
    options |= {"output_height": 16, "output_width": 16, "target_rotation_radians": 0.0}
    options = {} if changed is None else options | changed
    return network("Landmarks2TransformMatrix", (), options, image=(1, 8, 3), result=(1, 4, 4))


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_in_a_sentence(name):
    make, said = FAULTS[name]
    data = make()
    with pytest.raises(InputError) as refusal:
        parse_tflite(data, "net.tflite")
    text = str(refusal.value)
    assert text.startswith("net.tflite: expected a TFLite model of a face network, got one that ")
    assert text.endswith("; fetch it again")
    assert said in text
    assert text.isprintable()


def test_a_network_without_faults_is_read():
    assert len(parse_tflite(model(nothing), "net.tflite").operators) == 1
    parse_tflite(network(), "net.tflite")
    parse_tflite(custom({}), "net.tflite")


def test_cut_files_are_refused():
    data = branches(1).file()
    for length in (*range(0, len(data), 97), len(data) - 1):
        with pytest.raises(InputError):
            parse_tflite(data[:length], "net.tflite")


def changed_at_random(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with a few bytes or words changed; half of them become extreme numbers."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(made) - 4))
        if rng.random() < 0.5:
            made[place] = rng.integers(256)
        else:
            value = rng.choice([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(made), int(rng.integers(2**32))])
            struct.pack_into("<I", made, place // 4 * 4, int(value))
    return bytes(made)


def test_damaged_files_are_read_or_refused():
    """Nothing but an InputError comes of damaged files, in little time; what is read runs."""
    data = branches(1).file()
    rng, refused = np.random.default_rng(0), 0
    began = time.perf_counter()
    for k in range(400):
        try:
            graph = parse_tflite(changed_at_random(data, rng), "net.tflite")
        except InputError as error:
            refused += 1
            assert len(str(error)) <= 1000
            continue
        size = next(iter(graph.inputs.values()))
        if k % 4 == 0 and len(size) == 4 and np.prod(size) < 10_000:
            GraphNetwork(graph)(torch.zeros(1, size[3], size[1], size[2]))
    assert time.perf_counter() - began < 60
    assert refused > 100


@pytest.mark.parametrize("name", ["a huge shape", "a huge picture", "too much work", "a huge resize"])
def test_huge_sizes_are_refused_before_memory_is_taken(name):
    data = FAULTS[name][0]()
    tracemalloc.start()
    with pytest.raises(InputError):
        parse_tflite(data, "net.tflite")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_damaged_options_of_custom_operators():
    options = {"subset_idxs": [0, 1, 300], "scale_x": 1.5, "output_height": 16}
    data = flexbuffer(options)
    assert read_map(Bytes(memoryview(data), "net")) == options | {"subset_idxs": (0, 1, 300)}
    rng, refused = np.random.default_rng(1), 0
    for _ in range(500):
        made = bytearray(data)
        made[rng.integers(len(made))] = rng.integers(256)
        try:
            read_map(Bytes(memoryview(bytes(made)), "net"))
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda last: last.update({5: {0: Vector("B", [200] * len(last[5][0].values))}}), "outside of their tensor"),
        (lambda last: last.update({5: {0: Vector("B", [0])}}), "outside of their tensor"),
        (lambda last: last.update({3: {0: Vector("H", [0, 9, 1, 2])}}), "outside of their tensor"),
        (lambda last: last.update({4: Scalar("B", 9)}), "without their places"),
        (lambda last: last.update({0: Scalar("b", 0)}), "in a layout that no face network needs"),
    ],
)
def test_sparse_numbers_outside_of_their_tensor(change, said):
    file, _, _ = sparse_convolution()
    change(file.tensors["sparse"][6][2][-1])
    with pytest.raises(InputError, match=said):
        parse_tflite(file.file(), "net.tflite")


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "net.tflite"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match="expected at most"):
        read_tflite(path)


def test_other_models_of_the_wheel_are_refused():
    """Models that need other operators are refused by the operator's name or number."""
    mesh = wheel_file("mesh")
    if mesh is None:
        pytest.skip("needs mediapipe 0.10.21 installed")
    for path in sorted(mesh.parents[1].glob("hand_landmark/*.tflite")):
        with pytest.raises(InputError, match="operator number 9"):
            read_tflite(path)


def kept(folder, change=None, **metadata):
    """A network as safetensors, its description changed."""
    graph = parse_tflite(network(), "net.tflite")
    path = save_graph(graph, folder / "net.safetensors", "a test", "Apache-2.0")
    if change is None and not metadata:
        return path
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    description = json.loads(header["graph"])
    if change is not None:
        change(description)
    header |= {"graph": json.dumps(description)} | metadata
    save_file(dict(graph.constants), path, {name: text for name, text in header.items() if text is not None})
    return path


@pytest.mark.parametrize(
    "change, metadata, said",
    [
        (None, {"format": "9"}, "its format is 9, 1 is wanted"),
        (None, {"graph": None}, "its header describes no network"),
        (None, {"graph": "{"}, "cannot be read"),
        (None, {"graph": "[]"}, "has a damaged description"),
        (lambda d: d["operators"][0].update(kind="SHELL"), {}, "needs the operator SHELL, which is not among CONV_2D"),
        (lambda d: d["operators"][0].update(inputs=["image", 3]), {}, "has a damaged description"),
        (lambda d: d["operators"][0]["options"].update(stride_h=2.5), {}, "has an option stride_h of the wrong type"),
        (lambda d: d["operators"][0]["options"].update(stride_h=True), {}, "has an option stride_h of the wrong type"),
        (lambda d: d["operators"][0]["options"].pop("stride_h"), {}, "has the options"),
        (lambda d: d["inputs"].update(image=[1, 10**9, 8, 3]), {}, "has a value image of"),
        (lambda d: d["inputs"].update(image=[1, -8, 8, 3]), {}, "has a value image of"),
        (lambda d: d.update(outputs=["elsewhere"]), {}, "does not compute its output elsewhere"),
        (lambda d: d.update(operators=d["operators"] * 3000), {}, "has 3,000 operators, 2,048 at most make sense"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, change, metadata, said):
    path = kept(tmp_path, change, **metadata)
    with pytest.raises(InputError) as refusal:
        load_graph(path)
    assert said in str(refusal.value)
    assert str(refusal.value).startswith(f"{path}: expected a face network that was fetched")


def test_what_is_no_network_is_refused(tmp_path):
    path = kept(tmp_path)
    assert load_graph(path).outputs == ("result",)
    data = path.read_bytes()
    for text in (b"", data[:100], data[:-4], b"x" * 1000):
        path.write_bytes(text)
        with pytest.raises(InputError, match="fetch it again"):
            load_graph(path)
    with pytest.raises(InputError, match="no such file"):
        load_graph(tmp_path / "none.safetensors")
    save_file({"kernel": torch.ones(3)}, path)
    with pytest.raises(InputError, match="describes no network"):
        load_graph(path)


def test_a_network_that_cannot_be_written(tmp_path):
    graph = parse_tflite(network(), "net.tflite")
    with pytest.raises(InputError, match="could not be written"):
        save_graph(graph, tmp_path / "missing" / "net.safetensors", "a test", "Apache-2.0")


def test_a_network_of_two_pictures_is_refused():
    graph = parse_tflite(network(), "net.tflite")
    two = replace(graph, inputs={**graph.inputs, "second": (1, 8, 8, 3)})
    with pytest.raises(ValueError, match="one image"):
        GraphNetwork(two)
    assert isinstance(two, Graph) and isinstance(two.operators[0], Operator)
