"""Write the EMA of a checkpoint as a weights folder, in the format that the other commands read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from triportrait import __version__
from triportrait.core.checkpoint import load_motion_encoder, read_card, save_motion_encoder, save_weights
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import FRAME
from triportrait.core.motion.encoder_card import encoder_of_card
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, STATIC
from triportrait.core.tracking.head_model import FLAME_LICENCE
from triportrait.train.ablations import PORTRAIT4D
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.runs.checkpoints import FOLDER, checkpoints_of, ema_weights
from triportrait.train.runs.export_genhead import export_genhead
from triportrait.train.runs.run_config import CONFIG, FLAME, MOTION_ENCODER, read_config
from triportrait.train.runs.weights import kept_flame, named_flame, save_neck

logger = logging.getLogger(__name__)


def export(
    checkpoint: Path,
    out: Path,
    half: bool = False,
    overwrite: bool = False,
    flame: str | None = None,
) -> Path:
    """Write a weights folder; one tensor is in memory twice at most.

    Args:
        checkpoint: a run, whose newest whole checkpoint is taken, or a checkpoint of one.
        half: in float16, all but FLAME's tables.
        flame: weights folder with FLAME's tables, for a run of tracked faces that kept none.

    Warns where an older checkpoint is taken, or the weights turn no neck.

    Raises: `InputError` where there is no whole checkpoint, or `out` exists.
    """
    run = checkpoint if (checkpoint / CONFIG).is_file() else checkpoint.parent.parent
    try:
        config = read_config(run)
        entry = config["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{checkpoint}: expected a run of one stage or a checkpoint of it, it has no {CONFIG} of one; name another"
        ) from error
    if out.exists() and not overwrite:
        raise InputError(f"{out}: it exists; name another folder or say --overwrite")
    if entry["stage"] == "motion":
        return _export_encoder(checkpoint, run, out, half, config)
    folder, weights = _newest(run, entry["stage"]) if run == checkpoint else (checkpoint, None)
    tensors = ema_weights(folder, "generator") if weights is None else weights
    if entry["stage"] == "genhead":
        return export_genhead(folder, tensors, run, out, half, config)
    if half:
        for name in list(tensors):
            tensors[name] = tensors[name].half() if tensors[name].is_floating_point() else tensors[name]
    model = ModelConfig.from_dict(config["model"], f"{run / CONFIG}: model")
    network = STATIC if entry["stage"] == "stage1" else REENACTMENT
    of_heads = entry.get("source", HEADS) == HEADS
    card = {
        "made by": f"triportrait {__version__}", "command": f"triportrait train export {folder.name}",
        "preset": config["preset"], "seed": config["seed"], "network": network, "init from": entry["init_from"],
        "cast": {"seed": config["cast"]["seed"], "count": config["cast"]["count"]} if of_heads else None,
        "images seen": {entry["stage"]: int(folder.name.split("_")[-1])}, "licence": "Apache-2.0",
    }  # fmt: skip
    if entry["stage"] == "portrait4d":
        card["trained as"] = f"{PORTRAIT4D}, on 4D data of GenHead"
    if "generator" in entry:
        card["generator"] = entry["generator"]
    if network == REENACTMENT:
        card["motion"] = config["stage2"]["motion"]
    if not of_heads:
        kept = kept_flame(run / FLAME) if flame is None else named_flame(flame)
        if kept is None:
            logger.warning(
                f"{run}: it kept none of FLAME's tables, so that these weights turn no neck; export them again with "
                "--flame FOLDER, a converted published checkpoint"
            )
        else:
            tensors, card = tensors | kept[0], card | kept[1]
            card["licence"] = f"Apache-2.0; {kept[1].get('licence', FLAME_LICENCE)}"
    save_weights(out, "portrait", tensors, model, card)
    if of_heads:
        save_neck(out, model, card)
    asked = run / MOTION_ENCODER  # runs by parameters kept none before
    if network == REENACTMENT and (config["stage2"]["motion"] == "pictures" or asked.is_dir()):
        encoder, origin = load_motion_encoder(asked), read_card(asked, "motion").get("provenance")
        state = {k: v.half() if half and v.is_floating_point() else v for k, v in encoder.state_dict().items()}
        save_motion_encoder(out, state, encoder, card | ({"encoder from": origin} if origin else {}))
    return out


def _export_encoder(checkpoint: Path, run: Path, out: Path, half: bool, config: dict[str, Any]) -> Path:
    """Write the motion encoder of a run of one."""
    folder, weights = _newest(run, "motion", "motion") if run == checkpoint else (checkpoint, None)
    tensors = ema_weights(folder, "motion") if weights is None else weights
    told = config["run"]["encoder"]
    crop = {"frame": FRAME, "size": told["crop_size"]}
    entry = {"name": told["name"], "architecture": SmallMotionEncoder.architecture, "crop": crop}
    entry |= {name: told[name] for name in ("motion_width", "columns")}
    sizes = {name: told[name] for name in ("motion_width", "crop_size", "widths")}
    encoder = encoder_of_card(sizes, entry, f"{run / CONFIG}: run")
    card = {
        "made by": f"triportrait {__version__}", "command": f"triportrait train export {folder.name}",
        "preset": config["preset"], "seed": config["seed"], "data": config["run"]["data"][:12],
        "source": config["run"].get("source", "multi-view set"),
        "images seen": {"motion": int(folder.name.split("_")[-1])}, "licence": "Apache-2.0",
    }  # fmt: skip
    kept = {name: t.half() if half and t.is_floating_point() else t for name, t in tensors.items()}
    save_motion_encoder(out, kept, encoder, card)
    return out


def _newest(run: Path, stage: str, network: str = "generator") -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint that is whole, and its weights; newer ones that are not are warned of."""
    reasons: list[str] = []
    for folder in reversed(checkpoints_of(run, stage)):
        try:
            weights = ema_weights(folder, network)
        except InputError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            logger.warning("%s: left out, %s is taken", reason.rpartition(";")[0] or reason, folder.name)
        return folder, weights
    raise InputError(reasons[0] if reasons else f"{run / FOLDER}: expected a checkpoint of {stage}, there is none yet")
