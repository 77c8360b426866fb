"""Segment a person from what is behind (selfie segmentation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triportrait.core.faces.graph import Graph
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.regions import sampled


class PersonSegmentation(nn.Module):
    """Says of each pixel how sure it is that it is a person's.

    Args:
        graph: of selfie_segmentation (256 x 256) or selfie_segmentation_landscape (144 x 256).
        dtype: of features and weights.

    Raises:
        ValueError: the graph is of another network.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = GraphNetwork(graph, dtype)
        if [graph.shapes[name] for name in graph.outputs] != [(1, *self.network.input_size, 1)]:
            raise ValueError("expected a network that segments persons")

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Segment pictures [B, 3, H, W], uint8 or in [-1, 1]: [B, 1, H, W] in [0, 1], 1 where a person is."""
        high, wide = images.shape[2:]
        rows, columns = self.network.input_size
        x = torch.arange(columns, device=images.device) * (wide / columns)
        y = torch.arange(rows, device=images.device) * (high / rows)
        x, y = torch.meshgrid(x, y, indexing="xy")
        small = sampled(images, x.expand(len(images), -1, -1), y.expand(len(images), -1, -1), "zeros")
        (mask,) = self.network(small / 255).values()
        return F.interpolate(mask.float().permute(0, 3, 1, 2), (high, wide), mode="bilinear", align_corners=False)
