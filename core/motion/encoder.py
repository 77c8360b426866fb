"""What every motion encoder is: a name, a width, what it reads, and, where they are known, what its numbers mean.

Letters: B batch, M width of the motion vector, c side of the crop.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from triportrait.core.motion.head_identity import ModelIdentity

FRAME = "published 224"  # where a crop lies on the face: `motion_crop`'s frame, of which an encoder has its own side


@dataclass(frozen=True)
class MotionColumns:
    """What the numbers of a motion mean, where that is known.

    Attributes:
        widths: how many numbers each parameter has, in order, such as expression 100, jaw 3, eyes 6.
        scale: the unit of each number; the motion is the parameters divided by it.
        head_model: whose parameters they are; None: a procedural head's, or nobody noted it.
    """

    widths: Mapping[str, int]
    scale: tuple[float, ...]
    head_model: ModelIdentity | None = None

    def __post_init__(self) -> None:
        assert len(self.scale) == self.width, "a unit for each number"

    @property
    def width(self) -> int:
        """Return how many numbers there are in all."""
        return sum(self.widths.values())

    def slices(self) -> dict[str, slice]:
        """Return where the numbers of each parameter stand."""
        found, start = {}, 0
        for name, width in self.widths.items():
            found[name] = slice(start, start + width)
            start += width
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for a card."""
        model = None if self.head_model is None else self.head_model.to_dict()
        return {"widths": dict(self.widths), "scale": list(self.scale), "head_model": model}


class MotionEncoder(nn.Module, ABC):
    """The motion encoder v: a face crop, or the parameters of a tracked face, become M numbers of its expression.

    Whoever has one asks for these alone, so that each kind can take another's place: PD-FGC (`pdfgc`), the small one
    that `triportrait train motion` trains (`small_encoder`), the parameters themselves (`parameter_encoder`), and one
    that a user declares layer by layer (`declared_encoder`).

    Attributes:
        name: in words; it stands on the card beside the weights.
        architecture: which kind it is, on the card.
        motion_width: M.
        crop_size: c, the side of the crop that it reads, from `motion_crop`; None: it reads parameters.
        columns: what its numbers mean; None where they are an embedding.
    """

    name: str
    architecture: str
    motion_width: int
    crop_size: int | None
    columns: MotionColumns | None = None

    @abstractmethod
    def to_dict(self) -> dict[str, Any] | None:
        """Return what makes this network again, for the card beside its weights; None where nothing is left open."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the motion.

        Args:
            inputs: [B, 3, c, c] in [-1, 1], from `motion_crop`; or, without a crop, parameters [B, M].

        Returns:
            [B, M].
        """

    @property
    def reads_pictures(self) -> bool:
        """Tell whether it reads crops of pictures, and no parameters."""
        return self.crop_size is not None

    @property
    def of_drawn_heads(self) -> bool:
        """Tell whether it knows procedural heads alone, and no person."""
        return False

    @property
    def gaze(self) -> slice | None:
        """Return where the two numbers of the gaze stand, to the head's left and up; None where there are none."""
        if self.columns is None or not self.of_drawn_heads:
            return None
        places = self.columns.slices()
        if not {"gaze_x", "gaze_y"} <= places.keys():
            return None
        return slice(places["gaze_x"].start, places["gaze_y"].stop)

    def card(self) -> dict[str, Any]:
        """Return what the card beside the weights says of it."""
        crop = None if self.crop_size is None else {"frame": FRAME, "size": self.crop_size}
        columns = None if self.columns is None else self.columns.to_dict()
        entry = {"name": self.name, "architecture": self.architecture, "motion_width": self.motion_width}
        return entry | {"crop": crop, "columns": columns}


def encoder_fingerprint(encoder: MotionEncoder) -> str:
    """Compute what tells motion encoders apart, whose names may be the same: a hash of their weights, 16 digits.

    The same weights in half and in full precision have one fingerprint; counters of training do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if tensor.is_floating_point():
            digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
