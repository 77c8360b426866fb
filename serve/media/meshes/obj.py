"""OBJ: text, with its material (.mtl) and its texture (.png) beside it under the same name."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.serve.media.meshes.ply import comments
from triportrait.serve.media.meshes.triangles import Texture, Triangles


def companions(path: Path) -> tuple[Path, Path]:
    """Name the .mtl and the .png of an .obj; blanks, which many readers stop at, become underscores."""
    stem = re.sub(r"\s", "_", path.stem)
    return path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}.png")


def obj_files(path: Path, triangles: Triangles, texture: Texture, about: dict[str, Any]) -> tuple[bytes, bytes]:
    """Lay a mesh out as OBJ and MTL.

    Args:
        path: of the .obj.
        triangles: the surface.
        texture: the surface with seams.
        about: where the mesh comes from.

    Returns:
        The contents of the .obj and of the .mtl; illumination 0 is unlit, the picture alone.
    """
    material, picture = companions(path)
    said = "".join(f"# {line}\n" for line in comments(about))
    text = io.StringIO()
    text.write(f"{said}mtllib {material.name}\no head\n")
    np.savetxt(text, triangles.vertices, "v %.7g %.7g %.7g")
    np.savetxt(text, np.stack([texture.uv[:, 0], 1 - texture.uv[:, 1]], 1), "vt %.6f %.6f")  # v runs up here
    np.savetxt(text, triangles.normals, "vn %.4f %.4f %.4f")
    text.write("usemtl head\n")
    at, on = texture.places[texture.faces] + 1, texture.faces + 1
    corners = np.stack([at, on, at], -1).reshape(len(at), 9)
    np.savetxt(text, corners, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    colour = f"newmtl head\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 0\nmap_Kd {picture.name}\n"
    return text.getvalue().encode(), (said + colour).encode()
