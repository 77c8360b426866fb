"""Detect faces by an SSD: boxes, six points and scores from the networks of short and of full range (BlazeFace)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triportrait.core.faces.graph import Graph
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.regions import Regions, crop

KEYPOINTS = ("right eye", "left eye", "nose", "mouth", "right ear", "left ear")  # the person's own right and left
SAME_FACE = 0.3  # boxes whose intersection over union is larger are those of one face
MOST_FACES = 16
MOST_LOGIT = 100.0
# Input side -> strides of the layers of anchors, of which each gives two of one size; and the least score.
LAYERS: dict[int, tuple[tuple[int, ...], int, float]] = {128: ((8, 16, 16, 16), 2, 0.5), 192: ((4,), 1, 0.6)}


@dataclass(frozen=True)
class Detections:
    """The faces in B pictures, K places each, the best first.

    Attributes:
        boxes: [B, K, 4] pixels from the picture's corner: left, top, right, bottom.
        keypoints: [B, K, 6, 2] pixels, in the order of `KEYPOINTS`.
        scores: [B, K] from the least score to 1; 0 where there is no further face.
    """

    boxes: Tensor
    keypoints: Tensor
    scores: Tensor


class FaceDetector(nn.Module):
    """Finds faces in pictures as mediapipe does: a letterboxed picture, an SSD, weighted suppression of the others.

    Args:
        graph: of face_detection_short_range (128 px, faces within two metres) or face_detection_full_range_sparse
            (192 px, smaller ones too).
        dtype: of features and weights.

    Raises:
        ValueError: the graph is of another network.
    """

    anchors: Tensor

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = GraphNetwork(graph, dtype)
        side = self.network.input_size[0]
        if self.network.input_size != (side, side) or side not in LAYERS or len(graph.outputs) != 2:
            raise ValueError("expected a network that detects faces")
        strides, repeats, self.least_score = LAYERS[side]
        self.register_buffer("anchors", ssd_anchors(side, strides, repeats), persistent=False)
        self.regressors, self.scores = sorted(graph.outputs, key=lambda name: -graph.shapes[name][-1])
        count = len(self.anchors)
        if graph.shapes[self.regressors] != (1, count, 16) or graph.shapes[self.scores] != (1, count, 1):
            raise ValueError("expected a network that detects faces")

    @torch.no_grad()
    def forward(self, images: Tensor, most: int = MOST_FACES) -> Detections:
        """Detect the faces in pictures [B, 3, H, W], uint8 or in [-1, 1]; at most `most` in each."""
        high, wide = images.shape[2:]
        side = self.network.input_size[0]
        longer = float(max(high, wide))
        zeros = torch.zeros(len(images), device=images.device)
        centre = torch.stack([zeros + wide / 2, zeros + high / 2], 1)
        letterboxed = crop(images, Regions(centre, zeros + longer, zeros), (side, side), "zeros")
        results = self.network(letterboxed / 127.5 - 1)
        scores = results[self.scores][..., 0].float().clamp(-MOST_LOGIT, MOST_LOGIT).sigmoid()
        scores = torch.where(scores >= self.least_score, scores, torch.zeros_like(scores))
        regressors, anchors = results[self.regressors], self.anchors
        if scores.device.type == "cpu" and len(scores):  # a GPU would wait to be asked where faces are
            seen = scores.amax(0).nonzero()[:, 0]
            seen = seen if len(seen) else seen.new_zeros(1)
            regressors, anchors, scores = regressors[:, seen], anchors[seen], scores[:, seen]
        boxes, keypoints = decoded(regressors, anchors, side)
        found = suppressed(boxes, keypoints, scores, most)
        offset = centre - longer / 2
        return Detections(
            found.boxes * longer + offset.repeat(1, 2)[:, None],
            found.keypoints * longer + offset[:, None, None],
            found.scores,
        )


def ssd_anchors(side: int, strides: tuple[int, ...], repeats: int) -> Tensor:
    """List the middles of an SSD's anchors [A, 2], the picture from 0 to 1; layers of one stride share their cells."""
    found = []
    for stride in dict.fromkeys(strides):
        cells = -(-side // stride)
        middles = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        each = repeats * strides.count(stride)
        found.append(torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, each, 2).reshape(-1, 2))
    return torch.cat(found)


def decoded(regressors: Tensor, anchors: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Turn what an SSD says of its anchors into boxes and points.

    Args:
        regressors: [B, A, 16]: middle, size, and six points, pixels of the network's input from the anchor.
        anchors: [A, 2]. side: of the network's input, pixels.

    Returns:
        Boxes [B, A, 4] (left, top, right, bottom) and points [B, A, 6, 2], the picture from 0 to 1.
    """
    values = regressors.float() / side
    middle, half = values[..., :2] + anchors, values[..., 2:4] / 2
    keypoints = values[..., 4:].unflatten(-1, (6, 2)) + anchors[:, None]
    return torch.cat([middle - half, middle + half], -1), keypoints


def suppressed(boxes: Tensor, keypoints: Tensor, scores: Tensor, most: int) -> Detections:
    """Keep one detection for each face: the mean of those that overlap the best one, weighted by their scores.

    Args:
        boxes: [B, A, 4]. keypoints: [B, A, 6, 2]. scores: [B, A], 0 for what is none.
        most: the largest number of faces, K.

    Returns:
        K places for each picture, of which the last have score 0.
    """
    values = torch.cat([boxes, keypoints.flatten(2)], 2)  # [B, A, 16]
    areas = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
    left = scores
    found: list[Tensor] = []
    best_scores: list[Tensor] = []
    for _ in range(most):
        best_score, best = left.max(1, keepdim=True)
        # On a CPU nothing is gained by going on; on a GPU asking would wait for it.
        if found and left.device.type == "cpu" and not bool(best_score.any()):
            break
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        low, high = torch.maximum(boxes[..., :2], box[..., :2]), torch.minimum(boxes[..., 2:], box[..., 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        overlap = shared / (areas + areas.gather(1, best) - shared).clamp(min=1e-12)
        member = (overlap > SAME_FACE) | (overlap.new_zeros(()).expand_as(overlap).scatter(1, best, 1.0) > 0)
        weights = torch.where(member, left, torch.zeros_like(left))
        mean = (weights[:, None] @ values) / weights.sum(1).clamp(min=1e-12)[:, None, None]
        found.append(mean)
        best_scores.append(best_score)
        left = torch.where(member, torch.zeros_like(left), left)
    merged = torch.cat(found, 1)
    padding = (0, 0, 0, most - merged.shape[1])
    merged = nn.functional.pad(merged, padding)
    return Detections(
        merged[..., :4],
        merged[..., 4:].unflatten(-1, (6, 2)),
        nn.functional.pad(torch.cat(best_scores, 1), padding[2:]),
    )
