"""Film procedural heads that perform a set piece, to try scorers with: `python -m docs.evaluation.sanity.clips FOLDER`.

Each clip begins at rest and stands still, then the head turns, nods and tilts while mouth, lids and brows move at rates
of their own. The people perform in different keys: none is in step with another. Beside each video lies an .npz of its
truth, as `triportrait prepare head-videos` writes it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from triportrait.serve.media.video.writer import write_video
from triportrait.train.data.heads.population import Expression, cast, sample_light, stream
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.multiview import numbers
from triportrait.train.data.scene_sampling import filming_cameras, take_pictures, to_uint8

FPS, STILL_S = 25, 0.4
SEED = 28  # heads without a fringe or glasses, which hide brows and lids
# cycles a second of the head's turn, mouth, lids and brows, one row for each person, then again
KEYS = ((0.50, 1.30, 0.90, 0.70), (0.65, 1.05, 0.70, 0.90), (0.40, 1.55, 1.10, 0.55))


def performance(person: int, frames: int, fps: float = FPS, still_s: float = STILL_S) -> Expression:
    """Return the face [T] of a person's set piece, which begins after `still_s` seconds."""
    turn_hz, mouth_hz, lids_hz, brows_hz = KEYS[person % len(KEYS)]
    side = 1 if person % 2 == 0 else -1
    seconds = (torch.arange(frames) / fps - still_s).clamp(min=0)
    begun = (seconds / 0.2).clamp(0, 1)

    def wave(hz: float, sharp: float = 1.0) -> torch.Tensor:
        return begun * ((1 - torch.cos(2 * math.pi * hz * seconds)) / 2) ** sharp

    turn, brows = (begun * torch.sin(2 * math.pi * hz * seconds) for hz in (turn_hz, brows_hz))
    lids = wave(lids_hz, 4)
    return Expression.neutral(frames).replace(
        jaw=0.9 * wave(mouth_hz), blink_left=lids, blink_right=lids, brow_left=0.9 * brows, brow_right=0.9 * brows,
        neck=torch.stack([0.15 * turn * turn.abs(), 0.33 * side * turn, 0.1 * turn], 1),
    )  # fmt: skip


def main() -> None:
    """Write `person0.mp4`, `person0.npz` and on into a folder."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--people", type=int, default=3)
    words.add_argument("--frames", type=int, default=75)
    words.add_argument("--size", type=int, default=256, help="px, even")
    given = words.parse_args()
    write(given.folder, given.people, given.frames, given.size)


def write(folder: Path, people: int, frames: int, size: int, pace: float = 1.0, still_s: float = STILL_S) -> None:
    """Write the clips; people act `pace` times as fast, so that few frames show all of the set piece."""
    folder.mkdir(parents=True, exist_ok=True)
    renderer, who, light = HeadRenderer(), cast(SEED, people), sample_light(people, stream(SEED, 1))
    filmed = filming_cameras(SEED, people)
    for person in range(people):
        rows = torch.full((frames,), person)
        face, camera = performance(person, frames, FPS / pace, still_s), filmed.take(rows)
        view = take_pictures(renderer, who.take(rows), face, light.take(rows), camera, size)
        write_video(folder / f"person{person}.mp4", to_uint8(view.image).numpy(), FPS)
        arrays = {
            "expression": face.vector, "neck": face.neck, "landmarks": view.landmarks,
            "world_from_camera": camera.world_from_camera[0], "intrinsics": camera.intrinsics[0],
            **numbers(who.take([person]), light.take([person])),
        }  # fmt: skip
        np.savez_compressed(folder / f"person{person}.npz", **{k: np.asarray(v) for k, v in arrays.items()})


if __name__ == "__main__":
    main()
