"""Compare the rasteriser with Mitsuba 3, a ray tracer: `python -m docs.rasterizer.against_mitsuba` prints the table.

It needs `pip install mitsuba`, which brings its own compiler but for LLVM (Debian: `apt-get install libllvm15`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import mitsuba
import torch
from torch import Tensor

from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import Raster, rasterize
from triportrait.kernels.rasterize.fixed_point import SUBPIXELS
from triportrait.profiling.cases import make_inputs
from triportrait.profiling.markdown import markdown_table
from triportrait.train.data.heads.anatomy import HeadMesh
from triportrait.train.data.heads.population import Expression, cast

SIZE = 512
VIEWS = {"in front": (0.0, 0.0), "from the side": (0.7, 0.2)}
COLUMNS = (
    "mesh", "faces", "view", "vertices", "pixels covered", "by one alone", "another face seen",
    "depth: largest difference", "barycentrics: median, 99 %, largest difference",
)  # fmt: skip
Mesh = tuple[Tensor, Tensor]  # vertices [U, 3] scene units, faces [F, 3]


def globe() -> Mesh:
    """Make an uneven globe of radius 0.4 around the world's origin."""
    points, faces, *_ = make_inputs("rasterize", dict(B=1, rings=70, sectors=72, H=SIZE, W=SIZE), torch.float64)
    assert points is not None and faces is not None
    u, v, depth = points[0].unbind(-1)
    x, y = (u - SIZE / 2) * depth / (2.5 * SIZE), -(v - SIZE / 2) * depth / (1.7 * SIZE)
    return 0.4 * torch.stack([x, y, 4 - depth], -1).float(), faces


def head() -> Mesh:
    """Make a procedural head that smiles and turns a little, with all its parts."""
    mesh = HeadMesh()
    posed = mesh.pose(cast(5, 1), Expression.neutral(1).replace(neck=torch.tensor([[0.1, 0.3, 0.0]])))
    return posed.vertices[0].float(), mesh.faces


def rounded(vertices: Tensor, camera: Camera) -> Tensor:
    """Move vertices [U, 3] to where the rasteriser's rounding puts them in the picture, at the same depth."""
    pose, focal = camera.world_from_camera[0].double(), camera.intrinsics[0, 0, 0].double()
    points = picture_points(vertices[None], camera, SIZE)[0].double()
    xy = ((points[:, :2] * SUBPIXELS).round() / SUBPIXELS / SIZE - 0.5) * points[:, 2:] / focal
    own = torch.stack([xy[:, 0], -xy[:, 1], -points[:, 2]], -1)
    return (own @ pose[:3, :3].T + pose[:3, 3]).float()


def traced(vertices: Tensor, faces: Tensor, camera: Camera) -> Raster:
    """Trace a ray through the centre of each pixel."""
    mesh = mitsuba.Mesh("mesh", len(vertices), len(faces))
    parameters = mitsuba.traverse(mesh)
    parameters["vertex_positions"] = mitsuba.Float(vertices.flatten().numpy())
    parameters["faces"] = mitsuba.UInt32(faces.flatten().to(torch.int32).numpy())
    parameters.update()
    scene = mitsuba.load_dict({"type": "scene", "mesh": mesh})
    origins, directions = camera_rays(camera, SIZE)
    x, y, z = (mitsuba.Float(part.contiguous().numpy()) for part in directions[0].T)
    origin = mitsuba.Point3f(*(mitsuba.Float(float(part)) for part in origins[0, 0]))
    hit = scene.ray_intersect_preliminary(mitsuba.Ray3f(origin, mitsuba.Vector3f(x, y, z)), coherent=False)
    one, two = (torch.from_numpy(part.numpy().copy()) for part in hit.prim_uv)
    seen = torch.from_numpy(hit.is_valid().numpy().copy()).bool()
    face = torch.where(seen, torch.from_numpy(hit.prim_index.numpy().astype("int64")), -1)
    along = directions[0] @ -camera.world_from_camera[0, :3, 2]  # of a unit ray, along the camera's axis
    depth = torch.where(seen, torch.from_numpy(hit.t.numpy().copy()) * along, 0.0)
    barycentrics = torch.stack([1 - one - two, one, two], -1) * seen[:, None]
    return Raster(*(part.unflatten(0, (1, SIZE, SIZE)) for part in (face, barycentrics, depth)))


def row(name: str, make: Callable[[], Mesh], view: str, as_given: bool) -> list[object]:
    """Compare one picture; what differs is counted in pixels and measured where both see the same face."""
    vertices, faces = make()
    camera = turned(fixed_camera(), *VIEWS[view])
    ours = rasterize(picture_points(vertices[None], camera, SIZE), faces, SIZE, SIZE)
    theirs = traced(vertices if as_given else rounded(vertices, camera), faces, camera)
    both = (ours.face >= 0) & (theirs.face >= 0)
    same = both & (ours.face == theirs.face)
    depth = (ours.depth - theirs.depth)[both].abs().max()
    barycentrics = (ours.barycentrics - theirs.barycentrics)[same].abs().flatten()
    middle, high = (barycentrics.kthvalue(max(1, int(q * len(barycentrics)))).values for q in (0.5, 0.99))
    return [
        name, f"{len(faces):,}", view, "as given" if as_given else "rounded alike", f"{int((ours.face >= 0).sum()):,}",
        int(((ours.face >= 0) != (theirs.face >= 0)).sum()), int((both & ~same).sum()), f"{depth:.1e}",
        f"{middle:.1e}, {high:.1e}, {barycentrics.max():.1e}",
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    mitsuba.set_variant("llvm_ad_rgb")
    meshes = {"globe": globe, "head": head}
    rows = [
        row(name, make, view, as_given) for name, make in meshes.items() for view in VIEWS for as_given in (True, False)
    ]
    sys.stdout.write(f"Mitsuba {mitsuba.__version__}, {SIZE} x {SIZE} pixels; depth in scene units\n\n")
    sys.stdout.write(markdown_table(COLUMNS, rows) + "\n")


if __name__ == "__main__":
    main()
