"""A head model that parameters belong to: FLAME of some version, or the open stand-in that the package brings.

A model comes from the package (`open-head`), from a weights folder whose network brings FLAME, from a folder that
`triportrait convert` made of a FLAME file, or from such a file itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checkpoint import head_tables, read_card, read_tensors, weights_folder
from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import NUM_JOINTS, Flame, padded_directions, rescale_flame
from triportrait.core.motion.head_identity import (
    OPEN_HEAD_MODEL,
    PUBLISHED_MODEL,
    ModelIdentity,
    check_same_model,
    fingerprint,
)
from triportrait.core.motion.neck import COARSE, NeckField
from triportrait.core.published.flame_assets import Assets, read_assets
from triportrait.core.published.flame_file import VERSIONS, flame_of, is_flame, read_flame_content, version_of
from triportrait.core.safe_text import shown
from triportrait.core.tracking.completing import Completed, completed
from triportrait.core.tracking.point_model import PointModel
from triportrait.core.weights import OPEN_HEAD, OPEN_HEAD_FOLDER

__all__ = [
    "FLAME_LICENCE",
    "OPEN_HEAD_MODEL",
    "OPEN_LICENCE",
    "PUBLISHED_MODEL",
    "HeadModel",
    "ModelIdentity",
    "check_same_model",
    "fingerprint",
    "flame_file_tables",
    "identity_of",
    "load_head_model",
]

logger = logging.getLogger(__name__)
FLAME_LICENCE = "FLAME's tables inside keep the FLAME licence of the Max Planck Society"
OPEN_LICENCE = "the open head's tables inside are Apache-2.0"


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A head model and what its directions are.

    Attributes:
        flame: the mesh, with the tables `landmark70_faces` and `landmark70_barycentrics`; scene units.
        num_shape: how many of its directions are shape; the rest are expression.
        identity: what parameters of it carry.
        mesh: tables of the coarse mesh, and of regions where they are known, as `NeckField` takes them.
        derived: where tables came from that a bare FLAME file lacks, by table.
    """

    flame: Flame
    num_shape: int
    identity: ModelIdentity
    mesh: Mapping[str, Tensor] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_expression(self) -> int:
        """Return how many of its directions are expression."""
        return self.flame["shape_directions"].shape[-1] - self.num_shape

    @property
    def num_eyelids(self) -> int:
        """Return how many lids close by themselves, 0 or 2."""
        return self.flame.num_eyelids

    @property
    def is_open(self) -> bool:
        """Tell whether it is the open head, in which no data of FLAME have a part."""
        return self.identity.name == OPEN_HEAD_MODEL

    @property
    def licence(self) -> str:
        """Return the sentence about its tables for the cards of what holds them."""
        return OPEN_LICENCE if self.is_open else FLAME_LICENCE

    def points(self) -> PointModel:
        """Return its landmarks as a function of the parameters, for fits; they are made once."""
        return self._points

    @cached_property
    def _points(self) -> PointModel:
        return PointModel(self.flame, self.num_shape)

    def padded_tables(self, config: NeckConfig | None = None) -> dict[str, Tensor]:
        """Return the tables of `Flame` with the directions that published records count, 300 + 100; further ones are 0.

        Raises: `InputError` where the model has more.
        """
        config = config or NeckConfig()
        tables = {name: table.detach() for name, table in self.flame.state_dict().items()}
        directions = tables["shape_directions"]
        tables["shape_directions"] = padded_directions(
            directions, self.num_shape, config.num_shape, config.num_expression
        )
        return tables

    def neck_field(self, config: NeckConfig | None = None, box_side: float = 1.3) -> NeckField:
        """Make the neck field of this model, which takes parameters of published widths, padded with zeros.

        Args:
            config: sizes of the grids. box_side: scene units.
        """
        config = config or NeckConfig()
        return NeckField(config, box_side, self.padded_tables(config), self.mesh, self.identity)


def load_head_model(
    name: str | Path = OPEN_HEAD,
    version: str | None = None,
    *,
    directions: tuple[int, int] | None = None,
    assets: Sequence[Path] = (),
    tables_from: str | Path | None = None,
) -> HeadModel:
    """Load a head model.

    Args:
        name: `open-head`, the package's own; a weights folder whose network brings FLAME's tables; a folder that
            `triportrait convert` made of a FLAME file; or a FLAME file, pickle or `.npz`, which is read without running
            anything of it.
        version: of a FLAME file, as in `core.published.flame_file.VERSIONS`; None takes what its name tells. Of a
            folder whose card does not tell it; it may repeat what the card tells.
        directions: of a FLAME file that has not 300 of shape and 100 of expression, how many of each.
        assets: files or folders with landmarks, the coarse mesh, regions and eyelids for a FLAME file.
        tables_from: name of a model of the same topology that lends a FLAME file what it lacks.

    Raises:
        InputError: there is no such model, it is damaged, hostile or of another topology, nothing tells its version,
            or an option is given that this kind of model does not take.
    """
    for_files = {"directions": directions, "assets": assets, "tables_from": tables_from}
    if str(name) == OPEN_HEAD:
        _check_not_given(name, "the package's own model", version=version, **for_files)
        return _open_head()
    path = weights_folder(name)
    if path.is_dir():
        _check_not_given(name, "a folder", **for_files)
        return _of_folder(path, version)
    if not path.exists():
        raise InputError(
            f"{name}: no such head model; name {OPEN_HEAD}, a weights folder with FLAME's tables, or a FLAME file"
        )
    tables, num_shape, version = flame_file_tables(path, version, directions)
    whole = complete_flame(rescale_flame(tables), assets, tables_from)
    _say(path, whole)
    return _model(whole, num_shape, VERSIONS[version])


def flame_file_tables(
    path: Path, version: str | None, directions: tuple[int, int] | None = None, content: Any = None
) -> tuple[dict[str, Tensor], int, str]:
    """Read a FLAME file as `Flame` takes it, float32 and int64, in metres.

    Args:
        content: what `read_flame_content` gave for it, where it is at hand.

    Returns: the tables, how many directions are shape, and the version.
    Raises: `InputError`, as `load_head_model` does.
    """
    content = read_flame_content(path) if content is None else content
    if not is_flame(content):
        raise InputError(f"{path}: expected a FLAME file, which has v_template, got something else; give another file")
    file = flame_of(content, str(path), directions)
    arrays: dict[str, np.ndarray] = file.arrays
    tables = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tables["pose_directions"] = tables["pose_directions"].flatten(0, 1).T.contiguous()
    tables = {name: t.float() if t.is_floating_point() else t for name, t in tables.items()}
    for name, table in tables.items():
        if table.is_floating_point() and not bool(table.isfinite().all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite in float32; fetch the file again")
    return tables, file.num_shape, version_of(path, version)


def complete_flame(
    flame: Mapping[str, Tensor], assets: Sequence[Path] = (), tables_from: str | Path | None = None
) -> Completed:
    """Add to FLAME's tables, scene units, what a bare file lacks; the other arguments are those of `load_head_model`.

    Raises: `InputError`, as `load_head_model` does.
    """
    lender = None
    if tables_from is not None:
        other = load_head_model(tables_from)
        lender = (str(tables_from), dict(other.flame.named_buffers()), other.mesh)
    brought: Assets | None = read_assets(assets) if assets else None
    open_head = _open_head()
    return completed(flame, {}, brought, lender, dict(open_head.flame.named_buffers()), open_head.num_shape)


def identity_of(flame: Mapping[str, Tensor], num_shape: int, name: str) -> ModelIdentity:
    """Return the identity of tables in scene units."""
    return ModelIdentity(name, fingerprint(flame, num_shape))


def _check_not_given(name: str | Path, got: str, **options: object) -> None:
    """Refuse options that would be ignored."""
    given = ", ".join(option for option, value in options.items() if value)
    if given:
        raise InputError(f"{name}: expected {given} with a FLAME file alone, got {got}; leave it out, or name the file")


def _say(path: Path, whole: Completed) -> None:
    if whole.derived:
        logger.info("%s: %s", path, "; ".join(f"{table}: {origin}" for table, origin in whole.derived.items()))


def _model(whole: Completed, num_shape: int, name: str) -> HeadModel:
    return HeadModel(
        Flame(whole.flame), num_shape, identity_of(whole.flame, num_shape, name), whole.mesh, whole.derived
    )


def _open_head() -> HeadModel:
    card: dict[str, Any] = read_card(OPEN_HEAD_FOLDER, "head")
    tables = read_tensors(OPEN_HEAD_FOLDER, "head")
    tables = {key: table.float() if table.is_floating_point() else table.long() for key, table in tables.items()}
    if "pose_directions" not in tables:  # the package leaves zeros out
        tables["pose_directions"] = torch.zeros(9 * (NUM_JOINTS - 1), tables["template"].numel())
    num_shape = int(card["provenance"]["num_shape"])
    return HeadModel(Flame(tables), num_shape, identity_of(tables, num_shape, OPEN_HEAD_MODEL))


def _of_folder(folder: Path, version: str | None) -> HeadModel:
    """Return the model that a weights folder brings, in scene units already or in metres, as its card says."""
    found = head_tables(folder)
    if found is None:
        made = (
            "; this network knows how procedural heads turn, without a mesh" if (folder / "neck.json").exists() else ""
        )
        raise InputError(
            f"{folder}: expected a weights folder with FLAME's tables, got one without{made}; name a converted "
            f"published checkpoint, a folder that `triportrait convert FLAME_FILE` made, or {OPEN_HEAD}"
        )
    flame, num_shape = _trimmed(found.flame, NeckConfig.num_shape if found.num_shape is None else found.num_shape)
    name, said = PUBLISHED_MODEL.name, found.identity
    stated = None if version is None else VERSIONS[version_of(folder, version)]
    if said is not None:
        name = said.name
    elif not os.path.lexists(folder / "portrait.safetensors"):
        if stated is None:
            raise InputError(
                f"{folder / 'flame.json'}: expected FLAME's version on the card, got none; convert the file again with "
                f"--flame-version {' or '.join(VERSIONS)}"
            )
        name = stated
    elif os.path.lexists(folder / "flame.safetensors"):
        name = stated or name
    if stated not in (None, name):
        raise InputError(
            f"{folder}: expected version to be that of {name}, whose tables it has, got {version}; leave it out"
        )
    identity = identity_of(flame, num_shape, name)
    if said is not None and not said.is_same(identity):
        raise InputError(
            f"{folder}: expected the tables that its card tells of, {said}, got those of {identity}; make it again"
        )
    if "landmark70_faces" not in flame or any(table not in found.mesh for table in COARSE):
        open_head = _open_head()
        lent = dict(open_head.flame.named_buffers())
        whole = completed(flame, found.mesh, None, None, lent, open_head.num_shape)
        _say(folder, whole)
    else:
        derived = found.provenance.get("derived")
        notes = {shown(k): shown(v) for k, v in derived.items()} if isinstance(derived, dict) else {}
        whole = Completed(flame, dict(found.mesh), notes)
    return HeadModel(Flame(whole.flame), num_shape, identity, whole.mesh, whole.derived)


def _trimmed(flame: Mapping[str, Tensor], num_shape: int) -> tuple[dict[str, Tensor], int]:
    """Leave out the last directions of each kind that move nothing, with which a model was padded.

    Returns: the tables, and how many directions are shape.
    """
    Flame(flame)  # its shapes are right
    directions = flame["shape_directions"]
    moves = (directions != 0).flatten(0, 1).any(0)

    def used(kind: Tensor) -> int:
        return int(kind.nonzero()[-1]) + 1 if bool(kind.any()) else 0

    shape, expression = used(moves[:num_shape]), used(moves[num_shape:])
    kept = torch.cat([directions[..., :shape], directions[..., num_shape : num_shape + expression]], -1)
    return {**flame, "shape_directions": kept.contiguous()}, shape
