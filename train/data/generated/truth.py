"""What GenHead knows of a picture beyond what it shows: L_T and the feature terms compare it (section 4.2, Eq. 2).

Letters: B pictures, P points, C channels of a plane, h side of the generator's ray grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GeneratedTruth:
    """The volume behind B generated pictures.

    Attributes:
        points: [B, P, 3] scene units, in the posed head's world: coarse samples on rays beside eyes and mouth.
        plane_feature: [B, P, C], the mean feature of the face's planes there.
        background: [B, 3, h, h] in [0, 1], what is behind the head; with `foreground` its feature image [B, C, h, h],
            whose first three channels it is.
        foreground: [B, C, h, h] in [0, 1], the feature image of the head, weighed by its opacity, where it is kept.
    """

    points: Tensor
    plane_feature: Tensor
    background: Tensor
    foreground: Tensor | None = None


def join_truths(parts: list[GeneratedTruth]) -> GeneratedTruth:
    """Concatenate the truths of pictures; feature images are kept where all have them."""
    foregrounds = [part.foreground for part in parts if part.foreground is not None]
    are_all = len(foregrounds) == len(parts)
    backgrounds = [part.background if are_all else part.background[:, :3] for part in parts]
    return GeneratedTruth(
        torch.cat([part.points for part in parts]),
        torch.cat([part.plane_feature for part in parts]),
        torch.cat(backgrounds),
        torch.cat(foregrounds) if are_all else None,
    )
