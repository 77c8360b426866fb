"""`HeadMesh`, a head to take away, and the files that it becomes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.serve.media.meshes.glb import glb_bytes
from triportrait.serve.media.meshes.obj import companions, obj_files
from triportrait.serve.media.meshes.ply import ply_bytes
from triportrait.serve.media.meshes.triangles import Texture, Triangles
from triportrait.serve.media.output_file import check_output, writing
from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.serve.media.provenance.manifest import GENERATED, NAME
from triportrait.serve.media.provenance.stamp import Stamp

MESH_ENDINGS = (".glb", ".ply", ".obj")


@dataclass(frozen=True, eq=False)
class HeadMesh:
    """A head's surface with colours, ready to be written.

    Attributes:
        triangles: the closed surface with a colour for each vertex, in metres.
        texture: the same surface cut along seams, and its picture; None where none was asked for.
        level: the raw density at which the surface lies.
        stamp: marks the texture and says in the file where it comes from.
    """

    triangles: Triangles
    texture: Texture | None
    level: float
    stamp: Stamp

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the mesh as .glb, .ply or .obj; a file appears only when it is whole.

        A GLB holds the texture, unlit; without one the colours of its vertices, in linear light, as glTF wants them. A
        PLY holds the vertices' colours. Beside an OBJ stand a .mtl and a .png, which are written first.

        Args:
            path: its ending names the kind.
            overwrite: replace existing files.

        Raises:
            InputError: another ending, an OBJ without a texture, a file that exists, or a disk that refuses.
        """
        target = Path(path)
        check_mesh_output(target, overwrite)
        kind, about = target.suffix.lower(), _about(self.stamp)
        if kind == ".obj" and self.texture is None:
            raise InputError(f"{target}: expected a texture, which an OBJ has, got none; make the mesh with one")
        if kind == ".ply" or self.texture is None:
            content = (
                ply_bytes(self.triangles, about) if kind == ".ply" else glb_bytes(self.triangles, None, None, about)
            )
        elif kind == ".glb":
            content = glb_bytes(self.triangles, self.texture, self._picture(), about)
        else:
            content, material = obj_files(target, self.triangles, self.texture, about)
            _write_all(zip((*companions(target), target), (material, self._picture(), content), strict=True), overwrite)
            return target
        _write_all([(target, content)], overwrite)
        return target

    def _picture(self) -> bytes:
        """Make the texture's PNG, marked and signed."""
        assert self.texture is not None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "texture.png"
            write_picture(file, self.stamp.mark(self.texture.image), finish=self.stamp.sign)
            return file.read_bytes()


def check_mesh_output(path: Path, overwrite: bool, sources: tuple[Path, ...] = ()) -> None:
    """Check before any work that a mesh can be written under this name, and what stands beside it.

    Raises: `InputError` that says what to do.
    """
    check_output(path, overwrite, MESH_ENDINGS, sources)
    if path.suffix.lower() == ".obj":
        for companion in companions(path):
            check_output(companion, overwrite, (companion.suffix,), sources)


def _write_all(files: Iterable[tuple[Path, bytes]], overwrite: bool) -> None:
    """Write files one after the other; where one fails, those that were not there before go again."""
    new: list[Path] = []
    try:
        for path, content in files:
            was_there = os.path.lexists(path)
            with writing(path), replacing(path, overwrite) as temporary:
                temporary.write_bytes(content)
            if not was_there:
                new.append(path)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _about(stamp: Stamp) -> dict[str, Any]:
    from triportrait import __version__

    claim = stamp.claim
    return {
        "generator": f"{NAME} {__version__}",
        "digitalSourceType": GENERATED,
        "source_sha256": claim.source_sha256,
        "weights": claim.weights,
    }
