"""Measure what the face networks cost on one core beside mediapipe's own run: `python -m docs.faces.speed`.

Needs mediapipe 0.10.21. Both run in turns in one process, so that what else the machine does meets both; the least CPU
time counts, of all threads. With llvmlite installed the networks are compiled for the CPU, else PyTorch runs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from tests.core.faces.networks import NAMES, face_graph, wheel_file
from tests.core.faces.pictures import pictures
from triportrait.core.faces.cpu_program import machine
from triportrait.core.faces.detector import FaceDetector
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import MODELS
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.operators import shape_and_work
from triportrait.core.faces.regions import regions_of_boxes, regions_of_points

ROUNDS, TIMES = 60, 5
BATCH = 8
GRAPH = """
input_stream: "image"
output_stream: "numbers"
node {{ calculator: "ImageToTensorCalculator" input_stream: "IMAGE:image" output_stream: "TENSORS:input"
  options {{ [mediapipe.ImageToTensorCalculatorOptions.ext] {{
    output_tensor_width: {width} output_tensor_height: {height}
    output_tensor_float_range {{ min: 0 max: 1 }} }} }} }}
node {{ calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:operators" }}
node {{ calculator: "InferenceCalculator" input_side_packet: "OP_RESOLVER:operators"
  input_stream: "TENSORS:input" output_stream: "TENSORS:output"
  options {{ [mediapipe.InferenceCalculatorOptions.ext] {{ model_path: "{path}"
    delegate {{ xnnpack {{ num_threads: 1 }} }} }} }} }}
node {{ calculator: "SplitTensorVectorCalculator" input_stream: "output" output_stream: "first"
  options {{ [mediapipe.SplitVectorCalculatorOptions.ext] {{ ranges {{ begin: 0 end: 1 }} }} }} }}
node {{ calculator: "TensorsToFloatsCalculator" input_stream: "TENSORS:first" output_stream: "FLOATS:numbers" }}
"""


def mediapipe_network(name: str, size: tuple[int, int]) -> Callable[[], object]:
    """Make a run of one network by mediapipe's interpreter with XNNPACK, on a picture of the network's own size."""
    from google.protobuf import text_format
    from mediapipe.calculators.core import split_vector_calculator_pb2  # noqa: F401 - registers the options
    from mediapipe.calculators.tensor import image_to_tensor_calculator_pb2, inference_calculator_pb2  # noqa: F401
    from mediapipe.framework import calculator_pb2
    from mediapipe.python.solution_base import PacketDataType, SolutionBase
    from mediapipe.python.solutions import face_mesh  # noqa: F401

    path = wheel_file(name)
    assert path is not None
    # mediapipe looks for models in its own package
    config = GRAPH.format(path=MODELS[NAMES[name]].path, height=size[0], width=size[1])
    graph = SolutionBase(
        graph_config=text_format.Parse(config, calculator_pb2.CalculatorGraphConfig()),
        outputs=["numbers"],
        stream_type_hints={"image": PacketDataType.IMAGE_FRAME, "numbers": PacketDataType.FLOAT_LIST},
    )
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return lambda: graph.process({"image": picture})


def milliseconds(*runs: Callable[[], object]) -> list[float]:
    """Run all in turns, and give the least CPU time of each."""
    least = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for k, run in enumerate(runs):
            began = time.process_time()
            for _ in range(TIMES):
                run()
            least[k] = min(least[k], (time.process_time() - began) / TIMES * 1000)
    return least


def arithmetic(graph: Graph, rate: float) -> float:
    """Count the milliseconds that the multiplications and additions of a network's convolutions take at a rate."""
    work = 0
    for operator in graph.operators:
        if "CONV" in operator.kind.upper():
            shapes = [graph.shapes.get(name) or tuple(graph.constants[name].shape) for name in operator.inputs]
            work += shape_and_work(operator.kind, shapes, operator.options)[1]
    return 2 * work / rate


def main() -> None:
    """Print the table."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    import mediapipe

    torch.set_num_threads(1)
    dense = torch.nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last).requires_grad_(False)
    square = torch.rand(1, 256, 32, 32).contiguous(memory_format=torch.channels_last)
    (least,) = milliseconds(lambda: dense(square))
    rate = 2 * dense.weight.numel() * 32 * 32 / least
    print(f"oneDNN's convolution of 256 channels: {rate / 1e6:.0f} GFLOP/s; llvmlite: {machine() is not None}\n")
    columns = f"one core, ms a picture | arithmetic alone | mediapipe | ours | ours in batches of {BATCH}"
    print(f"| {columns} |\n" + "| --- " * 5 + "|")
    for name in NAMES:
        network = GraphNetwork(face_graph(name))
        one = torch.rand(1, 3, *network.input_size)
        many = torch.rand(BATCH, 3, *network.input_size)
        theirs, ours, batch = milliseconds(
            mediapipe_network(name, network.input_size), lambda n=network, x=one: n(x), lambda n=network, x=many: n(x)
        )
        alone = f"{arithmetic(face_graph(name), rate):.2f}"
        row(MODELS[NAMES[name]].file.removesuffix(".tflite"), theirs, ours, batch / BATCH, alone)
    picture = pictures()["wide frame"]
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    images = image.expand(BATCH, -1, -1, -1)
    tracked = mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True)
    detected = mediapipe.solutions.face_detection.FaceDetection(0.5, model_selection=0)
    detector, mesh = FaceDetector(face_graph("short")), FaceMesh(face_graph("mesh"))
    found = detector(image, 1)
    points = mesh(image, regions_of_boxes(found.boxes[:, 0], found.keypoints[:, 0])).points
    regions, many_regions = (regions_of_points(points.expand(n, -1, -1)) for n in (1, BATCH))
    theirs, ours, batch = milliseconds(
        lambda: tracked.process(picture), lambda: mesh(image, regions), lambda: mesh(images, many_regions)
    )
    row("a face followed in 640 x 360", theirs, ours, batch / BATCH)
    theirs, ours, batch = milliseconds(
        lambda: detected.process(picture), lambda: detector(image, 1), lambda: detector(images, 1)
    )
    row("faces detected in 640 x 360", theirs, ours, batch / BATCH)


def row(what: str, theirs: float, ours: float, batch: float, alone: str = "") -> None:
    """Print one row."""
    cells = f"{alone} | {theirs:.2f} | {ours:.2f} ({theirs / ours:.2f}) | {batch:.2f} ({theirs / batch:.2f})"
    print(f"| {what} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
