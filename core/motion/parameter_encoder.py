"""Parameters as motion: the expression of a 3DMM takes the place of what a network reads (the paper's ablation row F).

Letters: B batch, M parameters of an expression.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.head_identity import ModelIdentity

FLAME_WIDTHS: Mapping[str, int] = {"expression": 100, "jaw": 3, "eyes": 6}


class ParameterEncoder(MotionEncoder):
    """The motion encoder v that reads no picture: the parameters of an expression, each in its unit.

    Args:
        columns: which parameters, whose, and in which units.
        name: for the card; by default it names the model.
    """

    architecture, crop_size = "parameters", None
    columns: MotionColumns

    def __init__(self, columns: MotionColumns, name: str = "") -> None:
        super().__init__()
        whose = "" if columns.head_model is None else f" of {columns.head_model.name}"
        self.name, self.columns, self.motion_width = name or f"parameters{whose}", columns, columns.width
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(columns.scale), persistent=False)

    def to_dict(self) -> None:
        """Return nothing, as the columns say all."""

    def forward(self, parameters: Tensor) -> Tensor:
        """Divide parameters [B, M] by their units; units of 1 change no bit."""
        return parameters / self.scale


def flame_parameters(head_model: ModelIdentity | None, scale: tuple[float, ...] | None = None) -> ParameterEncoder:
    """Return the encoder of expression 100, jaw 3, eyes 6 of a head model, 109 numbers.

    Args:
        head_model: whose parameters they are; None: nobody noted it.
        scale: the unit of each; None: as they are, which is row F.
    """
    ones = (1.0,) * sum(FLAME_WIDTHS.values())
    return ParameterEncoder(MotionColumns(FLAME_WIDTHS, ones if scale is None else scale, head_model))
