"""The same step as the published code arranges it, in eager PyTorch, on the project's own networks.

Every phase asks the frozen static synthesizer for the driving motion again, whether or not it looks at it; the
discriminator's phase synthesises its fakes again; necks are computed by each pass of each render (`NeckAgain`). The
random numbers are those of ours, and so are the losses; what phases lose is computed by the stage's own functions.
What the published code reads off its data set, the motion of real pictures, is not computed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from triportrait.core.types import Camera, Driving, Rendering
from triportrait.profiling.training.inputs import Inputs
from triportrait.train.config import ReenactConfig
from triportrait.train.data.pictures import Pictures
from triportrait.train.engines.schedule import active_terms
from triportrait.train.objectives.adversary import FAKE, fake
from triportrait.train.stages import common
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.motion import read_motion
from triportrait.train.stages.stage import MicroBatch, Phase

STATE, MOTIONS = "state of the random numbers", "motions of real pictures"  # what a step's first phase leaves


def our_phases(inputs: Inputs) -> list[Phase]:
    """The stage's own."""
    if inputs.stage == "stage1":
        return stage1.phases(inputs.models, inputs.own)
    assert isinstance(inputs.own, ReenactConfig)
    return stage2.phases(inputs.models, inputs.own)


def kept(micro: MicroBatch) -> dict[str, Any]:
    """What the phases here leave to each other, beside the discriminator's pictures."""
    return cast("dict[str, Any]", micro.handed_on)


def reference_phases(inputs: Inputs) -> list[Phase]:
    """The stage's own, each after what the published code computes for it again."""
    before: dict[str, Callable[[Inputs, MicroBatch], object]] = {"discriminator": _synthesise}
    if inputs.stage == "stage2":
        before |= {"R1": _drive}

    def preceded(phase: Phase) -> Phase:
        def terms(micro: MicroBatch) -> Any:
            if phase.name == "main":
                kept(micro)[STATE] = micro.rng.get_state()
            elif phase.name in before:
                before[phase.name](inputs, micro)
            return phase.terms(micro)

        return dataclasses.replace(phase, terms=terms)

    return [preceded(phase) for phase in our_phases(inputs)]


def read_motions(inputs: Inputs, micro: MicroBatch) -> None:
    """What the published data sets hold: the motion of the real source and driving pictures."""
    if inputs.stage == "stage2":
        with torch.no_grad():
            pictures = micro.batch.source, micro.batch.driving
            encoder = inputs.models.motion_encoder
            kept(micro)[MOTIONS] = [read_motion(encoder, x.image, x.landmarks) for x in pictures]


@torch.no_grad()
def _drive(inputs: Inputs, micro: MicroBatch) -> Tensor:
    """v_d [B, M]: read off the static synthesizer's view of the driving picture, or off the picture itself."""
    models, batch = inputs.models, micro.batch
    driving, static = batch.driving, models.static
    motion = kept(micro)[MOTIONS][1].clone()
    (rows,) = (~batch.real_driving).nonzero(as_tuple=True)
    if len(rows):
        with common.autocast(models.precision, driving.image):
            head = static.reenact(static.prepare(driving.image[rows], None), Driving(None, driving.neck.take(rows)))
            view = static.render(head, batch.camera_p.take(rows)).image.clamp(-1, 1)
            landmarks = stage2.move_landmarks(driving, batch.camera_p)[rows]
            motion[rows] = read_motion(models.motion_encoder, view, landmarks)
    return motion


@torch.no_grad()
def _synthesise(inputs: Inputs, micro: MicroBatch) -> None:
    """The fakes, as the generator's phase made them."""
    models, batch = inputs.models, micro.batch
    rng = torch.Generator()
    rng.set_state(kept(micro)[STATE])
    full = inputs.config.model.render.neural_size
    size = active_terms(inputs.own.schedule, inputs.own.losses, micro.images_seen, full).neural_size
    with common.autocast(models.precision, batch.source.image):
        if inputs.stage == "stage1":
            target: Pictures = batch.target
            rows = torch.arange(len(target.image))
            rendering = _static(models.portrait, batch, target, rng, size)
        else:
            target = batch.driving
            rows = batch.real_target.nonzero()[:, 0]
            rendering = _reenacted(inputs, micro, rng, size)
    micro.handed_on[FAKE] = fake(rendering, target, target.camera, rows).detach()


def _static(portrait: Any, batch: Any, target: Pictures, rng: torch.Generator, size: int | None) -> Rendering:
    views = len(target.image) // len(batch.source.image)
    head = portrait.reenact(portrait.prepare(batch.source.image, None), Driving(None))
    return common.render(portrait, common.repeated(head, views, target.neck), target, rng, size)


def _reenacted(inputs: Inputs, micro: MicroBatch, rng: torch.Generator, size: int | None) -> Rendering:
    portrait, batch, driving = inputs.models.portrait, micro.batch, micro.batch.driving
    v_s, v_d = kept(micro)[MOTIONS][0], _drive(inputs, micro)
    head = portrait.reenact(portrait.prepare(batch.source.image, v_s), Driving(v_d, driving.neck))
    rows = batch.real_target[:, None, None]
    seen = Camera(
        torch.where(rows, driving.camera.world_from_camera, batch.camera_q.world_from_camera),
        torch.where(rows, driving.camera.intrinsics, batch.camera_q.intrinsics),
    )
    return common.render(portrait, head, dataclasses.replace(driving, camera=seen), rng, size)
