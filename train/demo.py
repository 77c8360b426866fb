"""The demo: heads of the cast do what moving heads of strangers do, seen from there and from all around.

Expressions are read by the motion encoder off the frames of the driving video. Two things are given: where the
landmarks of a frame are, and the coarse mesh by which the neck turns.
Letters: T frames, S side of a tile in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, orbit_deg, turned
from triportrait.core.types import Driving, Source
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.parallel import in_order
from triportrait.train.data.pictures import neck_grids
from triportrait.train.data.scenes import motion, take_pictures, to_pictures
from triportrait.train.evaluation.protocol import Sitter, driving_seed, renderer, unseen
from triportrait.train.motion import read_motion
from triportrait.train.weights import Trained, load_trained

FPS = 25
TILE_PX = 256
ORBIT_YAW_DEG = 40.0
CAST_SEED = 0
CAST_HEADS = (3, 28, 9, 14, 30, 21)  # of the package's cast: that differ most
DRIVING_HEADS = (6, 22, 15, 13, 8, 5)
MOST_CHARACTERS, LONGEST_S = 32, 60.0
FRAMES_AT_A_TIME = 5
_CALM = 0.3  # how far a source's lids go down and its neck turns


@dataclass(frozen=True)
class Character:
    """A source and what drives it: a head of the cast, and a head of the population that drives.

    Attributes:
        weights: the networks' folder.
        seed, head: of the source. other: the driving head.
        frames: T.
        tile: S.
    """

    weights: Path
    seed: int
    head: int
    other: int
    frames: int
    tile: int

    def face(self) -> Expression:
        """[T] what the driving head does."""
        return motion(driving_seed(self.seed), self.other, self.frames, FPS)

    def orbit(self, frame: int) -> tuple[float, float]:
        """Yaw and pitch of the moving view, radians: once around per clip, to the left and to the right."""
        yaw, pitch = orbit_deg(frame, self.frames, yaw_deg=ORBIT_YAW_DEG)
        return math.radians(yaw), math.radians(pitch)

    def liveliest(self) -> int:
        """The frame with open eyes in which face and moving view do most."""
        face = self.face()
        does = face.jaw + face.smile.abs() + face.pucker + 0.5 * (face.brow_left.abs() + face.gaze_x.abs())
        seen = torch.tensor([abs(self.orbit(frame)[0]) for frame in range(self.frames)])
        return int((does + 2 * seen - 3 * torch.maximum(face.blink_left, face.blink_right)).argmax())


def characters(
    trained: Trained, count: int, seconds: float, cast_heads: Sequence[int] | None = None
) -> list[Character]:
    """Who is shown.

    Args:
        count: how many, where they are not named.
        seconds: of each.
        cast_heads: heads of the cast, in order.

    Raises:
        InputError: numbers out of range.
    """
    if not 1 <= count <= MOST_CHARACTERS:
        raise InputError(f"--characters: expected 1 to {MOST_CHARACTERS}, got {count}; choose another")
    if not 1 / FPS <= seconds <= LONGEST_S:
        raise InputError(f"--seconds: expected {1 / FPS:g} to {LONGEST_S:g}, got {seconds:g}; choose another")
    known = trained.cast.count
    if cast_heads is None:
        if count > known:
            raise InputError(
                f"--characters: expected up to {known}, the cast of these weights, got {count}; choose fewer"
            )
        fitting = [head for head in CAST_HEADS if head < known and trained.cast.seed == CAST_SEED]
        every = [*fitting, *(head for head in range(known) if head not in fitting)]
        cast_heads = every[:count]
    for head in cast_heads:
        if not 0 <= head < known:
            raise InputError(
                f"--cast-heads: expected numbers from 0 to {known - 1}, the cast, got {head}; choose others"
            )
    if not 1 <= len(cast_heads) <= MOST_CHARACTERS:
        raise InputError(f"--cast-heads: expected 1 to {MOST_CHARACTERS}, got {len(cast_heads)}; choose others")
    frames, tile = max(1, round(seconds * FPS)), max(TILE_PX, trained.model.image_size)
    return [
        Character(trained.folder, trained.cast.seed, head, DRIVING_HEADS[i % len(DRIVING_HEADS)], frames, tile)
        for i, head in enumerate(cast_heads)
    ]


def tiles(shown: Sequence[Character]) -> Iterator[np.ndarray]:
    """Frame after frame, uint8 [4, S, S, 3]: source, driving, result from the driving camera, from the moving one."""
    work = [_Frames(one, start) for one in shown for start in range(0, one.frames, FRAMES_AT_A_TIME)]
    for made in in_order(_make, work):
        yield from made


@dataclass(frozen=True)
class _Frames:
    character: Character
    start: int


@dataclass(frozen=True)
class _Stage:
    """A character, ready to be driven."""

    portrait: Portrait4D
    motion_encoder: SmallMotionEncoder
    source: Source
    sitter: Sitter
    tile: np.ndarray  # uint8 [S, S, 3] the source picture


@lru_cache(maxsize=1)
@torch.no_grad()
def _stage(character: Character) -> _Stage:
    portrait, encoder = load_trained(character.weights)
    sitter = Sitter.of(character.seed, character.head)
    face, camera = unseen(character.seed, character.head)
    calm = {name: _CALM * getattr(face, name) for name in ("blink_left", "blink_right", "neck")}
    face = face.replace(**calm)
    view = take_pictures(renderer(), sitter.identity, face, sitter.light, camera, character.tile)
    image, landmarks = _shrunk(view.image, view.landmarks, portrait.config.image_size)
    source = portrait.prepare(image, read_motion(encoder, image, landmarks))
    return _Stage(portrait, encoder, source, sitter, to_pictures(view.image)[0].numpy())


@torch.no_grad()
def _make(work: _Frames) -> np.ndarray:
    """uint8 [frames, 4, S, S, 3]."""
    character, stage = work.character, _stage(work.character)
    config, S = stage.portrait.config, character.tile
    numbers = list(range(work.start, min(work.start + FRAMES_AT_A_TIME, character.frames)))
    rows, one = torch.tensor(numbers), torch.zeros(len(numbers), dtype=torch.long)
    face = character.face().take(rows)
    other = Sitter.of(driving_seed(character.seed), character.other)
    _, camera = unseen(driving_seed(character.seed), character.other)
    view = take_pictures(renderer(), other.identity.take(one), face, other.light.take(one), camera.take(one), S)
    image, landmarks = _shrunk(view.image, view.landmarks, config.image_size)
    motions = read_motion(stage.motion_encoder, image, landmarks)
    necks = neck_grids(stage.sitter.identity.take(one), face, config)
    made = []
    for i, number in enumerate(numbers):
        head = stage.portrait.reenact(stage.source, Driving(motions[i : i + 1], necks.take([i])))
        views = [camera, turned(fixed_camera(), *character.orbit(number))]
        results = torch.cat([stage.portrait.render(head, v).image for v in views])
        shown = torch.cat([view.image[i : i + 1], _enlarged(results, S)])
        made.append(np.concatenate([stage.tile[None], to_pictures(shown).numpy()]))
    return np.stack(made)


def _shrunk(image: Tensor, landmarks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, size, size] as the network takes them, each pixel the mean of what it covers, and landmarks."""
    return F.interpolate(image, size=(size, size), mode="area"), landmarks * (size / image.shape[-1])


def _enlarged(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image, size=(size, size), mode="bicubic", align_corners=False).clamp(-1, 1)
