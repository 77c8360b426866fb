"""Films of procedural heads, with landmarks beside them, that trip one filter each; small ones, drawn once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from triportrait.core.torch_threads import one_thread
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import write_video
from triportrait.train.data.films.listing import identities_of, list_films
from triportrait.train.data.films.many import Place, make_store
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.head_videos import write_clips

S, T = 96, 16  # px of a film's side, its frames
SMALL = {"size": 64, "frames": 6, "fewest": 6, "window": 12}
OPTIONS = FilmOptions(**SMALL)  # type: ignore[arg-type]

Film = tuple[np.ndarray, dict[str, np.ndarray]]  # frames uint8 [T, H, W, 3] and the numbers beside them


def heads(folder: Path, count: int = 2) -> Path:
    """The plain films, clip_000000.mp4 and on."""
    write_clips(folder, 3, count, T, 25, S, 2)
    return folder


def read(path: Path) -> Film:
    """A film and its numbers."""
    with np.load(path.with_suffix(".npz")) as numbers:
        return np.stack([frame.image for frame in open_clip(path).frames()]), dict(numbers)


def write(path: Path, film: Film) -> Path:
    """Write it down, with its landmarks beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, numbers = film
    write_video(path, frames, 25)
    names = ("landmarks", "neck", "world_from_camera")
    np.savez(path.with_suffix(".npz"), **{name: numbers[name] for name in names})  # type: ignore[arg-type]
    return path


def changed(
    film: Film, frame: Callable[[Image.Image], Image.Image], points: Callable[[np.ndarray], np.ndarray]
) -> Film:
    """Change every frame, and every landmark [T, 68, 2] px."""
    frames = np.stack([np.asarray(frame(Image.fromarray(image))) for image in film[0]])
    return frames, film[1] | {"landmarks": points(film[1]["landmarks"])}


def plain(film: Film) -> Film:
    return film


def short(film: Film) -> Film:
    return film[0][:4], {**film[1], "landmarks": film[1]["landmarks"][:4], "neck": film[1]["neck"][:4]}


def far(film: Film) -> Film:
    """The head is a fifth as large."""

    def away(image: Image.Image) -> Image.Image:
        ground = Image.new("RGB", image.size, (90, 100, 110))
        ground.paste(image.resize((S // 5, S // 5), Image.Resampling.BOX), (10, 10))
        return ground

    return changed(film, away, lambda points: points * (S // 5) / S + 10)


def beyond(film: Film) -> Film:
    """Half of the head lies beyond the edge."""
    half = S // 2
    return changed(
        film, lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, half, 0, 1, 0)),
        lambda points: points - (half, 0),
    )  # fmt: skip


def nobody(film: Film) -> Film:
    """The landmarks lie far outside the picture, where no face is followed."""
    return film[0], film[1] | {"landmarks": film[1]["landmarks"] + 9000}


def loses(film: Film) -> Film:
    """Two of three frames lose the face."""
    off = np.where(np.arange(len(film[0])) % 3, 9000.0, 0.0)[:, None, None]
    return film[0], film[1] | {"landmarks": film[1]["landmarks"] + off}


def blurred(film: Film) -> Film:
    return changed(film, lambda image: image.filter(ImageFilter.GaussianBlur(6)), lambda points: points)


def scattered(film: Film) -> Film:
    """Every other landmark is elsewhere, in each frame anew."""
    rng = np.random.default_rng(0)
    points = film[1]["landmarks"].copy()
    points[:, 1:17] += rng.normal(0, 0.3 * S, points[:, 1:17].shape)
    points[:, 17:27] += rng.normal(0, 0.3 * S, points[:, 17:27].shape)
    return film[0], film[1] | {"landmarks": points}


def hidden(film: Film) -> Film:
    """A board stands before the face, from the eyes to the chin."""
    frames = film[0].copy()
    for frame, points in zip(frames, film[1]["landmarks"], strict=True):
        top, bottom = points[36:48, 1].mean(), points[8, 1] + 4
        frame[int(top) : int(bottom)] = (70, 110, 60)
    return frames, film[1]


def joined(one: Film, other: Film) -> Film:
    """Two shots of different colours."""
    tinted = (other[0].astype(np.float32) * (0.4, 0.9, 0.3)).astype(np.uint8)
    numbers = {name: np.concatenate([one[1][name], other[1][name]]) for name in ("landmarks", "neck")}
    return np.concatenate([one[0], tinted]), {**one[1], **numbers}


def make_as_rank(films: Path, out: Path, rank: int, size: int) -> None:
    """What one of several ranks does."""
    listed = list_films(films)
    with one_thread():
        make_store(listed, identities_of(listed), out, OPTIONS, place=Place(rank, size))


def copy(films: Path, names: list[str], to: Path) -> Path:
    """Copy films and their landmarks into another folder."""
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        for ending in (".mp4", ".npz"):
            if (films / f"{name}{ending}").exists():
                shutil.copy(films / f"{name}{ending}", to / f"{name}{ending}")
    return to
