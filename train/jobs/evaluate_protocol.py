"""`triportrait evaluate protocol DIR` writes down who drives whom, so that methods are compared by the same file."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.serve.faces.providers import LazyProvider
from triportrait.train.evaluation.protocols.making import Wanted, make_protocol
from triportrait.train.evaluation.protocols.presets import PRESETS, PresetName
from triportrait.train.evaluation.protocols.records import (
    LARGEST_PX,
    MOST_CLIPS,
    MOST_FRAMES,
    SMALLEST_PX,
    Crop,
    read_protocol,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """Write a protocol of a folder of clips: a file that says which frames are compared, how, and who drives whom."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
    """The folder of clips: videos, or folders of pictures. The protocol is written into it."""
    kind: PresetName = "p4d-table1"
    """Whose protocol: of Portrait4D-v2's Table 1 (self, cross), 2 (cross, sound) or 3 (self, cross, consistency), or of
    GAGAvatar."""
    crop: Crop = "whole"
    """How frames are cut: `whole` squares, which are aligned already, or `aligned`: by the face in each frame."""
    size: int = 512
    """Side of the compared pictures in px."""
    clips: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """At most so many clips, drawn by the seed; by default as many as the paper takes, 100."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """At most so many frames of each clip, from the first; by default as many as the paper takes, 200."""
    seed: int = 0
    """Decides which clips are taken and who drives whom."""
    networks: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Metric networks (see `score`) whose hashes are written down, so that scores of other files are refused."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file to write, in DIR; by default DIR/KIND.jsonl."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the file if it exists."""

    def run(self) -> None:
        """Check everything, look at each clip once, write."""
        from tqdm import tqdm

        self._check()
        target = self.out or self.folder / f"{self.kind}.jsonl"
        if target.absolute().parent.resolve() != self.folder.resolve():
            raise InputError(f"{target}: expected a file in {self.folder}, where the clips are; leave --out away")
        if os.path.lexists(target) and not self.overwrite:
            raise InputError(f"{target}: it exists already; pass --overwrite to replace it")
        wanted = Wanted(
            self.kind, self.seed, self.size, self.crop, self.clips, self.frames, _pinned(self.networks)
        )  # fmt: skip
        hidden = None if logger.isEnabledFor(logging.INFO) else True
        with (
            closing(LazyProvider("networks" if self.crop == "aligned" else "none")) as finder,
            tqdm(unit="clip", desc="protocol", file=sys.stderr, disable=hidden) as bar,
        ):

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            data = make_protocol(self.folder, wanted, finder(), tell)
        try:
            with replacing(target, self.overwrite) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{target}: it could not be written ({reason}); make the folder writable") from error
        protocol = read_protocol(target)
        kinds = [
            f"{n} {kind}" for kind in PRESETS[self.kind].kinds if (n := sum(p.kind == kind for p in protocol.pairs))
        ]
        print(f"{target}: {len(protocol.clips)} clips, {', '.join(kinds)} pairs, {protocol.sha256}")

    def _check(self) -> None:
        for name, low, high in (
            ("size", SMALLEST_PX, LARGEST_PX),
            ("clips", 1, MOST_CLIPS),
            ("frames", 1, MOST_FRAMES),
            ("seed", 0, 2**31),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name}: expected a whole number from {low} to {high}, got {value}; choose another")


def _pinned(networks: str | None) -> dict[str, str]:
    """Return name -> SHA-256 of the metric networks that are named."""
    from triportrait.train.evaluation.protocols.network_features import hashes

    return {} if networks is None else hashes(networks)
