"""Write a TFLite network of points that gives blendshapes, an MLP-Mixer as mediapipe's is, and compute it by numpy."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from tests.core.faces.tflite_files import Writer

POINTS, SHAPES, TOKENS, WIDTH = 146, 52, 8, 12
EVERY = {"activation": "NONE"}


def weights(seed: int = 4) -> dict[str, np.ndarray]:
    """Random weights of a small mixer."""
    rng = np.random.default_rng(seed)
    shapes = {
        "tokens": (TOKENS, 1, 1, POINTS), "token bias": (TOKENS,), "widen": (WIDTH, 2), "widen bias": (WIDTH,),
        "mix": (TOKENS, TOKENS), "scale": (WIDTH,), "shift": (WIDTH,), "out": (SHAPES, TOKENS * WIDTH),
        "out bias": (SHAPES,),
    }  # fmt: skip
    return {name: (rng.normal(size=shape) * 0.4).astype(np.float16) for name, shape in shapes.items()}


def mixer(points: int = POINTS, shapes: int = SHAPES) -> Writer:
    """Normalise points, take tokens of them, mix and normalise these, give 52 numbers."""
    file = Writer(inputs=["points"], outputs=["blendshapes"])
    file.value("points", (1, points, 2))
    half = weights()
    if points != POINTS:
        half["tokens"] = half["tokens"][..., :points]
    if shapes != SHAPES:
        half["out"], half["out bias"] = half["out"][:shapes], half["out bias"][:shapes]
    for name, array in half.items():
        file.constant(f"{name}/half", array)
        file.operator("DEQUANTIZE", [f"{name}/half"], file.value(name, array.shape))
    file.constant("epsilon", np.float32(1e-6).reshape(()))
    file.constant("one", np.array([1.0], np.float32))
    value = file.value
    # centre and size of the points: sums, a scalar, a root
    file.operator("SUM", ["points"], value("sum", (1, 1, 2)), {"axes": [1], "keep_dims": True})
    file.constant("count", np.array(float(points), np.float32))
    file.operator("DIV", ["sum", "count"], value("centre", (1, 1, 2)), EVERY)
    file.operator("SUB", ["points", "centre"], value("off", (1, points, 2)), EVERY)
    file.operator("SQUARED_DIFFERENCE", ["points", "centre"], value("squares", (1, points, 2)))
    file.operator("MEAN", ["squares"], value("spread", ()), {"axes": [0, 1, 2], "keep_dims": False})
    file.operator("SQRT", ["spread"], value("size", ()))
    file.operator("DIV", ["off", "size"], value("unit", (1, points, 2)), EVERY)
    # tokens of points, by a convolution over what was transposed
    file.operator("TRANSPOSE", ["unit"], value("turned", (1, 2, points)), {"perm": [0, 2, 1]})
    file.operator("EXPAND_DIMS", ["turned"], value("image", (1, 1, 2, points)))
    once = {"padding": "VALID", "stride_h": 1, "stride_w": 1}
    file.operator("CONV_2D", ["image", "tokens", "token bias"], value("tokenised", (1, 1, 2, TOKENS)), once)
    file.operator("SQUEEZE", ["tokenised"], value("flat", (2, TOKENS)))
    file.operator("TRANSPOSE", ["flat"], value("rows", (TOKENS, 2)), {"perm": [1, 0]})
    file.operator(
        "FULLY_CONNECTED", ["rows", "widen", "widen bias"], value("wide", (TOKENS, WIDTH)), {"activation": "RELU"}
    )
    # mix over tokens, add, normalise
    file.operator("TRANSPOSE", ["wide"], value("wide turned", (WIDTH, TOKENS)), {"perm": [1, 0]})
    kept = {"activation": "NONE", "keep_num_dims": True}
    file.operator("FULLY_CONNECTED", ["wide turned", "mix", ""], value("mixed", (WIDTH, TOKENS)), kept)
    file.operator("TRANSPOSE", ["mixed"], value("mixed back", (TOKENS, WIDTH)), {"perm": [1, 0]})
    file.operator("ADD", ["wide", "mixed back"], value("sum of both", (TOKENS, WIDTH)), EVERY)
    file.operator("MEAN", ["sum of both"], value("mean", (TOKENS, 1)), {"axes": [-1], "keep_dims": True})
    file.operator("SQUARED_DIFFERENCE", ["sum of both", "mean"], value("apart", (TOKENS, WIDTH)))
    file.operator("MEAN", ["apart"], value("variance", (TOKENS, 1)), {"axes": [1], "keep_dims": True})
    file.operator("ADD", ["variance", "epsilon"], value("variance and", (TOKENS, 1)), EVERY)
    file.operator("RSQRT", ["variance and"], value("inverse", (TOKENS, 1)))
    file.operator("MUL", ["inverse", "scale"], value("factor", (TOKENS, WIDTH)), EVERY)
    file.operator("MUL", ["sum of both", "factor"], value("scaled", (TOKENS, WIDTH)), EVERY)
    file.operator("NEG", ["mean"], value("minus mean", (TOKENS, 1)))
    file.operator("MUL", ["minus mean", "factor"], value("offset", (TOKENS, WIDTH)), EVERY)
    file.operator("ADD", ["offset", "shift"], value("shifted", (TOKENS, WIDTH)), EVERY)
    file.operator("ADD", ["scaled", "shifted"], value("normal", (TOKENS, WIDTH)), EVERY)
    # one answer each
    file.operator("CONCATENATION", ["normal", "normal"], value("twice", (2 * TOKENS, WIDTH)), {"axis": 0})
    half_of = {"begin": [0, 0], "end": [TOKENS, 0], "strides": [1, 1], "begin_mask": 0, "end_mask": 2}
    file.operator("STRIDED_SLICE", ["twice"], value("again", (TOKENS, WIDTH)), half_of)
    file.operator("RESHAPE", ["again"], value("line", (1, TOKENS * WIDTH)))
    file.operator("FULLY_CONNECTED", ["line", "out", "out bias"], value("logits", (1, shapes)), EVERY)
    file.operator("LOGISTIC", ["logits"], value("squashed", (1, shapes)))
    file.operator("RESHAPE", ["squashed"], value("blendshapes", (shapes,)))
    return file


def mixer_by_hand(points: np.ndarray) -> np.ndarray:
    """The blendshapes [52] of points [146, 2], in double precision."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    unit = points - points.mean(0)
    unit = unit / np.sqrt((unit**2).mean())
    rows = w["tokens"][:, 0, 0] @ unit + w["token bias"][:, None]
    wide = np.maximum(rows @ w["widen"].T + w["widen bias"], 0)
    both = wide + w["mix"] @ wide
    normal = (both - both.mean(1, keepdims=True)) / np.sqrt(both.var(1, keepdims=True) + 1e-6) * w["scale"] + w["shift"]
    return 1 / (1 + np.exp(-(w["out"] @ normal.reshape(-1) + w["out bias"])))


def make_task(path: Path, network: bytes, compression: int = zipfile.ZIP_STORED, name: str = "") -> Path:
    """Write a task as mediapipe's: a zip file with several networks."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for other in ("face_detector.tflite", "face_landmarks_detector.tflite"):
            archive.writestr(other, b"another network")
        archive.writestr(name or "face_blendshapes.tflite", network)
    return path
