"""Heads that GenHead draws, as a user names them: a store of `prepare genhead`, or `genhead:FOLDER` with tables of
parameters, which draws them as training asks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import genhead_fingerprint, load_genhead
from triportrait.core.safe_text import literal, shown
from triportrait.train.config import LossConfig, TrainConfig
from triportrait.train.data.cameras import SetCameras, shown_range
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.data.generated.online import OnlineHeads
from triportrait.train.data.generated.source import GeneratedHeads
from triportrait.train.data.generated.store.layout import SOURCE, is_head_store
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.generated.stored import StoredHeads
from triportrait.train.data.split import read_split
from triportrait.train.runs.run_config import data_fingerprints

ONLINE = "genhead:"
TABLES = "*hq_all_*_params.npy"


def is_generated(data: Path) -> bool:
    """Return whether a user names heads of GenHead."""
    return str(data).startswith(ONLINE) or is_head_store(data)


class GeneratedData:
    """What is known of generated heads before any is drawn.

    Args:
        data: a store, or `genhead:FOLDER`.
        parameters: the folder of the tables from which heads are drawn; None for a store.

    Attributes:
        weights: folder of the generator that draws; None for a store.
        store: the store; None where heads are drawn as they are needed.
        split: who is held out; None where nobody is.
        trained, held_out: numbers of the heads on either side; `trained` is None where all are.

    Raises: `InputError` where generator, tables or store are not named, not there or damaged.
    """

    def __init__(self, data: Path, parameters: Path | None) -> None:
        self.data, self._parameters = data, parameters
        self.weights: str | None = None
        self.store: HeadStore | None = None
        self.trained: list[int] | None = None
        self.held_out: list[int] = []
        self.split = None
        if not str(data).startswith(ONLINE):
            if parameters is not None:
                raise InputError(
                    f"--parameters {parameters}: expected none beside a store, whose heads are drawn, got {data}; "
                    "leave it out"
                )
            self.store, self.split = HeadStore(data), read_split(data)
            if self.split is not None:
                self.trained, self.held_out = self.split.sides()
            return
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

    @property
    def name(self) -> str:
        """Return what it is called in sentences."""
        return str(self.data) if self.weights is None else f"{ONLINE}{Path(self.weights).resolve().name}"

    @cached_property
    def generator(self) -> GenHead:
        """Load the generator, once. Raises: `InputError` where it is missing or damaged."""
        assert self.weights is not None, "a store needs none"
        return load_genhead(self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """Tell the generator of the heads from others."""
        return genhead_fingerprint(self.generator) if self.store is None else self.store.generator

    def check_fits(self, config: TrainConfig, losses: LossConfig, static_share: float) -> None:
        """Check that the heads are what a training asks for.

        Args:
            config: with the cameras of generated heads. losses: of the stage.
            static_share: share of the heads with one face in all views.

        Raises: `InputError` for pictures of another size, and for a store that was drawn otherwise or lacks features.
        """
        side = config.model.image_size
        size = self.generator.config.image_size if self.store is None else self.store.size
        if size != side:
            raise InputError(
                f"{self.name}: expected heads of {side} px for preset {config.preset}, got {size}; name a generator of "
                "that size, or another --preset"
            )
        if self.store is None:
            return
        wanted, drawn = drawn_as(config.cast.cameras, static_share), self.store.index.get("drawing")
        drawn = drawn if isinstance(drawn, dict) else {}
        options = f"--cameras {'published' if wanted.sampled_cameras < 1 else 'paper'}"
        options += "" if static_share == 1 else " --dynamic"
        ranges = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(wanted.cameras).items()}
        for name, what, value in (
            ("static_share", "share of heads with one face in all views", static_share),
            ("sampled_cameras", "share of views from sampled cameras", wanted.sampled_cameras),
            ("cameras", "range of sampled cameras", ranges),
        ):
            if drawn.get(name) != value:
                raise InputError(
                    f"{self.name}: expected as {what} {literal(value)}, got {literal(drawn.get(name))}; make a store "
                    f"by `triportrait prepare genhead {options}`, or say other --cameras here"
                )
        if losses.distill_feature and not self.store.features:
            raise InputError(
                f"{self.name}: expected feature images, as --distill-feature counts, got a store without; make it "
                "again by `triportrait prepare genhead --features`, or say --distill-feature 0"
            )

    def check_same(self, named: str) -> None:
        """Check that the GenHead of a folder is the one that drew the heads: its planes mean something to its own
        renderer alone. Raises: `InputError` for another."""
        other = genhead_fingerprint(load_genhead(named))
        if self.fingerprint != other:
            raise InputError(
                f"--genhead {named}: expected the generator of the heads of {self.name} ({shown(self.fingerprint)}), "
                f"got another ({other}); name that"
            )

    def entry(self, config: TrainConfig, static_share: float) -> dict[str, Any]:
        """Return what has to be the same when a run goes on: a checksum of all that decides the heads, and who is held
        out."""
        drawn = repr(drawn_as(config.cast.cameras, static_share)) if self.store is None else ""
        text = json.dumps([self._files, drawn], sort_keys=True)
        entry = {"generator": self.fingerprint, "data": hashlib.sha256(text.encode()).hexdigest(), "source": SOURCE}
        if self.split is not None:
            entry["held_out"] = hashlib.sha256(json.dumps(self.split.held_out).encode()).hexdigest()[:12]
        return entry

    def fingerprints(self) -> dict[str, Any]:
        """Return the generator and the tables, or the files of the store, so that other ones can be told from them."""
        return data_fingerprints(self.name if self.store is None else self.data.resolve().name, self._files)

    @cached_property
    def _files(self) -> dict[str, Any]:
        if self.store is not None:
            return {name: said for shard in self.store.shards for name, said in shard.files.items()}
        assert self._parameters is not None
        tables = {path.name: sha256(path) for path in sorted(self._parameters.glob(TABLES))}
        return {"generator": self.fingerprint, **tables}

    def open(
        self, config: TrainConfig, losses: LossConfig, device: torch.device, static_share: float, motion: bool = False
    ) -> GeneratedHeads:
        """Open the source of the heads that a stage learns from.

        Args:
            losses: of the stage; they decide what is made of each picture.
            static_share: share of the heads with one face in all views.
            motion: make the pictures whose motion is read, too.

        Raises: `InputError` where they are damaged, or generator and tables of two head models.
        """
        positions = losses.adversarial > 0
        if self.store is not None:
            return StoredHeads(self.data, config.seed, motion, positions, self.trained, device)
        assert self._parameters is not None
        return OnlineHeads(
            self.generator.to(device), self._parameters, config.seed, motion, positions, losses.distill_feature > 0,
            drawn_as(config.cast.cameras, static_share),
        )  # fmt: skip


def drawn_as(cameras: SetCameras, static_share: float) -> GeneratedConfig:
    """Return how heads are drawn: real cameras are those of the tables."""
    return GeneratedConfig(sampled_cameras=1 - cameras.filmed_share, cameras=cameras.sampled, static_share=static_share)


def shown_source(data: Path, parameters: Path | None, cameras: SetCameras) -> str:
    """Describe generated heads and their cameras in words, a line each."""
    if str(data).startswith(ONLINE):
        whom = f"the tables of {parameters}" if parameters is not None else "tables that --parameters names"
        heads = f"drawn by the GenHead of {str(data).removeprefix(ONLINE)} from {whom}, each seen once"
    else:
        heads = f"those of the store {data}, each once in an epoch"
    views = f"all views {shown_range(cameras.sampled)}"
    if cameras.filmed_share:
        of_tables = f"{cameras.filmed_share:.0%} of the views the cameras of the tables"
        views = f"{of_tables}, the others {shown_range(cameras.sampled)}"
    return f"heads: {heads}\nviews: {views}"
