"""`triportrait evaluate figure self|views [WEIGHTS ...]` draws what the paper's figures 3 and 7 show."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.weights import DEMO
from triportrait.train.data.folders import check_file, whole_file
from triportrait.train.evaluation.methods import OURS, STATIC, WeightsAndBaselines
from triportrait.train.evaluation.paper.figures import Block, check_heads, self_block, views_block, write_figure
from triportrait.train.evaluation.protocol import Plan, groups
from triportrait.train.runs.weights import Trained, open_trained

logger = logging.getLogger(__name__)

MOST_WEIGHTS = 8


@dataclass(frozen=True)
class Figure:
    """Draw what the paper's figures 3 and 7 show, on heads that the weights know and on heads that they never saw.

    self: the static synthesizer beside the reenactment network, each head driven by itself, from its own camera and
    from both sides (figure 3). views: one face that two heads make who are seen from different sides; from the front
    the results should be one picture (figure 7).
    """

    kind: tyro.conf.Positional[Literal["self", "views"]]
    """What to draw: self or views."""
    weights: tyro.conf.Positional[tuple[str, ...]] = (DEMO,)
    """`demo`, or weights folders that `triportrait train` made; each has rows of its own, to compare ablations."""
    out: Path = Path("figure.png")
    """The picture to make, .png."""
    static: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights of the static synthesizer, RUN/static of a training, which self draws."""
    heads: int = 4
    """How many heads of the cast, and how many that no training saw."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one. Heads are drawn on the CPU."""
    cast_seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """The seed of the heads that the weights were trained on, where their card does not hold it."""
    cast_count: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many heads the weights were trained on."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the picture if it exists."""

    def run(self) -> None:
        """Check everything, draw, write, say what it measures."""
        check_file(self.out, self.overwrite, ".png")
        check_heads(self.heads)
        self._check_static()
        device = chosen_device(self.device).type
        opened = self._opened()
        candidates = [WeightsAndBaselines(trained.folder, self.static, device) for trained in opened]
        blocks = self._blocks(opened, candidates)
        with whole_file(self.out, self.overwrite) as path:
            write_figure(path, self.kind, blocks)
        for block in blocks:
            print(block.headline())
        logger.info("%s: %d heads", self.out, sum(len(block.rows) for block in blocks))

    def _check_static(self) -> None:
        if self.kind == "self" and self.static is None:
            raise InputError(
                "--static: expected the weights of a static synthesizer, which the figure self lays beside the "
                "network, got none; name RUN/static of the training"
            )
        if self.kind == "views" and self.static is not None:
            raise InputError("--static: expected nothing for the figure views, which no static synthesizer is in; "
                             "leave it out")  # fmt: skip

    def _opened(self) -> list[Trained]:
        if not 1 <= len(self.weights) <= MOST_WEIGHTS:
            raise InputError(f"WEIGHTS: expected 1 to {MOST_WEIGHTS} folders, got {len(self.weights)}; name fewer")
        opened = [open_trained(name, self.cast_seed, self.cast_count) for name in self.weights]
        size = opened[0].model.image_size
        for name, trained in zip(self.weights, opened, strict=True):
            if trained.model.image_size != size:
                raise InputError(
                    f"{name}: expected a network of {size} px as {self.weights[0]}, got {trained.model.image_size} px; "
                    "draw a figure of its own"
                )
        return opened

    def _blocks(self, opened: list[Trained], candidates: list[WeightsAndBaselines]) -> list[Block]:
        from tqdm import tqdm

        shown = [groups(trained.cast, Plan(self.heads)) for trained in opened]
        hidden = None if logger.isEnabledFor(logging.INFO) else True  # None hides it where stderr is no terminal
        total = sum(group.count for both in shown for group in both)
        blocks = []
        with tqdm(total=total, unit="head", desc="figure", file=sys.stderr, disable=hidden) as bar:
            for name, trained, candidate, both in zip(self.weights, opened, candidates, shown, strict=True):
                methods = candidate.methods()
                for group, who in zip(both, ("heads that training saw", "heads that training never saw"), strict=True):
                    title = f"{name}, {who}"
                    if self.kind == "self":
                        beside = f"{name} beside static {self.static}, {who}"
                        drawn = self_block(beside, group, trained.model, methods[STATIC], methods[OURS], bar.update)
                    else:
                        drawn = views_block(title, group, trained.model, methods[OURS], bar.update)
                    blocks.append(drawn)
        return blocks
