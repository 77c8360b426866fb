"""Where a camera sees points of a head, and a first guess of where a head is.

The head moves before a fixed camera with OpenGL axes (x right, y up, it looks along -z); pixels count from the middle
of the first one, x right and y down.
Letters: B frames, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion.

    Attributes:
        focal_px: focal length, pixels.
        middle_px: where its axis meets the picture, (x, y) pixels.
    """

    focal_px: float
    middle_px: tuple[float, float]

    @classmethod
    def square(cls, focal: float, size_px: int) -> Pinhole:
        """Make the camera of a square picture; `focal` is in picture widths."""
        return cls(focal * size_px, ((size_px - 1) / 2, (size_px - 1) / 2))

    def project(self, points: Tensor) -> Tensor:
        """Project points [..., 3] in the camera's axes to pixels [..., 2]."""
        x, y, z = points.unbind(-1)
        across, up = self.focal_px * x / -z, self.focal_px * y / -z
        return torch.stack([self.middle_px[0] + across, self.middle_px[1] - up], -1)

    def derivative(self, points: Tensor) -> Tensor:
        """Return the derivative of `project` by the points, [..., 2, 3]."""
        x, y, z = points.unbind(-1)
        per_unit, zero = self.focal_px / -z, torch.zeros_like(z)
        across = torch.stack([per_unit, zero, per_unit * x / -z], -1)
        down = torch.stack([zero, -per_unit, -per_unit * y / -z], -1)
        return torch.stack([across, down], -2)

    def first_pose(self, points: Tensor, pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Guess the pose of a head from a projection without perspective, in closed form.

        Args:
            points: [B, P, 3] on the head. pixels: [B, P, 2]. weights: [B, P], 0 where a pixel is unknown.

        Returns:
            rotation [B, 3, 3] and translation [B, 3], camera from head.
        """
        share = (weights / weights.sum(1, keepdim=True).clamp(min=1e-12))[..., None]
        middle, seen = (share * points).sum(1, keepdim=True), (share * pixels).sum(1, keepdim=True)
        offsets = (points - middle) * share.sqrt()
        flipped = (pixels - seen) * share.sqrt() * pixels.new_tensor([1.0, -1.0])
        gram = offsets.transpose(1, 2) @ offsets
        gram = gram + 1e-9 * torch.eye(3, dtype=gram.dtype, device=gram.device)
        rows = torch.linalg.solve(gram, offsets.transpose(1, 2) @ flipped).transpose(1, 2)  # [B, 2, 3]
        left, scales, right = torch.linalg.svd(rows, full_matrices=False)
        two = left @ right
        rotation = torch.cat([two, torch.linalg.cross(two[:, :1], two[:, 1:])], 1)
        distance = self.focal_px / scales.mean(1).clamp(min=1e-6)
        axis = (seen[:, 0] - seen.new_tensor(self.middle_px)) * seen.new_tensor([1.0, -1.0]) / self.focal_px
        at = torch.cat([axis * distance[:, None], -distance[:, None]], -1)
        return rotation, at - (rotation @ middle[:, 0, :, None])[..., 0]

    def first_place(self, turned: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        """Find where a head is whose rotation is known, in closed form: least squares of rays.

        Args:
            turned: [B, P, 3] on the turned head. pixels: [B, P, 2]. weights: [B, P], 0 where a pixel is unknown.

        Returns:
            translation [B, 3], camera from head.
        """
        middle = pixels.new_tensor(self.middle_px)
        slope = (pixels - middle) * pixels.new_tensor([1.0, -1.0]) / self.focal_px  # of the rays, [B, P, 2]
        # x + tx = -slope (z + tz), and so for y
        identity = torch.eye(2, dtype=slope.dtype, device=slope.device).expand(*slope.shape[:2], 2, 2)
        rows = torch.cat([identity, slope[..., None]], -1) * weights[..., None, None]  # [B, P, 2, 3]
        sides = -(turned[..., :2] + slope * turned[..., 2:]) * weights[..., None]
        rows, sides = rows.flatten(1, 2), sides.flatten(1)[..., None]
        gram = rows.mT @ rows + 1e-12 * torch.eye(3, dtype=rows.dtype, device=rows.device)
        return torch.linalg.solve_ex(gram, rows.mT @ sides).result[..., 0]
