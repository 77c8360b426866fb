"""Finds faces by the networks of `core/faces`: detects them in the picture, then fits a mesh of 478 points to each.

`triportrait fetch faces` brings the networks; nothing is downloaded here. Each picture is looked at by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triportrait.core.faces.detector import FaceDetector
from triportrait.core.faces.landmarks import LANDMARKS
from triportrait.core.faces.mesh import LEAST_PRESENCE, FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.core.faces.regions import Regions, crop
from triportrait.core.torch_threads import one_thread
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.searching import SMALLEST_TILE_PX, tiles
from triportrait.serve.faces.views import View, kept, view_of

DETECTOR_PX = 384  # the longer side is reduced to it; the detectors themselves reduce that to 128 and 192
DETECTION_MARGIN = 1.5  # side of the mesh's square over the detected box
MAX_DETECTIONS, MAX_FACES = 400, 100  # of one picture, in the order of detection
SAME_FACE = 0.5  # centres that are nearer than this part of a face's size are those of one face
BATCH = 8
LARGEST_SIDE = 4  # of a square, in longer sides of the picture
# `crop` takes pixel k from k / n of a square, the middle of the k-th of n parts is half a part further. Eyes that a
# hand marked are met best between the two.
OFF_SHARE = 1 / 4  # of a part

T = TypeVar("T")


class NetworkFaces:
    """Finds faces by the fetched networks, on the CPU, as a `FaceProvider`. Threads may use it at the same time.

    Raises:
        InputError: the networks are missing or damaged.
    """

    def __init__(self) -> None:
        # The first sees faces within two metres, the second small ones too.
        self._detectors = [FaceDetector(load_model(f"{reach}_range_detector")) for reach in ("short", "full")]
        self._mesh = FaceMesh(load_model("mesh"))

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        """Find the faces of uint8 [H, W, 3] RGB, the largest first; with `near` the one that is there, if it still is.

        Unless it is to be quick, the picture is searched in pieces too, so that small faces in large pictures and all
        faces of a wide one are found; in smaller pieces where these show none.

        Raises:
            ValueError: the picture has another shape or kind.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected a picture uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        with one_thread():
            if near is not None:
                wanted = view_of(near.points)
                (face,) = self._fit(image, [wanted if near.view is None else kept(near.view, wanted)])
                if face is not None:
                    return [face]
            views = [view for detector in self._detectors for view in _detections(detector, [(image, 0, 0)])]
            if not quick:
                views += self._views_in_pieces(image, 1) + self._views_in_pieces(image, 2)
            faces = self._fit_detections(image, views)
            return faces if faces or quick else self._fit_detections(image, self._views_in_pieces(image, 3))

    def close(self) -> None:
        """Do nothing: memory is all that it holds."""

    def _views_in_pieces(self, image: np.ndarray, pieces: int) -> list[View]:
        """Detect small faces in squares of a `pieces`-th of the shorter side."""
        if pieces > 1 and min(image.shape[:2]) / pieces < SMALLEST_TILE_PX:
            return []
        return list(_detections(self._detectors[-1], tiles(image, pieces)))

    def _fit_detections(self, image: np.ndarray, views: list[View]) -> list[Face]:
        """Find the faces in detected boxes, each once, the largest first."""
        views = views[:MAX_DETECTIONS]
        distinct = [view for k, view in enumerate(views) if not any(_overlap(view, other) for other in views[:k])]
        faces: list[Face] = []
        for some in _batches(view._replace(side=DETECTION_MARGIN * view.side) for view in distinct):
            rough = [face for face in self._fit(image, some) if face is not None]
            # Each is fitted again around its own landmarks, so that it does not depend on the detector's box.
            for face in self._fit(image, [view_of(face.points) for face in rough]):
                if face is not None and all(math.dist(face.centre, f.centre) > SAME_FACE * f.size_px for f in faces):
                    faces.append(face)
            if len(faces) >= MAX_FACES:
                break
        return sorted(faces[:MAX_FACES], key=lambda face: -face.size_px)

    @torch.inference_mode()
    def _fit(self, image: np.ndarray, views: Sequence[View]) -> list[Face | None]:
        """Fit the mesh in squares; None where no face is there."""
        faces: list[Face | None] = [None] * len(views)
        limit = LARGEST_SIDE * max(image.shape[:2])
        usable = [k for k, view in enumerate(views) if 2 <= view.side <= limit]
        if not usable:
            return faces
        crops = torch.cat([_cut_out(image, views[k], self._mesh.network.input_size) for k in usable])
        points, presence = self._mesh.in_crops(crops / 255)
        found = Regions.of([views[k] for k in usable]).to_picture(points)
        for k, mesh, is_there in zip(usable, found.numpy(), (presence >= LEAST_PRESENCE).tolist(), strict=True):
            if is_there:
                landmarks = mesh[[*LANDMARKS]]
                faces[k] = Face(landmarks, alignment_points(landmarks), view=views[k], mesh=mesh)
        return faces


def _overlap(view: View, other: View) -> bool:
    return math.dist(view[:2], other[:2]) < SAME_FACE * max(view.side, other.side)


def _cut_out(image: np.ndarray, view: View, size: tuple[int, int]) -> Tensor:
    """Cut a square out of uint8 [H, W, 3], upright: levels [1, 3, *size]; large squares are reduced first."""
    height, width = image.shape[:2]
    shrunk = max(1, int(view.side / size[0]))
    reach = math.ceil(view.side * math.sqrt(0.5)) + shrunk + 1
    left, top = (min(max(0, math.floor(at) - reach), n - 1) for at, n in ((view.x, width), (view.y, height)))
    right, bottom = (max(min(n, math.ceil(at) + reach), 1) for at, n in ((view.x, width), (view.y, height)))
    part = np.array(image[top : max(bottom, top + 1), left : max(right, left + 1)])
    if shrunk > 1:
        part = np.array(Image.fromarray(part).reduce(shrunk))  # means of whole blocks
    x, y, side = (view.x - left + 0.5) / shrunk - 0.5, (view.y - top + 0.5) / shrunk - 0.5, view.side / shrunk
    off = side / size[0] * OFF_SHARE
    c, s = math.cos(view.roll), math.sin(view.roll)
    region = Regions.of([View(x + off * (c - s), y + off * (s + c), side, view.roll)])
    return crop(torch.from_numpy(part).permute(2, 0, 1)[None], region, size)


def _detections(detector: FaceDetector, parts: Iterable[tuple[np.ndarray, int, int]]) -> Iterator[View]:
    """Give the squares of the faces that a detector sees in parts of a picture, uint8 [h, w, 3] and their places.

    All parts are of one size.
    """
    for some in _batches(parts):
        small = np.stack([_shrunk(part) for part, _, _ in some])
        found = detector(torch.from_numpy(small).permute(0, 3, 1, 2))
        scale = max(some[0][0].shape) / max(small.shape[1:])
        for (_, left, top), boxes, keypoints, scores in zip(
            some, found.boxes.tolist(), found.keypoints.tolist(), found.scores.tolist(), strict=True
        ):
            for (x0, y0, x1, y1), ((x2, y2), (x3, y3), *_), score in zip(boxes, keypoints, scores, strict=True):
                if score > 0:
                    x, y, side = (x0 + x1) / 2 * scale, (y0 + y1) / 2 * scale, max(x1 - x0, y1 - y0) * scale
                    yield View(x - 0.5 + left, y - 0.5 + top, side, math.atan2(y3 - y2, x3 - x2))


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Reduce uint8 [H, W, 3] so that its longer side is `DETECTOR_PX` at most."""
    height, width = image.shape[:2]
    scale = min(1.0, DETECTOR_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Group items by `BATCH`."""
    remaining = iter(items)
    while some := list(islice(remaining, BATCH)):
        yield some
