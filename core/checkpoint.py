"""Weights on the disk: a folder with one safetensors file per network and a JSON beside it that says what it is.

    weights/portrait.safetensors  portrait.json     Ψ, R and FLAME's tables
    weights/motion.safetensors    motion.json       v
    weights/genhead.safetensors   genhead.json      the generator that stage 1 learns from, and FLAME's tables
    weights/flame.safetensors     flame.json        only where a FLAME file was converted by itself: a head model
    weights/neck.safetensors      neck.json         only beside weights of procedural heads: how their mean head turns

The JSON holds the format, the kind, the preset and every size, and the provenance. The package itself has one such
folder, named `demo`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from triportrait.core.atomic import replacing
from triportrait.core.config import PRESETS, GenHeadConfig, ModelConfig, NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file, read_json
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.encoder_card import encoder_of_card
from triportrait.core.motion.flame import padded_directions, rescale_flame
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.polynomial_neck import PolynomialNeck
from triportrait.core.portrait import Portrait4D
from triportrait.core.safe_text import LONGEST_NAME, listed, literal, shown
from triportrait.core.shapes_alone import shapes_alone
from triportrait.core.weights import DEMO, DEMO_FOLDER

FORMAT = 1
_FIELDS = {"format", "kind", "config", "provenance"}
LISTED = 5  # names shown per kind of disagreement
STORED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
          torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # fmt: skip
Filled = TypeVar("Filled", bound=nn.Module)
UNTRACKED = "num_batches_tracked"  # a counter of training that evaluation never reads


def demo_weights() -> Path:
    """Return the weights folder inside the package: the tiny network, trained on procedural heads.

    Raises:
        InputError: a file of it is not there.
    """
    names = [f"{kind}{ending}" for kind in ("portrait", "motion") for ending in (".safetensors", ".json")]
    missing = [name for name in names if not (DEMO_FOLDER / name).is_file()]
    if missing:
        raise InputError(
            f"weights demo: expected the package's own weights, {DEMO_FOLDER} lacks {', '.join(missing)}; install "
            "triportrait again, or make some with `triportrait train tiny --out RUN` and name RUN/weights"
        )
    return DEMO_FOLDER


def weights_folder(name: str | Path) -> Path:
    """Return the folder that a name means: "demo" is the one in the package (`./demo` is yours), all else is a path.

    Raises:
        InputError: the package's weights are asked for and are not there.
    """
    return demo_weights() if name == DEMO else Path(name)


def save_weights(
    folder: Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    config: ModelConfig | GenHeadConfig | MotionEncoder | None,
    provenance: Mapping[str, Any],
) -> Path:
    """Write one network; both files appear whole or not at all, the JSON last.

    Args:
        folder: made when it is missing.
        kind: portrait, motion, flame, neck, genhead, discriminator, arcface, recon3d, flame_mapper, syncnet or emotion;
            the stem of both files.
        tensors: name -> tensor, any float or integer type.
        config: the sizes, for a portrait or a GenHead; the network itself, for a motion encoder.
        provenance: plain JSON values: where the weights come from and under which licence.

    Returns:
        The path of the safetensors file.

    Raises:
        InputError: the folder cannot be made or written.
    """
    card = {
        "format": FORMAT,
        "kind": kind,
        "config": None if config is None else config.to_dict(),
        **({"encoder": config.card()} if isinstance(config, MotionEncoder) else {}),
        "provenance": dict(provenance),
    }
    path, card_path = folder / f"{kind}.safetensors", folder / f"{kind}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(card_path, only_writer=True) as card_part, replacing(path, only_writer=True) as part:
            save_file(_apart(tensors), part)
            card_part.write_text(json.dumps(card, indent=1) + "\n")
            os.chmod(part, card_part.stat().st_mode)  # safetensors lets only the owner read
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the weights could not be written ({error}); choose a folder with room") from error
    return path


def save_motion_encoder(
    folder: Path, tensors: Mapping[str, Tensor], encoder: MotionEncoder, provenance: Mapping[str, Any]
) -> Path:
    """Write a motion encoder of any kind, like `save_weights`; the encoder itself tells what stands on the card.

    Args:
        tensors: its weights, which may be in half precision; those of a declared encoder lie nowhere else.

    Raises:
        InputError: the tensors are not those of the encoder, or the folder cannot be made or written.
    """
    tensors = {name: t for name, t in tensors.items() if not name.endswith(UNTRACKED)}
    check_names(_expected(encoder), tensors, "tensors", encoder.name)
    return save_weights(folder, "motion", tensors, encoder, provenance)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor memory of its own: safetensors refuses two that share it."""
    apart: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    return apart


def read_card(folder: Path, kind: str) -> dict[str, Any]:
    """Read the JSON beside a network's weights.

    Raises:
        InputError: the folder, the file or a field of it is missing or damaged.
    """
    path = folder / f"{kind}.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such weights folder; make one with `triportrait convert FILE {folder}`")
    try:
        card = read_json(path)
    except FileNotFoundError as error:
        if sentence := _training_folder(folder):
            raise InputError(sentence) from error
        files = sorted(p.name for p in folder.iterdir() if p.suffix in (".json", ".safetensors"))
        holds = f"it holds {listed(files)}" if files else "it holds no weights"
        raise InputError(
            f"{path}: no such file in the weights folder, {holds}; convert the published file into it"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); mend its permissions or convert again") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({shown(str(error))}); convert the weights again") from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: expected format {FORMAT} and kind {kind}; convert the weights again")
    card_format, card_kind = card.get("format"), card.get("kind")
    if type(card_format) is not int or (card_format, card_kind) != (FORMAT, kind):
        raise InputError(
            f"{path}: expected format {FORMAT} and kind {kind}, got {literal(card_format, LONGEST_NAME)} and "
            f"{literal(card_kind, LONGEST_NAME)}; convert the weights again"
        )
    fields = _FIELDS | {"encoder"} if kind == "motion" else _FIELDS
    if unknown := card.keys() - fields:
        expected, got = ", ".join(sorted(fields)), listed(sorted(unknown))
        raise InputError(f"{path}: expected {expected}, got {got} beside them; convert the weights again")
    if not isinstance(card.get("provenance", {}), dict):
        raise InputError(f"{path}: provenance: expected an object, got {literal(card['provenance'])}; convert again")
    return card


def _training_folder(folder: Path) -> str:
    """Return what to say of the folder of a training, which is no weights folder; empty for any other folder."""
    if (folder / "weights" / "portrait.json").is_file():
        return f"{folder}: this is the folder of a training; name {folder / 'weights'} or {folder / 'static'}"
    if not any((folder / name).exists() for name in ("checkpoint.json", "checkpoints", "log.jsonl")):
        return ""
    command = f"`triportrait train export {folder} FOLDER`"
    return f"{folder}: this is a run, not its weights; make them by {command} and name that"


def read_tensors(folder: Path, kind: str, start: str = "") -> dict[str, Tensor]:
    """Read the tensors of one network to the CPU.

    Args:
        start: with which the names of those begin that are read.

    Raises:
        InputError: the file is missing, damaged, or holds a number that is not finite.
    """
    path = folder / f"{kind}.safetensors"
    try:
        check_tensor_file(path)  # first, because the library calls every file that it cannot open missing
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(start)}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; convert the published weights again") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; make the file readable") from error
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or shown(str(error))
        raise InputError(f"{path}: not a whole safetensors file ({reason}); convert the weights again") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED:
            raise InputError(
                f"{path}: {shown(name)}: expected floating point of 16 to 64 bits or whole numbers, got "
                f"{str(tensor.dtype).removeprefix('torch.')}; convert the weights again"
            )
        used = tensor.float() if tensor.dtype == torch.float64 else tensor  # a large float64 becomes infinite
        if used.is_floating_point() and not bool(used.isfinite().all()):
            raise InputError(f"{path}: {shown(name)} holds numbers that are not finite; these weights cannot be used")
    return tensors


def load_portrait(folder: str | Path, preset: str | None = None) -> Portrait4D:
    """Load the portrait network of a weights folder on the CPU, in evaluation mode, with a neck field if there is one.

    Args:
        folder: a weights folder.
        preset: the preset that the weights must have; None takes any.

    Raises:
        InputError: weights missing, of another preset, damaged, not finite, or disagreeing with the sizes beside them.
    """
    folder = Path(folder)
    card = read_card(folder, "portrait")
    config = ModelConfig.from_dict(card.get("config"), f"{folder / 'portrait.json'} config")
    if config.preset in PRESETS and config != PRESETS[config.preset]():
        raise InputError(
            f"{folder / 'portrait.json'}: expected the sizes of the preset {config.preset}, got others; convert again"
        )
    if preset is not None and config.preset != preset:
        raise InputError(
            f"{folder}: expected weights of the preset {preset}, got {shown(config.preset)}; name another folder"
        )
    tensors = read_tensors(folder, "portrait")
    tables = {name: tensors.pop(name) for name in list(tensors) if name.startswith("neck.")}
    portrait = build_portrait(config, tensors, str(folder / "portrait.safetensors"))
    portrait.neck = load_neck(folder, config.neck, config.render.box_side, tables)
    return portrait


def build_portrait(config: ModelConfig, tensors: Mapping[str, Tensor], origin: str) -> Portrait4D:
    """Build a portrait network of exactly these tensors, without a neck field.

    Raises:
        InputError: names or shapes disagree with the config; `origin` starts the sentence.
    """
    with shapes_alone():
        portrait = Portrait4D(config)
    return filled(portrait, tensors, origin, f"preset {shown(config.preset)}")


def load_neck(
    folder: Path, config: NeckConfig, box_side: float, tables: Mapping[str, Tensor], kind: str = "portrait"
) -> NeckField | PolynomialNeck | None:
    """Build the neck field of a network's own tables, else of the FLAME file or of the polynomials beside it.

    Args:
        folder: the weights folder.
        config, box_side: sizes of the network.
        tables: the network's tensors that begin with `neck.`.
        kind: of the network, whose card says which head model these are.

    Returns:
        None where nothing tells how a neck turns.

    Raises:
        InputError: tables are damaged, or do not fit the sizes.
    """
    if (head := head_tables(folder, tables, kind)) is not None:
        directions = head.flame.get("shape_directions")
        if head.num_shape is not None and directions is not None and directions.ndim == 3:
            head.flame["shape_directions"] = padded_directions(
                directions, head.num_shape, config.num_shape, config.num_expression
            )
        return NeckField(config, box_side, head.flame, head.mesh, head.identity)
    if not os.path.lexists(folder / "neck.safetensors"):  # a broken link is refused where it is read
        return None
    if (sizes := read_card(folder, "neck").get("config")) is not None:
        raise InputError(f"{folder / 'neck.json'}: config: expected null, got {literal(sizes)}; convert again")
    return PolynomialNeck(config, box_side, read_tensors(folder, "neck"))


@dataclass(frozen=True)
class HeadTables:
    """The tables of a head model as a weights folder has them.

    Attributes:
        flame: of `Flame`, scene units. mesh: of the coarse mesh and the regions.
        provenance: of the card beside them.
        identity: what the card says of the model; None for published checkpoints and old conversions.
        num_shape: how many directions are shape; None where the network's sizes tell.
    """

    flame: dict[str, Tensor]
    mesh: dict[str, Tensor]
    provenance: dict[str, Any]
    identity: ModelIdentity | None
    num_shape: int | None = None


def head_tables(folder: Path, tables: Mapping[str, Tensor] | None = None, kind: str = "portrait") -> HeadTables | None:
    """Read the tables of a head model: those in the portrait, else those of a FLAME file converted beside it.

    Args:
        tables: the network's tensors that begin with "neck.", where they are at hand.
        kind: of that network.

    Returns: None where the folder has none.
    Raises: `InputError` where they are damaged.
    """
    if tables is None:
        tables = read_tensors(folder, "portrait", "neck.") if os.path.lexists(folder / "portrait.safetensors") else {}
    if not tables and os.path.lexists(folder / "flame.safetensors"):
        kind, tables = "flame", read_tensors(folder, "flame")
    if not tables:
        return None
    noted = read_card(folder, kind).get("provenance", {})
    where = f"{folder / kind}.json: head_model"
    identity = ModelIdentity.from_dict(noted["head_model"], where) if "head_model" in noted else None
    num_shape = noted.get("num_shape")
    if num_shape is not None and (type(num_shape) is not int or not 0 <= num_shape <= NeckConfig.num_shape):
        most = NeckConfig.num_shape
        raise InputError(
            f"{folder / kind}.json: num_shape: expected 0 to {most}, got {literal(num_shape)}; convert again"
        )
    parts = {
        part: {name.removeprefix(start): table for name, table in tables.items() if name.startswith(start)}
        for part, start in (("flame", "neck.flame."), ("mesh", "neck.mesh."))
    }
    if kind == "flame" and not parts["flame"]:  # as converted: FLAME's own tables in metres, the mesh's under a prefix
        flame = {name: table for name, table in tables.items() if not name.startswith("mesh.")}
        mesh = {name.removeprefix("mesh."): table for name, table in tables.items() if name.startswith("mesh.")}
        return HeadTables(rescale_flame(flame), mesh, noted, identity, num_shape)
    return HeadTables(parts["flame"], parts["mesh"], noted, identity, num_shape if kind == "flame" else None)


def load_pair(folder: str | Path) -> tuple[Portrait4D, MotionEncoder]:
    """Load the portrait and the motion encoder of a weights folder.

    Raises:
        InputError: one of them cannot be loaded, or they do not fit each other.
    """
    portrait, motion_encoder = load_portrait(folder), load_motion_encoder(folder)
    width = portrait.config.transformer.motion_width
    if motion_encoder.motion_width != width:
        raise InputError(
            f"{folder}: the portrait takes motion of {width} numbers, the motion encoder gives "
            f"{motion_encoder.motion_width}; put two files of one training or conversion there"
        )
    return portrait, motion_encoder


def load_motion_encoder(folder: str | Path) -> MotionEncoder:
    """Load the motion encoder of a weights folder on the CPU, in evaluation mode; its card says of which kind it is.

    Raises:
        InputError: the card or the weights are missing, damaged, not finite, or have other names or shapes.
    """
    folder = Path(folder)
    encoder = motion_encoder_of_card(folder)
    return filled(encoder, read_tensors(folder, "motion"), str(folder / "motion.safetensors"), _named(encoder))


def motion_encoder_of_card(folder: str | Path) -> MotionEncoder:
    """Return the motion encoder that a card tells of, without its weights: its name, width and crop are known.

    Raises:
        InputError: there is no such card, or it tells of no encoder.
    """
    path = Path(folder) / "motion.json"
    card = read_card(Path(folder), "motion")
    return encoder_of_card(card.get("config"), card.get("encoder"), str(path))


def _named(encoder: MotionEncoder) -> str:
    kinds = {"PD-FGC": "the motion encoder", "small": "the small motion encoder"}
    return kinds.get(encoder.architecture, f"the motion encoder {shown(encoder.name, LONGEST_NAME)}")


def build_motion_encoder(tensors: Mapping[str, Tensor], origin: str) -> PDFGC:
    """Build the published motion encoder of exactly these tensors.

    Raises:
        InputError: names or shapes disagree; `origin` starts the sentence.
    """
    return filled(PDFGC(), tensors, origin, "the motion encoder")


def filled(network: Filled, tensors: Mapping[str, Tensor], origin: str, what: str) -> Filled:
    """Put exactly these tensors into a network, in float32, and freeze it in evaluation mode.

    Raises:
        InputError: names, shapes or kinds of number disagree; `origin` starts the sentence, `what` names the network.
    """
    check_names(_expected(network), tensors, origin, what)
    made_without_memory = any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False, assign=made_without_memory)
    return network.eval().requires_grad_(False)


def _expected(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.endswith(UNTRACKED)}


def check_names(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], origin: str, what: str) -> None:
    """Compare a file's tensors with what a network has.

    Raises:
        InputError: lists the missing, the unknown and the misshapen names.
    """
    problems = []
    for label, names in (("missing", expected.keys() - tensors.keys()), ("unknown", tensors.keys() - expected.keys())):
        if names:
            problems.append(f"{len(names)} {label} ({listed(sorted(names))})")
    misshapen = [n for n in expected.keys() & tensors.keys() if tuple(tensors[n].shape) != tuple(expected[n])]
    if misshapen:
        clauses = [
            f"{n} {_sizes(tensors[n].shape)} instead of {list(expected[n])}" for n in sorted(misshapen)[: LISTED + 1]
        ]
        dots = ", ..." * (len(clauses) > LISTED)
        problems.append(f"{len(misshapen)} of another shape ({', '.join(clauses[:LISTED])}{dots})")
    mistyped = [n for n in expected.keys() & tensors.keys() if not tensors[n].is_floating_point()]
    if mistyped:
        clauses = [f"{n} {str(tensors[n].dtype).removeprefix('torch.')}" for n in mistyped]
        problems.append(f"{len(mistyped)} not of real numbers ({listed(sorted(clauses))})")
    if problems:
        raise InputError(f"{origin}: expected the weights of {what}: {', '.join(problems)}; convert the right file")


def _sizes(shape: torch.Size) -> str:
    return shown(", ".join(map(str, shape[:LONGEST_NAME])), LONGEST_NAME).join("[]")
