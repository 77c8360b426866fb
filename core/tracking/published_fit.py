"""The published fit: Adam over the whole mesh, 1,500 steps of translation and 3,000 of everything but pose and jaw.

It refines what a 3DMM reconstructor gave: where it is handed such a start, vertices away from the lids are held to it.
Without one it begins at the mean face, and nothing holds them.
Letters: B pictures, P points, U vertices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.motion.flame import Flame
from triportrait.core.tracking.pinhole import Pinhole

LEARNING_RATE = 1e-3
TRANSLATION_STEPS, STEPS = 1500, 3000
EYE_CORNERS, MOUTH = (36, 39, 42, 45), slice(48, 68)
UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)  # the lower lid below each of the upper
SHUT_PX = 8.0  # lids closer than this count as shut
HELD = 1e6
# The published list of vertices that stand for the landmarks of the lids on FLAME's mesh. Some landmarks are the middle
# of two vertices; of what then is a list of 15, these 12 are kept, and eight of those are landmarks.
FLAME_VERTICES, EYELIDS = 5023, "eyelids_idxs"
LID_VERTICES = (2422, 2422, 2452, 2454, 2471, 3638, 2276, 2360, 3835, 1292, 1217, 1146, 1146, 999, 827)
MIDDLES = ((0, 0, 1), (2, 2, 3), (11, 11, 12))  # entry, and the two whose middle it becomes
KEPT = (0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14)
LID_LANDMARKS = (37, 38, 40, 41, 43, 44, 46, 47)
OF_KEPT = (1, 2, 4, 5, 7, 8, 10, 11)  # the entry of the 12 that each of those landmarks takes


@dataclass(frozen=True)
class PublishedFit:
    """The parameters of B pictures.

    Attributes:
        shape: [B, S]; expression: [B, E]; eyes: [B, 3], one rotation vector for both, radians.
        translation: [B, 3] camera from head, scene units.
        loss: [B], of the best step.
    """

    shape: Tensor
    expression: Tensor
    eyes: Tensor
    translation: Tensor
    loss: Tensor


def published_fit(
    flame: Flame,
    num_shape: int,
    pixels: Tensor,
    camera: Pinhole,
    rotation: Tensor,
    translation: Tensor,
    jaw: Tensor | None = None,
    start: Tensor | None = None,
    lid_vertices: Tensor | None = None,
    steps: tuple[int, int] = (TRANSLATION_STEPS, STEPS),
) -> PublishedFit:
    """Fit B pictures, which do not know of each other.

    Args:
        flame: the head model; num_shape: how many of its directions are shape.
        pixels: [B, 70, 2].
        rotation: [B, 3, 3] and translation: [B, 3], camera from head; the rotation stays.
        jaw: [B, 3] rotation vectors, which stay; None leaves mouths to the expression.
        start: [B, K] betas of a 3DMM reconstructor; None begins at the mean face.
        lid_vertices: [N] int64, which vertices `start` does not hold; None holds all.
        steps: of the translation alone, and of all.
    """
    B, zero = len(pixels), pixels.new_zeros
    K = flame["shape_directions"].shape[-1]
    begun = zero(B, K) if start is None else start
    jaw = zero(B, 3) if jaw is None else jaw
    held = torch.ones(len(flame["template"]), dtype=torch.bool, device=pixels.device)
    if lid_vertices is not None:
        held[lid_vertices] = False

    def mesh(betas: Tensor, eyes: Tensor) -> Tensor:
        return flame(betas, zero(B, 3), jaw, torch.cat([eyes, eyes], -1))[0]

    def seen(vertices: Tensor, place: Tensor) -> Tensor:
        return camera.project(with_lids(flame, vertices) @ rotation.transpose(1, 2) + place[:, None])

    first = mesh(begun, zero(B, 3)).detach()
    place = translation.clone().requires_grad_()
    _descend([place], steps[0], lambda: _near(seen(first, place), pixels))
    betas, eyes = begun.clone().requires_grad_(), zero(B, 3).requires_grad_()

    def loss() -> Tensor:
        vertices = mesh(betas, eyes)
        points = seen(vertices, place)
        away = (betas - begun).abs()
        total = _lids(points, pixels) + _mean_square(points - pixels) + 0.1 * eyes.abs().sum(1)
        total = total + 4 * away[:, :num_shape].sum(1) + 0.5 * away[:, num_shape:].sum(1)
        if start is not None:
            total = total + HELD * _mean_square((vertices - first)[:, held])
        return total

    best = _descend([betas, eyes, place], steps[1], loss)
    betas, eyes, place = best.values
    return PublishedFit(betas[:, :num_shape], betas[:, num_shape:], _wrapped(eyes), place, best.loss)


def with_lids(flame: Flame, vertices: Tensor) -> Tensor:
    """Place the landmarks [B, 70, 3] on vertices [B, U, 3]: on FLAME's mesh those of the lids by the published list."""
    points = flame.landmarks(vertices)
    if vertices.shape[1] != FLAME_VERTICES:
        return points
    listed = list(vertices[:, LID_VERTICES].unbind(1))
    for entry, one, other in MIDDLES:
        listed[entry] = (vertices[:, LID_VERTICES[one]] + vertices[:, LID_VERTICES[other]]) / 2
    kept = [listed[entry] for entry in KEPT]
    rows = list(points.unbind(1))
    for landmark, entry in zip(LID_LANDMARKS, OF_KEPT, strict=True):
        rows[landmark] = kept[entry]
    return torch.stack(rows, 1)


def lid_table(flame: Flame, mesh: Mapping[str, Tensor]) -> Tensor:
    """Return the vertices that a start does not hold, [N] int64: the lids.

    A published checkpoint lists them in its mesh tables (`eyelids_idxs`). Of other models they are those on which the
    landmarks of the lids lie, with all vertices that share a face with one of them.
    """
    if EYELIDS in mesh:
        return mesh[EYELIDS].flatten().long()
    corners = flame["faces"][flame["landmark70_faces"][0, list(LID_LANDMARKS)]]  # [8, 3]
    near = torch.isin(flame["faces"], corners).any(-1)
    return flame["faces"][near].unique()


def _wrapped(eyes: Tensor) -> Tensor:
    """Bring eye rotations [B, 3] beyond a quarter turn back, entry by entry: p - pi, as published."""
    beyond = eyes.norm(dim=-1, keepdim=True) > torch.pi / 2
    return torch.where(beyond, eyes - torch.pi, eyes)


@dataclass(frozen=True)
class _Best:
    """The values of each picture at the step of its lowest loss."""

    values: list[Tensor]
    loss: Tensor


def _descend(values: list[Tensor], steps: int, loss: Callable[[], Tensor]) -> _Best:
    """Run Adam over the values; pictures share steps and nothing else."""
    optimizer = torch.optim.Adam(values, lr=LEARNING_RATE)
    best = [value.detach().clone() for value in values]
    lowest = torch.full((len(values[0]),), torch.inf, dtype=values[0].dtype, device=values[0].device)
    for _ in range(steps):
        each = loss()
        better = each.detach() < lowest
        lowest = torch.where(better, each.detach(), lowest)
        best = [torch.where(better[:, None], value.detach(), old) for value, old in zip(values, best, strict=True)]
        optimizer.zero_grad()
        each.sum().backward()
        optimizer.step()
    return _Best(best, lowest)


def _mean_square(off: Tensor) -> Tensor:
    """Return the mean square of everything of each picture, [B]."""
    return off.square().flatten(1).mean(1)


def _near(points: Tensor, pixels: Tensor) -> Tensor:
    """Return the loss of the translation, [B]."""
    off = points - pixels
    total = _mean_square(off) + 2 * _mean_square(off[:, EYE_CORNERS]) + 2 * _mean_square(off[:, MOUTH])
    return total + _mean_square(off[:, UPPER_LIDS]) + _mean_square(off[:, LOWER_LIDS])


def _lids(points: Tensor, pixels: Tensor) -> Tensor:
    """Return what lids add to the loss, [B]: where they are, how far open, and that both eyes are so alike."""
    off = points - pixels
    total = 5 * (_mean_square(off[:, UPPER_LIDS]) + _mean_square(off[:, LOWER_LIDS]))
    opening, wanted = _opening(points), _opening(pixels)
    wanted = torch.where(wanted <= SHUT_PX, 0.0, wanted)
    return total + 2 * _mean_square(opening - wanted) + _mean_square(opening[:, :2] - opening[:, 2:])


def _opening(points: Tensor) -> Tensor:
    """Return how far apart the lids are, [B, 4] pixels, the right eye's first."""
    return (points[:, UPPER_LIDS] - points[:, LOWER_LIDS]).norm(dim=-1)
