"""The options of stage 2 that are columns of the paper's Table 3, and their check against a row of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.train.ablations import RANDOM, RowName, check_beside_row
from triportrait.train.config import ReenactConfig
from triportrait.train.data.cameras import THETA_P, ThetaP

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
OptionalStr = Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]


def given_options(options: Any, *names: str) -> dict[str, Any]:
    """Return those of the named options of a command that were given, that is, are not None."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


@dataclass(frozen=True)
class ColumnOptions:
    """The columns of Table 3 as options; by default they are the preset's or the row's."""

    ablation: Annotated[RowName | None, tyro.conf.arg(metavar="ROW", help_behavior_hint="")] = None
    """A row of the paper's Table 3, A to L. Options that say something else than the row (--init, --real-driving,
    --real-target, --motion-kind, --teacher) are refused; numbers (--images, --clips, --motion-lr-factor, ...) win."""
    init: OptionalStr = None
    """Initial weights of stage 2: `random`, or the weights folder of a static synthesizer; that of --static by
    default."""
    teacher: OptionalStr = None
    """Weights folder of a reenactment network that draws pseudo views in the place of --static (Portrait4D, row G)."""
    motion_kind: Annotated[
        Literal["pictures", "parameters"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """pictures: motion is read by --motion (E_mot); parameters: it is the numbers of the data (3DMM)."""
    real_driving: OptionalFloat = None
    """Share of driving motions read off the real frame, not off a pseudo view from θ_p; 1: no pseudo view p."""
    real_target: OptionalFloat = None
    """Share of targets that are the real frame, not a pseudo view from θ_q; 1: no pseudo view q."""
    clips: OptionalInt = None
    """Clips or heads of the data, the first ones, that are seen; 0: all."""
    motion_lr_factor: OptionalFloat = None
    """Learning rate of the layers that read motion, over that of the others."""
    theta_p: Annotated[ThetaP | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Cameras θ_p: paper (yaw up to 0.78) or near-front (up to 0.5), which the preset tiny takes."""

    def check_row(self, weights: str | None) -> None:
        """Raises: `InputError` where an option says something else than the row."""
        if self.ablation is not None:
            names = ("init", "real_driving", "real_target", "motion_kind", "teacher")
            check_beside_row(self.ablation, {name: getattr(self, name) for name in names} | {"weights": weights})

    def columns(self, stage: ReenactConfig) -> dict[str, Any]:
        """Return the fields of the stage that the options change, and their values."""
        changes = given_options(self, "real_driving", "real_target", "clips")
        if self.motion_kind is not None:
            changes["motion"] = self.motion_kind
        if self.init is not None:
            changes["init"] = "random" if self.init == RANDOM else "static"
        if self.teacher is not None:
            changes["teacher"] = "dynamic"
        if self.theta_p is not None:
            changes["camera_p"] = THETA_P[self.theta_p]
        if self.motion_lr_factor is not None:
            changes["optimizer"] = dataclasses.replace(stage.optimizer, motion_lr_factor=self.motion_lr_factor)
        return changes

    @property
    def init_folder(self) -> str | None:
        """Return the folder to begin as, where one is named."""
        return None if self.init == RANDOM else self.init
