"""Finds faces by mediapipe: detects them in the picture, then fits a mesh of 478 points to an upright, enlarged crop.

The models are in mediapipe's wheel; nothing is downloaded. Each picture is looked at by itself.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.core.optional_packages import install, reason
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.searching import SMALLEST_TILE_PX, tiles

# Points of the mesh in the order of the 68 landmarks.
JAW = (127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356)
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181)
INNER_LIPS = (78, 82, 13, 312, 308, 317, 14, 87)
LANDMARKS = [*JAW, *BROWS, *NOSE, *EYES, *LIPS, *INNER_LIPS]

LEAST_CONFIDENCE = 0.5
DETECTOR_PX = 384  # the longer side is reduced to it; the detectors themselves reduce that to 128 and 192
ROI_PX = 256  # the square on a face is resized to it; mediapipe itself reduces that to 192
DETECTION_MARGIN = 1.5  # side of the mesh's square over the detected box
MESH_MARGIN = 1.4  # over the box of the landmarks and the forehead
MAX_DETECTIONS, MAX_FACES = 400, 100  # of one picture, in the order of detection
SAME_FACE = 0.5  # centres that are nearer than this part of a face's size are those of one face

View = tuple[tuple[float, float], float, float]  # centre, side and roll of a square on a face, pixels and radians

GRAPH = """
input_stream: "image"
input_stream: "roi"
input_side_packet: "with_attention"
output_stream: "landmarks"
node {
  calculator: "FaceLandmarkCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:roi"
  input_side_packet: "WITH_ATTENTION:with_attention"
  output_stream: "LANDMARKS:landmarks"
}
"""

_STDERR_LOCK = threading.Lock()


class MediapipeFaces:
    """Finds faces by mediapipe 0.10, on the CPU, as a `FaceProvider`. Threads may share it: they take turns.

    Raises:
        InputError: mediapipe is not installed, does not load, or has no models.
    """

    def __init__(self) -> None:
        with _quiet():
            self._lock = threading.Lock()
            try:
                import mediapipe

                detection = mediapipe.solutions.face_detection.FaceDetection  # newer ones have neither it nor models
                # Model 0 sees faces within two metres, model 1 small ones too.
                self._detectors = [detection(LEAST_CONFIDENCE, model_selection=kind) for kind in (0, 1)]
                self._mesh_graph = _build_mesh_graph()
            except Exception as error:
                why = reason(error, "mediapipe")
                raise InputError(f"faces: mediapipe {why}; {install('faces')} or give landmarks") from error
            # mediapipe logs until it has seen its first picture, so it sees one while the log is off.
            blank = np.zeros((64, 64, 3), np.uint8)
            self.find(blank)
            self._fit_mesh(blank, (32.0, 32.0), 64.0, 0.0)

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        """Find the faces of uint8 [H, W, 3] RGB, the largest first; with `near` the one that is there, if it still is.

        Unless it is to be quick, the picture is searched in pieces too, so that small faces in large pictures and all
        faces of a wide one are found; in smaller pieces where these show none.
        """
        with self._lock:
            if near is not None:
                face = self._fit_face(image, *_view_of(near.points))
                if face is not None:
                    return [face]
            views = [view for detector in self._detectors for view in _detections(detector, image)]
            if not quick:
                views += self._views_in_pieces(image, 1) + self._views_in_pieces(image, 2)
            faces = self._fit_detections(image, views)
            return faces if faces or quick else self._fit_detections(image, self._views_in_pieces(image, 3))

    def _views_in_pieces(self, image: np.ndarray, pieces: int) -> list[View]:
        """Detect small faces in squares of a `pieces`-th of the shorter side."""
        if pieces > 1 and min(image.shape[:2]) / pieces < SMALLEST_TILE_PX:
            return []
        return [
            ((centre[0] + x, centre[1] + y), side, roll)
            for tile, x, y in tiles(image, pieces)
            for centre, side, roll in _detections(self._detectors[-1], tile)
        ]

    def close(self) -> None:
        """Close the graphs."""
        for part in (*self._detectors, self._mesh_graph):
            part.close()

    def _fit_detections(self, image: np.ndarray, views: list[View]) -> list[Face]:
        """Find the faces in detected boxes, each once, the largest first."""
        faces: list[Face] = []
        for k, (centre, side, roll) in enumerate(views[:MAX_DETECTIONS]):
            if len(faces) == MAX_FACES:
                break
            if any(math.dist(centre, other) < SAME_FACE * max(side, size) for other, size, _ in views[:k]):
                continue
            rough = self._fit_face(image, centre, DETECTION_MARGIN * side, roll)
            # It is fitted again around its own landmarks, so that it does not depend on the detector's box.
            face = None if rough is None else self._fit_face(image, *_view_of(rough.points))
            if face is not None and all(math.dist(face.centre, f.centre) > SAME_FACE * f.size_px for f in faces):
                faces.append(face)
        return sorted(faces, key=lambda face: -face.size_px)

    def _fit_face(self, image: np.ndarray, centre: tuple[float, float], side: float, roll: float) -> Face | None:
        mesh = self._fit_mesh(image, centre, side, roll)
        if mesh is None:
            return None
        points = mesh[LANDMARKS].astype(np.float32)
        return Face(points, alignment_points(points))

    def _fit_mesh(self, image: np.ndarray, centre: tuple[float, float], side: float, roll: float) -> np.ndarray | None:
        """Fit the mesh [478, 3] in a square view turned by `roll`; None where no face is there."""
        from mediapipe.framework.formats import rect_pb2

        # The graph maps points back rightly from square pictures alone: it gets one that holds the turned square.
        reach = math.ceil(side * math.sqrt(0.5)) + 1
        if not 2 <= reach <= 4 * max(image.shape):
            return None
        x0, y0 = math.floor(centre[0]) - reach, math.floor(centre[1]) - reach
        size = 2 * reach
        patch = _padded(image, x0, y0, size)
        resized_px = round(ROI_PX * size / side)
        view = np.asarray(
            Image.fromarray(patch).resize((resized_px, resized_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
        )
        at = [(c + 0.5 - start) / size for c, start in zip(centre, (x0, y0), strict=True)]
        roi = rect_pb2.NormalizedRect(
            x_center=at[0], y_center=at[1], width=side / size, height=side / size, rotation=roll
        )
        landmarks = self._mesh_graph.process({"image": np.ascontiguousarray(view), "roi": roi}).landmarks
        if landmarks is None:
            return None
        mesh = np.array([(p.x, p.y, p.z) for p in landmarks.landmark], np.float64) * size
        return mesh + np.array([x0 - 0.5, y0 - 0.5, 0.0])


def _build_mesh_graph() -> Any:
    """Make the mesh model alone, as a graph that takes a picture and where the face is."""
    from google.protobuf import text_format
    from mediapipe.framework import calculator_pb2
    from mediapipe.python.solution_base import PacketDataType, SolutionBase
    from mediapipe.python.solutions import face_mesh  # noqa: F401 - it registers the calculators' options

    kinds = {"image": PacketDataType.IMAGE_FRAME, "roi": PacketDataType.PROTO, "landmarks": PacketDataType.PROTO}
    return SolutionBase(
        graph_config=text_format.Parse(GRAPH, calculator_pb2.CalculatorGraphConfig()),
        side_inputs={"with_attention": True},
        outputs=["landmarks"],
        stream_type_hints=kinds,
    )


def _detections(detector: Any, image: np.ndarray) -> Iterator[View]:
    """Give the squares of the faces that a detector sees."""
    height, width = image.shape[:2]
    shrunk = min(1.0, DETECTOR_PX / max(height, width))
    size = (max(1, round(width * shrunk)), max(1, round(height * shrunk)))
    small = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    for detection in detector.process(np.asarray(small)).detections or []:
        place = detection.location_data
        box, (right, left) = place.relative_bounding_box, place.relative_keypoints[:2]
        roll = math.atan2((left.y - right.y) * height, (left.x - right.x) * width)
        centre = ((box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height)
        yield centre, max(box.width * width, box.height * height), roll


def _view_of(points: np.ndarray) -> View:
    """Choose the square in which the mesh sees a face with these landmarks best.

    The model knows faces upright, with the forehead and some room; the 68 landmarks end at the brows.
    """
    flat = points[:, :2].astype(np.float64)
    along = flat[42:48].mean(0) - flat[36:42].mean(0)
    roll = math.atan2(along[1], along[0])
    right = np.array([math.cos(roll), math.sin(roll)])
    down = np.array([-right[1], right[0]])
    across, high = flat @ right, flat @ down
    brows, chin = high[17:27].min(), high[:17].max()
    top = brows - 0.35 * (chin - brows)
    side = MESH_MARGIN * max(np.ptp(across), chin - top)
    centre = (across.min() + across.max()) / 2 * right + (top + chin) / 2 * down
    return (float(centre[0]), float(centre[1])), float(side), roll


def _padded(image: np.ndarray, x0: int, y0: int, size: int) -> np.ndarray:
    """Cut out the square from (x0, y0), black beyond the picture."""
    height, width = image.shape[:2]
    out = np.zeros((size, size, 3), np.uint8)
    top, left, bottom, right = max(0, y0), max(0, x0), min(height, y0 + size), min(width, x0 + size)
    if top < bottom and left < right:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what mediapipe's C++ side logs while it starts off the terminal."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    with _STDERR_LOCK:  # else a second thread would take the first one's /dev/null for the terminal
        sys.stderr.flush()
        stderr_copy = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)
