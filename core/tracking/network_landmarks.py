"""Puts the landmarks of the open head where the networks that find faces put them.

A tracker has its own idea of where a jaw line runs or a brow begins. On procedural heads, whose landmarks are known,
the networks of `triportrait fetch faces` lie up to 25 of 512 pixels beside them, in the same way on every head:
`python -m docs.tracking.network_landmarks` measures by how much, and how it changes with the shape of a face.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from triportrait.core.checkpoint import read_tensors
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.weights import OPEN_HEAD_FOLDER

TABLES = "networks"  # name of the file beside the open head's
OPEN_HEAD_NAME = "open head"
NUM_LANDMARKS = 70
JAW = slice(17)  # of the 68 landmarks
# What the networks' jaw line counts for a model without a table: it is the outline of the picture, and not points of
# the mesh. Of 1 to 0 this fits procedural heads best by an open head without its table (docs/tracking/track.md).
OUTLINE_WEIGHT = 0.1


@lru_cache(maxsize=2)  # what a model works out for its landmarks is kept with it, and not once more for every clip
def for_networks(model: HeadModel) -> HeadModel:
    """Return a head model for landmarks that the face networks found.

    Args:
        model: the open head; others come back as they are, as nothing is known of them.

    Returns:
        a model of the same parameters: where it has its landmarks is another place, its mesh is the same.

    Raises:
        InputError: the package's table does not belong to this open head.
    """
    if model.identity.name != OPEN_HEAD_NAME:
        return model
    moved = read_tensors(OPEN_HEAD_FOLDER, TABLES)
    tables = {name: table.clone() for name, table in model.flame.state_dict().items()}
    template, directions = tables["template"], tables["shape_directions"]
    marks = tables["faces"][tables["landmark70_faces"][0]]  # [70, 3], each thrice the same vertex
    expected = {"offsets": (NUM_LANDMARKS, 3), "directions": (NUM_LANDMARKS, 3, directions.shape[-1])}
    shapes = {name: tuple(moved[name].shape) if name in moved else None for name in expected}
    if shapes != expected or not bool((marks == marks[:, :1]).all()):
        raise InputError(
            f"open head: expected the tables {expected} for landmarks of networks, got {shapes}; make them again by "
            "python -m docs.tracking.network_landmarks"
        )
    template[marks[:, 0]] += moved["offsets"].to(template)
    directions[marks[:, 0]] += moved["directions"].to(directions)
    return replace(model, flame=Flame({name: table.to(template.device) for name, table in tables.items()}))


def weights_for_networks(model: HeadModel, weights: Tensor) -> Tensor:
    """Return how much landmarks [..., 70] that the face networks found count: little on the jaw of an unknown model.

    Args:
        model: as of `for_networks`; where it has a table its landmarks are those of the networks and nothing changes.
        weights: as of `fit_clip`.
    """
    if model.identity.name == OPEN_HEAD_NAME:
        return weights
    weights = weights.clone()
    weights[..., JAW] *= OUTLINE_WEIGHT
    return weights
