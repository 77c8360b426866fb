"""`--show-schedule` of a row with a dynamic teacher: what stage 2 begins as, who draws pseudo views, who learns.

The paper's values stand beside those of the networks that are named, as far as their cards tell.
"""

from __future__ import annotations

from typing import Any

from triportrait.core.checkpoint import read_card, weights_folder
from triportrait.core.network_kind import network_of
from triportrait.core.safe_text import shown
from triportrait.core.weights import DEMO
from triportrait.train.ablations import PORTRAIT4D, TABLE, RowName
from triportrait.train.config import TrainConfig
from triportrait.train.networks import InitFrom
from triportrait.train.portrait4d_presets import PORTRAIT4D_PRESETS
from triportrait.train.presets import STAGE_PRESETS

Line = tuple[str, str, str]  # label, the paper's value, the value here


def shown_networks(config: TrainConfig, init_from: InitFrom, row: RowName) -> list[Line]:
    """Describe start, teacher and student of a row with a dynamic teacher; no lines for other rows.

    Args:
        init_from: what the options name; folders that are not there are said to be so.

    Raises: `InputError` for a card that cannot be read.
    """
    columns = TABLE[row]
    if columns.teacher != PORTRAIT4D:
        return []
    before, taught = STAGE_PRESETS["paper"]().stage1.images, PORTRAIT4D_PRESETS["published"]().portrait4d
    assert taught is not None, "a preset of Portrait4D"
    stage = config.stage2
    start = init_from.init or init_from.static
    return [
        (
            "start",
            f"{columns.initialisation}, {before:,} images",
            _told(start, "--static or --init names it"),
        ),
        (
            "teacher's data",
            f"4D data of GenHead; published code: {taught.images:,} images, {taught.static_share:.0%} of them static",
            _told(init_from.teacher, "--teacher names it"),
        ),
        (
            "student",
            f"as {columns.initialisation}, {columns.motion}, {columns.images:,} images",
            f"{config.model.image_size} px, motion by {shown(init_from.motion)}, {stage.images:,} images",
        ),
    ]


def _told(name: str | None, nobody: str) -> str:
    """Return what the card of a weights folder tells of its training, in words."""
    if name is None:
        return nobody
    folder = weights_folder(name)
    if name != DEMO and not (folder / "portrait.json").is_file():
        return f"{shown(name)}, which is not there"
    told = read_card(folder, "portrait").get("provenance")
    told = told if isinstance(told, dict) else {}
    words = [_kind(told, network_of({"provenance": told})), _data(told), _images(told)]
    return f"{shown(name)}: {', '.join(word for word in words if word)}"


def _kind(told: dict[str, Any], network: str | None) -> str:
    if isinstance(told.get("trained as"), str):
        return shown(told["trained as"])
    return network or "its card names no network"


def _data(told: dict[str, Any]) -> str:
    """Return whose data it has seen: a generator and its head model, or a published file."""
    model = told.get("head_model")
    name = model.get("name") if isinstance(model, dict) else None
    words = []
    if isinstance(told.get("generator"), str):
        words.append(f"generator {shown(told['generator'])}")
    if isinstance(name, str):
        words.append(shown(name))
    if isinstance(told.get("file"), str):
        words.append(f"file {shown(told['file'])}")
    return ", ".join(words)


def _images(told: dict[str, Any]) -> str:
    seen = told.get("images seen")
    counts = [n for n in seen.values() if type(n) is int] if isinstance(seen, dict) else []
    return f"{sum(counts):,} images" if counts else "its card tells no images"
