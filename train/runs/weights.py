"""Read and write the weights folders of trainings: the networks, what lies beside them, and the cast that they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from triportrait.core.checkpoint import load_pair, read_card, read_tensors, save_weights, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.neck import NeckField
from triportrait.core.network_kind import REENACTMENT, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.tracking.head_model import (
    HeadModel,
    load_head_model,
)
from triportrait.core.weights import OPEN_HEAD
from triportrait.train.data.heads.mesh import mean_neck
from triportrait.train.data.heads.population import check_seed_and_count


@dataclass(frozen=True)
class Cast:
    """The first `count` heads of a population seed."""

    seed: int
    count: int


@dataclass(frozen=True)
class Trained:
    """Weights that were trained on procedural heads.

    Attributes:
        folder: where they lie.
        model: their sizes.
        cast: whom they know.
        provenance: what stands on the card beside them.
    """

    folder: Path
    model: ModelConfig
    cast: Cast
    provenance: dict[str, Any]


def open_trained(name: str, cast_seed: int | None = None, cast_count: int | None = None) -> Trained:
    """Return what a weights folder, or the package's own for "demo", says of itself; its networks are loaded once.

    Args:
        cast_seed, cast_count: the cast, where the card does not say; they win over it.

    Raises:
        InputError: weights missing, damaged or not of procedural heads, or nobody says which cast they know.
    """
    folder = weights_folder(name)
    if not (folder / "portrait.json").exists() and (folder / "weights" / "portrait.json").exists():
        raise InputError(f"{name}: this is the folder of a run; name {folder / 'weights'}")
    provenance = read_card(folder, "portrait").get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    cast = _cast(name, provenance, cast_seed, cast_count)
    portrait, _ = load_trained(folder)
    return Trained(folder, portrait.config, cast, provenance)


def save_neck(folder: Path, model: ModelConfig, provenance: Mapping[str, Any]) -> None:
    """Write how the population's mean head turns beside weights of procedural heads, in half precision.

    Raises: `InputError` where it cannot be written.
    """
    tables = mean_neck(model.neck, model.render.box_side)
    save_weights(folder, "neck", {name: table.half() for name, table in tables.items()}, None, provenance)


def save_flame(folder: Path, model: HeadModel) -> None:
    """Keep the head model of tracked faces in a folder of its own, its tables as a portrait carries them.

    Raises: `InputError` where they cannot be written.
    """
    save_weights(folder, "flame", _tables_of(model), None, _entries_of(model))


def kept_flame(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what `save_flame` kept, tensors by their names in a portrait and entries of its card; None for nothing.

    Raises: `InputError` where it is damaged.
    """
    if not (folder / "flame.safetensors").is_file():
        return None
    noted = read_card(folder, "flame").get("provenance", {})
    return read_tensors(folder, "flame"), {key: noted[key] for key in ("head_model", "licence") if key in noted}


def named_flame(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the same of a head model that is named, as `kept_flame` does.

    Raises: `InputError` where there is none.
    """
    model = flame_model(name)
    return _tables_of(model), _entries_of(model)


def flame_model(name: str | None) -> HeadModel:
    """Return the head model of clips of tracked faces.

    Args:
        name: a weights folder with FLAME's tables, a converted FLAME file, or `open-head`.

    Raises: `InputError` where it is not there.
    """
    try:
        if name is None:
            raise InputError("flame: expected a head model, as clips of tracked faces need, got none")
        return load_head_model(name)
    except InputError as error:
        raise InputError(
            f"{str(error).rpartition(';')[0] or error}; name by --flame the head model of these clips: the folder of a "
            f"converted published checkpoint or FLAME file, or {OPEN_HEAD}"
        ) from error


def flame_field(model: HeadModel, config: ModelConfig) -> NeckField:
    """Return the neck field of a head model for a network of these sizes; parameters have the published widths."""
    return model.neck_field(config.neck, config.render.box_side)


def _tables_of(model: HeadModel) -> dict[str, Tensor]:
    return {f"neck.{name}": value for name, value in model.neck_field().state_dict().items()}


def _entries_of(model: HeadModel) -> dict[str, Any]:
    return {"head_model": model.identity.to_dict(), "licence": model.licence}


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises: `InputError` where it cannot be read.
    """
    try:
        check_tensor_file(path)
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: expected a safetensors file, it cannot be read; convert it again") from error
    check_tensors(path, tensors)
    return tensors


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises: `InputError` that names the file and the tensor whose numbers are not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite; name another file")


def load_trained(folder: Path, device: str = "cpu") -> tuple[Portrait4D, MotionEncoder]:
    """Return the networks of a weights folder, ready to run on a device.

    Raises:
        InputError: weights missing, damaged, of the static synthesizer, or not of procedural heads.
    """
    check_network(folder, REENACTMENT, "weights", "name what stage 2 made, RUN/weights of a whole training")
    portrait, motion_encoder = load_pair(folder)
    if not motion_encoder.of_drawn_heads:
        raise InputError(
            f"{folder}: expected weights that `triportrait train` made, got a motion encoder for photographs, which "
            "knows no procedural heads; name another folder"
        )
    return portrait.fold().to(device), motion_encoder.to(device)


def _cast(name: str, provenance: dict[str, Any], seed: int | None, count: int | None) -> Cast:
    noted = provenance.get("cast")
    noted = noted if isinstance(noted, dict) else {}
    seed, count = (noted.get(key) if own is None else own for key, own in (("seed", seed), ("count", count)))
    if type(seed) is not int or type(count) is not int:
        raise InputError(
            f"{name}: expected on its card the cast that it was trained on, there is none; give --cast-seed and "
            "--cast-count"
        )
    check_seed_and_count(seed, count)
    return Cast(seed, count)
