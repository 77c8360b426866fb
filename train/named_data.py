"""The data that a user names for a training: a multi-view set or a clip store, and who of them is held out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import OPEN_HEAD_MODEL, HeadModel, check_same_model
from triportrait.core.weights import OPEN_HEAD
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, resolve_decoder
from triportrait.train.data.clip_store.store import ClipStore, is_clip_store
from triportrait.train.data.clip_store.tracks import FlameTracks, HeadTracks, Tracks
from triportrait.train.data.head_model_file import stored_head_model
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.split import read_split
from triportrait.train.engines.ranks import Ranks
from triportrait.train.runs.run_config import data_fingerprints
from triportrait.train.runs.weights import flame_field, flame_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loading:
    """How data comes to the training.

    Attributes:
        prefetch: steps whose batches are made ahead.
        decoder: of stored clips: av, dali, or auto.
        most_skipped: share of the clips that may be left out as damaged.
        evaluates: held-out people were asked for, so that data without a split are refused.
    """

    prefetch: int = 2
    decoder: str = "auto"
    most_skipped: float = 0.05
    evaluates: bool = False

    def __post_init__(self) -> None:
        if self.prefetch < 0:
            raise InputError(f"prefetch: expected 0 or more, got {self.prefetch}; choose another")
        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")


class NamedData:
    """What is known of the data before any picture is read.

    Args:
        folder: a multi-view set or a clip store.
        loading: how data is read.

    Attributes:
        clips: the clip store; None for a multi-view set.
        index: of the set, with its cameras, or of the store.
        split: who is held out; None where nobody is.
        trained, held_out: numbers of the heads or clips on either side; `trained` is None where all are.
        is_tracked: whether the clips show tracked faces, and not procedural heads.

    Raises: `InputError` for what is neither, or where nobody is held out who is asked for.
    """

    def __init__(self, folder: Path, loading: Loading) -> None:
        self.folder, self.loading = folder, loading
        self.clips = ClipStore(folder, whole=False) if is_clip_store(folder) else None
        self.index: Mapping[str, Any]
        if self.clips is None:
            multiview = MultiviewSet(folder)
            self.index = multiview.index | {"cameras": multiview.cameras}
        else:
            self.index = self.clips.index
        self.split = read_split(folder)
        self.trained: list[int] | None = None
        self.held_out: list[int] = []
        if self.split is not None:
            self.trained, self.held_out = self.split.sides()
        elif loading.evaluates:
            raise InputError(
                f"{folder}: expected data that hold somebody out for --evaluate-every, nobody is; hold a tenth out by "
                f"`triportrait prepare split {folder} --share 0.1`"
            )
        self.is_tracked = self.clips is not None and self.clips.source != HEADS

    def head_model(self, named: str | None, others: str | None = None) -> HeadModel | None:
        """Return the head model that the parameters of tracked faces are of; None for procedural heads.

        Args:
            named: the user's choice; by default the open head where the clips say so, else `others`.

        Raises: `InputError` where it is not named, or is another than theirs.
        """
        if not self.is_tracked:
            return None
        said = stored_head_model(self.index, f"{self.folder / 'index.json'}: head_model")
        named = named or (OPEN_HEAD if said.name == OPEN_HEAD_MODEL else others)
        model = flame_model(named)
        check_same_model(model.identity, said, str(self.folder), named or "--flame")
        return model

    def entry(self, ranks: Ranks) -> dict[str, Any]:
        """Return what has to be the same when a run goes on: checksum, source, decoder, who is held out."""
        files = self.index["files" if self.clips is None else "clips"]
        entry = {"data": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}
        if self.clips is not None:
            entry |= {"source": self.clips.source, "decoder": resolve_decoder(self.loading.decoder, ranks.device)}
        if self.split is not None:
            entry["held_out"] = hashlib.sha256(json.dumps(self.split.held_out).encode()).hexdigest()[:12]
        return entry

    def fingerprints(self) -> dict[str, Any]:
        """Return the data file by file."""
        if self.clips is None:
            files = self.index["files"]
        else:
            files = {clip["name"]: clip["files"] for clip in self.index["clips"]}
        return data_fingerprints(self.folder.resolve().name, files)

    def tell_split(self, ranks: Ranks) -> None:
        """Log who is held out, on the first rank."""
        if ranks.first and self.split is not None:
            logger.info("%s: %s, never trained on", self.folder, self.split.sentence())

    def pictures(
        self, config: ModelConfig, seed: int, ranks: Ranks, head_model: HeadModel | None, motion_width: int | None,
        positions: bool = False,
    ) -> tuple[ClipPictures, ClipPictures]:  # fmt: skip
        """Open the clips that are trained on, and those that are held out.

        Args:
            config: of the network that learns from them. seed: of the choice of frames.
            head_model: that of `head_model`.
            motion_width: M of the stored motion; None where it is not read.
            positions: whether uv maps are drawn of those that are trained on.
        """
        assert self.clips is not None, "a multi-view set has no clips"
        device = ranks.device
        tracks: Tracks = HeadTracks(config, device)
        if head_model is not None:
            tracks = FlameTracks(flame_field(head_model, config).to(device), motion_width)
        decode = DaliDecoder(device) if resolve_decoder(self.loading.decoder, device) == "dali" else AvDecoder()
        numbers = seed, decode, self.loading.most_skipped
        return (
            ClipPictures(self.clips, config, tracks, *numbers, positions, self.trained),
            ClipPictures(self.clips, config, tracks, *numbers, chosen=self.held_out),
        )
