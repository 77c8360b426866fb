"""Raw pictures and videos for tests: faces anywhere in larger pictures, with what is true of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.head_pose import FRONTAL, RIGID
from triportrait.train.data.heads.landmarks import landmarks
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import motion, population, take_pictures, to_uint8

PHOTO = Path(__file__).parents[1] / "data" / "photo.jpg"
# Marked by hand on the photograph enlarged 40 times, pixels from its corner, in the order of the 68 landmarks: around
# the eye on the picture's left from its outer corner, around the other from its inner one.
EYE_MARKS = (
    ((194.0, 102.3), (199.2, 98.9), (207.0, 98.6), (214.0, 103.7), (207.5, 104.6), (199.5, 104.0)),
    ((236.8, 105.2), (243.0, 101.2), (250.8, 100.9), (255.8, 105.0), (250.9, 106.5), (243.0, 106.4)),
)
FACE_AT = (224.0, 115.0)  # the middle of the face, pixels


def photo() -> np.ndarray:
    """uint8 [512, 512, 3], one face."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


def photographs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The photograph in other sizes, turned, grey, dark and noisy: uint8 [H, W, 3] and the marks of its eyes [2, 6, 2],
    pixels, the middle of the first one at 0."""
    marks, whole = np.array(EYE_MARKS), Image.open(PHOTO).convert("RGB")
    light = np.asarray(whole)
    noise = np.random.default_rng(0).normal(0, 20, light.shape)
    cases = {"as it is": (light, marks), "grey": (np.asarray(whole.convert("L").convert("RGB")), marks)}
    cases["a tenth of the light"] = (light * 0.1).astype(np.uint8), marks
    cases["noise of 20 levels"] = np.clip(light + noise, 0, 255).astype(np.uint8), marks
    for name, factor in (("a quarter of the size", 0.25), ("half size", 0.5), ("double size", 2.0)):
        side = round(512 * factor)
        cases[name] = np.asarray(whole.resize((side, side), Image.Resampling.LANCZOS)), marks * factor
    for degrees in (-90, -45, -15, 15, 45, 90):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        x, y = np.moveaxis(marks - 256, -1, 0)
        turned = np.asarray(whole.rotate(degrees, Image.Resampling.BICUBIC))
        cases[f"turned by {degrees} degrees"] = turned, np.stack([c * x + s * y, -s * x + c * y], -1) + 256
    return {name: (image, at - 0.5) for name, (image, at) in cases.items()}


def eyes_off(face: Face, marks: np.ndarray) -> np.ndarray:
    """How far the middles of both eyes [2] and of their corners [2] are from the marks, parts of the eyes' distance."""
    middles, corners = marks.mean(1), marks[:, [0, 3]].mean(1)
    found = np.stack([face.points[36:42, :2].mean(0), face.points[42:48, :2].mean(0)])
    off = np.concatenate([found - middles, face.alignment[:2] - corners])
    return np.linalg.norm(off, axis=1) / np.linalg.norm(middles[0] - middles[1])


def seen(
    at: tuple[float, float], scale: float = 1.0, turn_deg: float = 0.0, size: tuple[int, int] = (640, 360)
) -> np.ndarray:
    """The photograph enlarged, turned in its plane (positive to the left) and moved so that its face is at `at`: uint8
    [H, W, 3]."""
    c, s = np.cos(np.radians(turn_deg)) / scale, -np.sin(np.radians(turn_deg)) / scale
    back = (c, s, FACE_AT[0] - c * at[0] - s * at[1], -s, c, FACE_AT[1] + s * at[0] - c * at[1])
    picture = Image.open(PHOTO).convert("RGB").transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
    return np.asarray(picture)


@cache
def shape() -> np.ndarray:
    """[68, 3] landmarks of a head at rest, x right, y up, z to the viewer; the rigid ones are the mean face's."""
    who, _ = population(3, 1)
    points = landmarks(who, Expression.neutral(1))[0].double().numpy()
    eyes = points[[36, 45]]
    points = (points - points[list(RIGID)].mean(0)) / np.linalg.norm(eyes[1] - eyes[0])
    points[list(RIGID)] = FRONTAL - FRONTAL.mean(0)
    return points


def face(
    at: tuple[float, float] = (320.0, 180.0),
    width_px: float = 100.0,
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
    noise: np.ndarray | float = 0.0,
) -> Face:
    """A face `width_px` wide between the outer corners of its eyes, turned by a rotation vector."""
    rotation = rotation_matrices(torch.tensor(turn, dtype=torch.float64)).numpy()
    points = shape() @ rotation.T * width_px * (1.0, -1.0, -1.0)
    points[:, :2] += at
    points = (points + noise).astype(np.float32)
    return Face(points, alignment_points(points))


def moving_head(
    head: int, frames: int, size: int, into: tuple[int, int] | None = None, fps: int = 25
) -> tuple[list[np.ndarray], list[Face], np.ndarray]:
    """A procedural head that moves, before the fixed camera.

    Args:
        into: width and height of the larger frame in which it stands off-centre.

    Returns:
        Frames, the faces in them with the generator's landmarks, and its necks [T, 3].
    """
    who, light = population(17, head + 1)
    one, camera = torch.full((frames,), head), fixed_camera()
    cameras = Camera(camera.world_from_camera.expand(frames, 4, 4), camera.intrinsics.expand(frames, 3, 3))
    does = motion(17, head, frames, fps)
    view = take_pictures(HeadRenderer(), who.take(one), does, light.take(one), cameras, size)
    pictures, places = to_uint8(view.image).numpy(), view.landmarks.numpy() - 0.5
    shown, faces = [], []
    for picture, place in zip(pictures, places, strict=True):
        x, y = 0, 0
        if into is not None:
            frame = np.full((into[1], into[0], 3), (60, 80, 70), np.uint8)
            x, y = into[0] - size - 8, into[1] - size - 4
            frame[y : y + size, x : x + size] = picture
            picture = frame
        points = np.pad(place + np.array([x, y]), ((0, 0), (0, 1))).astype(np.float32)
        shown.append(picture)
        faces.append(Face(points, alignment_points(points)))
    return shown, faces, view.neck.numpy()
