"""GenHead's weights on the disk: `genhead.safetensors` and `genhead.json` of a weights folder, with FLAME's tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from triportrait.core.checkpoint import filled, load_neck, read_card, read_tensors, save_weights
from triportrait.core.config import GENHEAD_PRESETS, GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.regions import part_tables
from triportrait.core.motion.flame import Flame
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.motion.neck import NeckField
from triportrait.core.safe_text import shown
from triportrait.core.shapes_alone import shapes_alone

KIND = "genhead"


def neck_with_parts(
    config: GenHeadConfig,
    flame: Flame,
    mesh: Mapping[str, Tensor] | None = None,
    identity: ModelIdentity | None = None,
) -> NeckField:
    """Build what a GenHead needs of a head model: the neck's field, and the lists of its parts.

    Args:
        config: the generator's sizes.
        flame: a head model, scene units, with the tables of 70 landmarks.
        mesh: the tables that came with it, under their published names; `part_tables` makes what is missing.
        identity: the head model that the tables are of; None where nobody said, as in published checkpoints.

    Raises:
        InputError: the model lacks what the lists are made from, or has other numbers of directions.
    """
    tables = dict(flame.named_buffers())
    return NeckField(config.neck, config.render.box_side, tables, part_tables(flame, mesh), identity)


def genhead_fingerprint(generator: GenHead) -> str:
    """Compute what tells generators apart: a hash of their weights, 16 digits; the head model has an identity.

    The same weights in half and in full precision have one fingerprint.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        if tensor.is_floating_point() and not name.startswith("neck."):
            digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_genhead(folder: str | Path) -> GenHead:
    """Load the generator of a weights folder on the CPU, in evaluation mode, with its head model if there is one.

    Raises:
        InputError: weights missing, damaged, not finite, or disagreeing with the sizes beside them; they were converted
            before there was a generator here.
    """
    folder = Path(folder)
    card = read_card(folder, KIND)
    origin = str(folder / f"{KIND}.safetensors")
    if card.get("config") is None:
        raise InputError(
            f"{folder / 'genhead.json'}: expected the sizes of a GenHead, got none, as an older version wrote it; "
            "convert the published file again"
        )
    config = GenHeadConfig.from_dict(card["config"], f"{folder / 'genhead.json'} config")
    if config.preset in GENHEAD_PRESETS and config != GENHEAD_PRESETS[config.preset]():
        raise InputError(
            f"{folder / 'genhead.json'}: expected the sizes of the preset {config.preset}, got others; convert again"
        )
    tensors = read_tensors(folder, KIND)
    tables = {name: tensors.pop(name) for name in list(tensors) if name.startswith("neck.")}
    generator = build_genhead(config, tensors, origin)
    neck = load_neck(folder, config.neck, config.render.box_side, tables, "genhead")
    if isinstance(neck, NeckField):
        mesh = dict(neck.mesh.named_buffers())
        whole = part_tables(neck.flame, mesh).keys() == mesh.keys()
        generator.set_head_model(neck if whole else neck_with_parts(config, neck.flame, mesh, neck.identity))
    return generator


def build_genhead(config: GenHeadConfig, tensors: Mapping[str, Tensor], origin: str) -> GenHead:
    """Build a generator of exactly these tensors, without a head model.

    Raises:
        InputError: names or shapes disagree with the config; `origin` starts the sentence.
    """
    with shapes_alone():
        generator = GenHead(config)
    return filled(generator, tensors, origin, f"a GenHead of the preset {shown(config.preset)}")


def save_genhead(folder: Path, generator: GenHead, provenance: Mapping[str, Any]) -> Path:
    """Write a generator, with its head model, like `save_weights`.

    Args:
        folder: made when it is missing.
        generator: not folded.
        provenance: plain JSON values; `head_model` holds the identity of the head model that it draws.

    Returns:
        The path of the safetensors file.

    Raises:
        InputError: the folder cannot be made or written.
    """
    return save_weights(folder, KIND, generator.state_dict(), generator.config, provenance)
