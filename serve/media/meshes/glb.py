"""GLB, the binary container of glTF 2.0: one mesh, unlit, with its texture or its vertices' colours inside."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from triportrait.serve.media.meshes.triangles import Texture, Triangles

UNLIT = "KHR_materials_unlit"  # the colours are light already: a viewer must not light them again
_FLOAT, _UINT32 = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071


def glb_bytes(triangles: Triangles, texture: Texture | None, picture: bytes | None, about: dict[str, Any]) -> bytes:
    """Lay a mesh out as GLB.

    Args:
        triangles: the surface.
        texture: the surface with seams; without one the colours of the vertices are stored, in linear light.
        picture: the texture as PNG.
        about: where the mesh comes from, for `asset.extras`; its "generator" names the program.
    """
    buffer = _Buffer()
    if texture is None or picture is None:
        attributes = _shape(buffer, triangles.vertices, triangles.normals)
        attributes["COLOR_0"] = buffer.vertices(linear(triangles.colours), "VEC3")
        faces = triangles.faces
    else:
        attributes = _shape(buffer, triangles.vertices[texture.places], triangles.normals[texture.places])
        attributes["TEXCOORD_0"] = buffer.vertices(texture.uv, "VEC2")
        faces = texture.faces
    indices = buffer.indices(faces)
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": about["generator"], "extras": about},
        "extensionsUsed": [UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"name": "head", "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [{"name": "head", "pbrMetallicRoughness": surface, "extensions": {UNLIT: {}}}],
    }
    if texture is not None and picture is not None:
        surface["baseColorTexture"] = {"index": 0}
        document["textures"] = [{"sampler": 0, "source": 0}]
        document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}]
        document["images"] = [{"bufferView": buffer.view(picture), "mimeType": "image/png", "name": "head"}]
    document |= {"accessors": buffer.accessors, "bufferViews": buffer.views}
    document["buffers"] = [{"byteLength": len(buffer.content)}]
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()
    chunks = _chunk(b"JSON", text, b" ") + _chunk(b"BIN\0", bytes(buffer.content), b"\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def linear(colours: np.ndarray) -> np.ndarray:
    """Undo the sRGB curve: uint8 -> float32 of the same shape in [0, 1], as glTF stores the colours of vertices."""
    value = colours.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _shape(buffer: _Buffer, vertices: np.ndarray, normals: np.ndarray) -> dict[str, int]:
    ends = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    return {"POSITION": buffer.vertices(vertices, "VEC3", ends), "NORMAL": buffer.vertices(normals, "VEC3")}


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<I4s", len(content), kind) + content


class _Buffer:
    """The binary part, and the records that say what lies where in it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, content: bytes, target: int | None = None) -> int:
        self.content += b"\0" * (-len(self.content) % 4)
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(content)}
        self.views.append(view if target is None else view | {"target": target})
        self.content += content
        return len(self.views) - 1

    def vertices(self, values: np.ndarray, kind: str, ends: dict[str, Any] | None = None) -> int:
        view = self.view(values.astype("<f4").tobytes(), _VERTICES)
        return self._accessor(view, _FLOAT, len(values), kind, ends)

    def indices(self, faces: np.ndarray) -> int:
        view = self.view(faces.astype("<u4").tobytes(), _INDICES)
        return self._accessor(view, _UINT32, faces.size, "SCALAR")

    def _accessor(self, view: int, component: int, count: int, kind: str, ends: dict[str, Any] | None = None) -> int:
        accessor = {"bufferView": view, "componentType": component, "count": count, "type": kind}
        self.accessors.append(accessor | (ends or {}))
        return len(self.accessors) - 1
