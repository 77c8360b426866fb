"""PLY, binary: vertices with colours, and triangles, in the elements that every reader takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from triportrait.serve.media.meshes.triangles import Triangles


def ply_bytes(triangles: Triangles, about: dict[str, Any]) -> bytes:
    """Lay a mesh out as PLY: float x y z, uchar red green blue (sRGB), and faces as lists of int with a uchar count.

    Args:
        triangles: the surface.
        about: where the mesh comes from, a comment each.
    """
    vertices, faces = len(triangles.vertices), len(triangles.faces)
    header = [
        "ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments(about)),
        f"element vertex {vertices}", *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        f"element face {faces}", "property list uchar int vertex_indices", "end_header", "",
    ]  # fmt: skip
    points = np.empty(vertices, np.dtype([("place", "<f4", 3), ("colour", "u1", 3)]))
    points["place"], points["colour"] = triangles.vertices, triangles.colours
    lists = np.empty(faces, np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    lists["count"], lists["corners"] = 3, triangles.faces
    return "\n".join(header).encode("ascii") + points.tobytes() + lists.tobytes()


def comments(about: dict[str, Any]) -> list[str]:
    """Write where a mesh comes from as lines of ASCII."""
    lines = ["units: metres; y up, the face looks along +z"]
    return lines + [f"{key}: {value}".encode("ascii", "backslashreplace").decode() for key, value in about.items()]
