"""Compare our run of the face networks with mediapipe's: `python -m docs.faces.agreement` prints the table.

It reads mediapipe's numbers from tests/data/faces; `python -m docs.faces.agreement again` makes them, which needs
mediapipe 0.10.21, for instance in an environment of its own with `pip install mediapipe==0.10.21 torch==2.13.0`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch

from tests.core.faces.compared import compared
from tests.core.faces.networks import face_graph
from tests.core.faces.pictures import HEADS, MASKED, NUMBERS, photographs, pictures
from triportrait.core.render.cameras import fixed_camera
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import motion, population, take_pictures, to_uint8

MASK_STEP = 2  # of the mask every second row and column is kept


def heads() -> dict[str, np.ndarray]:
    """Make the procedural heads, turned to the side."""
    made = {}
    for name, (number, turn) in HEADS.items():
        who, light = population(17, number + 1)
        one = torch.tensor([number])
        does = motion(17, number, 8, 25)
        expression = does.take(torch.tensor([4]))
        neck = torch.zeros_like(expression.neck)
        neck[:, 1] = turn
        view = take_pictures(
            HeadRenderer(), who.take(one), expression.replace(neck=neck), light.take(one), fixed_camera(), 224
        )
        made[name] = to_uint8(view.image).numpy()[0]
    return made


def detections(found: Any, width: int, height: int) -> np.ndarray:
    """List what mediapipe's detector found, [faces, 17]: the box, six points, the score."""
    rows = []
    for one in found or []:
        place = one.location_data
        box = place.relative_bounding_box
        edges = [box.xmin * width, box.ymin * height, (box.xmin + box.width) * width, (box.ymin + box.height) * height]
        points = [value for p in place.relative_keypoints for value in (p.x * width, p.y * height)]
        rows.append([*edges, *points, one.score[0]])
    return np.array(rows, np.float32).reshape(-1, 17)


def again() -> None:
    """Run mediapipe on each picture and keep its numbers."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    import mediapipe

    solutions = mediapipe.solutions
    detectors = [solutions.face_detection.FaceDetection(0.5, model_selection=kind) for kind in (0, 1)]
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1)
    segmentation = solutions.selfie_segmentation.SelfieSegmentation(0)
    made = heads()
    kept: dict[str, np.ndarray] = {f"{name}/picture": picture for name, picture in made.items()}
    for name, picture in {**photographs(), **made}.items():
        height, width = picture.shape[:2]
        for kind, detector in zip(("short", "full"), detectors, strict=True):
            kept[f"{name}/{kind}"] = detections(detector.process(picture).detections, width, height)
        faces = mesh.process(picture).multi_face_landmarks
        if faces:
            points = [(p.x * width, p.y * height, p.z * width) for p in faces[0].landmark]
            kept[f"{name}/mesh"] = np.round(np.array(points, np.float32), 3)
        if name in MASKED:
            mask = segmentation.process(picture).segmentation_mask[::MASK_STEP, ::MASK_STEP]
            kept[f"{name}/mask"] = np.round(mask * 65535).astype(np.uint16)
    NUMBERS.parent.mkdir(exist_ok=True)
    np.savez_compressed(NUMBERS, **kept)  # type: ignore[arg-type]


def main() -> None:
    """Make the numbers again if asked; print the table."""
    if sys.argv[1:] == ["again"]:
        again()
    print("| picture | detector: short, full range | points: mean, largest | irises | presence | mask |")
    print("| --- " * 6 + "|")
    graphs = {name: face_graph(name) for name in ("short", "full", "mesh", "mask")}
    for name in pictures():
        row = compared(name, graphs)
        detectors = ", ".join(f"{off:.3f} px" if off == off else "no face" for off in (row.short_px, row.full_px))
        points = f"{row.points_mean:.3f}, {row.points_largest:.3f} % | {row.irises:.3f} % | {row.presence:.3f}"
        mask = f"{row.mask_within:.2%}" if row.mask_within == row.mask_within else ""
        print(f"| {name} | {detectors} | {points} | {mask} |")


if __name__ == "__main__":
    main()
