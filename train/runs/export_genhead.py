"""Write the EMA of GenHead's own training as a weights folder, with the head model that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.config import GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.train.runs.run_config import CONFIG, FLAME
from triportrait.train.runs.weights import kept_flame

KIND = "genhead"


def export_genhead(
    checkpoint: Path, tensors: dict[str, Tensor], run: Path, out: Path, half: bool, config: dict[str, Any]
) -> Path:
    """Write a generator.

    Args:
        checkpoint: where the weights are from. tensors: the EMA.
        run: its run. out: the weights folder. half: in float16, all but the head model.
        config: of the run.

    Raises: `InputError` where the run's head model is missing or damaged, or the folder cannot be written.
    """
    kept = kept_flame(run / FLAME)
    if kept is None:
        raise InputError(f"{run / FLAME}: expected the head model of the run, it is missing; run its command again")
    tables, entries = kept
    shaped = {name: t.reshape(()) if name.endswith("noise_strength") else t for name, t in tensors.items()}
    if half:
        shaped = {name: t.half() if t.is_floating_point() else t for name, t in shaped.items()}
    sizes = GenHeadConfig.from_dict(config["generator"], f"{run / CONFIG}: generator")
    card = {
        "made by": f"triportrait {__version__}", "command": f"triportrait train export {checkpoint.name}",
        "preset": config["preset"], "seed": config["seed"], "images seen": {KIND: int(checkpoint.name.split("_")[-1])},
        "data": config["run"]["data"][:12], "head_model": entries["head_model"],
        "config": {name: value for name, value in config.items() if name not in ("generator", "run")},
        "licence": f"Apache-2.0; {entries['licence']}",
    }  # fmt: skip
    save_weights(out, KIND, shaped | tables, sizes, card)
    return out
