"""Read and write the weights folders of trainings: the networks, what lies beside them, and the cast that they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from triportrait.core.checkpoint import load_pair, load_portrait, read_card, read_tensors, save_weights, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.neck import NeckField
from triportrait.core.network_kind import REENACTMENT, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.train.data.heads.mesh import mean_neck
from triportrait.train.data.heads.population import check_seed_and_count

FLAME_LICENCE = "FLAME's tables inside keep the FLAME licence of the Max Planck Society"


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


def save_flame(folder: Path, field: NeckField) -> None:
    """Keep FLAME's tables and the coarse mesh of tracked faces in a folder of their own, as a portrait carries them.

    Raises: `InputError` where they cannot be written.
    """
    tables = {f"neck.{name}": value for name, value in field.state_dict().items()}
    save_weights(folder, "flame", tables, None, {"licence": FLAME_LICENCE})


def kept_flame(folder: Path) -> dict[str, Tensor] | None:
    """Return what `save_flame` kept; None where nothing is.

    Raises: `InputError` where it is damaged.
    """
    return read_tensors(folder, "flame") if (folder / "flame.safetensors").is_file() else None


def flame_field(name: str | None) -> NeckField:
    """Return the neck field with FLAME's tables of a weights folder, the published landmarks among them.

    Raises: `InputError` where they are not there.
    """
    field = None if name is None else load_portrait(weights_folder(name)).neck
    if not isinstance(field, NeckField) or "landmark70_faces" not in field.flame:
        raise InputError(
            f"{name or 'flame'}: expected FLAME's tables with its landmarks, as clips of tracked faces need, got none; "
            "name by --flame the folder of a converted published checkpoint"
        )
    return field


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
