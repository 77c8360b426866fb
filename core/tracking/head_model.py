"""A head model that parameters belong to: FLAME of some version, or the open stand-in that the package brings.

Parameters of one model mean another face in the next, so that every set of them carries the name of its model and a
fingerprint of its tables, and no two are mixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait.core.checkpoint import read_card, read_tensors
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.tracking.point_model import PointModel
from triportrait.core.weights import OPEN_HEAD, OPEN_HEAD_FOLDER

__all__ = ["HeadModel", "ModelIdentity", "fingerprint", "load_head_model"]


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A head model and what its directions are.

    Attributes:
        flame: the mesh, with the tables `landmark70_faces` and `landmark70_barycentrics`; scene units.
        num_shape: how many of its directions are shape; the rest are expression.
        identity: what parameters of it carry.
    """

    flame: Flame
    num_shape: int
    identity: ModelIdentity

    def points(self) -> PointModel:
        """Return its landmarks as a function of the parameters, for fits."""
        return PointModel(self.flame, self.num_shape)


def fingerprint(tables: Mapping[str, Tensor]) -> str:
    """Compute what tells models apart: a hash of the template and the directions, rounded to float32."""
    digest = hashlib.sha256()
    for name in ("template", "shape_directions"):
        digest.update(tables[name].detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_head_model(name: str | Path = OPEN_HEAD) -> HeadModel:
    """Load a head model.

    Args:
        name: `open-head`, the package's own.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    if str(name) != OPEN_HEAD:
        raise InputError(f"{name}: expected {OPEN_HEAD}")
    card: dict[str, Any] = read_card(OPEN_HEAD_FOLDER, "head")
    tables = read_tensors(OPEN_HEAD_FOLDER, "head")
    tables = {key: table.float() if table.is_floating_point() else table for key, table in tables.items()}
    num_shape = int(card["provenance"]["num_shape"])
    return HeadModel(Flame(tables), num_shape, ModelIdentity("open head", fingerprint(tables)))
