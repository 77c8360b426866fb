"""`triportrait train portrait4d`: the dynamic teacher of the ablations' row G, on GenHead's 4D data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.core.weights import DEMO
from triportrait.train.ablations import with_motion_width
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.data.cameras import SET_CAMERAS
from triportrait.train.engines.ranks import Ranks
from triportrait.train.generated_data import GeneratedData, is_generated, shown_source
from triportrait.train.jobs.ablation_options import (
    OptionalFloat,
    OptionalFolder,
    OptionalStr,
    given_options,
)
from triportrait.train.jobs.stage_options import SingleStage
from triportrait.train.named_networks import told_encoder
from triportrait.train.networks import InitFrom
from triportrait.train.portrait4d_presets import PORTRAIT4D_PRESETS
from triportrait.train.run_folder import Inputs
from triportrait.train.run_generated_heads import on_generated
from triportrait.train.run_portrait4d import DynamicOnGenerated


@dataclass(frozen=True)
class Portrait4d(SingleStage):
    """Train Portrait4D, the teacher of `train stage2 --ablation G`: two expressions of heads that GenHead draws."""

    data: OptionalFolder = None
    """A store of `triportrait prepare genhead --dynamic`, or genhead:FOLDER, a GenHead that draws heads as they are
    needed."""
    parameters: OptionalFolder = None
    """Tables of `triportrait prepare parameters`, or published ones, that genhead:FOLDER draws parameters from."""
    motion: str = DEMO
    """Weights folder of the motion encoder, of any kind that reads pictures; stage 2 is trained with the same one."""
    static: OptionalStr = None
    """Weights folder of a static synthesizer to begin as, but for the layers that read motion; by default fresh."""
    genhead: OptionalStr = None
    """Weights folder of the GenHead whose renderer a fresh network begins with; by default that of genhead:FOLDER, of a
    store the one that drew it."""
    preset: Literal["tiny", "paper", "published"] = "tiny"
    """The numbers that the other options change: of the demo's size, or 15 M images by the stage 1 of the paper or of
    the published code."""
    static_share: OptionalFloat = None
    """Share of the heads that keep one face in all pictures, with motion off; half of them by default."""
    distill_planes: OptionalFloat = None
    """Weight of the generator's planes at sampled points (L_T)."""
    distill_feature: OptionalFloat = None
    """Weight of the generator's feature images, of the head and of its background."""
    cameras: Annotated[Literal["paper", "published"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = (
        None
    )
    """Cameras of the heads: paper samples all of them, published half, the others being those of the tables; the
    preset's by default. A store that was made with others is refused."""

    def stage(self) -> StageName:
        """Return the name of the stage."""
        return "portrait4d"

    def inputs(self, data: Path) -> Inputs:
        """Return what it learns from. Raises: `InputError` for numbers out of range."""
        if not is_generated(data):
            raise InputError(
                f"{data}: expected 4D data, as two expressions of a head are read off one generator's pictures, got "
                "another kind of data; name a store of `triportrait prepare genhead --dynamic`, or say --data "
                "genhead:FOLDER --parameters TABLES"
            )
        return DynamicOnGenerated(GeneratedData(data, self.parameters), self.init_from(), self.loading())

    def init_from(self) -> InitFrom:
        """Return the weights that the stage begins from."""
        return dataclasses.replace(super().init_from(), static=self.static, motion=self.motion, genhead=self.genhead)

    def loss_weights(self) -> dict[str, float | None]:
        """Return weights of terms by their name; None: the preset's."""
        return super().loss_weights() | {"distill_planes": self.distill_planes, "distill_feature": self.distill_feature}

    def start_config(self) -> TrainConfig:
        """Return the config that the other options change, for as many numbers of motion as the encoder gives."""
        config = on_generated(PORTRAIT4D_PRESETS[self.preset]())
        if self.cameras is not None:
            cast = dataclasses.replace(config.cast, cameras=SET_CAMERAS[self.cameras])
            config = dataclasses.replace(config, cast=cast)
        if self.motion != DEMO and (Path(self.motion) / "motion.json").exists():
            config = with_motion_width(config, told_encoder(self.motion).motion_width)
        return config

    def config(self, ranks: Ranks) -> TrainConfig:
        """Return the preset with what was asked for. Raises: `InputError` for numbers out of range."""
        config = super().config(ranks)
        assert config.portrait4d is not None, "a preset of this training"
        changes: dict[str, Any] = given_options(self, "static_share")
        return dataclasses.replace(config, portrait4d=dataclasses.replace(config.portrait4d, **changes))

    def description(self, config: TrainConfig) -> str:
        """Return what is trained, in lines."""
        stage = config.portrait4d
        assert stage is not None, "a preset of this training"
        heads = "heads: drawn by GenHead, which --data names"
        if self.data is not None and is_generated(self.data):
            heads = shown_source(self.data, self.parameters, config.cast.cameras)
        lines = [
            f"portrait4d, preset {config.preset}: {config.model.image_size} px, motion of "
            f"{config.model.transformer.motion_width} numbers by {self.motion}",
            heads,
            f"static heads: {stage.static_share:.0%}, with motion off",
            f"start: {self.weights or self.static or 'fresh'}",
        ]
        return "\n".join(lines) if self.show_schedule else ""
