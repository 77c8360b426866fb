"""How far our run of the face networks is from mediapipe's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.core.faces.pictures import numbers, pictures
from triportrait.core.faces.detector import Detections, FaceDetector
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.regions import regions_of_boxes
from triportrait.core.faces.segmentation import PersonSegmentation

NAN = float("nan")
IRISES = slice(468, 478)


class Compared(NamedTuple):
    """Differences on one picture.

    Attributes:
        short_px, full_px: largest difference of an edge or a point of a detected face, pixels; NaN where none is found.
        short_faces, full_faces: found by us, found by mediapipe.
        points_mean, points_largest, irises: distances of mesh points, % of the distance between the irises.
        depths: largest difference of a depth, in the same unit.
        presence: how sure the network is that a face is there.
        mask_within: part of the pixels of the mask within 1/255; NaN where no mask is kept.
    """

    short_px: float
    full_px: float
    short_faces: tuple[int, int]
    full_faces: tuple[int, int]
    points_mean: float
    points_largest: float
    irises: float
    depths: float
    presence: float
    mask_within: float


def as_batch(picture: np.ndarray) -> Tensor:
    """A picture uint8 [H, W, 3] as [1, 3, H, W]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


def compared(
    name: str, graphs: Mapping[str, Graph], dtype: torch.dtype = torch.float32, images: Tensor | None = None
) -> Compared:
    """Run the networks on one picture, or on what stands for it."""
    stored = numbers()
    image = as_batch(pictures()[name]) if images is None else images
    off, counts, found = {}, {}, {}
    for kind in ("short", "full"):
        found[kind] = FaceDetector(graphs[kind], dtype)(image)
        off[kind], counts[kind] = detected_apart(found[kind], stored[f"{name}/{kind}"])
    points_mean = points_largest = irises = depths = presence = mask_within = NAN
    if f"{name}/mesh" in stored and counts["short"][0]:
        wanted = stored[f"{name}/mesh"]
        fitted = FaceMesh(graphs["mesh"], dtype)(
            image, regions_of_boxes(found["short"].boxes[:, 0], found["short"].keypoints[:, 0])
        )
        points, presence = fitted.points[0].numpy(), float(fitted.presence[0])
        between = np.linalg.norm(wanted[468, :2] - wanted[473, :2]) / 100
        away = np.linalg.norm(points[:, :2] - wanted[:, :2], axis=1) / between
        points_mean, points_largest, irises = float(away.mean()), float(away.max()), float(away[IRISES].max())
        depths = float(np.abs(points[:, 2] - wanted[:, 2]).max() / between)
    if f"{name}/mask" in stored:
        mask = PersonSegmentation(graphs["mask"], dtype)(image)[0, 0, ::2, ::2].numpy()
        mask_within = float((np.abs(mask - stored[f"{name}/mask"] / 65535) <= 1 / 255).mean())
    return Compared(
        off["short"], off["full"], counts["short"], counts["full"],
        points_mean, points_largest, irises, depths, presence, mask_within,
    )  # fmt: skip


def detected_apart(found: Detections, wanted: np.ndarray) -> tuple[float, tuple[int, int]]:
    """The largest difference of detected edges and points in pixels, and the numbers of faces."""
    count = int((found.scores[0] > 0).sum())
    ours = torch.cat([found.boxes[0], found.keypoints[0].flatten(1)], 1)[:count].numpy()
    if count != len(wanted) or not count:
        return NAN, (count, len(wanted))
    return float(np.abs(ours - wanted[:, :16]).max()), (count, len(wanted))
