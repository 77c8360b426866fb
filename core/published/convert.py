"""Published weight files -> a weights folder of ours: read without running anything, renamed, checked, written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.config import ModelConfig, portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.published.contract import Kind, check_contract, ignored
from triportrait.core.published.flame_file import flame_of, is_flame
from triportrait.core.published.names import rename
from triportrait.core.published.networks import Network, networks_of
from triportrait.core.published.unpickle import read_pickle

LICENCES = {
    "portrait": "the weights keep the licence of their authors; FLAME's tables inside keep the FLAME licence",
    "genhead": "the weights keep the licence of their authors; FLAME's tables inside keep the FLAME licence",
    "discriminator": "the weights keep the licence of their authors",
    "motion": "the weights keep the licence of PD-FGC's authors",
    "arcface": "the weights keep the licence of InsightFace (non-commercial research)",
    "flame": "the tables keep the FLAME licence of the Max Planck Society",
}
_RECONSTRUCTOR_MARK, _GENERATOR_MARK = "encoder_canonical.proj_y.weight", "backbone.mapping.embed.weight"
_MOTION_MARK, _ARCFACE_MARK = "to_mouth.0.weight", "layer1.0.prelu.weight"


@dataclass(frozen=True)
class Converted:
    """One written network: its kind, its safetensors file, how many tensors and numbers it holds."""

    kind: str
    path: Path
    num_tensors: int
    num_values: int


def convert(file: Path, folder: Path, overwrite: bool = False) -> list[Converted]:
    """Write the networks of a published file into a weights folder.

    Args:
        file: a Portrait4D pickle (v2, v1 or static: the weights of G_ema, and D beside them), a GenHead pickle,
            PD-FGC's motion_model.pth, ArcFace's backbone.pth, or FLAME's generic_model.pkl.
        folder: made when it is missing.
        overwrite: replace weights of the same kind that are there already.

    Raises:
        InputError: the file is missing, damaged, hostile or none of these; a tensor is missing, unknown, misshapen or
            not finite; the folder holds such weights already. Nothing is written then.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a published weight file")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the weights, this is a file; choose another name")
    content = read_pickle(file)
    networks = _flame(content, file) if is_flame(content) else _networks(content, file)
    if not overwrite:
        for kind in networks:
            if (folder / f"{kind}.safetensors").exists():
                raise InputError(f"{folder / kind}.safetensors: exists already; pass --overwrite to replace it")
    origin = {"file": file.name, "sha256": _sha256(file), "bytes": file.stat().st_size}
    written = []
    for kind, (tensors, config, details) in networks.items():
        provenance = {**origin, **details, "licence": LICENCES[kind], "converted_by": f"triportrait {__version__}"}
        path = save_weights(folder, kind, tensors, config, provenance)
        written.append(Converted(kind, path, len(tensors), sum(t.numel() for t in tensors.values())))
    return written


_Found = dict[str, tuple[dict[str, Tensor], ModelConfig | None, dict[str, Any]]]


def _networks(content: Any, file: Path) -> _Found:
    networks = networks_of(content, str(file))
    if "" in networks:
        plain = networks[""]
        if _MOTION_MARK in plain.tensors:
            return {"motion": _part(plain, "motion", file)}
        if _ARCFACE_MARK in plain.tensors:
            return {"arcface": _part(plain, "arcface", file)}
        raise InputError(f"{file}: expected PD-FGC's or ArcFace's tensors, got others; give one of the published files")
    main = networks.get("G_ema")
    if main is None:
        raise InputError(f"{file}: expected the network G_ema, got {', '.join(networks) or 'none'}; fetch it again")
    if _RECONSTRUCTOR_MARK in main.tensors:
        found = {"portrait": _part(main, "portrait", file, portrait4d_v2())}
    elif _GENERATOR_MARK in main.tensors:
        found = {"genhead": _part(main, "genhead", file)}
    else:
        raise InputError(f"{file}: G_ema is neither a reconstructor nor a GenHead ({main.kind}); give a published file")
    if "D" in networks:
        found["discriminator"] = _part(networks["D"], "discriminator", file)
    return found


def _part(
    network: Network, kind: Kind, file: Path, config: ModelConfig | None = None
) -> tuple[dict[str, Tensor], ModelConfig | None, dict[str, Any]]:
    check_contract(kind, network.tensors, str(file))
    kept = {name: tensor for name, tensor in network.tensors.items() if not ignored(name)}
    if kind in ("portrait", "motion"):
        names = rename(kept, kind)  # type: ignore[arg-type] # these two kinds have modules
        kept = {names[name]: tensor for name, tensor in kept.items()}
    _check_finite(kept, file)
    details = {"class": network.kind, "settings": network.settings} if network.kind else {}
    return kept, config, details


def _flame(content: Any, file: Path) -> _Found:
    tables = {name: torch.from_numpy(array) for name, array in flame_of(content, str(file)).items()}
    tables["pose_directions"] = tables["pose_directions"].flatten(0, 1).T.contiguous()
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tables.items()}
    _check_finite(tensors, file)
    return {"flame": (tensors, None, {"units": "metres, as published"})}


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{file}: {name} holds numbers that are not finite; fetch the file again")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
