"""Draws the fitted mesh and the landmarks over the frames of the film that they were read off.

A painter's drawing: faces that look at the camera, the far ones first, half transparent, shaded as if lit from the
camera. It takes some hundredths of a second a frame on a CPU. Letters: U vertices, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.records import columns_of
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.tracked.fitted_frames import FittedFrames

LARGEST_PX = 1280  # the longer side of the film; larger frames are reduced
FINER = 2  # the mesh is drawn so many times larger, for smooth edges
OPACITY = 0.45
SKIN, DARK = np.array([120.0, 200.0, 235.0]), 0.25
MARK, PUPIL = (255, 214, 60), (255, 90, 90)


def overlay_size(width: int, height: int) -> tuple[int, int]:
    """Return how large frames of this size are shown, (width, height), even numbers."""
    share = min(1.0, LARGEST_PX / max(width, height))
    return max(2, round(width * share) // 2 * 2), max(2, round(height * share) // 2 * 2)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Draws what was fitted over frames.

    Attributes:
        fitted: of the film. model: the head model.
        size: (width, height) of what is drawn.
    """

    fitted: FittedFrames
    model: HeadModel
    size: tuple[int, int]

    def draw(self, image: np.ndarray, number: int) -> np.ndarray:
        """Return frame `number`, uint8 [H, W, 3], with mesh and landmarks, or with the reason why it has none."""
        height, width = image.shape[:2]
        shown = Image.fromarray(np.ascontiguousarray(image)).resize(self.size, Image.Resampling.BILINEAR)
        faces = self.fitted.faces
        row = int(np.searchsorted(faces.numbers, number))
        label = f"{number + 1}"
        if row < len(faces) and faces.numbers[row] == number:
            placed, scale = faces.alignment(row), np.array(self.size) / (width, height)
            shown = self._with_mesh(shown, row, placed, scale)
            self._mark(ImageDraw.Draw(shown), row, placed, scale)
            label = f"{label}   {self.fitted.error_px[row]:.1f} px of 512"
        elif number in faces.unseen:
            label = f"{label}   {faces.unseen[number].why}"
        pen = ImageDraw.Draw(shown)
        font = ImageFont.load_default(max(10, self.size[1] // 32))
        pen.text((6, 4), label, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0), font=font)
        return np.asarray(shown)

    def vertices_px(self, row: int, placed: Alignment) -> np.ndarray:
        """Return the mesh of one of the N frames, [U, 3]: pixels of the raw frame from its corner, and depth."""
        parts = columns_of(self.fitted.records[row : row + 1])
        betas = torch.cat([self._directions(parts["shape"], True), self._directions(parts["expression"], False)], -1)
        still = torch.zeros_like(parts["neck"])  # the camera holds the head's pose
        vertices, _ = self.model.flame(betas, still, parts["jaw"], parts["eyes"])
        points = picture_points(vertices, camera_from_label(parts["camera"]), 1)[0].double().numpy()
        points[:, :2] = points[:, :2] * placed.side + (placed.left, placed.top)
        return points

    def _directions(self, betas: torch.Tensor, shape: bool) -> torch.Tensor:
        """Take as many betas as the model has."""
        count = self.model.flame["shape_directions"].shape[-1]
        return betas[:, : self.model.num_shape if shape else count - self.model.num_shape]

    def _with_mesh(self, shown: Image.Image, row: int, placed: Alignment, scale: np.ndarray) -> Image.Image:
        points = self.vertices_px(row, placed)
        flat = points[:, :2] * scale * FINER
        corners = flat[self._triangles]  # [F, 3, 2]
        depth = points[self._triangles, 2].mean(1)
        (a, b, c) = np.moveaxis(corners, 1, 0)
        towards = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        focal = float(columns_of(self.fitted.records[row : row + 1])["camera"][0, 16])
        middle = (placed.left + placed.side / 2, placed.top + placed.side / 2)
        across = (points[:, :2] - middle) / (placed.side * focal)
        solid = np.column_stack([across * points[:, 2:], points[:, 2]])  # camera axes: x right, y down, z away
        p, q, r = np.moveaxis(solid[self._triangles], 1, 0)
        normals = np.cross(q - p, r - p)
        facing = np.abs(normals[:, 2]) / np.linalg.norm(normals, axis=1).clip(1e-12)
        light = DARK + (1 - DARK) * facing
        mesh = Image.new("RGBA", (self.size[0] * FINER, self.size[1] * FINER), (0, 0, 0, 0))
        pen, alpha = ImageDraw.Draw(mesh), round(255 * OPACITY)
        for face in np.argsort(-depth):
            if towards[face] < 0:  # counter-clockwise from outside, and y runs down
                red, green, blue = (SKIN * light[face]).astype(int).tolist()
                pen.polygon([tuple(corner) for corner in corners[face].tolist()], (red, green, blue, alpha))
        small = mesh.reduce(FINER)
        return Image.alpha_composite(shown.convert("RGBA"), small).convert("RGB")

    def _mark(self, pen: ImageDraw.ImageDraw, row: int, placed: Alignment, scale: np.ndarray) -> None:
        faces = self.fitted.faces
        spots = (placed.to_picture(faces.points[row]) + 0.5) * scale
        radius = max(1.0, placed.side * float(scale[0]) / ALIGNED_SIZE * 1.5)
        for index, (x, y) in enumerate(spots):
            if faces.weights[row, index] > 0:
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), PUPIL if index >= 68 else MARK)

    @property
    def _triangles(self) -> np.ndarray:
        return self.model.flame["faces"].cpu().numpy()
