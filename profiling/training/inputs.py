"""A training step at any size, without data on the disk: networks with their first weights, batches of random numbers.

What a step costs does not depend on what it has learned. Letters: B images, V views, S side of the pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Camera, NeckGrid
from triportrait.profiling.parts import sphere_tables
from triportrait.train.config import ReenactConfig, StageConfig, StageName, TrainConfig
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.lpips_distance import Lpips
from triportrait.train.objectives.perceptual import Perceptual, perceptual
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.assemble import make_discriminator
from triportrait.train.stages.initialize import initialize, initialize_motion
from triportrait.train.stages.stage import MicroBatch

POSES, VIEWS = 64, 3  # of the set that is drawn from
ELLIPSES = (  # of the 68 landmarks: how many, their middle and radii, in sides of the picture
    (17, 0.50, 0.50, 0.28, 0.33), (10, 0.50, 0.38, 0.18, 0.02), (9, 0.50, 0.52, 0.03, 0.08),
    (6, 0.40, 0.45, 0.045, 0.018), (6, 0.60, 0.45, 0.045, 0.018), (12, 0.50, 0.66, 0.09, 0.04),
    (8, 0.50, 0.66, 0.06, 0.02),
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What a step of a stage works on.

    Attributes:
        stage: stage1 or stage2. config: of the training. own: of the stage.
        models: `StaticModels` or `ReenactModels`.
        drawn: a seed -> a batch, its necks still straight.
        necks: what makes neck poses.
        device: where it runs.
    """

    stage: StageName
    config: TrainConfig
    own: StageConfig
    models: Any
    drawn: Callable[[int], Any]
    necks: Necks
    device: torch.device

    @property
    def last_image(self) -> int:
        """Images seen just before the end: all that a schedule turns on is on."""
        return self.own.images - 1

    def batch(self, again: bool, seed: int = 0) -> Any:
        """A batch on the device.

        Args:
            again: necks are computed whenever they are asked for, not once.
        """
        batch = self.drawn(seed)
        if self.stage == "stage1":
            batch = stage1.StaticBatch(batch.source.to(self.device), batch.target.to(self.device))
        else:
            batch = _with_shares(batch.to(self.device), self.own)
        turned = "target" if self.stage == "stage1" else "driving"
        pictures = getattr(batch, turned)
        neck = self._neck(len(pictures.image), seed, again)
        return dataclasses.replace(batch, **{turned: dataclasses.replace(pictures, neck=neck)})

    def micro(self, again: bool, seed: int = 0) -> MicroBatch:
        """The micro-batch of a step near the end of the stage."""
        return MicroBatch(self.batch(again, seed), torch.Generator().manual_seed(seed), self.last_image)

    def _neck(self, count: int, seed: int, again: bool) -> Any:
        streams = np.random.default_rng([seed, 1])
        config = self.config.model.neck
        sizes = (config.num_shape, config.num_expression, 3, 3, 6)
        numbers = [torch.from_numpy(0.05 * streams.normal(size=(count, size))).float() for size in sizes]
        made = NeckAgain(self.necks, [x.to(self.device) for x in numbers])
        return made if again else self.necks(*made.numbers)


class Necks(nn.Module):
    """FLAME's numbers -> neck poses, on a mesh of FLAME's size; on tensors without memory, their shapes."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        super().__init__()
        self.config, self.field = config, None
        if device.type != "meta":
            self.field = NeckField(config.neck, config.render.box_side, *sphere_tables(config.neck)).to(device)

    def forward(self, *numbers: Tensor) -> NeckGrid:
        """As of `NeckField`."""
        if self.field is not None:
            return self.field(*numbers)  # type: ignore[no-any-return]
        neck, B = self.config.neck, len(numbers[0])
        fine = numbers[0].new_empty(B, neck.fine_size, neck.fine_size, neck.fine_size, 4)
        coarse = numbers[0].new_empty(B, neck.coarse_size, neck.coarse_size, neck.coarse_size, 3)
        return NeckGrid(fine, coarse, self.config.render.box_side, neck.near_squared_distance)


@dataclass(frozen=True)
class NeckAgain:
    """Neck poses that nobody keeps: asked for by the coarse and by the fine pass of a render, computed by each.

    The published code does so (reference 0.16). Stands where a `NeckGrid` does.
    """

    necks: Necks
    numbers: list[Tensor]

    @property
    def fine(self) -> Tensor:
        """As of `NeckGrid`."""
        return self.necks(*self.numbers).fine

    @property
    def coarse(self) -> Tensor:
        """As of `NeckGrid`."""
        return self.necks(*self.numbers).coarse

    @property
    def box_side(self) -> float:
        """As of `NeckGrid`."""
        return self.necks.config.render.box_side

    @property
    def near_squared_distance(self) -> float:
        """As of `NeckGrid`."""
        return self.necks.config.neck.near_squared_distance

    def take(self, rows: Any) -> NeckAgain:
        """As of `NeckGrid`."""
        return NeckAgain(self.necks, [x[rows] for x in self.numbers])


class RandomSet:
    """A multi-view set of random numbers, as far as a stage's `draw` looks at one."""

    heads, poses_each, views = 1, POSES, VIEWS

    def __init__(self, config: TrainConfig, seed: int) -> None:
        self.model, self._rng = config.model, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.heads * self.poses_each

    def pose(self, head: np.ndarray, expression: np.ndarray) -> Tensor:
        """[B] numbers of poses."""
        return torch.from_numpy(head * self.poses_each + expression)

    def pairs(
        self, count: int, front_sources: float, streams: np.random.Generator, place: int, first: int = 0
    ) -> tuple[Pictures, Pictures]:
        """B sources and B driving pictures."""
        none = torch.zeros(count, dtype=torch.long)
        return self.take(none, none), self.take(none, none)

    def take(self, pose: Tensor, view: Tensor) -> Pictures:
        """B pictures."""
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
        )


def make_inputs(stage: StageName, config: TrainConfig, batch: int, device: torch.device) -> Inputs:
    """A stage's networks and batches; the config's seed alone decides.

    Args:
        batch: images of a micro-batch. device: a GPU, the CPU, or meta for tensors without memory.

    Raises:
        InputError: a batch that does not make groups for the discriminator.
    """
    own: StageConfig = dataclasses.replace(getattr(config, stage), batch=batch, micro_batches=1, strangers=0.0)
    changed: dict[str, Any] = {stage: own}
    config = dataclasses.replace(config, **changed)  # says what is wrong with the batch
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        models = _models(stage, config, own, device)

    def drawn(seed: int) -> Any:
        streams, chosen = np.random.default_rng([seed, 0]), RandomSet(config, seed)
        if stage == "stage1":
            return stage1.draw([cast(PictureSet, chosen)], own, streams)
        assert isinstance(own, ReenactConfig)
        return stage2.draw(chosen, own, streams)

    return Inputs(stage, config, own, models, drawn, Necks(config.model, device), device)


def stage_config(preset: str) -> TrainConfig:
    """A preset's numbers.

    Raises: `InputError` for an unknown one.
    """
    if preset not in STAGE_PRESETS:
        raise InputError(f"preset: expected one of {', '.join(STAGE_PRESETS)}, got {preset!r}; choose one")
    return STAGE_PRESETS[preset]()


def _models(stage: StageName, config: TrainConfig, own: StageConfig, device: torch.device) -> Any:
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    discriminator = make_discriminator(config) if own.losses.adversarial else None
    identity = FaceIdentity() if own.losses.identity else None
    distance = _distance(config, device)
    if stage == "stage1":
        teacher = None
        if own.losses.distill_planes or own.losses.distill_feature:
            teacher = Portrait4D(config.model).eval().requires_grad_(False)
            teacher.load_state_dict(portrait.state_dict())
        return stage1.StaticModels(portrait, distance, config.precision, discriminator, identity, teacher)
    static = Portrait4D(config.model)
    static.load_state_dict(portrait.state_dict())
    initialize_motion(portrait, config.seed)
    width = config.model.transformer.motion_width
    encoder: Any = MotionEncoder() if width == MotionEncoder.motion_width else SmallMotionEncoder(width)
    for network in (static, encoder):
        network.eval().requires_grad_(False)
    return stage2.ReenactModels(portrait, static, encoder, distance, config.precision, discriminator, identity)


def _distance(config: TrainConfig, device: torch.device) -> Perceptual:
    """The perceptual distance; LPIPS with random weights, which cost as much as VGG's."""
    if config.perceptual != "lpips":
        return perceptual(config.perceptual).to(device)  # type: ignore[no-any-return]
    with torch.device("cpu"):  # its linear layers are read from a file
        made = Lpips(None)
    return made.to(device)


def _with_shares(batch: stage2.ReenactBatch, own: Any) -> stage2.ReenactBatch:
    """The substitutions by their shares of the batch, rounded, in the place of coins: every batch costs the same."""
    count, device = len(batch.real_target), batch.real_target.device
    device = torch.device("cpu") if device.type == "meta" else device  # they decide what runs

    def first(share: float) -> Tensor:
        return torch.arange(count, device=device) < round(share * count)

    return dataclasses.replace(batch, real_driving=first(own.real_driving), real_target=first(own.real_target))


def _face() -> Tensor:
    """[68, 2] landmarks of a face in the middle of a picture of side 1."""
    points = [
        (x + rx * math.cos(2 * math.pi * k / count), y + ry * math.sin(2 * math.pi * k / count))
        for count, x, y, rx, ry in ELLIPSES
        for k in range(count)
    ]
    return torch.tensor(points)
