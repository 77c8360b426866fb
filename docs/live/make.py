"""Make the portraits and the driving video of the live page: `python docs/live/make.py`.

head-1.jpg ... procedural heads of the cast of the package's weights, with a calm face
driving.mp4    a head of another population that talks, seven seconds and the same backwards, so that it loops
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from triportrait.serve.media.video.writer import write_video
from triportrait.train.data.scene_sampling import motion, take_pictures, to_uint8
from triportrait.train.demo_tiles import CAST_HEADS, CAST_SEED
from triportrait.train.evaluation.protocol import Sitter, driving_seed, renderer, unseen

FOLDER = Path(__file__).parents[2] / "serve" / "live" / "page" / "examples"
PORTRAIT_PX, DRIVING_PX, FPS, SECONDS = 320, 256, 25, 7
DRIVING_HEAD = 6
CALM = 0.2  # of a random expression


def portrait(head: int) -> Image.Image:
    """A head of the cast from near the front."""
    sitter = Sitter.of(CAST_SEED, head)
    face, camera = unseen(CAST_SEED, head)
    calm = type(face).from_vector(CALM * face.vector, CALM * face.neck)
    view = take_pictures(renderer(), sitter.identity, calm, sitter.light, camera, PORTRAIT_PX)
    return Image.fromarray(to_uint8(view.image)[0].numpy())


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, head in enumerate(CAST_HEADS, 1):
        portrait(head).save(FOLDER / f"head-{number}.jpg", quality=88)
    seed, frames = driving_seed(CAST_SEED), FPS * SECONDS
    other, one = Sitter.of(seed, DRIVING_HEAD), torch.zeros(frames, dtype=torch.long)
    _, camera = unseen(seed, DRIVING_HEAD)
    face = motion(seed, DRIVING_HEAD, frames, FPS)
    view = take_pictures(
        renderer(), other.identity.take(one), face, other.light.take(one), camera.take(one), DRIVING_PX
    )
    there = list(to_uint8(view.image).numpy())
    write_video(FOLDER / "driving.mp4", there + there[-2:0:-1], FPS)


if __name__ == "__main__":
    main()
