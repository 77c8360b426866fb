"""`triportrait train export|replay`: weights and a diagnosis of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.train.engines.ranks import process_group
from triportrait.train.jobs.ablation_options import OptionalStr
from triportrait.train.nonfinite_replay import replay
from triportrait.train.runs.export import export


@dataclass(frozen=True)
class Export:
    """Write the averaged weights of a run of one stage as a weights folder."""

    checkpoint: tyro.conf.Positional[Path]
    """A run, whose newest whole checkpoint is taken, or a checkpoint."""
    out: tyro.conf.Positional[Path]
    """The weights folder to make."""
    half: bool = False
    """Write half precision."""
    flame: OptionalStr = None
    """Weights folder with FLAME's tables, for a run of tracked faces that kept none."""
    overwrite: bool = False
    """Replace the folder if there is one."""

    def run(self) -> None:
        """Check everything, then write."""

        print(export(self.checkpoint, self.out, self.half, self.overwrite, self.flame))


@dataclass(frozen=True)
class Replay:
    """Run the step that was not finite again, from what its run kept: each term, and where it is not finite first."""

    run_folder: tyro.conf.Positional[Path]
    """A run that ended as its loss was not finite."""
    precision: Annotated[Literal["fp32", "bf16"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Precision of the networks; the run's by default."""

    def run(self) -> None:
        """Print the terms; bad input where one is not finite again."""
        with process_group() as ranks:
            replayed = replay(self.run_folder, self.precision, ranks.device)
        print("\n".join(replayed.lines))
        if nonfinite := "; ".join(replayed.nonfinite):
            raise InputError(
                f"{self.run_folder}: not finite again: {nonfinite}; mend that, or try another --seed or --lr"
            )
