"""Make the samples of a stage: grids of pictures, and the numbers that stand beside them in the log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Driving, Rendering
from triportrait.train.config import TrainConfig
from triportrait.train.data.generated.source import GeneratedBatch, GeneratedHeads
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.evaluation.image_metrics import psnr
from triportrait.train.evaluation.motion_response import Probe, responses
from triportrait.train.runs.draw_grids import shown_depth, write_grid
from triportrait.train.stages import portrait4d, reenact, static
from triportrait.train.stages.common import repeated
from triportrait.train.stages.motion import motion_of

SHOWN = 4  # rows in a grid of samples
SIDE_DEG = 30.0  # yaw of the camera that shows them from the side
Sample = Callable[[Path | None], dict[str, float]]


def static_sample(
    config: TrainConfig, sets: list[PictureSet], models: static.StaticModels, probe: Probe, device: torch.device
) -> Sample:
    """Return the sampler of stage 1: views of its set, and how well the probe's unseen expressions are rendered."""
    portrait = models.portrait
    few = dataclasses.replace(config.stage1, batch=min(config.stage1.batch, SHOWN))
    shown = static.draw(sets, few, np.random.default_rng([config.seed, 99]))

    def sample(path: Path | None) -> dict[str, float]:
        numbers = _static_grid(path, shown.to(device), portrait)
        source = probe.source.to(device)
        again = portrait.reenact(portrait.prepare(source.image, None), Driving(None, source.neck))
        unseen = psnr(portrait.render(again, source.camera).image, source.image)
        return {**numbers, "psnr unseen": unseen.mean().item()}

    return sample


def generated_sample(shown: static.StaticBatch, models: static.StaticModels) -> Sample:
    """Return the sampler of stage 1 on heads that GenHead draws: views of a few. Of heads that are drawn once
    they are such as come after the training's end.

    Args:
        shown: the heads; they are kept in the host's memory.
    """
    device, shown = shown.source.image.device, shown.to("cpu")

    def sample(path: Path | None) -> dict[str, float]:
        return _static_grid(path, shown.to(device), models.portrait)

    return sample


def _static_grid(path: Path | None, shown: static.StaticBatch, portrait: Portrait4D) -> dict[str, float]:
    """Write what a static portrait makes of sources beside the truth, where a file is given; returns its PSNR."""
    source, target = shown.source, shown.target
    views = len(target.image) // len(source.image)
    head = portrait.reenact(portrait.prepare(source.image, None), Driving(None))
    rendering = portrait.render(repeated(head, views, target.neck), target.camera)
    side = target.image.shape[-1]
    if path is not None:
        assert target.depth is not None, "clips alone hold no depth"
        columns = {
            "source": source.image.repeat_interleave(views, 0),
            "truth": target.image,
            "static": rendering.image,
            "depth": shown_depth(rendering.depth, rendering.opacity, side),
            "true depth": shown_depth(target.depth, target.opacity, side),
        }
        write_grid(path, {name: value.cpu() for name, value in columns.items()})
    return {"psnr": psnr(rendering.image, target.image).mean().item()}


def reenact_sample(models: reenact.ReenactModels, probe: Probe, device: torch.device) -> Sample:
    """Return the sampler of stage 2 on procedural heads: each probed motion, and how far the result follows it."""
    portrait = models.portrait

    def sample(path: Path | None) -> dict[str, float]:
        source = probe.source.to(device)
        columns, numbers = {"source": source.image}, {}

        def drive(source: Pictures, driving: Pictures) -> Tensor:
            source, driving = source.to(device), driving.to(device)
            return reenacted(portrait, models.motion_encoder, source, driving).cpu()

        for axis, (_, after) in probe.ends.items():
            result = drive(source, after)
            columns |= {f"{axis}: driving": after.image, "result " + axis: result}
            numbers[f"psnr {axis}"] = psnr(result, after.image).mean().item()
        if path is not None:
            columns |= _from_the_side(models, source, next(iter(probe.ends.values()))[1].to(device))
            write_grid(path, {name: value.float().cpu() for name, value in columns.items()})
        for axis, response in responses(probe, drive).items():
            numbers |= {f"correlation {axis}": response.correlation, f"gain {axis}": response.gain}
        return numbers

    return sample


def dynamic_sample(config: TrainConfig, heads: GeneratedHeads, models: portrait4d.DynamicModels) -> Sample:
    """Return the sampler of Portrait4D: the same few heads each time, some of them static where training has such."""
    made: list[GeneratedBatch] = []

    def sample(path: Path | None) -> dict[str, float]:
        if not made:
            made.append(heads.batch(heads.draw(SHOWN, np.random.default_rng([config.seed, 99]), 0)))
        batch = made[0]
        assert batch.motion is not None, "4D data have motion pictures"
        target, head = batch.target, portrait4d.reenacted_heads(batch, dataclasses.replace(models, precision="fp32"))
        rendering = models.portrait.render(dataclasses.replace(head, neck=target.neck), target.camera)
        if path is not None:
            assert target.depth is not None, "generated pictures have depth"
            side = target.image.shape[-1]
            columns = {
                "source": batch.source.image,
                "motion": batch.motion.image,
                "truth": target.image,
                "result": rendering.image,
                "depth": shown_depth(rendering.depth, rendering.opacity, side),
                "true depth": shown_depth(target.depth, target.opacity, side),
            }
            write_grid(path, {name: value.float().cpu() for name, value in columns.items()})
        found = psnr(rendering.image, target.image)
        rows = {"psnr": ~batch.is_static, "psnr static": batch.is_static}
        return {name: found[those].mean().item() for name, those in rows.items() if bool(those.any())}

    return sample


def clip_sample(
    config: TrainConfig, data: reenact.Pairs, models: reenact.ReenactModels, device: torch.device
) -> Sample:
    """Return the sampler of stage 2 on clips: a frame of each of the first clips drives another."""
    few = dataclasses.replace(config.stage2, batch=SHOWN)
    shown = reenact.draw(data, few, np.random.default_rng([config.seed, 99]))

    def sample(path: Path | None) -> dict[str, float]:
        batch = shown.to(device)
        source, driving = batch.source, batch.driving
        result = reenacted(models.portrait, models.motion_encoder, source, driving)
        if path is not None:
            columns = {"source": source.image, "driving": driving.image, "result": result}
            columns |= _from_the_side(models, source, driving)
            write_grid(path, {name: value.float().cpu() for name, value in columns.items()})
        return {"psnr": psnr(result, driving.image).mean().item()}

    return sample


def _from_the_side(models: reenact.ReenactModels, source: Pictures, driving: Pictures) -> dict[str, Tensor]:
    """Return the pseudo view of driving pictures, where a network draws such, the result from there, and its depth."""
    camera = turned(fixed_camera(), math.radians(SIDE_DEG), 0.0)
    camera = camera.take(torch.zeros(len(source.image), dtype=torch.long)).to(source.image.device)
    seen = dataclasses.replace(driving, camera=camera)
    result = _rendered(models.portrait, models.motion_encoder, source, seen)
    pseudo_view: dict[str, Tensor] = {}
    if models.static is not None:
        motion = motion_of(driving, models.motion_encoder) if models.dynamic else None
        head = models.static.reenact(models.static.prepare(driving.image, motion), Driving(motion, driving.neck))
        pseudo_view["pseudo view"] = models.static.render(head, camera).image
    return pseudo_view | {
        "result there": result.image,
        "its depth": shown_depth(result.depth, result.opacity, source.image.shape[-1]),
    }


@torch.no_grad()
def static_view(portrait: Portrait4D, source: Pictures, target: Pictures) -> Tensor:
    """Return what a static portrait makes of B sources, with the neck poses of B targets and seen by their cameras."""
    head = portrait.reenact(portrait.prepare(source.image, None), Driving(None, target.neck))
    return portrait.render(head, target.camera).image


def reenacted(portrait: Portrait4D, encoder: MotionEncoder | None, source: Pictures, driving: Pictures) -> Tensor:
    """Return what a portrait makes of B sources and B driving pictures, seen by the driving pictures' cameras."""
    return _rendered(portrait, encoder, source, driving).image


@torch.no_grad()
def _rendered(portrait: Portrait4D, encoder: MotionEncoder | None, source: Pictures, driving: Pictures) -> Rendering:
    v_s, v_d = (motion_of(x, encoder) for x in (source, driving))
    head = portrait.reenact(portrait.prepare(source.image, v_s), Driving(v_d, driving.neck))
    return portrait.render(head, driving.camera)
