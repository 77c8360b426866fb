"""Convert published weight files: read without running anything, rename, check, write to a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.checksum import fingerprint
from triportrait.core.config import GenHeadConfig, ModelConfig, genhead_ffhq512, portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import EYELIDS, SCENE_UNITS_PER_METRE, rescale_flame
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.published.flame_file import VERSIONS, is_flame, read_flame_content
from triportrait.core.published.names import rename
from triportrait.core.published.network_contract import (
    STORED,
    Kind,
    check_contract,
    check_options,
    ignored,
    left_out,
    numbers_of,
)
from triportrait.core.published.networks import Network, networks_of
from triportrait.core.safe_text import shown
from triportrait.core.shapes_alone import shapes_alone
from triportrait.core.tracking.head_model import complete_flame, flame_file_tables, identity_of

LICENCES = {
    "portrait": "the weights keep the licence of their authors; FLAME's tables inside keep the FLAME licence",
    "genhead": "the weights keep the licence of their authors; FLAME's tables inside keep the FLAME licence",
    "discriminator": "the weights keep the licence of their authors",
    "genhead_discriminator": "the weights keep the licence of their authors",
    "motion": "the weights keep the licence of PD-FGC's authors",
    "arcface": "the weights keep the licence of InsightFace (non-commercial research)",
    "recon3d": "the weights keep the licence of Deep3DFaceRecon's authors (MIT) and of the Basel Face Model "
    "(non-commercial research)",
    "flame_mapper": "the weights keep the licence of Portrait4D's authors (MIT); they were fitted to values of "
    "FLAME, whose licence is non-commercial",
    "syncnet": "the weights keep the licence of SyncNet's authors (MIT)",
    "emotion": "the weights keep the licence of EMOCA's authors, the Max Planck Society (non-commercial research)",
    "flame": "the tables keep the FLAME licence of the Max Planck Society",
}
_RECONSTRUCTOR_MARK, _GENERATOR_MARK = "encoder_canonical.proj_y.weight", "backbone.mapping.embed.weight"
# a tensor that tells which network a plain list of tensors is of
_PLAIN_MARKS: dict[str, Kind] = {
    "to_mouth.0.weight": "motion",
    "layer1.0.prelu.weight": "arcface",
    "final_layers.0.weight": "recon3d",
    "maps.0.weight": "flame_mapper",
    "netcnnlip.0.weight": "syncnet",
    "linear.weight": "emotion",
}
_STYLE = "w_avg"  # published name of the style of super-resolution


@dataclass(frozen=True)
class Converted:
    """One written network: its kind, its safetensors file, how many tensors and numbers it holds."""

    kind: str
    path: Path
    num_tensors: int
    num_values: int


@dataclass(frozen=True)
class Conversion:
    """The networks written from a file, and sentences.

    Attributes:
        parts: what was written.
        warnings: one for each thing that was left out or had no effect.
        notes: one that says what a FLAME file lacked, and where it came from.
    """

    parts: list[Converted]
    warnings: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """One network ready to be written: tensors by our names, its sizes, its provenance, what is not in it."""

    tensors: dict[str, Tensor]
    config: ModelConfig | GenHeadConfig | None
    details: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FlameOptions:
    """What a FLAME file does not say of itself; the fields are the arguments of `load_head_model`."""

    version: str | None = None
    directions: tuple[int, int] | None = None
    assets: tuple[Path, ...] = ()
    tables_from: str | None = None


def convert(
    file: Path,
    folder: Path,
    overwrite: bool = False,
    ignore: Sequence[str] = (),
    flame: FlameOptions | None = None,
) -> Conversion:
    """Write the networks of a published file into a weights folder: float32, int64 and truth values.

    A discriminator that is not the published one is left out, with a warning; any other network must be whole.

    Args:
        file: a Portrait4D pickle (v2, v1 or static: the weights of G_ema, and D beside them), a GenHead pickle,
            PD-FGC's motion_model.pth, ArcFace's backbone.pth, Deep3DFaceRecon's epoch_20.pth, Portrait4D's mapper
            from its coefficients to FLAME, model-iter200000.pth, SyncNet's syncnet_v2.model, the checkpoint of EMOCA's
            emotion network, or a FLAME file, pickle or `.npz`.
        folder: made when it is missing.
        overwrite: replace weights of the same kind that are there already.
        ignore: patterns (`*`, `?`, `[ab]`) of unknown tensors that may be left out. They do not excuse a tensor that
            is missing or wrong.
        flame: what a FLAME file does not say of itself.

    Raises:
        InputError: the file is missing, damaged, hostile or none of these; a tensor is missing, unknown, misshapen, of
            another kind of number, out of range or not finite; a portrait was made with other options; the folder holds
            such weights already. Nothing is written then.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a published weight file")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the weights, this is a file; choose another name")
    content = read_flame_content(file)
    warnings: list[str] = []
    notes: list[str] = []
    if is_flame(content):
        networks = _flame(file, content, flame or FlameOptions(), notes)
    elif flame is not None and flame != FlameOptions():
        raise InputError(
            f"{file}: expected a FLAME file for the options that begin with --flame, --assets and --tables-from, "
            "got another; leave them out"
        )
    else:
        networks = _networks(content, file, ignore, warnings)
    if not overwrite:
        for kind in networks:
            if (folder / f"{kind}.safetensors").exists():
                raise InputError(f"{folder / kind}.safetensors: exists already; pass --overwrite to replace it")
    dropped = [name for part in networks.values() for name in part.ignored]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in dropped):
            warnings.append(f"--ignore {pattern}: fits no unknown tensor of {file}")
    origin = {"file": file.name, **fingerprint(file)}
    written = []
    for kind, part in networks.items():
        details = {**origin, **part.details, "licence": LICENCES[kind], "converted_by": f"triportrait {__version__}"}
        path = save_weights(folder, kind, part.tensors, _pdfgc() if kind == "motion" else part.config, details)
        written.append(Converted(kind, path, len(part.tensors), sum(t.numel() for t in part.tensors.values())))
    return Conversion(written, warnings, notes)


def _pdfgc() -> PDFGC:
    """Return what the card of the published motion encoder is written from; no memory is taken for weights."""
    with shapes_alone():
        return PDFGC()


def _networks(content: Any, file: Path, ignore: Sequence[str], warnings: list[str]) -> dict[str, _Part]:
    networks = networks_of(content, str(file))
    if "" in networks:
        plain = networks[""]
        for mark, kind in _PLAIN_MARKS.items():
            if mark in plain.tensors:
                return {kind: _part(plain, kind, str(file), ignore)}
        raise InputError(
            f"{file}: expected PD-FGC's, ArcFace's, Deep3DFaceRecon's, SyncNet's, the FLAME mapper's or the emotion "
            "network's tensors, got others; give one of the published files"
        )
    main = networks.get("G_ema")
    if main is None:
        raise InputError(f"{file}: expected the network G_ema, got {', '.join(networks)}; fetch it again")
    where = f"{file}: G_ema"
    if _RECONSTRUCTOR_MARK in main.tensors:
        parts = {"portrait": _part(main, "portrait", where, ignore, portrait4d_v2())}
    elif _GENERATOR_MARK in main.tensors:
        parts = {"genhead": _part(main, "genhead", where, ignore, genhead_ffhq512())}
    else:
        raise InputError(
            f"{where}: expected a reconstructor or a GenHead, got a {shown(main.kind)}; give a published file"
        )
    if "D" in networks:
        stem = "discriminator" if "portrait" in parts else "genhead_discriminator"  # both may lie in one folder
        try:
            parts[stem] = _part(networks["D"], "discriminator", f"{file}: D", ignore)
        except InputError as refusal:
            warnings.append(f"the discriminator is left out: {refusal}")
    return parts


def _part(
    network: Network, kind: Kind, where: str, ignore: Sequence[str], config: ModelConfig | GenHeadConfig | None = None
) -> _Part:
    dropped = left_out(kind, network.tensors, ignore)
    gone = set(dropped)
    tensors = {name: tensor for name, tensor in network.tensors.items() if name not in gone}
    details: dict[str, Any] = {"class": shown(network.kind), "settings": network.settings} if network.kind else {}
    if dropped:
        details["ignored"] = [shown(name) for name in dropped]
    if kind == "portrait" or kind == "genhead":
        check_options(network.settings, where, kind)
    ones = config is not None and bool(network.settings.get("use_ws_ones"))
    if config is not None and ones:
        details["style"] = "all ones, because the network was made with use_ws_ones"
        if kind == "portrait":
            tensors[_STYLE] = torch.ones(config.render.style_width)
    check_contract(kind, tensors, where)
    tensors = {name: t.to(STORED[numbers_of(name)]) for name, t in tensors.items() if not ignored(name)}
    if kind == "portrait" or kind == "motion" or kind == "genhead":
        names = rename(tensors, kind)
        tensors = {names[name]: tensor for name, tensor in tensors.items()}
    if kind == "genhead":  # the published file has no tensor for the style of super-resolution
        mean = tensors["mapping.mean_style"]
        tensors["superres.style"] = torch.ones_like(mean) if ones else mean.clone()
        details.setdefault("style", "the mean style of the mapping, because the network was made without use_ws_ones")
    _check_finite(tensors, where)
    return _Part(tensors, config, details, dropped)


def _flame(file: Path, content: Any, options: FlameOptions, notes: list[str]) -> dict[str, _Part]:
    """Make the head model of a FLAME file: its tables in metres, and what it lacks."""
    tables, num_shape, version = flame_file_tables(file, options.version, options.directions, content)
    scaled = rescale_flame(tables)
    whole = complete_flame(scaled, options.assets, options.tables_from)
    for name, table in whole.flame.items():
        if name not in tables:
            tables[name] = table / SCENE_UNITS_PER_METRE if name == EYELIDS else table
    tensors = tables | {f"mesh.{name}": table for name, table in whole.mesh.items()}
    _check_finite(tensors, str(file))
    if whole.derived:
        notes.append(f"{file}: " + "; ".join(f"{table}: {origin}" for table, origin in whole.derived.items()))
    details = {
        "units": "metres, as published",
        "head_model": identity_of(scaled, num_shape, VERSIONS[version]).to_dict(),
        "version": version,
        "num_shape": num_shape,
        "num_expression": tables["shape_directions"].shape[-1] - num_shape,
        "num_eyelids": 2 if EYELIDS in tables else 0,
        "derived": whole.derived,
    }
    return {"flame": _Part(tensors, None, details)}


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: {name} holds numbers that are not finite in float32; fetch the file again")
