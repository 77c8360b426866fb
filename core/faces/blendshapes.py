"""Tell a face's blendshapes by mediapipe's network, which the user brings in face_landmarker.task.

A blendshape is how much of one movement a face shows, from 0 to 1, such as jawOpen; the names are ARKit's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from triportrait.core.faces.graph import Graph
from triportrait.core.faces.point_operators import result_of

NAMES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
POINTS = (  # those of the mesh that the network takes, in its order
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)  # fmt: skip


class PointNetwork(nn.Module):
    """The network of a graph of points, for several faces at a time, in float32.

    Args:
        graph: checked by `check_point_graph`.

    Raises:
        ValueError: the graph has several inputs or outputs.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError("expected a network with one input and one output")
        ((self.input_name, self.input_shape),) = graph.inputs.items()
        (self.output_name,) = graph.outputs
        self.output_shape = graph.shapes[self.output_name]
        self._operators = graph.operators
        self._places = {name: k for k, name in enumerate(graph.constants)}
        self.constants = nn.ParameterList(
            nn.Parameter(tensor.float(), requires_grad=False) for tensor in graph.constants.values()
        )
        self.eval()

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Run the network on values [N, *input_shape]; gives [N, *output_shape]."""
        if not len(values):
            return values.new_zeros(0, *self.output_shape)
        return torch.vmap(self._of_one)(values)

    def _of_one(self, value: Tensor) -> Tensor:
        found = {self.input_name: value}
        for operator in self._operators:
            inputs: Sequence[Tensor] = [
                self.constants[self._places[name]] if name in self._places else found[name]
                for name in operator.inputs
                if name
            ]
            found[operator.outputs[0]] = result_of(operator.kind, operator.options, inputs)
        return found[self.output_name]


class Blendshapes(nn.Module):
    """Tells the 52 blendshapes of faces from their meshes.

    Args:
        graph: of face_blendshapes.tflite.

    Raises:
        ValueError: in words that follow "got one that": the network takes or gives something else.
    """

    chosen: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.network = PointNetwork(graph)
        takes, gives = self.network.input_shape, self.network.output_shape
        if takes != (1, len(POINTS), 2):
            raise ValueError(f"takes {list(takes)}, not [1, {len(POINTS)}, 2]")
        if [size for size in gives if size > 1] != [len(NAMES)]:
            raise ValueError(f"gives {list(gives)}, not [{len(NAMES)}]")
        self.register_buffer("chosen", torch.tensor(POINTS), persistent=False)

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        """Tell the blendshapes [N, 52] from 0 to 1, in the order of `NAMES`.

        Args:
            points: [N, 478, 2 or 3] of `FaceMesh`, in pixels.
        """
        chosen = points[..., :2].float().index_select(1, self.chosen)
        return self.network(chosen[:, None]).flatten(1).clamp(0, 1)
