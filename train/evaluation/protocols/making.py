"""Makes a protocol of a folder of clips: looks at each clip once, then draws who drives whom by the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.faces.face import FaceProvider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.pictures.picture_folder import PICTURE_ENDINGS, as_people_count
from triportrait.serve.media.video.clips import open_clip
from triportrait.train.evaluation.protocols.frames import check_square, content_hash
from triportrait.train.evaluation.protocols.presets import DRIVERS, PRESETS, Preset, PresetName
from triportrait.train.evaluation.protocols.records import (
    MOST_CLIPS,
    Choice,
    ClipRecord,
    Crop,
    Head,
    Pair,
    inside,
    protocol_bytes,
)

CLIP_ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_CROPS = {
    "whole": Choice("whole", "frames are aligned squares already and are resized to the size in this head by Lanczos"),
    "aligned": Choice(
        "aligned",
        "each frame is cut by the published alignment of its own face, smoothed over the clip; the squares are written"
        " in this file, so that everybody cuts the same pictures",
    ),
}


@dataclass(frozen=True)
class Wanted:
    """Says which protocol is made.

    Attributes:
        preset: the paper's.
        clips, frames: at most so many; None takes the paper's numbers.
        networks: names of metric networks -> SHA-256 of the file that scores must use.
    """

    preset: PresetName
    seed: int
    size_px: int
    crop: Crop
    clips: int | None
    frames: int | None
    networks: Mapping[str, str]


def clips_of(folder: Path) -> list[Path]:
    """List the clips of a folder, videos and folders of pictures, as people count.

    Raises:
        InputError: it is no folder, holds no clip, or too many.
    """
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{folder}: expected a folder of clips ({reason}); check the path") from error
    clips = sorted((path for path in entries if _is_clip(path)), key=as_people_count)
    if not clips:
        raise InputError(f"{folder}: expected videos ({' '.join(CLIP_ENDINGS)}) or folders of pictures, found none")
    if len(clips) > MOST_CLIPS:
        raise InputError(f"{folder}: expected at most {MOST_CLIPS:,} clips, got {len(clips):,}; split the folder")
    return clips


def _is_clip(path: Path) -> bool:
    if path.is_dir():
        return any(inner.suffix.lower() in PICTURE_ENDINGS for inner in path.iterdir())
    return path.suffix.lower() in CLIP_ENDINGS


def make_protocol(
    folder: Path,
    wanted: Wanted,
    provider: FaceProvider | None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Return the bytes of a protocol file that is to lie in the folder of its clips.

    Args:
        provider: what finds faces, for the crop `aligned`.
        tell: hears how many of how many clips were looked at.

    Raises:
        InputError: a clip cannot be used, or there are too few for the pairs.
    """
    preset = PRESETS[wanted.preset]
    frames = wanted.frames or preset.frames
    paths, most = clips_of(folder), wanted.clips or preset.clips
    if len(paths) > most:
        drawn = np.random.default_rng(wanted.seed).permutation(len(paths))[:most]
        paths = [paths[i] for i in sorted(drawn)]
    if "cross" in preset.kinds and len(paths) < 2:
        raise InputError(
            f"{folder}: expected two clips at least, so that one drives another, got {len(paths)}; add one"
        )
    choices = {**preset.choices, "crop": _CROPS[wanted.crop]}
    head = Head(
        wanted.preset, wanted.seed, wanted.size_px, wanted.crop, frames, preset.metrics, wanted.networks, choices
    )  # fmt: skip
    clips = []
    for number, path in enumerate(paths):
        tell(number, len(paths))
        clips.append(_looked_at(folder, path, f"clip-{number:04d}", head, provider))
    tell(len(paths), len(paths))
    return protocol_bytes(head, clips, pairs_of(preset, clips, wanted.seed))


def _looked_at(folder: Path, path: Path, name: str, head: Head, provider: FaceProvider | None) -> ClipRecord:
    """Decode a clip once. Raises: `InputError` where it has no frame, or no face for the crop `aligned`."""
    file = path.relative_to(folder).as_posix()
    inside(folder, file)
    clip = open_clip(path)
    tracker = FaceTracker(provider, head.size_px) if head.crop == "aligned" else None
    count, squares = 0, []
    with closing(clip.frames(head.frames)) as frames:
        for frame in frames:
            if frame.index != count:
                break  # what follows damage would be counted otherwise by another decoder
            count += 1
            if tracker is None:
                check_square(path, frame.image)
            else:
                placed = tracker.follow(frame.image, frame.time_s).placed
                squares.append((round(placed.left, 2), round(placed.top, 2), round(placed.side, 2)))
    if count == 0:
        raise InputError(f"{path}: expected frames that decode, got none; copy the clip again or take it away")
    if tracker is not None and not tracker.seen:
        raise InputError(f"{path}: expected a face in some frame, found none; take the clip away or pass --crop whole")
    return ClipRecord(
        name, file, content_hash(path), count, float(clip.fps), clip.has_audio, name, tuple(squares)
    )  # fmt: skip


def pairs_of(preset: Preset, clips: Sequence[ClipRecord], seed: int) -> list[Pair]:
    """Draw the pairs of a protocol; the same clips and seed give the same."""
    random = np.random.default_rng([seed, 1])
    order = [clips[i] for i in random.permutation(len(clips))]
    driver_of = {clip.name: order[(i + 1) % len(order)] for i, clip in enumerate(order)}
    picked = {clip.name: int(random.integers(clip.frames)) for clip in clips}
    pairs: list[Pair] = []
    for kind in preset.kinds:
        for clip in clips:
            number, driver = clip.name.removeprefix("clip-"), clip if kind == "self" else driver_of[clip.name]
            name = f"{kind}-{number}"
            if kind == "consistency":
                others = [other for other in clips if other.identity != clip.identity]
                chosen = sorted(random.permutation(len(others))[:DRIVERS])
                pairs += [
                    Pair(
                        f"{name}-{k:02d}", kind, name, clip.name, 0, others[i].name, picked[others[i].name], 1, "front"
                    )
                    for k, i in enumerate(chosen)
                ]  # fmt: skip
            elif kind != "sound" or driver.has_sound:
                pairs.append(Pair(name, kind, name, clip.name, 0, driver.name, 0, driver.frames))
    return pairs
