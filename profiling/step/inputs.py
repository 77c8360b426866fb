"""Make a training step of any size without data on the disk: networks with first weights, and a random batch.

What a step costs does not depend on what it has learned.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Camera
from triportrait.profiling.frame_parts import sphere_tables
from triportrait.train.config import ReenactConfig, StageConfig, StageName, TrainConfig
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.data.upload import upload
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.lpips_distance import Lpips
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.assemble import make_discriminator
from triportrait.train.stages.initialize import initialize, initialize_motion
from triportrait.train.stages.stage import MicroBatch, Phase

POSES, VIEWS = 64, 3  # what the random set pretends to hold
GENHEAD_SIDE = 64  # of the ray grid of a published GenHead
ELLIPSES = (  # where the 68 landmarks lie: how many, the middle and the radii of each ellipse, in sides of the picture
    (17, 0.50, 0.50, 0.28, 0.33), (10, 0.50, 0.38, 0.18, 0.02), (9, 0.50, 0.52, 0.03, 0.08),
    (6, 0.40, 0.45, 0.045, 0.018), (6, 0.60, 0.45, 0.045, 0.018), (12, 0.50, 0.66, 0.09, 0.04),
    (8, 0.50, 0.66, 0.06, 0.02),
)  # fmt: skip


@dataclass(frozen=True)
class StepInputs:
    """The networks of a stage, and the batch that each of its steps works on.

    Attributes:
        stage: stage1 or stage2.
        config: the training's numbers.
        stage_config: the stage's numbers.
        models: `StaticModels` or `ReenactModels`.
        phases: what a step does, in order.
        host_batch: a batch in the host's memory, its necks not yet computed.
        neck_field: FLAME's numbers -> neck poses, on a mesh of FLAME's size.
        neck_numbers: FLAME's numbers for each driving picture of the batch, in the host's memory.
        device: where the networks are.
    """

    stage: StageName
    config: TrainConfig
    stage_config: StageConfig
    models: Any
    phases: list[Phase]
    host_batch: Any
    neck_field: NeckField
    neck_numbers: list[Tensor]
    device: torch.device

    def micro_batch(self) -> MicroBatch:
        """Copy the batch to the device and compute its necks; the step is the stage's last, when every term is on."""
        driven, batch = "target" if self.stage == "stage1" else "driving", self.host_batch.to(self.device)
        neck = self.neck_field(*(upload(numbers, self.device) for numbers in self.neck_numbers))
        pictures = dataclasses.replace(getattr(batch, driven), neck=neck)
        batch = dataclasses.replace(batch, **{driven: pictures})
        return MicroBatch(batch, torch.Generator(self.device).manual_seed(0), self.stage_config.images - 1)


class RandomSet:
    """A multi-view set of random numbers with all that a stage's `draw` asks of one."""

    heads, poses_each, views = 1, POSES, VIEWS

    def __init__(self, config: TrainConfig, seed: int) -> None:
        self.model, self._rng = config.model, torch.Generator().manual_seed(seed)
        losses = config.stage1.losses
        self._knows_planes = losses.distill_planes > 0 or losses.distill_feature > 0

    def __len__(self) -> int:
        return self.heads * self.poses_each

    def pose(self, head: np.ndarray, expression: np.ndarray) -> Tensor:
        """Number poses, [B]."""
        return torch.from_numpy(head * self.poses_each + expression)

    def pairs(
        self, count: int, front_sources: float, streams: np.random.Generator, place: int, first: int = 0
    ) -> tuple[Pictures, Pictures]:
        """Draw B sources and B driving pictures."""
        rows = torch.zeros(count, dtype=torch.long)
        return self.take(rows, rows), self.take(rows, rows)

    def take(self, pose: Tensor, view: Tensor) -> Pictures:
        """Draw B pictures."""
        count, side, small = len(pose), self.model.image_size, self.model.render.neural_size

        def random(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=self._rng)

        camera = sample_look_at(count, self._rng)
        return Pictures(
            image=2 * random(3, side, side) - 1,
            opacity=random(1, small, small),
            depth=4 + 0.2 * random(1, small, small),
            landmarks=(_face() + 0.004 * random(68, 2)) * side,
            camera=Camera(camera.world_from_camera, camera.intrinsics),
            motion=random(self.model.transformer.motion_width),
            neck=None,
            positions=2 * random(3, side, side) - 1,
            truth=self._truth(count) if self._knows_planes else None,
        )

    def _truth(self, count: int) -> GeneratedTruth:
        """Draw what GenHead knows of B pictures at the side of its ray grid."""
        render = self.model.render
        points = render.box_side * (torch.rand(count, GeneratedConfig.points, 3, generator=self._rng) - 0.5)
        features = torch.rand(count, GeneratedConfig.points, render.plane_width, generator=self._rng)
        sizes = (count, render.plane_width, GENHEAD_SIDE, GENHEAD_SIDE)
        images = (torch.rand(*sizes, generator=self._rng) for _ in range(2))
        return GeneratedTruth(points, features, *images)


def with_batch(config: TrainConfig, stage: StageName, batch: int) -> TrainConfig:
    """Return a training whose stage has a step of one micro-batch of this many images.

    Raises:
        InputError: the discriminator cannot divide such a batch into its groups.
    """
    stage_config = dataclasses.replace(getattr(config, stage), batch=batch, micro_batches=1, strangers=0.0)
    changes: dict[str, Any] = {stage: stage_config}
    return dataclasses.replace(config, **changes)


def make_inputs(stage: StageName, config: TrainConfig, device: torch.device) -> StepInputs:
    """Make a stage's networks and a batch of the size that its config asks for; the config's seed alone decides."""
    stage_config: StageConfig = getattr(config, stage)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        models = _models(stage, config, stage_config)
    streams, pictures = np.random.default_rng([0, 0]), RandomSet(config, seed=0)
    batch: Any
    phases: list[Any]
    if stage == "stage1":
        batch = stage1.draw([cast(PictureSet, pictures)], stage_config, streams)
        phases, driven = stage1.phases(models, stage_config), len(batch.target.image)
    else:
        assert isinstance(stage_config, ReenactConfig)
        batch = _with_exact_shares(stage2.draw(pictures, stage_config, streams), stage_config)
        phases, driven = stage2.phases(models, stage_config), len(batch.driving.image)
    neck, streams = config.model.neck, np.random.default_rng([0, 1])
    widths = (neck.num_shape, neck.num_expression, 3, 3, 6)
    numbers = [torch.from_numpy(0.05 * streams.normal(size=(driven, width))).float() for width in widths]
    field = NeckField(neck, config.model.render.box_side, *sphere_tables(neck)).to(device)
    return StepInputs(stage, config, stage_config, models, phases, batch, field, numbers, device)


def _models(stage: StageName, config: TrainConfig, stage_config: StageConfig) -> Any:
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    losses = stage_config.losses
    discriminator = make_discriminator(config) if losses.adversarial else None
    identity = FaceIdentity() if losses.identity else None
    with torch.device("cpu"):  # LPIPS reads a part of its layers from a file
        distance: Any = Lpips(None) if config.perceptual == "lpips" else perceptual(config.perceptual)
    distance.to(portrait.volume.field.density.weight.device)
    if stage == "stage1":
        return stage1.StaticModels(portrait, distance, config.precision, discriminator, identity)
    static = _frozen_copy(portrait)
    initialize_motion(portrait, config.seed)
    width = config.model.transformer.motion_width
    encoder: MotionEncoder = PDFGC() if width == PDFGC.motion_width else SmallMotionEncoder(width)
    encoder.eval().requires_grad_(False)
    return stage2.ReenactModels(portrait, static, encoder, distance, config.precision, discriminator, identity)


def _frozen_copy(portrait: Portrait4D) -> Portrait4D:
    copy = Portrait4D(portrait.config)
    copy.load_state_dict(portrait.state_dict())
    return copy.eval().requires_grad_(False)


def _with_exact_shares(batch: stage2.ReenactBatch, stage_config: ReenactConfig) -> stage2.ReenactBatch:
    """Substitute real pictures in a fixed share of the batch, where training tosses coins: all batches cost alike."""
    count = len(batch.real_target)

    def first(share: float) -> Tensor:
        return torch.arange(count) < round(share * count)

    return dataclasses.replace(
        batch, real_driving=first(stage_config.real_driving), real_target=first(stage_config.real_target)
    )


def _face() -> Tensor:
    """Landmarks [68, 2] of a face in the middle of a picture whose side is 1."""
    points = [
        (x + rx * math.cos(2 * math.pi * k / count), y + ry * math.sin(2 * math.pi * k / count))
        for count, x, y, rx, ry in ELLIPSES
        for k in range(count)
    ]
    return torch.tensor(points)
