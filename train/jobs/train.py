"""`triportrait train tiny|overfit|genhead|stage1|motion|portrait4d|stage2|export|replay`: trainings, their weights."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.weights import DEMO
from triportrait.train.ablations import ablated, differences, with_motion, with_motion_width
from triportrait.train.config import STAGES, StageName, TrainConfig
from triportrait.train.data.cameras import SET_CAMERAS, CameraPreset
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.generated_data import GeneratedData, is_generated, shown_source
from triportrait.train.jobs.ablation_options import (
    ColumnOptions,
    OptionalFloat,
    OptionalFolder,
    OptionalInt,
    OptionalStr,
    given_options,
)
from triportrait.train.jobs.export_replay import Export, Replay
from triportrait.train.jobs.run_on_ranks import disk_error
from triportrait.train.jobs.show_schedule import shown_columns
from triportrait.train.jobs.shown_networks import shown_networks
from triportrait.train.jobs.stage_options import MeasuredStage
from triportrait.train.jobs.train_genhead import Genhead
from triportrait.train.jobs.train_motion import Motion
from triportrait.train.jobs.train_portrait4d import Portrait4d
from triportrait.train.named_data import Loading
from triportrait.train.named_networks import told_encoder
from triportrait.train.networks import InitFrom
from triportrait.train.presets import PRESETS, on_heads_of_genhead
from triportrait.train.run_all_stages import AllStages
from triportrait.train.run_folder import Inputs, Run
from triportrait.train.run_generated_heads import StaticOnGenerated, on_generated

NO_TEACHER = "no option, as GenHead itself teaches (--data genhead:FOLDER --parameters TABLES),"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Whole:
    """The options of a whole training: data, stage 1, the motion encoder, stage 2, weights."""

    out: Path
    """The folder of the run: data, log, samples, states, weights."""
    seed: int = 0
    """Seed of the first weights and of every batch."""
    stage1_images: OptionalInt = None
    """Images that stage 1 sees; the preset's by default."""
    motion_images: OptionalInt = None
    """Images that the motion encoder sees."""
    stage2_images: OptionalInt = None
    """Images that stage 2 sees."""
    perceptual: Annotated[
        Literal["gradients", "random_features"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """The stand-in for LPIPS: gradients or random_features; the preset's by default."""
    until: Literal["stage1", "motion", "stage2"] = "stage2"
    """Stop after this stage."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained; auto takes a GPU where there is one, whose weights differ in their last digits."""

    def preset(self) -> str:
        """Return the preset's name on the command line."""
        return type(self).__name__.lower()

    def config(self) -> TrainConfig:
        """Return the preset with what was asked for.

        Raises: `InputError` for numbers out of range.
        """
        config = PRESETS[self.preset()]()
        changes = given_options(self, "seed", "perceptual")
        for name in STAGES:
            if (images := getattr(self, f"{name}_images")) is not None:
                changes[name] = dataclasses.replace(getattr(config, name), images=images)
        return dataclasses.replace(config, **changes)

    def run(self) -> None:
        """Check everything, then train."""
        config = self.config()
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: expected a folder for the run, this is a file; name a folder")
        engines = Engines(Ranks(device=chosen_device(self.device)))
        for line in _summary(config).splitlines():
            logger.info(line)
        try:
            run = Run(config, self.out, AllStages(), engines)
            run.train(until=self.until)
            if self.until == "stage2":
                print(run.export(self.command()))
        except FloatingPointError as error:
            raise InputError(
                f"{self.out}: training diverged, {error}; begin again in another folder with another --seed"
            ) from error
        except OSError as error:
            raise disk_error(self.out, error) from error
        except KeyboardInterrupt:
            logger.info("%s: the same command goes on from the last saved state", self.out)
            raise

    def command(self) -> str:
        """Return the command line that makes the same run, without the paths of this machine."""
        words = ["triportrait", "train", self.preset(), "--out", self.out.resolve().name]
        for option in ("seed", "stage1_images", "motion_images", "stage2_images", "perceptual"):
            value = getattr(self, option)
            if value not in (None, 0):
                words += [f"--{option.replace('_', '-')}", str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Tiny(_Whole):
    """Train the demo weights: 32 procedural heads at 128 px, hours on two cores. A run that was stopped goes on."""


@dataclass(frozen=True)
class Overfit(_Whole):
    """Train one head with eight expressions: is motion learned at all? Minutes. A run that was stopped goes on."""


@dataclass(frozen=True)
class Stage1(MeasuredStage):
    """Train the static synthesizer from heads that GenHead draws, or from multi-view pictures (stage 1), on one process
    or under torchrun on several."""

    renamed: ClassVar[dict[str, str]] = MeasuredStage.renamed | {"--teacher": NO_TEACHER}

    parameters: OptionalFolder = None
    """Tables of `triportrait prepare parameters`, or the published ones, from which genhead:FOLDER draws heads."""
    genhead: OptionalStr = None
    """Weights folder of the GenHead whose renderer a fresh network begins with: that which drew the store; by default
    that of genhead:FOLDER."""
    distill_planes: OptionalFloat = None
    """Weight of GenHead's planes at sampled points (L_T), which generated heads bring with them."""
    distill_feature: OptionalFloat = None
    """Weight of GenHead's feature images, of the head and of its background."""
    cameras: Annotated[CameraPreset | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Cameras that the set or store was made with (`prepare heads --cameras`, `prepare genhead --cameras`), or that
    genhead:FOLDER draws: tiny (procedural heads alone), paper, published; the preset's by default. Data that are seen
    from elsewhere are refused."""

    def stage(self) -> StageName:
        """Return the name of the stage."""
        return "stage1"

    def start_config(self) -> TrainConfig:
        """Return the config that the other options change."""
        config = super().start_config()
        if self.data is not None and is_generated(self.data):
            self._check_generated(self.data)
            config = on_heads_of_genhead(config)
        if self.cameras is None:
            return config
        cast = dataclasses.replace(config.cast, cameras=SET_CAMERAS[self.cameras])
        first = dataclasses.replace(config.stage1, front_sources=self.front_sources or 0.0)
        stages: dict[str, Any] = {} if cast.cameras.first_filmed else {"stage1": first}
        idle = {name: dataclasses.replace(getattr(config, name), front_sources=0.0) for name in ("motion", "stage2")}
        return dataclasses.replace(config, cast=cast, **stages, **idle)

    def _check_generated(self, data: Path) -> None:
        """Raises: `InputError` for options that say nothing of generated heads."""
        if self.front_sources is not None:
            raise InputError(
                f"--front-sources {self.front_sources:g}: expected none, as no view of {data} is near the front by its "
                "place, got one; leave it out"
            )
        if self.cameras == "tiny":
            raise InputError(
                f"--cameras tiny: expected paper or published, as no view of {data} is near the front by its place; "
                "say one of them, or leave it out"
            )

    def init_from(self) -> InitFrom:
        """Return the weights that the stage begins from."""
        return dataclasses.replace(super().init_from(), genhead=self.genhead)

    def inputs(self, data: Path) -> Inputs:
        """Return what the stage learns from.

        Raises: `InputError` for numbers out of range, or tables that no generator draws from.
        """
        if is_generated(data):
            return StaticOnGenerated(GeneratedData(data, self.parameters), self.init_from(), self.loading())
        if self.parameters is not None:
            raise InputError(
                f"--parameters {self.parameters}: expected none, as only genhead:FOLDER draws heads from tables, got "
                f"--data {data}; leave it out, or say --data genhead:FOLDER"
            )
        return super().inputs(data)

    def description(self, config: TrainConfig) -> str:
        """Return where generated heads come from, and how they are seen; empty for others."""
        data = self.data
        if data is None and config.stage1.losses.distill_planes:
            data = Path("genhead:FOLDER")  # what a preset that learns planes asks for
        if data is None or not is_generated(data):
            return ""
        return shown_source(data, self.parameters, on_generated(config).cast.cameras)

    def loss_weights(self) -> dict[str, float | None]:
        """Return weights of terms by their name; None: the preset's."""
        return super().loss_weights() | {"distill_planes": self.distill_planes, "distill_feature": self.distill_feature}


@dataclass(frozen=True)
class Stage2(ColumnOptions, MeasuredStage):
    """Train reenactment from pairs of expressions and pseudo views (stage 2), on one process or on several."""

    static: OptionalStr = None
    """Weights folder of the static synthesizer that draws pseudo views, and that stage 2 begins as; not needed where
    neither is so: real frames alone (--real-driving 1 --real-target 1), begun by --init or --weights."""
    motion: str = "demo"
    """Weights folder of the motion encoder, of any kind; the network takes as many numbers as it gives."""
    flame: OptionalStr = None
    """Head model of clips of tracked faces: a weights folder with FLAME's tables, a converted FLAME file or open-head;
    by default open-head where the clips are of it, else that of --static or --init."""
    decoder: Literal["auto", "av", "dali"] = "auto"
    """Decoder of clips; auto is DALI on a GPU where it is installed, else PyAV."""
    most_skipped: float = 0.05
    """Share of the clips that may be left out as damaged before training stops."""

    def stage(self) -> StageName:
        """Return the name of the stage."""
        return "stage2"

    def init_from(self) -> InitFrom:
        """Return the weights that the stage begins from."""
        return dataclasses.replace(
            super().init_from(), static=self.static, motion=self.motion, flame=self.flame, teacher=self.teacher,
            init=self.init_folder,
        )  # fmt: skip

    def loading(self) -> Loading:
        """Return how data is read. Raises: `InputError` for numbers out of range."""
        return Loading(self.prefetch, self.decoder, self.most_skipped, bool(self.evaluate_every))

    def start_config(self) -> TrainConfig:
        """Return the preset or the row of the ablations, and the columns that are given one by one.

        Raises: `InputError` for what contradicts the row, or two ways to begin.
        """
        if self.weights is not None and self.init is not None:
            raise InputError(
                f"--init {self.init}: expected none beside --weights, which says it; leave one of them out"
            )
        self.check_row(self.weights)
        config = self._row(super().start_config())
        config = with_motion(config, self.motion_kind or config.stage2.motion)
        if config.stage2.motion == "pictures" and self.motion != DEMO and (Path(self.motion) / "motion.json").exists():
            config = with_motion_width(config, told_encoder(self.motion).motion_width)
        return dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, **self.columns(config.stage2)))

    def _row(self, config: TrainConfig) -> TrainConfig:
        return config if self.ablation is None else ablated(config, self.ablation)

    def description(self, config: TrainConfig) -> str:
        """Return the columns of the paper's table; at a start only those of a row that was asked for."""
        if self.ablation is None and not self.show_schedule:
            return ""
        changed = differences(self._row(super().start_config()).stage2, config.stage2) if self.ablation else []
        networks = shown_networks(config, self.init_from(), self.ablation) if self.ablation else []
        return shown_columns(config, self.ablation, changed, networks)


Train = Tiny | Overfit | Genhead | Stage1 | Motion | Portrait4d | Stage2 | Export | Replay


def _summary(config: TrainConfig) -> str:
    """Return what a training is, in two lines; the whole of it is in the run's config.json."""
    cast, stages = config.cast, {name: getattr(config, name).images for name in STAGES}
    return (
        f"{config.preset}: {config.model.image_size} px, seed {config.seed}, {config.precision}, {cast.count} heads x "
        f"{cast.expressions} expressions x {cast.views} views, perceptual distance: {config.perceptual}\n"
        + ", ".join(f"{name} {images:,} images" for name, images in stages.items())
    )
