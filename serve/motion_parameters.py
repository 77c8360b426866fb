"""Hands the parameters of tracked faces to a motion encoder that reads those in the place of pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionColumns
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, check_same_model
from triportrait.core.render.cameras import fixed_camera
from triportrait.serve.tracking_files import HeadParameters

_KNOWN = ("shape", "expression", "neck", "jaw", "eyes")  # fields of `HeadParameters`


def parameters_for(columns: MotionColumns, parameters: HeadParameters | None) -> Tensor:
    """Return the parameters of a tracked face that an encoder takes, in its order.

    Args:
        columns: what the encoder takes; where nobody noted whose, they are FLAME 2020's, as published folders are.
        parameters: of the face; None: it is not tracked. The neck alone is not enough.

    Returns:
        [1, M].

    Raises:
        InputError: the face is not tracked, another head model tracked it, or no tracker gives such parameters.
    """
    if parameters is None or parameters.head_model is None:
        raise InputError(
            "motion: expected the parameters of a tracked face, as these weights read no pictures, got a face without; "
            "track it by --track fit, or name its files by --source-params and --driving-params"
        )
    taken = [getattr(parameters, name) if name in _KNOWN else None for name in columns.widths]
    if any(t is None or t.shape[1] != width for t, width in zip(taken, columns.widths.values(), strict=True)):
        raise InputError(
            f"motion: these weights take {', '.join(f'{name} {width}' for name, width in columns.widths.items())}, "
            "which no tracker of faces gives; name weights that read pictures"
        )
    check_same_model(columns.head_model or PUBLISHED_MODEL, parameters.head_model, "motion")
    return torch.cat([t.cpu().float() for t in taken if t is not None], 1)


def still_parameters(num_shape: int, num_expression: int, columns: MotionColumns | None) -> HeadParameters:
    """Return those of a mean face at rest, for captures; of the head model of the columns."""
    shape, expression, neck, jaw, eyes = (torch.zeros(1, width) for width in (num_shape, num_expression, 3, 3, 6))
    head_model = None if columns is None else columns.head_model or PUBLISHED_MODEL
    return HeadParameters(fixed_camera(), shape, expression, neck, jaw, eyes, head_model)
