"""`triportrait prepare heads|clips|head-videos|sheet` draws procedural heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triportrait.train.data.cameras import SET_CAMERAS, CameraPreset, shown_cameras
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.contact_sheets import SheetKind, write_sheet
from triportrait.train.data.head_videos import check_clips, write_clips
from triportrait.train.data.heads.population import check_seed_and_count
from triportrait.train.data.multiview import check_multiview, holds_multiview, write_multiview
from triportrait.train.data.split import check_share, head_identity
from triportrait.train.jobs.prepare_shared import Drawn, Held, already_there, progress_bar, report, split_off


@dataclass(frozen=True)
class Heads(Held, Drawn):
    """Write a multi-view set for stage 1: several expressions of each head, each seen from several sides, with depth,
    parts and landmarks. Where the same set is there already, nothing is done."""

    count: int = 16
    """How many heads."""
    expressions: int = 4
    """Expressions of each head."""
    views: int = 3
    """Views of each expression."""
    cameras: CameraPreset = "tiny"
    """The cameras of the preset of this name: tiny has the first view near the front, paper has all views in the
    paper's range, published half of them there and half where people film themselves."""
    overwrite: bool = False
    """Replace the folder if it is such a set."""

    def run(self) -> None:
        """Check everything, then write head by head."""
        out, cameras = self.target(), SET_CAMERAS[self.cameras]
        _check_heads(self.split, self.seed, self.count, out)
        settings = {n: getattr(self, n) for n in ("seed", "count", "expressions", "views", "size", "antialias")}
        if not self.overwrite and holds_multiview(out, settings | {"faces": "random"}, cameras):
            held = split_off(out, self.split)
            report(out, f"{out}: these {self.count} heads are there already, nothing was done{held}")
            return
        numbers = (self.seed, self.count, self.expressions, self.views, self.size, self.antialias)
        check_multiview(*numbers)
        with progress_bar("head", self.count) as progress:
            write_multiview(out, *numbers, self.overwrite, progress, seen_from=cameras)
        pictures = self.count * self.expressions * self.views
        held = split_off(out, self.split)
        report(out, f"{self.count} heads, {pictures} pictures of {self.size} px; {shown_cameras(cameras)}{held}")


@dataclass(frozen=True)
class Clips(Held, Drawn):
    """Write a clip store for stage 2: one moving head in each clip, at 25 frames a second. A command that was stopped
    goes on."""

    count: int = 32
    """How many clips, one of each head."""
    frames: int = 50
    """Frames of each clip."""

    def run(self) -> None:
        """Check everything, then film clip by clip."""
        out = self.target()
        _check_heads(self.split, self.seed, self.count, out)
        with progress_bar("clip", self.count) as progress:
            clips = film_heads(out, self.seed, self.count, self.frames, self.size, self.antialias, progress)
        held = split_off(out, self.split)
        line = already_there(out, clips) or f"{self.count} clips of {self.frames} frames, {self.size} px"
        report(out, f"{line}{held}")


@dataclass(frozen=True)
class HeadVideos(Drawn):
    """Write H.264 videos of one moving head each, with an .npz of every frame's numbers beside each; `reenact` reads
    landmarks and neck poses there."""

    count: int = 4
    """How many videos."""
    frames: int = 75
    """Frames of each video."""
    fps: int = 25
    """Frames a second."""
    overwrite: bool = False
    """Replace the folder if it holds such videos."""

    def run(self) -> None:
        """Check everything, then write video by video."""
        out = self.target()
        numbers = (self.seed, self.count, self.frames, self.fps, self.size, self.antialias)
        check_clips(*numbers)
        with progress_bar("video", self.count) as progress:
            write_clips(out, *numbers, self.overwrite, progress)
        report(out, f"{self.count} videos of {self.frames} frames, {self.size} px")


@dataclass(frozen=True)
class Sheet(Drawn):
    """Write a contact sheet of heads as PNG."""

    kind: SheetKind = "identities"
    """Many heads, each head with every expression, or each head from all sides."""
    count: int = 24
    """How many heads; 2 or 3 are enough for expressions and views."""
    overwrite: bool = False
    """Replace the picture if it exists."""

    def run(self) -> None:
        """Check everything, then draw."""
        out = self.target()
        write_sheet(out, self.kind, self.seed, self.count, self.size, self.antialias, self.overwrite)
        report(out, f"{self.kind} of seed {self.seed}")


def _check_heads(share: float | None, seed: int, count: int, out: Path) -> None:
    """Check before heads are drawn that a share of them leaves some on either side. Raises: `InputError`."""
    if share is not None:
        check_seed_and_count(seed, count)
        check_share(share, 0, [head_identity(seed, head) for head in range(count)], str(out))
