"""Smoother and lighter surfaces, by kept libraries.

Letters: U vertices, F faces.
"""

from __future__ import annotations

import numpy as np
import torch

from triportrait.core.geometry.surface import Surface, largest_component, separated


def decimated(surface: Surface, most_faces: int) -> Surface:
    """Merge edges where that changes the surface least, until at most `most_faces` remain (quadric error, closed).

    Args:
        surface: the surface.
        most_faces: at least 4; a surface that has no more is returned as it is.
    """
    if len(surface.faces) <= most_faces:
        return surface
    import fast_simplification

    vertices, faces = fast_simplification.simplify(
        surface.vertices.numpy(), surface.faces.numpy().astype(np.int32), target_count=most_faces
    )
    merged = Surface(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int64)))
    return largest_component(separated(merged))  # merging may let sheets touch


def smoothed(surface: Surface, iterations: int) -> Surface:
    """Smooth a surface without shrinking it (Taubin's filter).

    Args:
        surface: the surface.
        iterations: passes over the vertices; 0 returns it as it is.
    """
    if not iterations:
        return surface
    import trimesh

    mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    trimesh.smoothing.filter_taubin(mesh, iterations=2 * iterations)  # each second pass undoes the shrinking
    return Surface(torch.from_numpy(np.array(mesh.vertices, np.float32)), surface.faces)
