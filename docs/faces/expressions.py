"""Measure how the geometric measures of expressions follow procedural heads: `python -m docs.faces.expressions`.

Run in the repository's folder; needs the networks. Also what a photograph gives that is turned and enlarged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.serve.raw import seen
from triportrait.core.faces.expressions import MEASURES, geometric_measures
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.core.faces.regions import Regions, regions_of_points
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import expressions, population, take_pictures, to_uint8

HEADS, EACH, SIZE_PX = 24, 8, 256
TRUTHS = {
    "mouth_opening": "jaw", "mouth_width": "smile less pucker", "mouth_corners": "smile", "lid_left": "blink_left",
    "lid_right": "blink_right", "brow_left": "brow_left", "brow_right": "brow_right",
}  # fmt: skip


def heads() -> tuple[Tensor, Tensor]:
    """Draw the heads: pictures [N, 3, S, S] and their expressions [N, 9]; each head's follow one another."""
    who, light = population(17, HEADS)
    rows, does = torch.arange(HEADS).repeat_interleave(EACH), expressions(17, HEADS, EACH)
    camera, count = fixed_camera(), HEADS * EACH
    cameras = Camera(camera.world_from_camera.expand(count, 4, 4), camera.intrinsics.expand(count, 3, 3))
    view = take_pictures(HeadRenderer(), who.take(rows), does, light.take(rows), cameras, SIZE_PX)
    return to_uint8(view.image).permute(0, 3, 1, 2), does.vector


def measured(mesh: FaceMesh, pictures: Tensor, square: tuple[float, float, float, float]) -> Tensor:
    """Fit the mesh twice, the second time around its own points, and measure: [N, 7]."""
    regions, numbers = Regions.of([square] * len(pictures)), torch.arange(len(pictures))
    rough = mesh(pictures, regions, numbers)
    return geometric_measures(mesh(pictures, regions_of_points(rough.points), numbers).points)


def correlation(one: Tensor, other: Tensor) -> float:
    """Correlate two rows of numbers."""
    return torch.corrcoef(torch.stack([one, other]))[0, 1].item()


def main() -> None:
    """Print both tables."""
    mesh = FaceMesh(load_model("mesh"))
    pictures, does = heads()
    found = measured(mesh, pictures, (SIZE_PX * 0.5, SIZE_PX * 0.55, SIZE_PX * 0.8, 0.0))
    true = dict(zip(EXPRESSION_AXES, does.T, strict=True))
    true["smile less pucker"] = true["smile"] - true["pucker"]
    print("| measure | of | each head with itself | all heads | lowest, middle, highest |\n|" + " --- |" * 5)
    for name, axis in TRUTHS.items():
        values = found[:, MEASURES.index(name)]
        apart = [(part - part.view(HEADS, EACH).mean(1).repeat_interleave(EACH)) for part in (values, true[axis])]
        spread = ", ".join(f"{number:.2f}" for number in values.quantile(torch.tensor([0.02, 0.5, 0.98])).tolist())
        print(f"| {name} | {axis} | {correlation(*apart):+.2f} | {correlation(values, true[axis]):+.2f} | {spread} |")
    print("\n| the photograph | " + " | ".join(MEASURES) + " |\n|" + " --- |" * (len(MEASURES) + 1))
    for scale, degrees in ((1.0, 0.0), (1.5, 0.0), (0.5, 0.0), (1.0, 25.0), (1.0, -40.0)):
        image = torch.from_numpy(seen((320.0, 180.0), scale, degrees).copy()).permute(2, 0, 1)[None]
        row = measured(mesh, image, (320.0, 185.0, 220.0 * scale, math.radians(-degrees)))[0].tolist()
        print(f"| {scale} times, {degrees:.0f}° | " + " | ".join(f"{number:.2f}" for number in row) + " |")


if __name__ == "__main__":
    main()
