"""An invisible watermark: 64 signs spread over a picture, so weak that nobody sees them, so many that all can be read.

The picture's luma is cut into tiles, each shrunk or stretched to 128 x 128, so that a resize changes little. In a tile

    r = band(y),  n² = blur(r²) + floor²,  c = DCT(r / n²),  z_i = Σ_(tiles, cells of bit i) sign · c

where the band keeps 9 to 29 periods a side, and n is the local contrast: what is busy says little about the mark and
is weighed down. Every bit has cells of all radii and directions. The sign of z_i is bit i. The writer knows the picture
and so its own z_i; it adds just what each bit lacks to a common margin (informed embedding), the largest that a fixed
contrast of the change allows. Nothing depends on time: what stands still is marked alike in every frame. The reader
adds z over frames.

A message is 28 bits; with a version (4) and a CRC-32 of both it is the 64-bit word. The reader tries the signs as they
are and with up to 3 of the 16 least certain ones turned, so that a picture that was never marked reads as marked with
the probability `FALSE_ALARM` for each arrangement of tiles: its signs are fair coins, as a hash assigns the cells.
Letters: N pictures, T tiles, D cells a bit.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

VERSION = 1
MESSAGE_BITS, VERSION_BITS, CHECK_BITS = 28, 4, 32
BITS = MESSAGE_BITS + VERSION_BITS + CHECK_BITS
SIDE = 128  # of a tile as it is measured, px
FINE_PX = 256  # from this shorter side on a picture has two tiles across it
CONTRAST = 0.31  # rms of the change over the picture's own local contrast (its harmonic mean: flat places decide),
WEAKEST, STRONGEST = 0.6, 1.7  # within these bounds, in levels of 255;
SHARED = 0.08  # less by this power of their number where tiles share the work
_LOWEST, _HIGHEST, _EDGE = 18.0, 58.0, 1.0  # the band, in half periods a tile, and the softness of its ends
_FLOOR = 2.0  # contrast, in levels, below which a place is flat: there the codec's noise decides
_BLUR = 1.5  # of the local contrast, pixels of a tile
_FROM_BLACK, _FROM_WHITE = 32.0, 4.0  # levels within which the mark fades: in the dark it shows more
_BARE, _COVER = 0.5, 2.0  # how strong it is where nothing covers it, and the contrast in levels that covers it
_MARGINS = (-1.0, 8.0, 91)  # tried, in units of the picture's own spread of z,
_FLAT_SPREAD = 2.2  # and of this much a tile where it has none
_MOST_TILES = 16
_UNCERTAIN, _TURNED = 16, 3
_TRIED = sum(math.comb(_UNCERTAIN, k) for k in range(_TURNED + 1))
FALSE_ALARM = _TRIED / 2 ** (CHECK_BITS + VERSION_BITS)  # per arrangement of tiles that is tried
_WHITENING = int.from_bytes(hashlib.sha256(b"triportrait watermark").digest()[:8], "big")

Image = TypeVar("Image", np.ndarray, Tensor)


@dataclass(frozen=True)
class Read:
    """What was read off pictures.

    Attributes:
        message: the 28 bits, None where no watermark was found.
        turned: signs that were wrong, of 64.
        pictures: how many were read.
        false_alarm: the probability that pictures without a watermark give any message at all.
    """

    message: int | None
    turned: int
    pictures: int
    false_alarm: float


class Watermark:
    """Marks pictures with a message.

    Attributes:
        message: 28 bits.
        signs: [64], the word of the message as +1 and -1, on the CPU.

    Args:
        message: 28 bits, such as `message_of(sha256)`.

    Raises: `ValueError` for a message out of range.
    """

    def __init__(self, message: int) -> None:
        if not 0 <= message < 1 << MESSAGE_BITS:
            raise ValueError(f"message: expected 0 to 2**{MESSAGE_BITS} - 1, got {message}")
        self.message = message
        self.signs = 2.0 * torch.tensor(codeword(message), dtype=torch.float32) - 1

    @torch.no_grad()
    def mark(self, image: Image) -> Image:
        """Return the picture, marked.

        Args:
            image: uint8 [H, W, 3] RGB, or as a tensor on any device also [N, H, W, 3].

        Returns: uint8 of the same shape and kind; the change is the same in R, G and B.
        Raises: `ValueError` for another shape or type.
        """
        pictures = _pictures(image)
        marked = mark(pictures, self.signs.to(pictures.device)).reshape(image.shape)
        return marked.numpy() if isinstance(image, np.ndarray) else marked


@torch.no_grad()
def mark(pictures: Tensor, signs: Tensor) -> Tensor:
    """Mark pictures on their device, with nothing that waits for it or comes from the host: a graph can capture it.

    Args:
        pictures: uint8 [N, H, W, 3] RGB.
        signs: [64] or [N, 64], the words of the messages as +1 and -1; a row of zeros leaves its picture as it is.

    Returns:
        uint8 [N, H, W, 3].
    """
    height, width = pictures.shape[1:3]
    device = pictures.device
    fine = _fineness(height, width)
    across = _tiling(height, width, fine)
    cells = _tables(device).cells.shape[1]
    y = _tiles(pictures, across)  # [N, T, SIDE, SIDE]
    measured, weight = _measure(y)
    cover = (1 / weight - _FLOOR**2).clamp(min=0).sqrt() / _COVER
    room = (_BARE + (1 - _BARE) * cover).clamp(max=1)
    room = room * (y / _FROM_BLACK).clamp(max=1) * ((255 - y) / _FROM_WHITE).clamp(0, 1)
    z = _sums(measured) * signs
    response = (weight * room).mean((2, 3)).sum(1, keepdim=True).clamp(min=1e-9) * cells
    # The largest margin whose change stays inside the contrast.
    spread = _spread(measured).clamp(min=_FLAT_SPREAD * math.sqrt(y.shape[1]))
    allowed = (CONTRAST * y.shape[1] ** -SHARED / weight.mean((1, 2, 3)).sqrt()).clamp(WEAKEST, STRONGEST)
    margins = torch.linspace(*_MARGINS, device=device)[:, None]
    lacking = (margins * spread[:, None] - z[:, None]).clamp(min=0) / response[:, None]  # [N, margins, BITS]
    rms = (lacking.square().sum(2) * cells).sqrt() / SIDE * room.square().mean((1, 2, 3)).sqrt()[:, None]
    chosen = ((rms <= allowed[:, None]).sum(1, keepdim=True) - 1).clamp(min=0)
    target = margins[chosen, 0] * spread
    strength = (target - z).clamp(min=0) / response
    change = room * _pattern(strength * signs)[:, None]
    # Where contrast varies bits speak into each other; a second look mends it.
    z = z + _sums(_cells(weight * change)) * signs
    strength = strength + (target - z).clamp(min=0) / response
    change = room * _pattern(strength * signs)[:, None]
    # A fixed pattern of thresholds instead of rounding: a change below half a level would be lost.
    step = torch.floor(_whole(change, across, (height, width)) + _thresholds(height, width, device))
    # Spread over the colours before the sum: a sum that repeats every three bytes is not vectorised.
    colours = step.short()[..., None].expand(pictures.shape).contiguous()
    return colours.add_(pictures).clamp_(0, 255).byte()


class Reader:
    """Adds up what pictures say, one by one.

    Pictures of one video have one size; another size begins anew in nothing: its own tiles speak to the same bits.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[int, int], Tensor] = {}
        self._pictures = 0

    @torch.no_grad()
    def add(self, image: np.ndarray | Tensor) -> None:
        """Read a picture.

        Args:
            image: uint8 [H, W, 3], or as a tensor [N, H, W, 3], pictures of one video.

        Raises: `ValueError` for another shape or type.
        """
        pictures = _pictures(image)
        self._pictures += len(pictures)
        for across in _tilings(*pictures.shape[1:3]):
            measured, _ = _measure(_tiles(pictures, across))
            z = _sums(measured) / _spread(measured).clamp(min=1e-9)
            self.sums[across] = self.sums.get(across, 0) + z.double().sum(0).cpu()

    def result(self) -> Read:
        """What all pictures together say."""
        odds = min(1.0, FALSE_ALARM * len(self.sums))
        found = [word for z in self.sums.values() if (word := _decode(z)) is not None]
        turned, message = min(found) if found else (0, None)
        return Read(message, turned, self._pictures, odds)


def read(images: Iterable[np.ndarray | Tensor]) -> Read:
    """The watermark of a picture, or of a video's frames: soft values are added over them.

    Args:
        images: uint8 [H, W, 3] each.

    Raises: `ValueError` for other shapes or types.
    """
    reader = Reader()
    for image in images:
        reader.add(image)
    return reader.result()


def message_of(sha256: str) -> int:
    """The message for a source: the first 28 bits of its SHA-256 in hexadecimal."""
    return int(sha256[: MESSAGE_BITS // 4], 16)


def codeword(message: int) -> list[int]:
    """The 64 bits of a message: version, message, CRC-32 of both, whitened so that no flat picture spells a word."""
    head = VERSION << MESSAGE_BITS | message
    word = (head << CHECK_BITS | zlib.crc32(head.to_bytes(4, "big"))) ^ _WHITENING
    return [word >> (BITS - 1 - i) & 1 for i in range(BITS)]


def _tried(z: Tensor) -> Iterator[tuple[int, int, int]]:
    """Words that signs spell: how many of the uncertain ones are turned, from none; head (version, message); check."""
    word = sum(int(value > 0) << (BITS - 1 - i) for i, value in enumerate(z.tolist())) ^ _WHITENING
    uncertain = [1 << (BITS - 1 - i) for i in z.abs().argsort()[:_UNCERTAIN].tolist()]
    for turned in range(_TURNED + 1):
        for places in combinations(uncertain, turned):
            tried = word ^ sum(places)
            yield turned, tried >> CHECK_BITS, tried & (1 << CHECK_BITS) - 1


def _decode(z: Tensor) -> tuple[int, int] | None:
    """Signs turned and message, if any word that is tried is one."""
    for turned, head, check in _tried(z):
        if head >> MESSAGE_BITS == VERSION and zlib.crc32(head.to_bytes(4, "big")) == check:
            return turned, head & (1 << MESSAGE_BITS) - 1
    return None


def _pictures(image: np.ndarray | Tensor) -> Tensor:
    """[N, H, W, 3] of what the caller gave."""
    tensor = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    if tensor.dtype != torch.uint8 or tensor.ndim not in (3, 4) or tensor.shape[-1] != 3 or not tensor.numel():
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return tensor[None] if tensor.ndim == 3 else tensor


def _fineness(height: int, width: int) -> int:
    """Tiles across the shorter side when a picture is marked."""
    return 2 if min(height, width) >= FINE_PX else 1


def _tiling(height: int, width: int, fine: int, shift: float = 0.0) -> tuple[int, int]:
    """Tiles down and across: about as wide as high, and the same after any resize that keeps the sides' ratio."""
    shorter = min(height, width)
    down, right = (min(_MOST_TILES, max(1, round(fine * side / shorter + shift))) for side in (height, width))
    return down, right


def _tilings(height: int, width: int) -> list[tuple[int, int]]:
    """All that a picture may have been marked with: its size then is unknown, a ratio near a half may have rounded."""
    return sorted({_tiling(height, width, fine, shift) for fine in (1, 2) for shift in (-0.03, 0.03)})


def _tiles(pictures: Tensor, across: tuple[int, int]) -> Tensor:
    """The luma of [N, H, W, 3] as [N, T, SIDE, SIDE]."""
    size = (across[0] * SIDE, across[1] * SIDE)
    if pictures.shape[1:3] != size:
        planes = pictures.permute(0, 3, 1, 2)
        planes = planes if planes.device.type == "cpu" else planes.float()  # bytes are resized on the CPU alone
        planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)
        pictures = planes.permute(0, 2, 3, 1)
    luma = pictures.float() @ _tables(pictures.device).luma
    return luma.view(-1, across[0], SIDE, across[1], SIDE).transpose(2, 3).reshape(len(luma), -1, SIDE, SIDE)


def _whole(tiles: Tensor, across: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[N, T, SIDE, SIDE] -> [N, H, W]"""
    whole = tiles.view(-1, *across, SIDE, SIDE).transpose(2, 3).reshape(len(tiles), across[0] * SIDE, across[1] * SIDE)
    if whole.shape[1:] != size:
        whole = F.interpolate(whole[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return whole


@dataclass(frozen=True)
class _Tables:
    luma: Tensor  # [3] the shares of red, green and blue
    basis: Tensor  # [C, SIDE] cosines, orthonormal
    band: Tensor  # [C, C]
    taps: Tensor  # [SIDE, SIDE] the blur
    cells: Tensor  # int64 [BITS, D] of C x C
    signs: Tensor  # [BITS, D]


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> _Tables:
    count = math.ceil(_HIGHEST + 4 * _EDGE)
    number = torch.arange(count, dtype=torch.float64)
    basis = torch.cos(math.pi * number[:, None] * (torch.arange(SIDE) + 0.5) / SIDE) * math.sqrt(2 / SIDE)
    basis[0] /= math.sqrt(2)
    radius = torch.hypot(number[:, None], number)
    band = torch.sigmoid((radius - _LOWEST) / _EDGE) * torch.sigmoid((_HIGHEST - radius) / _EDGE)
    offset = torch.arange(SIDE)[:, None] - torch.arange(SIDE)
    taps = torch.exp(-0.5 * (offset / _BLUR) ** 2)
    inside = [(u, v) for u in range(count) for v in range(count) if _LOWEST <= math.hypot(u, v) <= _HIGHEST]
    inside.sort(key=lambda cell: (cell[0] ** 2 + cell[1] ** 2, cell))
    hashes = {cell: hashlib.sha256(b"triportrait %d %d" % cell).digest() for cell in inside}
    # Each ring of 64 cells gives one to each bit.
    rings = [inside[i : i + BITS] for i in range(0, len(inside) - BITS + 1, BITS)]
    rows = list(zip(*(sorted(ring, key=lambda cell: hashes[cell]) for ring in rings), strict=True))
    return _Tables(
        torch.tensor([0.299, 0.587, 0.114], device=device),
        basis.float().to(device),
        band.float().to(device),
        (taps / taps.sum(1, keepdim=True)).float().to(device),
        torch.tensor([[u * count + v for u, v in row] for row in rows], device=device),
        torch.tensor([[1.0 - 2 * (hashes[cell][-1] & 1) for cell in row] for row in rows], device=device),
    )


def _thresholds(height: int, width: int, device: torch.device) -> Tensor:
    """See `_thresholds_of`. A graph reads those of a GPU where they lie: they are kept for good."""
    return (_host_thresholds if device.type == "cpu" else _device_thresholds)(height, width, device)


def _thresholds_of(height: int, width: int, device: torch.device) -> Tensor:
    """[H, W] in 0 to 1, evenly spread over small squares (the bits of x ^ y and y interleaved, reversed)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    level = torch.zeros(height, width)
    for bit in range(3):
        level += ((x ^ y) >> bit & 1) * 2.0 ** -(2 * bit + 1) + (y >> bit & 1) * 2.0 ** -(2 * bit + 2)
    return (level + 2.0**-7).to(device)


_host_thresholds = lru_cache(maxsize=8)(_thresholds_of)
_device_thresholds = cache(_thresholds_of)


def _measure(y: Tensor) -> tuple[Tensor, Tensor]:
    """Signed cells [N, BITS, D], summed over tiles but not over cells, and the weight 1 / n² of each place."""
    t = _tables(y.device)
    band = t.basis.T @ (t.band * (t.basis @ y @ t.basis.T)) @ t.basis
    weight = 1 / (t.taps @ band.square() @ t.taps.T + _FLOOR**2)
    return _cells(band * weight), weight


def _cells(weighted: Tensor) -> Tensor:
    """[N, T, SIDE, SIDE] -> [N, BITS, D]"""
    t = _tables(weighted.device)
    return (t.basis @ weighted @ t.basis.T).sum(1).flatten(1)[:, t.cells] * t.signs


def _sums(measured: Tensor) -> Tensor:
    """z [N, BITS]"""
    return measured.sum(2)


def _spread(measured: Tensor) -> Tensor:
    """[N, 1] how far z lies from 0 in a picture without a mark."""
    return measured.square().sum((1, 2)).div(BITS).sqrt()[:, None]


def _pattern(strength: Tensor) -> Tensor:
    """[N, BITS] -> [N, SIDE, SIDE]"""
    t = _tables(strength.device)
    cells = torch.zeros(len(strength), t.band.numel(), device=strength.device)
    cells[:, t.cells.flatten()] = (strength[:, :, None] * t.signs).flatten(1)
    return t.basis.T @ cells.view(-1, *t.band.shape) @ t.basis
