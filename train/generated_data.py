"""Heads that GenHead draws, as a user names them: `genhead:FOLDER` with tables of parameters, drawn as training asks.

Nothing is held out of such heads: every one is drawn once. Letters: B heads.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import genhead_fingerprint, load_genhead
from triportrait.train.config import LossConfig, TrainConfig
from triportrait.train.data.cameras import SetCameras, shown_range
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.data.generated.online import OnlineHeads
from triportrait.train.data.generated.source import GeneratedHeads
from triportrait.train.runs.run_config import data_fingerprints

ONLINE = "genhead:"
SOURCE = "genhead"  # of a run's entry, in the place of the name of a kind of clips
TABLES = "*_params.npy"


def is_generated(data: Path) -> bool:
    """Return whether a user names heads of GenHead."""
    return str(data).startswith(ONLINE)


class GeneratedData:
    """What is known of generated heads before any is drawn.

    Args:
        data: `genhead:FOLDER`.
        parameters: the folder of the tables from which they are drawn.

    Attributes:
        weights: folder of the generator.

    Raises: `InputError` where the generator or the tables are not named, or not there.
    """

    def __init__(self, data: Path, parameters: Path | None) -> None:
        self.weights = str(data).removeprefix(ONLINE)
        if parameters is None:
            raise InputError(
                f"{data}: expected beside it the tables from which its heads are drawn, got none; name by --parameters "
                "a folder of `triportrait prepare parameters` or of the published tables"
            )
        if not any(parameters.glob(TABLES)):
            raise InputError(
                f"--parameters {parameters}: expected tables of parameters, there are none; make them by `triportrait "
                "prepare parameters`"
            )
        self.parameters = parameters

    @property
    def name(self) -> str:
        """Return what it is called in sentences."""
        return f"{ONLINE}{Path(self.weights).resolve().name}"

    @cached_property
    def generator(self) -> GenHead:
        """Load the generator, once. Raises: `InputError` where it is missing or damaged."""
        return load_genhead(self.weights)

    def check_size(self, config: TrainConfig) -> None:
        """Check that pictures have the size of a training's. Raises: `InputError` for another."""
        size, side = self.generator.config.image_size, config.model.image_size
        if size != side:
            raise InputError(
                f"{self.name}: expected a generator of pictures of {side} px for preset {config.preset}, got one of "
                f"{size}; name another, or another --preset"
            )

    def check_same(self, named: str) -> None:
        """Check that the GenHead of a folder is the one that draws the heads: its planes mean something to its own
        renderer alone. Raises: `InputError` for another."""
        drawing, other = self.fingerprint, genhead_fingerprint(load_genhead(named))
        if drawing != other:
            raise InputError(
                f"--genhead {named}: expected the generator that draws the heads of {self.name} ({drawing}), got "
                f"another ({other}); name that, or leave it out"
            )

    def entry(self, config: TrainConfig, static_share: float) -> dict[str, Any]:
        """Return what has to be the same when a run goes on: a checksum of all that decides the heads."""
        numbers = drawn_as(config.cast.cameras, static_share)
        text = json.dumps([self._files, repr(numbers)], sort_keys=True)
        data = hashlib.sha256(text.encode()).hexdigest()
        return {"data": data, "source": SOURCE, "generator": self._files["generator"]}

    def fingerprints(self) -> dict[str, Any]:
        """Return the generator and the tables, so that other ones can be told from them."""
        return data_fingerprints(self.name, self._files)

    @cached_property
    def _files(self) -> dict[str, str]:
        tables = {path.name: sha256(path) for path in sorted(self.parameters.glob(TABLES))}
        return {"generator": self.fingerprint, **tables}

    @cached_property
    def fingerprint(self) -> str:
        """Tell the generator from others."""
        return genhead_fingerprint(self.generator)

    def open(
        self, config: TrainConfig, losses: LossConfig, device: torch.device, static_share: float, motion: bool = False
    ) -> GeneratedHeads:
        """Open the source of the heads that a stage learns from.

        Args:
            losses: of the stage; they decide what is made of each picture.
            static_share: share of the heads with one face in all views.
            motion: make the pictures whose motion is read, too.

        Raises: `InputError` where generator and tables are damaged, or of two head models.
        """
        return OnlineHeads(
            self.generator.to(device), self.parameters, config.seed, motion, losses.adversarial > 0,
            losses.distill_feature > 0, drawn_as(config.cast.cameras, static_share),
        )  # fmt: skip


def drawn_as(cameras: SetCameras, static_share: float) -> GeneratedConfig:
    """Return how heads are drawn: real cameras are those of the tables."""
    return GeneratedConfig(sampled_cameras=1 - cameras.filmed_share, cameras=cameras.sampled, static_share=static_share)


def shown_source(data: Path, parameters: Path | None, cameras: SetCameras) -> str:
    """Describe generated heads and their cameras in words, a line each."""
    whom = f"the tables of {parameters}" if parameters is not None else "tables that --parameters names"
    seen = f"all views {shown_range(cameras.sampled)}"
    if cameras.filmed_share:
        seen = (
            f"{cameras.filmed_share:.0%} of the views the cameras of the tables, the others "
            f"{shown_range(cameras.sampled)}"
        )
    return f"heads: drawn by the GenHead of {str(data).removeprefix(ONLINE)} from {whom}, each seen once\nviews: {seen}"
