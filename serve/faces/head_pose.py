"""Reads off landmarks how a head is turned: by the rotation that brings a frontal mean face onto them.

The axes are the neck's: x right, y up, z to the viewer, so that a nod is about x, positive downwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera
from triportrait.serve.faces.face import Face
from triportrait.serve.tracking_files import LENGTHS, HeadParameters

# Landmarks that no expression moves much: bridge and wings of the nose, corners of the eyes.
RIGID = (27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45)
# The mean of 24 upright procedural heads as the mesh sees them, made symmetric; unit: between the eyes' outer corners.
FRONTAL = np.array(
    [
        [0.000, 0.301, 0.002],
        [0.000, 0.123, 0.103],
        [0.000, -0.018, 0.221],
        [0.000, -0.107, 0.246],
        [-0.176, -0.213, -0.009],
        [-0.077, -0.235, 0.053],
        [0.000, -0.238, 0.069],
        [0.077, -0.235, 0.053],
        [0.176, -0.213, -0.009],
        [-0.500, 0.229, -0.212],
        [-0.178, 0.188, -0.153],
        [0.178, 0.188, -0.153],
        [0.500, 0.229, -0.212],
    ]
)
# How an upright head is turned in FLAME: the published alignment's mean face nods by 1.9 degrees against ours, and
# FLAME's rest is (0.0849, 0.0029, 0.0035) rad from that one.
UPRIGHT_IN_FLAME = (0.1184, 0.0029, 0.0035)


def turn_of(face: Face) -> np.ndarray:
    """Return the head's rotation [3, 3]; an upright head that looks at the camera has the identity."""
    if face.turn is not None:
        return matrix_of(face.turn)
    return rotation_between(FRONTAL, face.points[list(RIGID)].astype(np.float64) * (1.0, -1.0, -1.0))


def rotation_between(reference: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] of a similarity that brings points [N, 3] nearest to others.

    Where the other points lie in a plane they are taken as seen from far away, and the rotation is read off how the
    points' depths shift them (weak perspective).
    """
    p, q = reference - reference.mean(0), seen - seen.mean(0)
    if np.ptp(q[:, 2]) > 1e-6 * np.ptp(q[:, :2]):
        u, _, v = np.linalg.svd(q.T @ p)
        return u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v
    rows = np.linalg.lstsq(p, q[:, :2], rcond=None)[0].T  # [2, 3]
    u, _, v = np.linalg.svd(rows, full_matrices=False)
    x, y = u @ v
    return np.stack([x, y, np.cross(x, y)])


def matrix_of(vector: np.ndarray) -> np.ndarray:
    """Compute the rotation [3, 3] of a vector [3] in radians."""
    return rotation_matrices(torch.from_numpy(np.asarray(vector, np.float64))).numpy()


def vector_of(matrix: np.ndarray) -> np.ndarray:
    """Return the vector [3] of a rotation [3, 3], radians, shorter than π."""
    w, *axis = _quaternion(matrix)
    length = float(np.linalg.norm(axis))
    return np.zeros(3) if length < 1e-12 else np.array(axis) / length * 2 * np.arctan2(length, w)


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """Compute [4] w, x, y, z with w ≥ 0, as an eigenvector, so that no angle is a special case."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    k = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return q if q[0] >= 0 else -q


def parameters_of(turn: np.ndarray, flame: bool = False) -> HeadParameters:
    """Make FLAME parameters of a turned head: everything else is 0, the mean face at rest.

    Args:
        turn: [3, 3], from `turn_of`.
        flame: the neck of the weights is FLAME's, whose rest pose is not upright.

    Returns:
        The neck's rotation; the camera sees the same head from the fixed view when the neck is kept still instead, as
        in the published quick estimate.
    """
    if flame:
        turn = turn @ matrix_of(np.array(UPRIGHT_IN_FLAME))
    return neck_parameters(torch.from_numpy(vector_of(turn)).float()[None], turn)


def neck_parameters(neck: Tensor, turn: np.ndarray | None = None) -> HeadParameters:
    """Make the parameters of `parameters_of` of a neck's rotation vector, [1, 3]; `turn` is its matrix, if known."""
    shape, expression, jaw, eyes = (torch.zeros(1, LENGTHS[name]) for name in ("shape", "expression", "jaw", "eyes"))
    turn = matrix_of(neck[0].double().numpy()) if turn is None else turn
    fixed = fixed_camera()
    inverse = torch.eye(4)
    inverse[:3, :3] = torch.from_numpy(turn.T.copy()).float()
    camera = Camera(inverse @ fixed.world_from_camera, fixed.intrinsics)
    return HeadParameters(camera, shape, expression, neck, jaw, eyes)
