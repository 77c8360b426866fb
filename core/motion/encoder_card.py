"""Read what the card beside a motion encoder's weights says of it, and build the network without its weights.

`config` holds what the network is made from (null for PD-FGC and for parameters, the sizes of a small one, the layers
of a declared one), `encoder` its name, width, crop, and what its numbers mean. A card of earlier versions has no
`encoder`: it is a small one where there are sizes, else PD-FGC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.motion.declared_encoder import DeclaredEncoder
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.motion.parameter_encoder import ParameterEncoder
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.safe_text import LONGEST_NAME, listed, literal, shown
from triportrait.core.shapes_alone import shapes_alone

MOST_COLUMNS = 4096  # numbers of a motion whose meaning a card may tell
_FIELDS = {"name", "architecture", "motion_width", "crop", "columns"}
_COLUMNS = {"widths", "scale", "head_model"}
_SMALL_SIZES = {"motion_width": MOST_COLUMNS, "crop_size": 1024, "widths": 4096}  # the largest that a card may name
_ADVICE = "train or convert it again"


def encoder_of_card(config: Any, entry: Any, path: str) -> MotionEncoder:
    """Build the encoder of a card's two entries; a small or a declared one takes no memory for weights.

    Args:
        config, entry: `config` and `encoder` of the card; None where there is none.
        path: of the card.

    Raises:
        InputError: they tell of no encoder, or contradict each other.
    """
    if entry is None:
        return PDFGC() if config is None else _small(config, f"{path} config", None, "small")
    origin = f"{path} encoder"
    if not isinstance(entry, Mapping) or entry.keys() != _FIELDS:
        got = listed(sorted(entry)) if isinstance(entry, Mapping) else literal(entry)
        raise InputError(f"{origin}: expected {', '.join(sorted(_FIELDS))}, got {got}; {_ADVICE}")
    name, architecture = entry["name"], entry["architecture"]
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"{origin}: name: expected 1 to {LONGEST_NAME} letters, got {literal(name, LONGEST_NAME)}; {_ADVICE}"
        )
    if not isinstance(architecture, str) or architecture not in _BUILDERS:
        raise InputError(
            f"{origin}: architecture: expected one of {', '.join(_BUILDERS)}, got "
            f"{literal(architecture, LONGEST_NAME)}; {_ADVICE}"
        )
    columns = None if entry["columns"] is None else _columns(entry["columns"], f"{origin}: columns")
    encoder = _BUILDERS[architecture](config, f"{path} config", columns, name)
    told = encoder.card()
    for field in ("motion_width", "crop", "columns"):
        if not _equal(entry[field], told[field]):
            raise InputError(
                f"{origin}: {field}: expected {literal(told[field])} of this network, got {literal(entry[field])}; "
                f"{_ADVICE}"
            )
    return encoder


def _published(config: Any, origin: str, columns: MotionColumns | None, name: str) -> MotionEncoder:
    _no_config(config, origin)
    encoder = PDFGC()
    if name != encoder.name:
        raise InputError(f"{origin}: expected the name {encoder.name}, got {shown(name)}; {_ADVICE}")
    return encoder


def _parameters(config: Any, origin: str, columns: MotionColumns | None, name: str) -> MotionEncoder:
    _no_config(config, origin)
    if columns is None:
        raise InputError(f"{origin}: expected an encoder of parameters to tell its columns, got null; {_ADVICE}")
    return ParameterEncoder(columns, name)


def _declared(config: Any, origin: str, columns: MotionColumns | None, name: str) -> MotionEncoder:
    return DeclaredEncoder(config, name, columns, origin)


def _small(config: Any, origin: str, columns: MotionColumns | None, name: str) -> SmallMotionEncoder:
    """Build a small motion encoder, without memory for its weights."""
    if not isinstance(config, dict) or config.keys() != _SMALL_SIZES.keys():
        got = listed(sorted(config)) if isinstance(config, dict) else shown(config)
        names = ", ".join(_SMALL_SIZES)
        raise InputError(f"{origin}: expected the sizes of a small motion encoder ({names}), got {got}; {_ADVICE}")
    for key, most in _SMALL_SIZES.items():
        numbers = config[key] if key == "widths" and isinstance(config[key], list | tuple) else [config[key]]
        if not 1 <= len(numbers) <= 8 or not all(type(n) is int and 1 <= n <= most for n in numbers):
            what = "1 to 8 whole numbers" if key == "widths" else "a whole number"
            raise InputError(
                f"{origin}: expected the sizes of a small motion encoder, {key} as {what} from 1 to {most}, got "
                f"{literal(config[key])}; {_ADVICE}"
            )
    if columns is not None and columns.width != config["motion_width"]:
        raise InputError(
            f"{origin}: motion_width: expected {columns.width:,}, as its columns have, got {config['motion_width']:,}; "
            f"{_ADVICE}"
        )
    try:
        with shapes_alone():
            sizes = config["motion_width"], config["crop_size"], tuple(config["widths"])
            return SmallMotionEncoder(*sizes, columns, name)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{origin}: expected the sizes of a small motion encoder, got {shown(config)}; {_ADVICE}"
        ) from error


_BUILDERS: dict[str, Callable[[Any, str, MotionColumns | None, str], MotionEncoder]] = {
    PDFGC.architecture: _published, SmallMotionEncoder.architecture: _small,
    ParameterEncoder.architecture: _parameters, DeclaredEncoder.architecture: _declared,
}  # fmt: skip


def _no_config(config: Any, origin: str) -> None:
    if config is not None:
        raise InputError(f"{origin}: expected null, got {literal(config)}; {_ADVICE}")


def _columns(entry: Any, origin: str) -> MotionColumns:
    if not isinstance(entry, Mapping) or entry.keys() != _COLUMNS:
        got = listed(sorted(entry)) if isinstance(entry, Mapping) else literal(entry)
        raise InputError(f"{origin}: expected {', '.join(sorted(_COLUMNS))}, got {got}; {_ADVICE}")
    widths, scale, model = entry["widths"], entry["scale"], entry["head_model"]
    if not isinstance(widths, Mapping) or not 1 <= len(widths) <= MOST_COLUMNS or not all(
        0 < len(name) <= LONGEST_NAME and name.isprintable() and type(width) is int and 1 <= width <= MOST_COLUMNS
        for name, width in widths.items()
    ):  # fmt: skip
        raise InputError(f"{origin}: widths: expected names with whole numbers from 1 to {MOST_COLUMNS}, got "
                         f"{literal(widths)}; {_ADVICE}")  # fmt: skip
    total = sum(widths.values())
    if total > MOST_COLUMNS or not isinstance(scale, list) or len(scale) != total or not all(
        type(unit) in (int, float) and 1e-12 <= unit <= 1e12 for unit in scale
    ):  # fmt: skip
        raise InputError(f"{origin}: scale: expected {total:,} numbers above 0 (at most {MOST_COLUMNS:,}), got "
                         f"{literal(scale)}; {_ADVICE}")  # fmt: skip
    identity = None if model is None else ModelIdentity.from_dict(model, f"{origin}: head_model")
    return MotionColumns(dict(widths), tuple(map(float, scale)), identity)


def _equal(given: Any, told: Any) -> bool:
    """Compare plain JSON values by type, too, as 1, 1.0 and true are not the same on a card."""
    if isinstance(told, dict):
        return isinstance(given, Mapping) and given.keys() == told.keys() and all(
            _equal(given[key], value) for key, value in told.items()
        )  # fmt: skip
    if isinstance(told, list):
        return isinstance(given, list) and list(map(float, given)) == told
    return type(given) is type(told) and bool(given == told)
