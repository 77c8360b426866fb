"""Make stored heads: a few at a time, in a process of its own if there are several; their number changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.genhead.weights import load_genhead
from triportrait.train.data.generated.draws import GeneratedConfig, HeadDraws, HeadTables, draw_heads
from triportrait.train.data.generated.generate import AT_A_TIME, HeadMaker
from triportrait.train.data.generated.store.layout import WIDE, check_volume
from triportrait.train.data.picture_store.writing import encoded_picture
from triportrait.train.data.pictures import Pictures

ENCODERS = 8  # threads that encode pictures beside a GPU


@dataclass(frozen=True)
class Making:
    """What heads are made from.

    Attributes:
        weights: folder of the generator. tables: folder of the parameters. device: where heads are made.
        seed: with the number of a head it decides what is drawn.
        config: how heads are drawn.
        features: keep feature images. format: of the pictures: png is without loss, jpeg and webp have quality 95.
    """

    weights: Path
    tables: Path
    device: str
    seed: int
    config: GeneratedConfig
    features: bool
    format: str


@dataclass(frozen=True)
class Piece:
    """Heads that are made together: `count` from the number `first` on."""

    making: Making
    first: int
    count: int


@dataclass(frozen=True)
class StoredHead:
    """A head as a store keeps it.

    Attributes:
        number: of the head.
        files: of each view the encoded picture, what it shows beside it, and what is behind it.
        row: columns of the table by name, but for number and place.
    """

    number: int
    files: tuple[tuple[bytes, ...], ...]
    row: dict[str, np.ndarray]


def pieces_of(making: Making, first: int, count: int) -> Iterator[Piece]:
    """Cut heads into pieces, which begin at the first one whoever makes them."""
    for start in range(first, first + count, AT_A_TIME):
        yield Piece(making, start, min(AT_A_TIME, first + count - start))


def make_piece(piece: Piece) -> list[StoredHead]:
    """Make the heads of a piece.

    Raises: `InputError` where the generator makes numbers that are not finite, or do not fit half precision.
    """
    making = piece.making
    tables, maker = _tools(making)
    heads = draw_heads(tables, maker.generator.config, making.seed, piece.first, piece.count, making.config)
    views = maker.pictures(heads, range(making.config.views))
    images = [_bytes_of(view.image) for view in views]
    tasks = [(image[k], making.format) for k in range(len(heads)) for image in images]
    if making.device == "cpu":
        encoded = [encoded_picture(*task) for task in tasks]
    else:  # the encoder lets other threads run
        with ThreadPoolExecutor(ENCODERS) as threads:
            encoded = list(threads.map(lambda task: encoded_picture(*task), tasks))
    volumes = [(_seen(view), _truth(view)) for view in views]
    columns = _columns(heads, views)
    return [
        StoredHead(
            number=number,
            files=tuple(
                (encoded[k * len(views) + v], *(_packed(volume, k, number) for volume in volumes[v]))
                for v in range(len(views))
            ),
            row={name: column[k] for name, column in columns.items()},
        )
        for k, number in enumerate(heads.number.tolist())
    ]


@lru_cache(maxsize=1)
def _tools(making: Making) -> tuple[HeadTables, HeadMaker]:
    """Open tables and generator once in a process; the first process has checked them."""
    generator = load_genhead(making.weights).to(making.device)
    return HeadTables(making.tables, whole=False), HeadMaker(generator, making.config, features=making.features)


def _bytes_of(image: Tensor) -> np.ndarray:
    """Turn pictures [B, 3, S, S] in [-1, 1] into uint8 [B, S, S, 3]."""
    levels: np.ndarray = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return levels


def _seen(view: Pictures) -> dict[str, Tensor]:
    assert view.depth is not None
    return _halved({"opacity": view.opacity, "depth": view.depth})


def _truth(view: Pictures) -> dict[str, Tensor]:
    assert view.truth is not None
    named = {field.name: getattr(view.truth, field.name) for field in fields(view.truth)}
    return _halved({name: value for name, value in named.items() if value is not None})


def _halved(volume: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (value.float() if name in WIDE else value.half()).cpu() for name, value in volume.items()}


def _packed(volume: dict[str, Tensor], row: int, number: int) -> bytes:
    one = {name: value[row].contiguous() for name, value in volume.items()}
    try:
        check_volume(one)
    except ValueError as error:
        raise InputError(
            f"generated head {number}: {error}; name weights of a generator that is trained, or other tables"
        ) from error
    return save(one)


def _columns(heads: HeadDraws, views: Sequence[Pictures]) -> dict[str, np.ndarray]:
    drawn = {name: getattr(heads, name) for name in ("is_static", "shape", "camera", "expression", "pose", "eyes")}
    points = [view.points for view in views if view.points is not None]
    seen = {"points": torch.stack(points, 1), "landmarks": torch.stack([view.landmarks for view in views], 1)}
    return {name: value.cpu().numpy() for name, value in {**drawn, **seen}.items()}
