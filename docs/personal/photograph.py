"""Refine the networks for a photograph; show it driven by a drawn head and turned, plain and refined.

`python -m docs.personal.photograph OUT` takes the photograph of docs/demo and the driving video of the live page; OUT
gets person.safetensors and photograph.png. `triportrait fetch faces` brings the networks that find faces, once.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.serve.pipeline import Pipeline
from triportrait.train.evaluation.contact_sheets import Row, write_sheet

ROOT = Path(__file__).resolve().parents[2]
FRAMES = (70, 112, 126, 182)  # of the driving video: at rest, laughing, looking aside, astonished
TURNS_DEG = (-25.0, 25.0)


def shown(pipeline: Pipeline, source: Path, driving: Path, person: Path | None) -> tuple[list[Tensor], list[Tensor]]:
    """Show the source with its own face, driven by frames of a video, and from the sides.

    Returns: the driving faces and the results, each [1, 3, S, S] in [-1, 1].
    """
    own = [_parts(pipeline, source, source, 1, person, yaw_deg=turn)[0] for turn in (0.0, *TURNS_DEG)]
    driven = _parts(pipeline, source, driving, max(FRAMES) + 1, person)
    chosen = [own[0], *(driven[number] for number in FRAMES), *own[1:]]
    return [driver for driver, _ in chosen], [result for _, result in chosen]


def _parts(
    pipeline: Pipeline, source: Path, driving: Path, frames: int, person: Path | None, yaw_deg: float = 0.0
) -> list[tuple[Tensor, Tensor]]:
    """Return the driving face and the result of each frame."""
    with pipeline.animate(
        source, driving, frames=frames, yaw_deg=yaw_deg, side_by_side=True, person=person
    ) as animation:
        _, drivers, results = zip(*(np.split(np.asarray(frame.image), 3, axis=1) for frame in animation), strict=True)
    return [(as_tensor(driver), as_tensor(result)) for driver, result in zip(drivers, results, strict=True)]


def as_tensor(picture: np.ndarray) -> Tensor:
    """Return a picture uint8 [S, S, 3] as [1, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, default=ROOT / "docs/demo/portrait.jpg")
    parser.add_argument("--driving", type=Path, default=ROOT / "serve/live/page/examples/driving.mp4")
    parser.add_argument("--minutes", type=float, default=2.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "person.safetensors"
    with Pipeline.from_pretrained("demo", device="cpu") as pipeline:
        if not file.exists():
            began = time.perf_counter()
            pipeline.personalize([given.source], file, minutes=given.minutes)
            print(f"refined in {time.perf_counter() - began:.0f} s")
        photograph = as_tensor(pipeline.prepare(given.source).face.crop)
        drivers, plain = shown(pipeline, given.source, given.driving, None)
        _, refined = shown(pipeline, given.source, given.driving, file)
    rows: list[Row] = [
        ("driving", [None, *drivers]), ("plain", [photograph, *plain]), ("refined", [photograph, *refined])
    ]  # fmt: skip
    columns = ["photograph", "its own face", *(f"frame {number}" for number in FRAMES)]
    columns += [f"turned {turn:+.0f}°" for turn in TURNS_DEG]
    write_sheet(given.out / "photograph.png", columns, [("", rows)], left_px=60)
    print(given.out / "photograph.png")


if __name__ == "__main__":
    main()
