"""Places the square of a face in a picture by the published alignment, as one map with both directions.

Five points of the face are explained by a mean face seen from far away (weak perspective), u = s R P + t, by least
squares; the square has t in its middle and 180 of its 512 pixels per unit of the mean face. It is never turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from triportrait.core.motion.motion_crop import ALIGNED_SIZE

# Of the published preprocessing, x right, y up, z to the viewer: eye, eye, tip of the nose, corners of the mouth.
MEAN_FACE = np.array(
    [
        [-0.31148657, 0.19036078, 0.53377953],
        [0.30979887, 0.18972035, 0.53179526],
        [0.0032535, -0.14617933, 0.95244243],
        [-0.25216928, -0.4813392, 0.62405732],
        [0.2484662, -0.4812824, 0.62235769],
    ]
)
PIXELS_PER_UNIT = 180.0
SMALLEST_SIDE_PX = 4.0  # a smaller square shows no face
LARGEST_SHARE = 4.0  # of the picture's longer side: of a larger square's face the picture shows a patch of skin
LANCZOS_REACH = 3


@dataclass(frozen=True)
class Alignment:
    """Places the square that becomes the aligned picture, in the pixels of the raw one.

    Attributes:
        left, top: of its corner, counted from the picture's corner: the first pixel covers 0 to 1.
        side: px. It may reach beyond the picture, whose edge is then repeated.
    """

    left: float
    top: float
    side: float

    @property
    def scale(self) -> float:
        """Pixels of the 512² aligned picture per pixel of the raw one."""
        return ALIGNED_SIZE / self.side

    @property
    def middle(self) -> tuple[float, float]:
        """Return the middle of the square, (x, y), counted as `left` and `top` are."""
        return self.left + self.side / 2, self.top + self.side / 2

    @classmethod
    def around(cls, middle: tuple[float, float], scale: float) -> Alignment:
        """Make a square from its middle and its scale."""
        side = ALIGNED_SIZE / scale
        return cls(middle[0] - side / 2, middle[1] - side / 2, side)

    def to_aligned(self, points: np.ndarray) -> np.ndarray:
        """Map points [..., 2 or 3] of the raw picture to the 512² aligned one; pixels' middles are whole numbers."""
        moved = points.astype(np.float64) * self.scale
        moved[..., :2] += (0.5 - np.array([self.left, self.top])) * self.scale - 0.5
        return moved

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Map points of the aligned picture back; the inverse of `to_aligned`."""
        moved = points.astype(np.float64) / self.scale
        moved[..., :2] += 0.5 / self.scale - 0.5 + np.array([self.left, self.top])
        return moved

    def crop(self, image: np.ndarray, size_px: int) -> np.ndarray:
        """Cut the square out of uint8 [H, W, 3]: uint8 [size_px, size_px, 3] (Lanczos, the edge repeated)."""
        x, y = (
            _Axis.of(start, self.side, size_px, n) for start, n in ((self.left, image.shape[1]), (self.top, len(image)))
        )
        if x.inside and y.inside:
            part = image[y.begin : y.end, x.begin : x.end]
        else:
            part = image[y.pixels[:, None], x.pixels[None]]
        pixels = Image.fromarray(np.ascontiguousarray(part))
        box = (x.box[0], y.box[0], x.box[1], y.box[1])
        seen = np.asarray(pixels.resize((x.count, y.count), Image.Resampling.LANCZOS, box=box))
        return np.pad(seen, (y.beyond, x.beyond, (0, 0)), "edge")

    def fits(self, image: np.ndarray) -> bool:
        """Tell whether a picture [H, W, 3] shows some of the square, and more than a patch of skin."""
        height, width = image.shape[:2]
        touches = -self.side < self.left < width and -self.side < self.top < height
        return touches and self.side <= LARGEST_SHARE * max(height, width)


@dataclass(frozen=True)
class _Axis:
    """Says which rows, or columns, a crop reads and writes.

    Attributes:
        begin, end: pixels that are read; those beyond the picture are its edge.
        pixels: each of them as one of the picture. inside: none lies beyond.
        count: pixels of the crop that are made of them. beyond: those before and behind, which repeat the outermost.
        box: where these pixels lie, counted from `begin`.
    """

    begin: int
    end: int
    pixels: np.ndarray
    inside: bool
    count: int
    beyond: tuple[int, int]
    box: tuple[float, float]

    @classmethod
    def of(cls, start: float, side: float, size_px: int, most: int) -> _Axis:
        """Plan a crop to `size_px` pixels of a square that begins at `start`, in a picture of `most` pixels."""
        step = side / size_px
        reach = math.ceil(LANCZOS_REACH * max(1.0, step))
        # Pixels of the crop that see nothing but the edge are all alike: one of them is enough.
        first = min(max(math.floor((-reach - start) / step) - 1, 0), size_px - 1)
        last = max(min(math.ceil((most + reach - start) / step) + 1, size_px), first + 1)
        a, b = start + first * step, start + last * step
        begin, end = math.floor(a) - reach, math.ceil(b) + reach
        return cls(
            begin, end, np.arange(begin, end).clip(0, most - 1), begin >= 0 and end <= most, last - first,
            (first, size_px - last), (a - begin, b - begin),
        )  # fmt: skip


def align(points: np.ndarray) -> Alignment | None:
    """Compute the published alignment of a face.

    Args:
        points: [5, 2] as in `Face.alignment`, pixels, y down.

    Returns:
        None where the points are those of no face: they lie in one place, or are not finite.
    """
    if not np.isfinite(points).all():
        return None
    mean_face = np.concatenate([MEAN_FACE, np.ones((5, 1))], 1)
    up = np.stack([points[:, 0], -points[:, 1]], 1).astype(np.float64)  # [5, 2], y up
    solved = np.linalg.lstsq(mean_face, up, rcond=None)[0]  # [4, 2]: rows of s R, then t
    per_unit = float(np.linalg.norm(solved[:3], axis=0).mean())
    if per_unit * ALIGNED_SIZE / PIXELS_PER_UNIT < SMALLEST_SIDE_PX:
        return None
    x, y = solved[3, 0], -solved[3, 1]
    # The published crop takes t, found among pixels' numbers, as counted from the left edge and from the bottom.
    return Alignment.around((float(x), float(y) + 1.0), PIXELS_PER_UNIT / per_unit)


def middle_square(image: np.ndarray) -> Alignment:
    """Return the largest square around the middle of a picture [H, W, 3], for want of a face."""
    height, width = image.shape[:2]
    side = min(height, width)
    return Alignment(float((width - side) // 2), float((height - side) // 2), float(side))


def alignment_points(points: np.ndarray) -> np.ndarray:
    """Return the alignment points [5, 2] of 68 landmarks [68, 2 or 3].

    An eye is the middle between its corners: lids and pupils, by which the published files align, move it.
    """
    flat = points[:, :2]
    eyes = [(flat[a] + flat[b]) / 2 for a, b in ((36, 39), (42, 45))]
    return np.stack([*eyes, flat[30], flat[48], flat[54]]).astype(np.float32)
