"""Load what a user names, a network or a motion encoder, and refuse what is of another kind, size or head model."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, motion_encoder_of_card, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder, encoder_fingerprint
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity, check_same_model
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.parameter_encoder import ParameterEncoder
from triportrait.core.network_kind import Network, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.safe_text import shown
from triportrait.core.weights import DEMO
from triportrait.train.config import MotionKind, TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """By what data move a reenactment network.

    Attributes:
        motion: which kind of motion. encoder: that gives it. head_model: whose the parameters of faces are.
    """

    motion: MotionKind
    encoder: MotionEncoder | None
    head_model: ModelIdentity | None


def told_encoder(name: str) -> MotionEncoder:
    """Return the motion encoder that a weights folder, or demo, tells of, without its weights.

    Raises: `InputError` where there is none.
    """
    return motion_encoder_of_card(weights_folder(name))


def named_encoder(name: str, config: TrainConfig) -> MotionEncoder:
    """Return a motion encoder that reads pictures, of as many numbers as the network takes.

    Raises: `InputError` for another.
    """
    encoder, width = load_motion_encoder(weights_folder(name)), config.model.transformer.motion_width
    if not encoder.reads_pictures:
        raise InputError(
            f"{name}: expected a motion encoder that reads pictures, got {shown(encoder.name)}, which takes "
            "parameters; say --motion-kind parameters, or name another folder"
        )
    if encoder.motion_width != width:
        raise InputError(
            f"{name}: expected a motion encoder of {width} numbers, got {encoder.motion_width}; name another folder"
        )
    return encoder


def parameter_encoder(name: str, parameters: MotionColumns) -> ParameterEncoder:
    """Return the parameters of the data as motion: as they are, or in the units of a folder that holds such an encoder.

    A folder with another kind of encoder is not asked, as nothing reads pictures.

    Raises: `InputError` where it is of other parameters.
    """
    own = ParameterEncoder(parameters)
    folder = weights_folder(name)
    if name == DEMO or not (folder / "motion.json").exists():
        return own
    encoder = load_motion_encoder(folder)
    if not isinstance(encoder, ParameterEncoder):
        logger.info("motion: the parameters of the data as they are; --motion %s reads pictures and is not asked", name)
        return own
    told = encoder.columns
    if dict(told.widths) != dict(parameters.widths):
        raise InputError(
            f"{name}: expected an encoder of the data's parameters ({_words(parameters)}), got one of {_words(told)}; "
            "name another folder"
        )
    # who says nothing of a model holds published parameters
    ours, theirs = (columns.head_model or PUBLISHED_MODEL for columns in (told, parameters))
    check_same_model(ours, theirs, "data", f"--motion {name}")
    return encoder


def _words(columns: MotionColumns) -> str:
    return ", ".join(f"{name} {width}" for name, width in columns.widths.items())


def load_named(
    name: str,
    model: ModelConfig,
    network: Network,
    option: str,
    advice: str,
    read_as: Reading | None = None,
    any_motion: bool = False,
) -> Portrait4D:
    """Return the portrait of a weights folder, in float32.

    Args:
        network: which one is needed. option: that named the folder. advice: what to do where it is the other.
        read_as: by what the data move it, where it is a reenactment network.
        any_motion: its motion may have another width, as nobody will ask for it.

    Raises: `InputError` for the other network, weights of another size, or ones that something else moves.
    """
    check_network(name, network, option, advice, "pictures" if read_as is None else read_as.motion)
    portrait = load_portrait(weights_folder(name))
    expected, width = model, portrait.config.transformer.motion_width
    if any_motion:
        transformer = dataclasses.replace(model.transformer, motion_width=width)
        expected = dataclasses.replace(model, preset=portrait.config.preset, transformer=transformer)
    if portrait.config != expected:
        raise InputError(
            f"{name}: expected weights of preset {expected.preset}, {expected.image_size} px, motion of "
            f"{expected.transformer.motion_width} numbers, got {portrait.config.preset}, "
            f"{portrait.config.image_size} px, {width}; name another folder"
        )
    if read_as is not None:
        _check_moved_alike(name, portrait, option, read_as)
    portrait.neck = None  # FLAME's tables, which training keeps beside the network
    return portrait.float()


def _check_moved_alike(name: str, portrait: Portrait4D, option: str, read_as: Reading) -> None:
    """Check that a reenactment network is moved by the head model and the motion encoder of the data.

    Raises: `InputError` where it was trained with another of them, as its folder says.
    """
    neck, whose = portrait.neck, f"{option} {shown(name)}"
    if isinstance(neck, NeckField) and read_as.head_model is not None:
        check_same_model(neck.identity or PUBLISHED_MODEL, read_as.head_model, "data", whose)
    folder, encoder = weights_folder(name), read_as.encoder
    if encoder is None or not (folder / "motion.json").exists():
        return
    known = load_motion_encoder(folder)
    mine, others = known.columns, encoder.columns
    if mine is not None and mine.head_model is not None and others is not None and others.head_model is not None:
        check_same_model(mine.head_model, others.head_model, "motion", whose)
    units = None if mine is None else mine.scale
    if encoder_fingerprint(known) != encoder_fingerprint(encoder) or units != (others and others.scale):
        raise InputError(
            f"{whose}: expected a network that is moved by the motion of {shown(encoder.name)} "
            f"({encoder_fingerprint(encoder)}), its own encoder is another, {shown(known.name)} "
            f"({encoder_fingerprint(known)}); say --motion {shown(name)}, or name another network"
        )


def take_named(
    portrait: Portrait4D, name: str, network: Network, option: str, advice: str, read_as: Reading | None = None
) -> None:
    """Put the weights of a folder into a portrait; the arguments are those of `load_named`.

    Raises: `InputError` for the other network, or weights of another size.
    """
    portrait.load_state_dict(load_named(name, portrait.config, network, option, advice, read_as).state_dict())
