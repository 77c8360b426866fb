"""The demo shows heads of the cast that moving heads of strangers drive, from the driving camera and from all around.

The motion encoder reads expressions off the frames of the driving video. The landmarks of each frame, and the coarse
mesh by which the neck turns, are the generator's.
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
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, orbit_deg, turned
from triportrait.core.types import Driving, Source
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.parallel import in_order
from triportrait.train.data.pictures import neck_grids
from triportrait.train.data.scene_sampling import motion, take_pictures, to_uint8
from triportrait.train.evaluation.protocol import Sitter, driving_seed, renderer, unseen
from triportrait.train.runs.weights import Trained, load_trained
from triportrait.train.stages.motion import read_motion

FPS = 25
TILE_PX = 256
ORBIT_YAW_DEG = 40.0
CAST_SEED = 0
CAST_HEADS = (3, 28, 9, 14, 30, 21)  # those of the package's cast that differ most
DRIVING_HEADS = (6, 22, 15, 13, 8, 5)
MOST_CHARACTERS, LONGEST_S = 32, 60.0
FRAMES_AT_A_TIME = 5
CAPTIONS = ("source", "driving: another head", "result", "result from any side")
_PAPER, _INK, _FAINT = (22, 24, 29), (236, 238, 242), (142, 148, 158)
_MARGIN, _GAP, _CAPTION, _LINE = 16, 8, 28, 30
_CAPTION_PX, _LINE_PX = 15, 13
_CALM = 0.3  # factor on a source's blinks and neck rotation


@dataclass(frozen=True)
class Character:
    """A head of the cast as the source, and a head of another population that drives it.

    Attributes:
        weights: the networks' folder.
        seed, head: of the source. other: the driving head.
        frames: T.
        tile: S.
        device: where the networks run, cpu or cuda.
    """

    weights: Path
    seed: int
    head: int
    other: int
    frames: int
    tile: int
    device: str = "cpu"

    def face(self) -> Expression:
        """Return the expressions [T] of the driving head."""
        return motion(driving_seed(self.seed), self.other, self.frames, FPS)

    def orbit(self, frame: int) -> tuple[float, float]:
        """Return yaw and pitch of the moving view, radians; it goes to the left and to the right once per clip."""
        yaw, pitch = orbit_deg(frame, self.frames, yaw_deg=ORBIT_YAW_DEG)
        return math.radians(yaw), math.radians(pitch)

    def liveliest(self) -> int:
        """Return the frame with open eyes in which the face and the view move most."""
        face = self.face()
        movement = face.jaw + face.smile.abs() + face.pucker + 0.5 * (face.brow_left.abs() + face.gaze_x.abs())
        yaw = torch.tensor([abs(self.orbit(frame)[0]) for frame in range(self.frames)])
        return int((movement + 2 * yaw - 3 * torch.maximum(face.blink_left, face.blink_right)).argmax())


def characters(
    trained: Trained, count: int, seconds: float, cast_heads: Sequence[int] | None = None, device: str = "cpu"
) -> list[Character]:
    """Choose the characters of a demo.

    Args:
        count: how many, where `cast_heads` does not name them.
        seconds: the length of each clip.
        cast_heads: heads of the cast, in order.
        device: where the networks run, cpu or cuda.

    Raises:
        InputError: numbers out of range.
    """
    if not 1 <= count <= MOST_CHARACTERS:
        raise InputError(f"--characters: expected 1 to {MOST_CHARACTERS}, got {count}; choose another")
    if not 1 / FPS <= seconds <= LONGEST_S:
        raise InputError(f"--seconds: expected {1 / FPS:g} to {LONGEST_S:g}, got {seconds:g}; choose another")
    cast_count = trained.cast.count
    if cast_heads is None:
        if count > cast_count:
            raise InputError(
                f"--characters: expected up to {cast_count}, the cast of these weights, got {count}; choose fewer"
            )
        fitting = [head for head in CAST_HEADS if head < cast_count and trained.cast.seed == CAST_SEED]
        every = [*fitting, *(head for head in range(cast_count) if head not in fitting)]
        cast_heads = every[:count]
    for head in cast_heads:
        if not 0 <= head < cast_count:
            raise InputError(
                f"--cast-heads: expected numbers from 0 to {cast_count - 1}, the cast, got {head}; choose others"
            )
    if not 1 <= len(cast_heads) <= MOST_CHARACTERS:
        raise InputError(f"--cast-heads: expected 1 to {MOST_CHARACTERS}, got {len(cast_heads)}; choose others")
    frames, tile = max(1, round(seconds * FPS)), max(TILE_PX, trained.model.image_size)
    return [
        Character(trained.folder, trained.cast.seed, head, DRIVING_HEADS[i % len(DRIVING_HEADS)], frames, tile, device)
        for i, head in enumerate(cast_heads)
    ]


def tiles(shown: Sequence[Character]) -> Iterator[np.ndarray]:
    """Yield frames uint8 [4, S, S, 3]: source, driving picture, result from the driving and from the moving camera."""
    work = [_Frames(character, start) for character in shown for start in range(0, character.frames, FRAMES_AT_A_TIME)]
    for frames in in_order(_render_frames, work, gpu=any(character.device == "cuda" for character in shown)):
        yield from frames


@dataclass(frozen=True)
class _Frames:
    character: Character
    start: int


@dataclass(frozen=True)
class _Prepared:
    """The networks and the prepared source of a character."""

    portrait: Portrait4D
    motion_encoder: MotionEncoder
    source: Source
    sitter: Sitter
    tile: np.ndarray  # uint8 [S, S, 3] the source picture


@lru_cache(maxsize=1)
@torch.inference_mode()
def _prepared(character: Character) -> _Prepared:
    portrait, encoder = load_trained(character.weights, character.device)
    sitter = Sitter.of(character.seed, character.head)
    face, camera = unseen(character.seed, character.head)
    calm = {name: _CALM * getattr(face, name) for name in ("blink_left", "blink_right", "neck")}
    face = face.replace(**calm)
    view = take_pictures(renderer(), sitter.identity, face, sitter.light, camera, character.tile)
    image, landmarks = _shrunk(view.image, view.landmarks, portrait.config.image_size, character.device)
    source = portrait.prepare(image, read_motion(encoder, image, landmarks))
    return _Prepared(portrait, encoder, source, sitter, to_uint8(view.image)[0].numpy())


@torch.inference_mode()
def _render_frames(work: _Frames) -> np.ndarray:
    """Render some frames of a character, uint8 [frames, 4, S, S, 3]."""
    character, prepared = work.character, _prepared(work.character)
    config, S = prepared.portrait.config, character.tile
    numbers = list(range(work.start, min(work.start + FRAMES_AT_A_TIME, character.frames)))
    first = torch.zeros(len(numbers), dtype=torch.long)
    face = character.face().take(torch.tensor(numbers))
    other = Sitter.of(driving_seed(character.seed), character.other)
    _, camera = unseen(driving_seed(character.seed), character.other)
    view = take_pictures(renderer(), other.identity.take(first), face, other.light.take(first), camera.take(first), S)
    image, landmarks = _shrunk(view.image, view.landmarks, config.image_size, character.device)
    motions = read_motion(prepared.motion_encoder, image, landmarks)
    necks = neck_grids(prepared.sitter.identity.take(first), face, config).to(character.device)
    frames = []
    for i, number in enumerate(numbers):
        head = prepared.portrait.reenact(prepared.source, Driving(motions[i : i + 1], necks.take([i])))
        views = [camera, turned(fixed_camera(), *character.orbit(number))]
        results = torch.cat([prepared.portrait.render(head, v.to(character.device)).image.cpu() for v in views])
        shown = torch.cat([view.image[i : i + 1], _enlarged(results, S)])
        frames.append(np.concatenate([prepared.tile[None], to_uint8(shown).numpy()]))
    return np.stack(frames)


def _shrunk(image: Tensor, landmarks: Tensor, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Shrink pictures, by means over the area of each pixel, and landmarks to the network's size [B, 3, size, size]."""
    small = F.interpolate(image, size=(size, size), mode="area")
    return small.to(device), (landmarks * (size / image.shape[-1])).to(device)


def _enlarged(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image, size=(size, size), mode="bicubic", align_corners=False).clamp(-1, 1)


def framed(tiles: np.ndarray, left: str, right: str) -> np.ndarray:
    """Put tiles beside each other on the card.

    Args:
        tiles: uint8 [4, S, S, 3].
        left, right: texts at both ends of the line below.

    Returns:
        uint8 [H, W, 3], H and W even.
    """
    side = tiles.shape[1]
    frame = _card(side, left, right).copy()
    for number, tile in enumerate(tiles):
        at = _MARGIN + number * (side + _GAP)
        frame[_MARGIN + _CAPTION : _MARGIN + _CAPTION + side, at : at + side] = tile
    return frame


@lru_cache(maxsize=4)
def _card(side: int, left: str, right: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    width = 2 * _MARGIN + len(CAPTIONS) * (side + _GAP) - _GAP
    height = _MARGIN + _CAPTION + side + _LINE
    image = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, caption in enumerate(CAPTIONS):
        at = _MARGIN + number * (side + _GAP)
        font = ImageFont.load_default(_CAPTION_PX)
        draw.text((at, _MARGIN + _CAPTION // 2 - 4), caption, fill=_INK, font=font, anchor="lm")
    middle, font = _MARGIN + _CAPTION + side + _LINE // 2 + 1, ImageFont.load_default(_LINE_PX)
    draw.text((_MARGIN, middle), left, fill=_FAINT, font=font, anchor="lm")
    draw.text((width - _MARGIN, middle), right, fill=_FAINT, font=font, anchor="rm")
    return np.asarray(image)
