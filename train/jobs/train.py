"""`triportrait train PRESET --out RUN`: both stages on procedural heads, resumable, and a weights folder at the end."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.train.config import TrainConfig
from triportrait.train.presets import PRESETS
from triportrait.train.training import STAGES, Training


@dataclass(frozen=True)
class Train:
    """Train on procedural heads: stage 1, the motion encoder, stage 2. A run that was stopped goes on where it was."""

    preset: tyro.conf.Positional[Literal["tiny", "overfit"]]
    """tiny: the demo weights, hours on two cores; overfit: one head with eight expressions, minutes."""
    out: Path
    """The folder of the run: data, log, samples, states, weights."""
    seed: int = 0
    """Of the first weights and of every batch."""
    stage1_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images that stage 1 sees; the preset's by default."""
    motion_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images that the motion encoder sees."""
    stage2_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images that stage 2 sees."""
    perceptual: Annotated[
        Literal["gradients", "random_features"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """The stand-in for LPIPS: gradients or random_features; the preset's by default."""
    until: Literal["stage1", "motion", "stage2"] = "stage2"
    """Stop after this stage."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Show where an error came from."""

    def config(self) -> TrainConfig:
        """The preset with what was asked for.

        Raises: `InputError` for numbers out of range.
        """
        config = PRESETS[self.preset]()
        changes: dict[str, object] = {"seed": self.seed}
        for name in ("stage1", "motion", "stage2"):
            images = getattr(self, f"{name}_images")
            if images is not None:
                changes[name] = dataclasses.replace(getattr(config, name), images=images)
        if self.perceptual is not None:
            changes["perceptual"] = self.perceptual
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    def run(self) -> None:
        """Check everything, then train."""
        config = self.config()
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: expected a folder for the run, this is a file; name a folder")
        print(_summary(config), file=sys.stderr)
        try:
            training = Training(config, self.out)
            training.train(self.until, lambda line: print(line, file=sys.stderr))
            if self.until == "stage2":
                print(training.export(self.command()))
        except FloatingPointError as error:
            raise InputError(f"{self.out}: training diverged, {error}; try another --seed") from error
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(
                f"{self.out}: the run could not be written or read ({reason}); free some space or give access, and the "
                "same command goes on"
            ) from error
        except KeyboardInterrupt:
            print(f"\n{self.out}: the same command goes on from the last saved state", file=sys.stderr)
            raise

    def command(self) -> str:
        """The command line that makes the same run, without the paths of this machine."""
        words = ["triportrait", "train", self.preset, "--out", self.out.resolve().name]
        for option in ("seed", "stage1_images", "motion_images", "stage2_images", "perceptual"):
            value = getattr(self, option)
            if value not in (None, 0):
                words += [f"--{option.replace('_', '-')}", str(value)]
        return shlex.join(words)


def _summary(config: TrainConfig) -> str:
    """What a training is, in two lines; the whole of it is in the run's config.json."""
    cast, stages = config.cast, {name: getattr(config, name).images for name in STAGES}
    return (
        f"{config.preset}: {config.model.image_size} px, seed {config.seed}, {config.precision}, {cast.count} heads x "
        f"{cast.expressions} expressions x {cast.views} views, perceptual distance: {config.perceptual}\n"
        + ", ".join(f"{name} {images:,} images" for name, images in stages.items())
    )
