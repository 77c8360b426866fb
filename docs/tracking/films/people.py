"""Film procedural heads for `make`: their pictures with a matte, before any ground, at any place of a frame.

Letters: T frames, S side of a head's picture, H, W a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import motion, population, take_pictures, to_uint8

SEED = 4242  # of the people; no set of the package and no head model is made of this seed
FPS = 25
CAST = ("anna", "ben", "cleo", "dan", "eva", "finn")  # head k of the seed
COUNT = 12  # of whom the first have names


@dataclass(frozen=True)
class Footage:
    """One head's pictures.

    Attributes:
        rgba: uint8 [T, S, S, 4]; the matte is the share of a pixel that the head covers.
        landmarks: float32 [T, 68, 2] pixels, the middle of the first pixel at 0; hidden ones, too.
        neck: float32 [T, 3] rotation vectors, radians: how the head is turned before a camera that stands still.
    """

    rgba: np.ndarray
    landmarks: np.ndarray
    neck: np.ndarray

    def __len__(self) -> int:
        return len(self.rgba)


@lru_cache(maxsize=COUNT + 4)
def footage(person: int, take: int, frames: int, size: int, yaw_deg: tuple[float, float] = (0.0, 0.0)) -> Footage:
    """Film a person.

    Args:
        person: the head's number among those of the seed. take: another one moves in another way.
        frames: T, at 25 a second. size: S, 16 … 1024 px.
        yaw_deg: from where to where the camera goes around the head, degrees; 90 sees a profile.
    """
    who, light = population(SEED, COUNT)
    one = torch.full((frames,), person)
    views = [turned(fixed_camera(), math.radians(yaw), 0.0) for yaw in np.linspace(*yaw_deg, frames)]
    cameras = Camera(torch.cat([v.world_from_camera for v in views]), torch.cat([v.intrinsics for v in views]))
    does = motion(SEED, person + COUNT * take, frames, FPS)
    seen = take_pictures(HeadRenderer(), who.take(one), does, light.take(one), cameras, size, antialias=1)
    matte = (seen.opacity[:, 0] * 255).round().byte().numpy()
    rgba = np.concatenate([to_uint8(seen.image).numpy(), matte[..., None]], -1)
    return Footage(rgba, seen.landmarks.numpy() - 0.5, seen.neck.numpy())


def ground(number: int, size_px: tuple[int, int]) -> np.ndarray:
    """Paint what is behind the people: a wall of a pale colour with soft spots, darker below, uint8 [H, W, 3]."""
    rng = np.random.default_rng(number)
    colour = rng.integers(110, 200, 3) + rng.integers(-14, 15, (9, 16, 1)) + rng.integers(-5, 6, (9, 16, 3))
    spots = np.clip(colour - np.linspace(-20, 30, 9)[:, None, None], 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(spots).resize(size_px, Image.Resampling.BICUBIC))


def placed(
    frame: np.ndarray, picture: np.ndarray, at: tuple[float, float], scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Lay a head's picture [S, S, 4] over a frame [H, W, 3]; what stands over the edge is cut off.

    Args:
        at: of the picture's left upper corner in the frame, whole pixels are taken. scale: of the picture.

    Returns:
        The new frame, and [3] scale, x, y that carry the picture's pixels into the frame's.
    """
    side = picture.shape[0]
    new = max(2, round(side * scale))
    if new != side:
        picture = np.asarray(Image.fromarray(picture).resize((new, new), Image.Resampling.LANCZOS))
    canvas = Image.fromarray(frame)
    x, y = round(at[0]), round(at[1])
    canvas.paste(Image.fromarray(picture[..., :3]), (x, y), Image.fromarray(picture[..., 3]))
    factor = new / side
    return np.asarray(canvas), np.array([factor, x + (factor - 1) / 2, y + (factor - 1) / 2])
