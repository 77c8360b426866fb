"""A slow definition of GenHead's parts in float64, point by point and pixel by pixel, written from the facts alone.

It was written without sight of `core/genhead`, so that the two may disagree. Conventions where the facts are silent:
filters add up to 1 and see zeros beyond the picture's rim; a pixel counts as covered where its middle lies in a face.
Letters: P points, U vertices, F faces, S side of a mask.
"""

from __future__ import annotations

import math

import numpy as np

NEIGHBOURS, DUMMY_AT = 10, 1e3
BOX = 1.2
TAN_HALF_FOV = math.tan(math.radians(6.0))


def to_canonical(
    points: np.ndarray, part: np.ndarray, target: np.ndarray, canonical: np.ndarray, neighbours: np.ndarray
) -> np.ndarray:
    """Move points [P, 3] as the vertices around the nearest one of a part move from target to canonical, [U, 3] both.

    Args:
        part: numbers of the part's vertices. neighbours: [U, 10], U stands for none.
    """
    found = []
    for point in points.astype(np.float64):
        nearest, least = -1, math.inf
        for vertex in part.tolist():
            squared = float(((point - target[vertex]) ** 2).sum())
            if squared < least:
                nearest, least = vertex, squared
        shares, moves = [], []
        for other in neighbours[nearest].tolist():
            if other == len(target):
                at, move = np.full(3, DUMMY_AT), np.zeros(3)
            else:
                at, move = target[other], canonical[other] - target[other]
            shares.append(1 / (float(((point - at) ** 2).sum()) + 1e-10))
            moves.append(move)
        total = sum(shares)
        found.append(point + sum(share / total * move for share, move in zip(shares, moves, strict=True)))
    return np.stack(found)


def in_eye_box(points: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Tell of points [P, 3] whether they lie in the box of the left or of the right eyeball's vertices [N, 3]."""
    answers = []
    for point in points:
        inside = False
        for ball in (left, right):
            extent, middle = ball.max(0) - ball.min(0), ball.mean(0)
            inside = inside or bool((np.abs(point - middle) <= BOX * extent / 2).all())
        answers.append(inside)
    return np.array(answers)


def covered(
    vertices: np.ndarray, faces: np.ndarray, world_from_camera: np.ndarray, size: int, culled: bool
) -> np.ndarray:
    """Draw the silhouette [S, S] of faces [F, 3], 0 or 1; the first row is the top.

    Args:
        culled: leave out faces whose back is seen (their corners run clockwise in the picture).
    """
    rotation, at = world_from_camera[:3, :3], world_from_camera[:3, 3]
    seen = (vertices - at) @ rotation  # camera axes: x right, y up, -z forward
    focal = size / (2 * TAN_HALF_FOV)
    across = size / 2 + focal * seen[:, 0] / -seen[:, 2]
    down = size / 2 - focal * seen[:, 1] / -seen[:, 2]
    mask = np.zeros((size, size))
    for a, b, c in faces.tolist():
        # y runs down in the picture: a front's corners, anticlockwise with y up, have a negative cross product here
        area = (across[b] - across[a]) * (down[c] - down[a]) - (across[c] - across[a]) * (down[b] - down[a])
        if area == 0 or (culled and area > 0):
            continue
        xs, ys = across[[a, b, c]], down[[a, b, c]]
        for row in range(max(0, math.floor(ys.min())), min(size, math.ceil(ys.max()) + 1)):
            for column in range(max(0, math.floor(xs.min())), min(size, math.ceil(xs.max()) + 1)):
                x, y = column + 0.5, row + 0.5
                sides = [
                    (xs[j] - xs[i]) * (y - ys[i]) - (ys[j] - ys[i]) * (x - xs[i]) for i, j in ((0, 1), (1, 2), (2, 0))
                ]
                if all(s >= 0 for s in sides) or all(s <= 0 for s in sides):
                    mask[row, column] = 1
    return mask


def blurred(mask: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Blur a mask [S, S] along rows and columns by taps that are made to add up to 1; zeros lie beyond the rim."""
    taps = taps / taps.sum()
    reach = len(taps) // 2

    def along(rows: np.ndarray) -> np.ndarray:
        out = np.zeros_like(rows)
        for column in range(rows.shape[1]):
            for k, tap in enumerate(taps):
                other = column + k - reach
                if 0 <= other < rows.shape[1]:
                    out[:, column] += tap * rows[:, other]
        return out

    return along(along(mask).T).T


def extreme(mask: np.ndarray, reach: int, largest: bool) -> np.ndarray:
    """Take the largest or the smallest value in the square around each pixel; nothing lies beyond the rim."""
    out = np.zeros_like(mask)
    for row in range(len(mask)):
        for column in range(mask.shape[1]):
            part = mask[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            out[row, column] = part.max() if largest else part.min()
    return out


def reduced(mask: np.ndarray, size: int) -> np.ndarray:
    """Reduce a mask to [size, size] by triangles as wide as the step (bilinear, antialiased); shares add up to 1."""
    step = len(mask) / size
    rows = np.zeros((size, len(mask)))
    for k in range(size):
        middle = (k + 0.5) * step
        for j in range(len(mask)):
            rows[k, j] = max(0.0, 1 - abs(j + 0.5 - middle) / max(step, 1.0))
        rows[k] /= rows[k].sum()
    return rows @ mask @ rows.T


def enlarged(mask: np.ndarray, size: int) -> np.ndarray:
    """Enlarge a mask to [size, size] between its pixels' middles; the rim is repeated."""
    out = np.zeros((size, size))
    places = np.clip((np.arange(size) + 0.5) * len(mask) / size - 0.5, 0, len(mask) - 1)
    for row, y in enumerate(places):
        for column, x in enumerate(places):
            top, left = int(y), int(x)
            below, right = min(top + 1, len(mask) - 1), min(left + 1, len(mask) - 1)
            u, v = x - left, y - top
            upper = (1 - u) * mask[top, left] + u * mask[top, right]
            lower = (1 - u) * mask[below, left] + u * mask[below, right]
            out[row, column] = (1 - v) * upper + v * lower
    return out


def eye_masks(balls: np.ndarray, face_without: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eyes' mask in full size, blurred, and reduced to [size, size]; from the silhouettes [S, S]."""
    mask = balls * (1 - face_without)
    taps = np.array([2.0 ** -(k**2) for k in range(-3, 4)])
    return blurred(mask, taps), reduced(mask, size)


def mouth_masks(head: np.ndarray, no_inner_mouth: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of the mouth in full size, opened, blurred, joined with the low one, and that low one."""
    mask = head * (1 - no_inner_mouth)
    low = reduced(mask, size)
    opened = extreme(extreme(mask, 3, largest=False), 3, largest=True)
    taps = np.array([2.0 ** -((k / 2) ** 2) for k in range(-6, 7)])
    return np.minimum(blurred(opened, taps) + enlarged(low, len(mask)), 1), low


def fused(
    eye: float, mouth: float, inside: bool, part: tuple[float, np.ndarray], rest: tuple[float, np.ndarray], hard: bool
) -> tuple[float, np.ndarray]:
    """Join the two answers of the field at one sample: density and colour [C].

    Args:
        eye, mouth: the masks of its ray. inside: whether it lies in an eye's box.
        part: density before the activation and colour of the first three planes, rest: of the others.
        hard: the fuse of resolutions up to 64; else that of larger ones.
    """
    eye = eye * float(inside)
    density_e, colour_e = part[0] * (float(inside) + mouth), part[1]
    density_f, colour_f = rest
    if not hard and mouth > 0:
        largest = max(density_e, density_f)
        shares = math.exp(density_e - largest), math.exp(density_f - largest)
        colour = (shares[0] * colour_e + shares[1] * colour_f) / sum(shares)
        return density_e + density_f, colour
    left = 1 - eye - mouth
    density = eye * density_e + mouth * density_e + left * density_f
    return density, eye * colour_e + mouth * colour_e + left * colour_f
