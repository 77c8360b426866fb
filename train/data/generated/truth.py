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
        foreground, background: [B, C, h, h] feature images of head and background, where they are kept.
    """

    points: Tensor
    plane_feature: Tensor
    foreground: Tensor | None = None
    background: Tensor | None = None


def join_truths(parts: list[GeneratedTruth]) -> GeneratedTruth:
    """Concatenate the truths of pictures; feature images are kept where all have them."""

    def joined(values: list[Tensor | None]) -> Tensor | None:
        kept = [value for value in values if value is not None]
        return torch.cat(kept) if len(kept) == len(values) else None

    return GeneratedTruth(
        torch.cat([part.points for part in parts]),
        torch.cat([part.plane_feature for part in parts]),
        joined([part.foreground for part in parts]),
        joined([part.background for part in parts]),
    )
