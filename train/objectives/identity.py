"""The identity loss of Eq. 2 compares what ArcFace says of crops that five points align. Letters: B batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.metrics.arcface import CROP, TEMPLATE, FaceIdentity
from triportrait.core.metrics.warp import fit_similarity, similarity_crop
from triportrait.train.data.upload import upload


def aligned_crop(image: Tensor, points: Tensor) -> Tensor:
    """Crop faces so that their five points lie on the template as nearly as a turn, a scale and a shift allow.

    Args:
        image: [B, 3, S, S] in [-1, 1].
        points: [B, 5, 2] pixels, x then y, the centre of the first pixel at 0; the eye at the picture's left first.

    Returns:
        [B, 3, 112, 112] in [-1, 1]; black (0) beyond the picture. Differentiable in the image.
    """
    points = points.detach()
    template = upload(torch.tensor(TEMPLATE, dtype=points.dtype), points.device)
    # from the crop to the picture, by least squares in complex numbers: turn * crop + shift
    crop, seen = torch.view_as_complex(template), torch.view_as_complex(points.contiguous())
    return similarity_crop(image, *fit_similarity(seen, crop.expand_as(seen)), CROP)


def five_points(landmarks: Tensor) -> Tensor:
    """Return eyes, nose and corners of the mouth [B, 5, 2] of 68 landmarks; their first pixel has its centre at 0.5."""
    eyes = [landmarks[:, start : start + 6].mean(1) for start in (36, 42)]
    return torch.stack([*eyes, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]], 1) - 0.5


def identity_loss(network: FaceIdentity, picture: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """Return 1 - the cosine between the embeddings of picture and target, [B]; both are cropped alike."""
    embedding = network(aligned_crop(picture, points))
    with torch.no_grad():
        target_embedding = network(aligned_crop(target, points))
    return 1 - F.cosine_similarity(embedding, target_embedding, dim=1)
