"""Make the networks and the phases of a run of GenHead again, to run a step that was not finite once more."""

from __future__ import annotations

from pathlib import Path

import torch

from triportrait.core.checkpoint import load_neck, read_tensors
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.train.data.training_pictures import GenHeadBatch
from triportrait.train.genhead_config import GenHeadTraining
from triportrait.train.runs.flatten import rebuilt
from triportrait.train.runs.run_config import CONFIG, FLAME, read_config
from triportrait.train.stages.genhead import GenHeadModels, give_dimensions, make_networks, phases
from triportrait.train.stages.head_geometry import HeadGeometry
from triportrait.train.stages.stage import Phase


def genhead_phases(run: Path, device: torch.device) -> tuple[GenHeadTraining, GenHeadModels, list[Phase[GenHeadBatch]]]:
    """Return the config of a run of GenHead, its networks, fresh, and the phases of a step.

    Raises: `InputError` where the run's config or head model is missing or damaged.
    """
    try:
        config: GenHeadTraining = rebuilt(GenHeadTraining, read_config(run), {}, "config")
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{run / CONFIG}: it is no config of a run of GenHead; name another run") from error
    sizes, folder = config.generator, run / FLAME
    neck = load_neck(folder, sizes.neck, sizes.render.box_side, read_tensors(folder, "flame"), "flame")
    if not isinstance(neck, NeckField):
        raise InputError(f"{folder}: expected the head model of the run, got another; run its command again")
    generator, discriminator = make_networks(config)
    give_dimensions(generator)
    geometry = HeadGeometry(neck.to(device), sizes)
    models = GenHeadModels(generator.to(device), discriminator.to(device), geometry)
    return config, models, phases(models, config, None)
