"""Follows faces on the device, as `FaceTracker` does on the host, in steps that never wait: a graph can hold them.

A face is followed from its last points: a square around them, the mesh in it, the 68 landmarks, the alignment, the
One-Euro filters, the head's turn, the crop. Detectors, cuts between shots and the first face are the host's.
Letters: B faces, each in its own picture, H, W the canvas of the pictures, S side of the crops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.faces.landmarks import LANDMARKS
from triportrait.core.faces.mesh import LEAST_PRESENCE, FaceMesh
from triportrait.core.faces.regions import Regions
from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.serve.faces import tracker
from triportrait.serve.faces.alignment import LARGEST_SHARE, MEAN_FACE, PIXELS_PER_UNIT, SMALLEST_SIDE_PX
from triportrait.serve.faces.device_crop import cut_squares
from triportrait.serve.faces.device_rotation import product, quaternion_between, quaternion_of, vector_of
from triportrait.serve.faces.device_views import cut_out, kept, views_around
from triportrait.serve.faces.head_pose import FRONTAL, RIGID, UPRIGHT_IN_FLAME
from triportrait.serve.faces.network_faces import LARGEST_SIDE
from triportrait.serve.faces.smoothing import FRAMES_PER_S

FOLLOW, TAKE, HOLD = 0, 1, 2  # what a face does in a picture: is followed, is where the host found it, is not there
NUM_POINTS = 68
ALIGNING = 5  # points beside the landmarks
SMALLEST_VIEW_PX = 2
SHORTEST_STEP = 1e-3  # of 1/25 s
SIGNALS = {"points": (NUM_POINTS + ALIGNING, 3), "scale": (1, 1), "middle": (1, 2), "turn": (1, 3)}  # filtered
NUM_FILTERED = sum(rows * width for rows, width in SIGNALS.values())
Packed = tuple[Tensor, Tensor]  # a state as [B, numbers], float64, and the crops
_STATE = (
    ("points", 3 * NUM_POINTS), ("view", 4), ("time_s", 1), ("unit", 1), ("values", NUM_FILTERED),
    ("speeds", NUM_FILTERED), ("begun", 1), ("landmarks", 3 * NUM_POINTS), ("neck", 3),
)  # fmt: skip


class Followed(NamedTuple):
    """The state of B followed faces, tensors of the device.

    Attributes:
        points: float32 [B, 68, 3], landmarks in the last picture that showed the face, unsmoothed, in its pixels.
        view: float64 [B, 4], the square in which the mesh was fitted there, NaN where none was.
        time_s: float64 [B], of that picture.
        unit: float64 [B], pixels of the aligned picture per pixel of the picture, when the filters began.
        values, speeds: float64 [B, NUM_FILTERED], of the filters, side by side as SIGNALS says.
        begun: bool [B], whether the filters have begun.
        crop: uint8 [B, S, S, 3], the last crop.
        landmarks: float32 [B, 68, 3], in pixels of the 512² aligned picture.
        neck: float32 [B, 3], rotation vectors of the neck, radians.
    """

    points: Tensor
    view: Tensor
    time_s: Tensor
    unit: Tensor
    values: Tensor
    speeds: Tensor
    begun: Tensor
    crop: Tensor
    landmarks: Tensor
    neck: Tensor

    def packed(self) -> Packed:
        """Put all numbers side by side, as graphs pass them on."""
        parts = [
            getattr(self, name).flatten(1) if width > 1 else getattr(self, name)[:, None] for name, width in _STATE
        ]
        return torch.cat([part.double() for part in parts], 1), self.crop

    @classmethod
    def unpacked(cls, packed: Packed) -> Followed:
        """Take the numbers apart again."""
        numbers, crop = packed
        parts = dict(zip(dict(_STATE), numbers.split([width for _, width in _STATE], 1), strict=True))
        return cls(
            _points(parts["points"]), parts["view"], parts["time_s"][:, 0], parts["unit"][:, 0], parts["values"],
            parts["speeds"], parts["begun"][:, 0] > 0, crop, _points(parts["landmarks"]), parts["neck"].float(),
        )  # fmt: skip


def _points(numbers: Tensor) -> Tensor:
    return numbers.float().unflatten(1, (NUM_POINTS, 3))


class Given(NamedTuple):
    """Faces that the host found: `points` and `view` are as of `Followed`."""

    points: Tensor
    view: Tensor


class _Placed(NamedTuple):
    """Squares in pictures, float64 [B]; those of `Alignment`."""

    left: Tensor
    top: Tensor
    side: Tensor


class Following(nn.Module):
    """Follows B faces by one picture of each.

    Args:
        mesh: fits meshes.
        size_px: S.
        smooth, flame: as of `FaceTracker`.
    """

    landmark_indices: Tensor
    rigid: Tensor
    frontal: Tensor
    axes: Tensor
    solve: Tensor
    together: Tensor
    upright: Tensor

    def __init__(self, mesh: FaceMesh, size_px: int, smooth: bool = True, flame: bool = False) -> None:
        super().__init__()
        self.mesh, self.size_px, self.smooth, self.flame = mesh, size_px, smooth, flame
        self.mesh_size = mesh.network.input_size
        mean_face = np.concatenate([MEAN_FACE, np.ones((ALIGNING, 1))], 1)
        together = torch.zeros(NUM_POINTS + ALIGNING, NUM_POINTS + ALIGNING, dtype=torch.float64)
        for group in tracker.GROUPS:
            together[group, group] = 1 / (group.stop - group.start)
        constants = {
            "landmark_indices": torch.tensor(LANDMARKS),
            "rigid": torch.tensor(RIGID),
            "frontal": torch.from_numpy(FRONTAL),
            "axes": torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64),
            "solve": torch.from_numpy(np.linalg.pinv(mean_face)),  # least squares of five points
            "together": together,
            "upright": quaternion_of(torch.tensor([UPRIGHT_IN_FLAME], dtype=torch.float64)),
        }
        for name, numbers in constants.items():
            self.register_buffer(name, numbers, persistent=False)

    def begin(self, count: int, device: torch.device | str) -> Followed:
        """Make the state of faces that were never seen; the first picture of each has to TAKE it, and begin anew."""
        times = torch.zeros(count, dtype=torch.float64, device=device)
        crops = torch.zeros(count, self.size_px, self.size_px, 3, dtype=torch.uint8, device=device)
        points, values = torch.zeros(count, NUM_POINTS, 3, device=device), times[:, None].expand(-1, NUM_FILTERED)
        return Followed(
            points, torch.full_like(values[:, :4], torch.nan), times, torch.ones_like(times), values.clone(),
            values.clone(), times > 0, crops, torch.zeros_like(points), torch.zeros_like(points[:, 0]),
        )  # fmt: skip

    def forward(
        self, canvas: Tensor, sizes: Tensor, time_s: Tensor, does: Tensor, anew: Tensor, given: Given, last: Followed
    ) -> tuple[Followed, Tensor]:
        """Follow each face into its next picture.

        Args:
            canvas: uint8 [B, H, W, 3], pictures from its first pixel on and zeros beyond them.
            sizes: int64 [B, 2], rows and columns of each picture.
            time_s: float64 [B], later than the last that showed the face.
            does: int64 [B], FOLLOW, TAKE or HOLD.
            anew: bool [B], begin the filters anew: another shot.
            given: those that are taken.
            last: the state.

        Returns:
            The state, and bool [B], whether the picture shows the face. Where it does not, or a followed one jumped,
            everything is held.
        """
        with torch.autocast(canvas.device.type, enabled=False):
            fitted, view, present = self._fitted(canvas, sizes, last)
            taken = (does == TAKE)[:, None]
            points = torch.where(taken[..., None], given.points, fitted)
            view = torch.where(taken, given.view, view)
            placed, is_face = self._aligned(_alignment_points(points))
            longest = sizes.amax(1)
            touches = (placed.left > -placed.side) & (placed.left < sizes[:, 1])
            touches &= (placed.top > -placed.side) & (placed.top < sizes[:, 0])
            found = is_face & touches & (placed.side <= LARGEST_SHARE * longest)
            found &= (does == TAKE) | ((does == FOLLOW) & present & ~_jumped(last.points, points))
            # what is not found is computed on the last face, so that no number is NaN, and thrown away
            points = torch.where(found[:, None, None], points, last.points)
            placed = _Placed(*(torch.where(found, now, 1.0) for now in placed))
            new = self._placed(canvas, sizes, time_s, points, view, placed, anew, last)
            held = (
                torch.where(found.reshape(-1, *[1] * (now.ndim - 1)), now, before)
                for now, before in zip(new, last, strict=True)
            )
            return Followed(*held), found

    def _fitted(self, canvas: Tensor, sizes: Tensor, last: Followed) -> tuple[Tensor, Tensor, Tensor]:
        """Fit the mesh around last points: landmarks [B, 68, 3], the squares [B, 4], whether a face is there [B]."""
        view = kept(last.view, views_around(last.points))
        limit = (LARGEST_SIDE * sizes.amax(1)).double()
        is_usable = (view[:, 2] >= SMALLEST_VIEW_PX) & (view[:, 2] <= limit)
        side = torch.minimum(view[:, 2].clamp(min=SMALLEST_VIEW_PX), limit)
        crops = cut_out(canvas, sizes, torch.cat([view[:, :2], side[:, None], view[:, 3:]], 1), self.mesh_size)
        with _exact_convolutions():
            fitted, presence = self.mesh.in_crops(crops / 255)
        regions = Regions(view[:, :2].float(), view[:, 2].float(), view[:, 3].float())
        points = regions.to_picture(fitted.index_select(1, self.landmark_indices))
        return points, view, is_usable & (presence >= LEAST_PRESENCE)

    def _aligned(self, five: Tensor) -> tuple[_Placed, Tensor]:
        """Align by points [B, 5, 2]: the squares, and whether the points are a face's [B]."""
        up = torch.stack([five[..., 0], -five[..., 1]], 2).double()
        solved = self.solve @ up  # [B, 4, 2]: rows of s R, then t
        per_unit = solved[:, :3].norm(dim=1).mean(1)
        x, y = solved[:, 3, 0], 1.0 - solved[:, 3, 1]
        side = per_unit * (ALIGNED_SIZE / PIXELS_PER_UNIT)
        # comparisons with NaN are false
        is_face = (side >= SMALLEST_SIDE_PX) & five.isfinite().all(2).all(1)
        return _around(x, y, side), is_face

    def _placed(
        self, canvas: Tensor, sizes: Tensor, time_s: Tensor, points: Tensor, view: Tensor, placed: _Placed,
        anew: Tensor, last: Followed,
    ) -> Followed:  # fmt: skip
        """Smooth faces with these points and cut them out."""
        turn = quaternion_between(self.frontal, points.index_select(1, self.rigid).double() * self.axes)
        face, unit, values, speeds = points, last.unit, last.values, last.speeds
        if self.smooth:
            face, placed, turn, unit, values, speeds = self._smoothed(points, placed, turn, time_s, anew, last)
        scale = (ALIGNED_SIZE / placed.side)[:, None, None]
        corner = torch.stack([placed.left, placed.top, torch.zeros_like(placed.top)], 1)[:, None]
        half = torch.stack([torch.full_like(placed.top, 0.5)] * 2 + [torch.zeros_like(placed.top)], 1)[:, None]
        landmarks = face.double() * scale + (half - corner) * scale - half
        levels = canvas.permute(0, 3, 1, 2).float()
        crops = cut_squares(levels, sizes, placed.left, placed.top, placed.side, self.size_px)
        if self.flame:
            turn = product(turn, self.upright)
        begun = torch.ones_like(last.begun)
        return Followed(
            points, view, time_s, unit, values, speeds, begun, crops, landmarks.float(), vector_of(turn).float()
        )  # fmt: skip

    def _smoothed(
        self, points: Tensor, placed: _Placed, turn: Tensor, time_s: Tensor, anew: Tensor, last: Followed
    ) -> tuple[Tensor, _Placed, Tensor, Tensor, Tensor, Tensor]:
        """Filter the points, the square that they give, and the turn."""
        starts = anew | ~last.begun
        unit = torch.where(starts, ALIGNED_SIZE / placed.side, last.unit)
        step = ((time_s - last.time_s) * FRAMES_PER_S).clamp(min=SHORTEST_STEP)
        filters = _Filters(starts, step, last, self.together)
        by_unit = unit[:, None, None]
        five = nn.functional.pad(_alignment_points(points), (0, 1))
        quiet = filters("points", torch.cat([points, five], 1).double() * by_unit, _POINTS, self.together) / by_unit
        face, aligning = quiet[:, :NUM_POINTS].float(), quiet[:, NUM_POINTS:, :2].float()
        again, is_face = self._aligned(aligning)
        placed = _Placed(*(torch.where(is_face, now, raw) for now, raw in zip(again, placed, strict=True)))
        scale = (ALIGNED_SIZE / placed.side / unit)[:, None, None]
        middle = torch.stack([placed.left, placed.top], 1) + placed.side[:, None] / 2
        middle = middle[:, None] * by_unit
        filters("scale", scale, _SCALE)
        filters("middle", middle, _MIDDLE)
        quiet_scale = filters.hold_within("scale", scale, tracker.MOST_SCALE_LAG * scale)[:, 0, 0] * unit
        x, y = (filters.hold_within("middle", middle, tracker.MOST_MIDDLE_LAG) / by_unit)[:, 0].unbind(1)
        vector = vector_of(turn)[:, None] * tracker.PIXELS_PER_RADIAN
        turn = quaternion_of(filters("turn", vector, _TURN)[:, 0] / tracker.PIXELS_PER_RADIAN)
        return face, _around(x, y, ALIGNED_SIZE / quiet_scale), turn, unit, filters.values(), filters.speeds()


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Let cuDNN multiply in float32: by default it rounds to TF32, which moves points as half precision does."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False):
        yield


class _Tuning(NamedTuple):
    """Parameters of `OneEuro`."""

    cutoff: float
    beta: float
    speed_cutoff: float = 1.0


_POINTS = _Tuning(tracker.POINT_CUTOFF, tracker.POINT_BETA, tracker.SPEED_CUTOFF)
_SCALE = _Tuning(tracker.SCALE_CUTOFF, tracker.SCALE_BETA)
_MIDDLE = _Tuning(tracker.MIDDLE_CUTOFF, tracker.MIDDLE_BETA)
_TURN = _Tuning(tracker.TURN_CUTOFF, tracker.TURN_BETA, tracker.SPEED_CUTOFF)


class _Filters:
    """The One-Euro filters of one step: `OneEuro` for B faces, by signal.

    Args:
        starts: [B], take the signals as they are.
        step: [B], frames of 1/25 s since the last.
        last: holds the filters' values and speeds.
        together: [N, N], averages the speeds of points that move together.
    """

    def __init__(self, starts: Tensor, step: Tensor, last: Followed, together: Tensor) -> None:
        self._starts, self._step = starts[:, None, None], step[:, None, None]
        sizes = [rows * width for rows, width in SIGNALS.values()]
        self._values, self._speeds = (
            {
                name: part.unflatten(1, shape)
                for (name, shape), part in zip(SIGNALS.items(), packed.split(sizes, 1), strict=True)
            }
            for packed in (last.values, last.speeds)
        )

    def __call__(self, name: str, signal: Tensor, tuning: _Tuning, together: Tensor | None = None) -> Tensor:
        value, speed = self._values[name], self._speeds[name]
        moved = (signal - value) / self._step
        speed = speed + _alpha(tuning.speed_cutoff, self._step) * (moved - speed)
        moving = speed if together is None else together @ speed
        fast = moving.norm(dim=2, keepdim=True)
        quiet = value + _alpha(tuning.cutoff + tuning.beta * fast, self._step) * (signal - value)
        self._values[name] = torch.where(self._starts, signal, quiet)
        self._speeds[name] = torch.where(self._starts, 0.0, speed)
        return self._values[name]

    def hold_within(self, name: str, signal: Tensor, most: Tensor | float) -> Tensor:
        held = torch.minimum(torch.maximum(self._values[name], signal - most), signal + most)
        self._values[name] = held
        return held

    def values(self) -> Tensor:
        return torch.cat([value.flatten(1) for value in self._values.values()], 1)

    def speeds(self) -> Tensor:
        return torch.cat([speed.flatten(1) for speed in self._speeds.values()], 1)


def _alignment_points(points: Tensor) -> Tensor:
    """Give the alignment points [B, 5, 2] of landmarks [B, 68, 3], as `alignment.alignment_points` does."""
    flat = points[..., :2]
    eyes = [(flat[:, a] + flat[:, b]) / 2 for a, b in ((36, 39), (42, 45))]
    return torch.stack([*eyes, flat[:, 30], flat[:, 48], flat[:, 54]], 1)


def _jumped(before: Tensor, now: Tensor) -> Tensor:
    """Tell, of landmarks [B, 68, 3], whether a face is another one by its place or its size: bool [B]."""
    centres, sizes = [], []
    for points in (before, now):
        low, high = points[..., :2].amin(1), points[..., :2].amax(1)
        centres.append((low + high) / 2)
        sizes.append((high - low).prod(1).sqrt())
    larger = torch.maximum(*sizes).clamp(min=1e-6)
    away = (centres[1] - centres[0]).norm(dim=1)
    return (away > tracker.JUMP * larger) | (torch.minimum(*sizes) < larger / (1 + tracker.JUMP))


def _around(x: Tensor, y: Tensor, side: Tensor) -> _Placed:
    return _Placed(x - side / 2, y - side / 2, side)


def _alpha(cutoff: Tensor | float, step: Tensor) -> Tensor:
    turns = cutoff * step * (2 * math.pi)
    return turns / (turns + 1)
