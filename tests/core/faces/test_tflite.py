"""Each operator of a TFLite file is computed as TensorFlow defines it, against definitions written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.core.faces.tflite_files import Writer, branches, numbers, one_operator, sparse_convolution
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.store import load_graph, read_origin, save_graph
from triportrait.core.faces.tflite import parse_tflite, read_tflite


def run(file: bytes, image: np.ndarray, dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    """Run the network in a file on images [B, H, W, C]."""
    network = GraphNetwork(parse_tflite(file, "net.tflite"), dtype)
    return [result.float().numpy() for result in network(torch.from_numpy(image).permute(0, 3, 1, 2)).values()]


def padded(image: np.ndarray, window: tuple[int, int], stride: tuple[int, int], padding: str, value: float = 0.0):
    """TensorFlow's padding SAME: as many windows as strides fit, the odd pixel below and to the right."""
    if padding == "VALID":
        return image
    sides = []
    for size, reach, step in zip(image.shape[1:3], window, stride, strict=True):
        total = max((int(np.ceil(size / step)) - 1) * step + reach - size, 0)
        sides.append((total // 2, total - total // 2))
    return np.pad(image, ((0, 0), *sides, (0, 0)), constant_values=value)


def windows(image, window, stride, padding, value=0.0):
    """The windows [B, rows, columns, height, width, C] of an image."""
    image = padded(image, window, stride, padding, value)
    views = np.lib.stride_tricks.sliding_window_view(image, window, axis=(1, 2))
    return np.moveaxis(views[:, :: stride[0], :: stride[1]], 3, -1)


def clamped(values: np.ndarray, activation: str) -> np.ndarray:
    low, high = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6)}[activation]
    return np.clip(values, low, high)


CONVOLUTIONS = [
    # image, kernel, stride, padding, activation
    ((13, 12), (3, 3), (1, 1), "SAME", "NONE"),
    ((12, 13), (3, 3), (2, 2), "SAME", "RELU"),
    ((13, 12), (5, 3), (2, 1), "SAME", "RELU6"),
    ((12, 12), (3, 3), (2, 2), "VALID", "NONE"),
    ((12, 12), (2, 2), (2, 2), "SAME", "NONE"),
    ((9, 9), (4, 4), (3, 3), "SAME", "NONE"),
    ((6, 6), (1, 1), (1, 1), "VALID", "NONE"),
    ((3, 3), (3, 3), (1, 1), "VALID", "NONE"),
]


@pytest.mark.parametrize("size, window, stride, padding, activation", CONVOLUTIONS)
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_convolutions(kind, size, window, stride, padding, activation, stored):
    depthwise = kind == "DEPTHWISE_CONV_2D"
    image = numbers(2, *size, 6)
    kernel = numbers(*((1, *window, 6) if depthwise else (5, *window, 6)), kind=stored)
    bias = numbers(6 if depthwise else 5, kind=stored)
    spec = "bijhwc,ohwc->bijc" if depthwise else "bijhwc,ohwc->bijo"
    seen = np.einsum(spec, windows(image, window, stride, padding).astype(float), kernel.astype(float)) + bias
    wanted = clamped(seen, activation)
    options = {"padding": padding, "stride_h": stride[0], "stride_w": stride[1], "activation": activation}
    file = one_operator(kind, (1, *size, 6), (kernel, bias), options, (1, *wanted.shape[1:]))
    (found,) = run(file, image)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    (half,) = run(file, image, torch.float16)
    np.testing.assert_allclose(half, wanted, atol=0.05)


@pytest.mark.parametrize("size, window, stride, padding", [case[:4] for case in CONVOLUTIONS])
def test_pools(size, window, stride, padding):
    image = numbers(2, *size, 6)
    options = {"window_h": window[0], "window_w": window[1], "padding": padding, "activation": "NONE"}
    options |= {"stride_h": stride[0], "stride_w": stride[1]}
    wanted = windows(image, window, stride, padding, -np.inf).max((3, 4))
    (found,) = run(one_operator("MAX_POOL_2D", (1, *size, 6), (), options, (1, *wanted.shape[1:])), image)
    np.testing.assert_array_equal(found, wanted)
    options["padding"] = "VALID"
    wanted = windows(image, window, stride, "VALID").mean((3, 4))
    (found,) = run(one_operator("AVERAGE_POOL_2D", (1, *size, 6), (), options, (1, *wanted.shape[1:])), image)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_many_channels_are_pooled_alike():
    image = numbers(1, 8, 8, 40)
    options = {"window_h": 2, "window_w": 2, "stride_h": 2, "stride_w": 2, "padding": "SAME", "activation": "NONE"}
    (found,) = run(one_operator("MAX_POOL_2D", image.shape, (), options, (1, 4, 4, 40)), image)
    np.testing.assert_array_equal(found, windows(image, (2, 2), (2, 2), "SAME").max((3, 4)))


def enlarged(image: np.ndarray, size: tuple[int, int], align_corners: bool, half_pixel: bool) -> np.ndarray:
    """Bilinear interpolation, pixel by pixel, as TensorFlow says where a pixel of the result lies."""
    out = np.zeros((len(image), *size, image.shape[3]))
    places = []
    for count, pixels in zip(image.shape[1:3], size, strict=True):
        k = np.arange(pixels)
        if align_corners:
            at = k * (count - 1) / (pixels - 1)
        else:
            at = (k + 0.5) * count / pixels - 0.5 if half_pixel else k * count / pixels
        places.append(np.clip(at, 0, count - 1))
    for i, y in enumerate(places[0]):
        for j, x in enumerate(places[1]):
            top, left = int(y), int(x)
            low, right = min(top + 1, image.shape[1] - 1), min(left + 1, image.shape[2] - 1)
            v, u = y - top, x - left
            upper = image[:, top, left] * (1 - u) + image[:, top, right] * u
            lower = image[:, low, left] * (1 - u) + image[:, low, right] * u
            out[:, i, j] = upper * (1 - v) + lower * v
    return out


@pytest.mark.parametrize("align_corners, half_pixel", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", [(10, 14), (15, 9), (3, 4)])
def test_resizing(align_corners, half_pixel, size):
    image = numbers(2, 5, 7, 3)
    options = {"size": size, "align_corners": align_corners, "half_pixel_centers": half_pixel}
    (found,) = run(one_operator("RESIZE_BILINEAR", (1, 5, 7, 3), (), options, (1, *size, 3)), image)
    np.testing.assert_allclose(found, enlarged(image, size, align_corners, half_pixel), atol=1e-5)


def test_transposed_convolution():
    image, kernel, bias = numbers(2, 5, 4, 3), numbers(2, 2, 3, 3), numbers(2)
    wanted = np.zeros((2, 10, 12, 2)) + bias
    for y in range(10):
        for x in range(12):
            wanted[:, y, x] += image[:, y // 2, x // 3] @ kernel[:, y % 2, x % 3].T
    options = {"stride_h": 2, "stride_w": 3}
    (found,) = run(
        one_operator("Convolution2DTransposeBias", (1, 5, 4, 3), (kernel, bias), options, (1, 10, 12, 2)), image
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_elementwise():
    image, slopes = numbers(2, 4, 5, 6) * 4, numbers(1, 1, 6)
    shape = (1, 4, 5, 6)
    for kind, constants, wanted in (
        ("RELU", (), np.maximum(image, 0)),
        ("PRELU", (slopes,), np.where(image > 0, image, image * slopes)),
        ("HARD_SWISH", (), image * np.clip(image + 3, 0, 6) / 6),
        ("LOGISTIC", (), 1 / (1 + np.exp(-image.astype(float)))),
        ("ADD", (slopes[0],), image + slopes),
        ("MUL", (slopes,), image * slopes),
        ("MUL", (numbers(1, 4, 5, 6),), None),
    ):
        wanted = image * constants[0] if wanted is None else wanted
        (found,) = run(one_operator(kind, shape, constants, {"activation": "NONE"}, shape), image)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=kind)


def test_moved_values():
    image = numbers(2, 4, 6, 8)
    shape = (1, 4, 6, 8)
    space = image.reshape(2, 4, 6, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 12, 2)
    for kind, options, wanted in (
        ("PAD", {"paddings": [0, 0, 1, 2, 3, 0, 0, 4]}, np.pad(image, ((0, 0), (1, 2), (3, 0), (0, 4)))),
        ("RESHAPE", {}, image.reshape(2, 64, 3)),
        ("RESHAPE", {}, image.reshape(2, 192)),
        ("MEAN", {"axes": [1, 2], "keep_dims": True}, image.mean((1, 2), keepdims=True)),
        ("DEPTH_TO_SPACE", {"block_size": 2}, space),
        ("STRIDED_SLICE", {"begin": [0, 1, 0, 2], "end": [1, 3, 6, -1], "strides": [1] * 4}, image[:, 1:3, :, 2:-1]),
        (
            "STRIDED_SLICE",
            {"begin": [0, 1, 9, 2], "end": [0, 3, 1, 8], "strides": [1] * 4, "begin_mask": 4, "end_mask": 5},
            image[:, 1:3, :, 2:],
        ),
    ):
        (found,) = run(one_operator(kind, shape, (), options, (1, *wanted.shape[1:])), image)
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=kind)


def test_concatenation():
    image = numbers(2, 4, 6, 8)
    file = Writer(inputs=["image"], outputs=["result"])
    file.value("image", (1, 4, 6, 8))
    file.value("flat", (1, 24, 8))
    file.value("first", (1, 192))
    file.value("last", (1, 24, 8))
    file.value("result", (1, 48, 8))
    file.operator("RESHAPE", ["image"], "flat")
    file.operator("RESHAPE", ["flat"], "first")
    file.operator("RESHAPE", ["first"], "last")
    file.operator("CONCATENATION", ["last", "flat"], "result", {"axis": 1})
    (found,) = run(file.file(), image)
    flat = image.reshape(2, 24, 8)
    np.testing.assert_array_equal(found, np.concatenate([flat, flat], 1))


def test_sparse_constants():
    image = numbers(1, 4, 4, 6)
    file, rows, bias = sparse_convolution()
    (found,) = run(file.file(), image)
    np.testing.assert_allclose(found, image @ rows.T.astype(np.float32) + bias, atol=1e-5)


def block_by_hand(file: Writer, image: np.ndarray, name: str) -> np.ndarray:
    """The same by the definitions above."""

    def constant(suffix: str) -> np.ndarray:
        tensor = file.tensors[f"{name}/{suffix}"]
        data = file.buffers[tensor[2].value][0]
        return np.frombuffer(data, np.float32).reshape(tensor[0].values)

    channels, out = image.shape[3], constant("p").shape[0]
    step = (2, 2) if out > channels else (1, 1)
    seen = np.einsum("bijhwc,hwc->bijc", windows(image, (3, 3), step, "SAME"), constant("k")[0]) + constant("b")
    seen = seen @ constant("p")[:, 0, 0].T + constant("q")
    if step == (2, 2):
        image = np.pad(windows(image, step, step, "VALID").max((3, 4)), ((0, 0),) * 3 + ((0, out - channels),))
    seen = seen + image
    return np.where(seen > 0, seen, seen * constant("s"))


@pytest.mark.parametrize("batch", [1, 3])
def test_branches_that_run_side_by_side(batch):
    file, image = branches(), numbers(batch, 16, 16, 4)
    network = GraphNetwork(parse_tflite(file.file(), "net.tflite"))
    assert len(network.layers) < len(file.operators) / 2, "nothing runs side by side"
    trunk = block_by_hand(file, image, "trunk")
    wanted = []
    for k in range(3):
        two = block_by_hand(file, block_by_hand(file, trunk, f"one {k}"), f"two {k}")
        wanted.append(block_by_hand(file, two, f"three {k}"))
    wanted.append(block_by_hand(file, two, "other"))
    found = network(torch.from_numpy(image).permute(0, 3, 1, 2))
    for name, one in zip(file.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[name].numpy(), one, rtol=1e-4, atol=1e-3)


def test_without_packed_kernels(monkeypatch):
    """A PyTorch whose private operators are other ones convolves by its public one."""
    import triportrait.core.faces.convolution as convolution

    file, image = branches(1), numbers(2, 16, 16, 4)
    packed = run(file.file(), image)
    monkeypatch.setattr(convolution, "packing_works", lambda: False)
    for one, other in zip(packed, run(file.file(), image), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_kept_as_safetensors(tmp_path):
    file, image = branches(), numbers(1, 16, 16, 4)
    path = tmp_path / "net.tflite"
    path.write_bytes(file.file())
    graph = read_tflite(path)
    kept = save_graph(graph, tmp_path / "net.safetensors", "a test", "Apache-2.0")
    again = load_graph(kept)
    assert again.operators == graph.operators
    assert again.shapes == graph.shapes
    assert read_origin(kept) == {"origin": "a test", "licence": "Apache-2.0"}
    for one, other in zip(
        run(file.file(), image), GraphNetwork(again)(torch.from_numpy(image).permute(0, 3, 1, 2)).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other.numpy())


def crop_matrix_by_hand(points: np.ndarray, ends: tuple[int, int], subset: list[int], scale: float, size: int):
    """The matrix of Attention Mesh's crop: the box of points in the frame of a line, enlarged, to `size` pixels."""
    right = points[ends[1]] - points[ends[0]]
    angle = np.arctan2(right[1], right[0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    upright = points[subset] @ turn
    box = np.ptp(upright, axis=0) * scale / size
    middle = turn @ ((upright.max(0) + upright.min(0)) / 2)
    linear = turn * box
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:2, 3] = linear, middle - linear @ [size / 2, size / 2]
    return matrix


def sampled_by_hand(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear samples of [H, W, C] at the middles of a crop's pixels, black beyond the picture."""
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            x, y = matrix[:2, :2] @ [j + 0.5, i + 0.5] + matrix[:2, 3] + 0.5  # in the enlarged picture
            left, top = int(np.floor(x)), int(np.floor(y))
            for a, v in ((top, 1 - y + top), (top + 1, y - top)):
                for b, u in ((left, 1 - x + left), (left + 1, x - left)):
                    if 0 <= a < wide.shape[0] and 0 <= b < wide.shape[1]:
                        out[i, j] += wide[a, b] * v * u
    return out


@pytest.mark.parametrize("crops", [1, 2])
def test_crops_of_an_attention_mesh(crops):
    """Landmarks give matrices, these crops of features, and landmarks in the crops go back; two crops side by side."""
    count, size, batch = 7, 8, 2
    image = numbers(batch, 6, 7, 2)
    image[..., 0] = np.abs(image[..., 0]) * 4
    file = Writer(inputs=["image"])
    file.value("image", (1, 6, 7, 2))
    file.value("flat", (1, 84))
    file.value("some", (1, 14))
    file.value("points", (1, count, 2))
    file.operator("RESHAPE", ["image"], "flat")
    file.operator("STRIDED_SLICE", ["flat"], "some", {"begin": [0, 3], "end": [1, 17], "strides": [1, 1]})
    file.operator("RESHAPE", ["some"], "points")
    subsets = [[0, 1, 4, 5], [2, 3, 6]][:crops]
    for k, subset in enumerate(subsets):
        options = {
            "subset_idxs": subset,
            "left_rotation_idx": k,
            "right_rotation_idx": 3 + k,
            "scale_x": 1.5,
            "scale_y": 1.5,
        }
        options |= {"output_height": size, "output_width": size, "target_rotation_radians": 0.0}
        file.value(f"matrix {k}", (1, 4, 4))
        file.value(f"crop {k}", (1, size, size, 2))
        file.value(f"moved {k}", (1, count, 2))
        file.operator("Landmarks2TransformMatrix", ["points"], f"matrix {k}", options)
        file.operator(
            "TransformTensorBilinear",
            ["image", f"matrix {k}"],
            f"crop {k}",
            {"output_height": size, "output_width": size},
        )
        file.operator("TransformLandmarks", ["points", f"matrix {k}"], f"moved {k}")
        file.outputs += [f"crop {k}", f"moved {k}"]
    found = run(file.file(), image)
    for one, half in zip(found, run(file.file(), image, torch.float16), strict=True):
        np.testing.assert_allclose(half, one, atol=0.05)
    for b in range(batch):
        points = image[b].reshape(-1)[3:17].reshape(count, 2).astype(float)
        for k, subset in enumerate(subsets):
            matrix = crop_matrix_by_hand(points, (k, 3 + k), subset, 1.5, size)
            np.testing.assert_allclose(found[2 * k][b], sampled_by_hand(image[b], matrix, size), atol=2e-4)
            np.testing.assert_allclose(found[2 * k + 1][b], points @ matrix[:2, :2].T + matrix[:2, 3], atol=1e-4)
