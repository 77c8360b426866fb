"""Read expressions off the face mesh: by its geometry, or as mediapipe's blendshapes where the user brought them.

The geometric measures are distances between points: how far mouth and lids are open, where corners and brows stand.
They are no activations of muscles and no blendshapes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from triportrait.core.faces.blendshapes import NAMES

# Points of the mesh; left and right are the face's own, the right eye is on the left of an unmirrored picture.
EYE_CORNERS = {"left": (362, 263), "right": (133, 33)}
LIDS = {"left": ((385, 386, 387), (380, 374, 373)), "right": ((158, 159, 160), (153, 145, 144))}  # upper, lower
BROWS = {
    "left": (276, 282, 283, 285, 293, 295, 296, 300, 334, 336),
    "right": (46, 52, 53, 55, 63, 65, 66, 70, 105, 107),
}
LIPS = ((82, 13, 312), (87, 14, 317))  # the inner edge of the upper one, of the lower one below it
MOUTH_CORNERS = (291, 61)  # left, right
MIDDLE_OF_LIPS = (13, 14)

MEASURES = ("mouth_opening", "mouth_width", "mouth_corners", "lid_left", "lid_right", "brow_left", "brow_right")
LEAST_DISTANCE = 1e-6  # between the eyes: points that all lie at one place have no size


def geometric_measures(points: Tensor) -> Tensor:
    """Measure the expressions of faces in the frame of the line between their eyes.

    Everything is divided by the distance between the middles of the eyes, so that neither the size of a face nor its
    place nor its turn in the plane of the picture changes a number. A turn out of the plane does: it shortens the
    distance between the eyes. What rests on a face at rest differs from person to person.

    Args:
        points: [N, 478, 2 or 3] of `FaceMesh`, in pixels; depths are not looked at.

    Returns:
        [N, 7] in the order of `MEASURES`:
        mouth_opening: between the inner edges of the lips; 0 is shut, wide open about 0.5.
        mouth_width: between the corners, about 0.8.
        mouth_corners: their height above the middle of the opening; a smile lifts them, and so does an open mouth.
        lid_left, lid_right: between the lids; shut is below 0.06, wide open 0.25.
        brow_left, brow_right: the height of the brow above the middle of the eye's corners, about 0.4.
    """
    points = points[..., :2].float()
    eyes = {side: points[:, corners].mean(1) for side, corners in EYE_CORNERS.items()}
    across = eyes["left"] - eyes["right"]
    distance = across.norm(dim=1, keepdim=True).clamp(min=LEAST_DISTANCE)
    up = across.flip(1) * torch.tensor([1.0, -1.0], device=points.device) / distance  # rows count downwards

    def apart(ones: tuple[int, ...], others: tuple[int, ...]) -> Tensor:
        return (points[:, ones] - points[:, others]).norm(dim=2).mean(1)

    def height(some: tuple[int, ...], base: Tensor) -> Tensor:
        return ((points[:, some].mean(1) - base) * up).sum(1)

    measures = [
        apart(*LIPS),
        apart(MOUTH_CORNERS[:1], MOUTH_CORNERS[1:]),
        height(MOUTH_CORNERS, points[:, MIDDLE_OF_LIPS].mean(1)),
        *(apart(*LIDS[side]) for side in ("left", "right")),
        *(height(BROWS[side], eyes[side]) for side in ("left", "right")),
    ]
    return torch.stack(measures, 1) / distance


class Expression(NamedTuple):
    """What was read off N faces, and how.

    Attributes:
        kind: "geometry", measures of distances between points; or "blendshapes", mediapipe's, from 0 to 1.
        names: of the K numbers: `MEASURES`, or `blendshapes.NAMES`.
        values: [N, K] float32.
    """

    kind: Literal["geometry", "blendshapes"]
    names: tuple[str, ...]
    values: Tensor

    def of(self, name: str) -> Tensor:
        """Give the numbers [N] of one name."""
        return self.values[:, self.names.index(name)]


class Expressions:
    """Reads expressions off meshes: mediapipe's blendshapes where `triportrait fetch faces --task` put them into the
    cache, else by geometry. What it gives says which of the two it is.

    Args:
        device: where the points are.

    Raises:
        InputError: the network in the cache is damaged.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from triportrait.core.faces.task_file import load_blendshapes

        network = load_blendshapes()
        self._network = None if network is None else network.to(device)
        self.kind: Literal["geometry", "blendshapes"] = "geometry" if network is None else "blendshapes"
        self.names = MEASURES if network is None else NAMES

    def __call__(self, points: Tensor) -> Expression:
        """Read the expressions of N faces off their points, [N, 478, 2 or 3] of `FaceMesh`, in pixels."""
        values = geometric_measures(points) if self._network is None else self._network(points)
        return Expression(self.kind, self.names, values)
