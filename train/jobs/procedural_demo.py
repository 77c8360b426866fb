"""`triportrait demo [OUT.mp4]`: a video of what trained weights can do, without any file of the user's."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.safe_text import shown as printable
from triportrait.core.weights import log_weights, named_weights
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.writer import write_video
from triportrait.train.data.folders import check_file, whole_file
from triportrait.train.demo_tiles import FPS, Character, characters, framed, tiles
from triportrait.train.runs.weights import Trained, open_trained

logger = logging.getLogger(__name__)

GIVEN = "given: landmarks and the neck's mesh; read off the pictures: all else"


@dataclass(frozen=True)
class Demo:
    """Show trained weights at work: procedural heads do what other heads do, seen from any side.

    Landmarks and the mesh by which the neck turns are given; the expressions are read off the frames by the motion
    encoder.
    """

    out: tyro.conf.Positional[Path] = Path("demo.mp4")
    """The video to make, .mp4."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """`demo` for the package's own weights, or a folder that `triportrait train` made. Default: $TRIPORTRAIT_WEIGHTS,
    else `demo`."""
    characters: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 3)")] = None
    """How many heads, one after the other."""
    seconds: float = 4.0
    """Seconds of each head."""
    cast_heads: Annotated[str | None, tyro.conf.arg(metavar="N,N,...", help_behavior_hint="")] = None
    """Which heads of the cast, in order, instead of a number of them."""
    cast_seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """The seed of the heads that the weights were trained on, where their card does not say."""
    cast_count: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """The number of these heads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one."""
    frame: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Write the liveliest frame of the first head as a picture, too."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the outputs if they exist."""

    def run(self) -> None:
        """Check everything, then make frame after frame."""
        check_file(self.out, self.overwrite, ".mp4")
        if self.frame is not None:
            check_file(self.frame, self.overwrite, ".png")
        device = chosen_device(self.device)
        weights = named_weights(self.weights)
        log_weights(self.weights)
        trained = open_trained(weights, self.cast_seed, self.cast_count)
        if self.cast_heads is not None and self.characters is not None:
            raise InputError(
                "--characters: expected nothing beside --cast-heads, which names them; give one of the two"
            )
        count = min(3, trained.cast.count) if self.characters is None else self.characters
        shown = characters(trained, count, self.seconds, self._cast_heads(), device.type)
        stamp = Stamp(_sources_sha256(shown), weights)
        with ExitStack() as stack:
            picture = None if self.frame is None else stack.enter_context(whole_file(self.frame, self.overwrite))
            video = stack.enter_context(whole_file(self.out, self.overwrite))
            write_video(video, _frames(trained, shown, picture, stamp), FPS)
            for file in (video, *([] if picture is None else [picture])):
                stamp.sign(file)
        print(printable(str(self.out)))

    def _cast_heads(self) -> list[int] | None:
        if self.cast_heads is None:
            return None
        try:
            return [int(number) for number in self.cast_heads.split(",")]
        except ValueError as error:
            raise InputError(
                f"--cast-heads: expected numbers such as 21,34,53, got {self.cast_heads!r}; name heads of the cast"
            ) from error


def _sources_sha256(shown: list[Character]) -> str:
    """The checksum of their numbers in words, such as `procedural heads of seed 0: 3 28 9`: they have no file."""
    heads = " ".join(str(character.head) for character in shown)
    return hashlib.sha256(f"procedural heads of seed {shown[0].seed}: {heads}".encode()).hexdigest()


def _frames(trained: Trained, shown: list[Character], picture: Path | None, stamp: Stamp) -> Iterator[np.ndarray]:
    """The frames of the video; the liveliest of the first character also becomes a picture."""
    from PIL import Image
    from tqdm import tqdm

    left = f"triportrait demo · {trained.model.image_size} px network, procedural heads"
    total, liveliest = sum(character.frames for character in shown), shown[0].liveliest()
    disable = None if logger.isEnabledFor(logging.INFO) else True
    bar = tqdm(tiles(shown), total=total, unit="frame", desc="demo", file=sys.stderr, disable=disable)
    for number, four in enumerate(bar):
        frame = stamp.mark(framed(four, left, GIVEN))
        if picture is not None and number == liveliest:
            Image.fromarray(frame).save(picture, optimize=True)
        yield frame
