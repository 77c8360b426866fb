"""Fit a mesh of 478 points to faces: the mesh of the whole face, refined at the lips, the eyes and the irises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triportrait.core.faces.graph import Graph
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.regions import Regions, crop

POINTS = 478  # 468 of the mesh, then five of the iris on the picture's left and five of the other
MESH_POINTS = 468
IRIS_POINTS = 5
LID_POINTS = 16  # the first points of an eye go around it; their mean depth is the iris's
LEAST_PRESENCE = 0.5
OUTPUTS = {  # name in face_landmark_with_attention -> numbers
    "output_mesh_identity": 1404, "output_lips": 160, "output_left_eye": 142, "output_right_eye": 142,
    "output_left_iris": 10, "output_right_iris": 10, "conv_faceflag": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Mesh:
    """The meshes of N faces.

    Attributes:
        points: [N, 478, 3] pixels of the picture from its corner; depths, in pixels, grow away from the viewer.
        presence: [N] from 0 to 1, how sure the network is that a face is there; `LEAST_PRESENCE` is mediapipe's limit.
    """

    points: Tensor
    presence: Tensor


class FaceMesh(nn.Module):
    """Fits the mesh to the faces in squares (Attention Mesh).

    Args:
        graph: of face_landmark_with_attention.
        dtype: of features and weights; points are float32.

    Raises:
        ValueError: the graph is of another network.
    """

    refined: Tensor

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = GraphNetwork(graph, dtype)
        sizes = {name: graph.shapes[name][-1] for name in graph.outputs}
        subsets = [o.options["subset_idxs"] for o in graph.operators if o.kind == "Landmarks2TransformMatrix"]
        if sizes != OUTPUTS or [len(subset) for subset in subsets if isinstance(subset, tuple)] != [80, 71, 71]:
            raise ValueError("expected the network of an attention mesh")
        lips, left, right = (torch.tensor(subset) for subset in subsets)
        irises = torch.arange(MESH_POINTS, POINTS)
        self.register_buffer("refined", torch.cat([lips, left, right, irises]), persistent=False)
        self.register_buffer("lids", torch.stack([left[:LID_POINTS], right[:LID_POINTS]]), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, regions: Regions, pictures: Tensor | None = None, oversampling: int = 1) -> Mesh:
        """Fit the mesh in squares of pictures.

        Args:
            images: [B, 3, H, W], uint8 or in [-1, 1].
            regions: N squares, from `regions_of_boxes` or `regions_of_points`.
            pictures, oversampling: as of `crop`.
        """
        cut = crop(images, regions, self.network.input_size, "border", pictures, oversampling)
        points, presence = self.in_crops(cut / 255)
        return Mesh(regions.to_picture(points), presence)

    @torch.no_grad()
    def in_crops(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Fit the mesh in crops [N, 3, 192, 192] in [0, 1]: points [N, 478, 3], the crop from 0 to 1; presence [N]."""
        results = self.network(crops)
        mesh, *parts, flag = (results[name].flatten(1).float() for name in OUTPUTS)
        points = mesh.unflatten(1, (MESH_POINTS, 3))
        depths = points[..., 2]
        iris_depths = depths[:, self.lids].mean(2)[:, :, None].expand(-1, -1, IRIS_POINTS)  # [N, 2, 5]
        points = torch.cat([points, nn.functional.pad(iris_depths.flatten(1)[..., None], (2, 0))], 1)
        flat = torch.cat([part.unflatten(1, (-1, 2)) for part in parts], 1)
        place = self.refined[:, None].expand(-1, 2).expand(len(points), -1, -1)
        flat = points[..., :2].scatter(1, place, flat)
        points = torch.cat([flat, points[..., 2:]], 2)
        return points / self.network.input_size[1], flag[:, 0].sigmoid()
