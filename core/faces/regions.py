"""Squares on faces: where they lie, and the part of a picture in them, upright, as mediapipe cuts it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from triportrait.core.faces.cpu_sampling import sampled_bytes

ENLARGED = 1.5  # side of the mesh's square over the longer side of a detected box, or of the box of the last points
EYE_CORNERS = (33, 263)  # of the mesh; the line between them is level in the square


@dataclass(frozen=True)
class Regions:
    """Squares in pictures, one for each of N faces.

    Attributes:
        centre: [N, 2] pixels, x and y, from the corner of the picture.
        side: [N] pixels.
        roll: [N] radians; a positive one turns from x to y.
    """

    centre: Tensor
    side: Tensor
    roll: Tensor

    @classmethod
    def of(cls, squares: Sequence[tuple[float, float, float, float]]) -> Self:
        """Make regions of squares, each x and y of its middle, its side, and its roll."""
        numbers = torch.tensor(squares, dtype=torch.float32).reshape(-1, 4)
        return cls(numbers[:, :2], numbers[:, 2], numbers[:, 3])

    def to_picture(self, points: Tensor) -> Tensor:
        """Take points from the square to the picture.

        Args:
            points: [N, P, 2 or 3], the square from 0 to 1; a depth is in the same unit.

        Returns:
            [N, P, 2 or 3] pixels of the picture, the depth too.
        """
        cos, sin = torch.cos(self.roll)[:, None], torch.sin(self.roll)[:, None]
        side = self.side[:, None]
        x, y = (points[..., 0] - 0.5) * side, (points[..., 1] - 0.5) * side
        flat = [cos * x - sin * y + self.centre[:, :1], sin * x + cos * y + self.centre[:, 1:]]
        return torch.stack([*flat, *(depth * side for depth in points[..., 2:].unbind(-1))], -1)


def regions_of_boxes(boxes: Tensor, keypoints: Tensor) -> Regions:
    """Make the squares in which the mesh is fitted to detected faces.

    Args:
        boxes: [N, 4] pixels: left, top, right, bottom.
        keypoints: [N, 6, 2] pixels, the eyes first.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    return Regions(centre, longer * ENLARGED, _roll(keypoints[:, 1] - keypoints[:, 0]))


def regions_of_points(points: Tensor) -> Regions:
    """Make the squares in which the mesh is fitted again, from its last points [N, 468 or 478, 2 or 3], pixels."""
    flat = points[..., :2]
    low, high = flat.amin(1), flat.amax(1)
    right, left = EYE_CORNERS
    return Regions((low + high) / 2, (high - low).amax(1) * ENLARGED, _roll(flat[:, left] - flat[:, right]))


def _roll(along: Tensor) -> Tensor:
    """Find the angle [N] of lines [N, 2] from one eye to the other."""
    return torch.atan2(along[:, 1], along[:, 0])


def crop(
    images: Tensor,
    regions: Regions,
    size: tuple[int, int],
    border: str = "border",
    pictures: Tensor | None = None,
    oversampling: int = 1,
    sizes: Tensor | None = None,
) -> Tensor:
    """Cut squares out of pictures, upright, by bilinear interpolation, as OpenCV does it for mediapipe.

    Pixel k of n in the result is taken from k / n of the square, numbers of the picture's pixels are places (half a
    pixel off what areas of pixels would be), places are rounded to 1/32 pixel and colours to levels.

    Args:
        images: [B, 3, H, W], uint8 or in [-1, 1].
        regions: N squares.
        size: rows and columns of the result; a square that is stretched where they differ.
        border: beyond the picture, "border" repeats its edge and "zeros" is black.
        pictures: [N] which of B each square lies in; None where N is B and each lies in its own.
        oversampling: samples for each pixel and axis, of which the mean is taken; 1 is as mediapipe.
        sizes: [N, 2] rows and columns of what counts of each square's picture, from its first pixel on; its edge is
            repeated beyond. None where all of it counts.

    Returns:
        [N, 3, *size] whole numbers 0 to 255 in float32, in memory with the channels last.
    """
    rows, columns = size[0] * oversampling, size[1] * oversampling
    shift = (oversampling - 1) / (2 * oversampling)
    across = (torch.arange(columns, device=images.device) / oversampling - shift) / size[1] - 0.5
    down = (torch.arange(rows, device=images.device) / oversampling - shift) / size[0] - 0.5
    cos = (regions.side * torch.cos(regions.roll))[:, None, None]
    sin = (regions.side * torch.sin(regions.roll))[:, None, None]
    x = regions.centre[:, 0, None, None] + cos * across - sin * down[:, None]
    y = regions.centre[:, 1, None, None] + sin * across + cos * down[:, None]
    if sizes is not None:
        rest = (sizes - 1).to(x.dtype)[:, :, None, None]
        x, y = torch.minimum(x.clamp(min=0), rest[:, 1]), torch.minimum(y.clamp(min=0), rest[:, 0])
    levels = sampled(images, x, y, border, pictures)
    return F.avg_pool2d(levels, oversampling) if oversampling > 1 else levels


def sampled(images: Tensor, x: Tensor, y: Tensor, border: str, pictures: Tensor | None = None) -> Tensor:
    """Sample pictures [B, 3, H, W] at the places x and y, [N, rows, columns], as `crop` says; levels 0 to 255."""
    if images.device.type == "cpu" and images.dtype == torch.uint8:
        levels = sampled_bytes(images, x, y, border, pictures)
        if levels is not None:
            return levels
    x, y = (x * 32).round() / 32, (y * 32).round() / 32
    if images.device.type == "cpu":
        images, x, y = _narrowed(images, x, y)
    if pictures is not None:
        images = images[pictures]
    high, wide = images.shape[2:]
    grid = torch.stack([(2 * x + 1) / wide - 1, (2 * y + 1) / high - 1], -1)
    levels = F.grid_sample(images.float(), grid, align_corners=False, padding_mode=border)
    if images.dtype != torch.uint8:
        inside = 1.0 if border == "border" else (_inside(x, wide) * _inside(y, high))[:, None]
        levels = (levels + inside) * 127.5
    # Halves are rounded up; levels between pixels are whole numbers of 1/1024, half of one makes up for grid_sample's
    # own rounding.
    return (levels + (0.5 + 1 / 2048)).floor().contiguous(memory_format=torch.channels_last)


def _inside(at: Tensor, count: int) -> Tensor:
    """Tell how much of a sample between pixels comes from the picture and not from beyond it."""
    return (at + 1).clamp(0, 1) * (count - at).clamp(0, 1)


def _narrowed(images: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out what is not sampled, so that a CPU need not convert the whole of large pictures."""
    bounds = []
    for at, count in ((x, images.shape[3]), (y, images.shape[2])):
        low, high = (float(end) for end in at.aminmax())
        first = int(min(max(0, low - 2), count - 1))
        last = int(max(min(count, high + 3), first + 1))
        bounds.append((first, last))
    (left, right), (top, bottom) = bounds
    return images[:, :, top:bottom, left:right], x - left, y - top
