"""The films of the trial, frame by frame, with what is true of each. `make` writes them.

Letters: T frames, H, W a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from docs.faces import moved_photograph
from docs.tracking.films.people import CAST, FPS, footage, ground, placed

FEW = 4  # frames of the short film
STRANGERS = 12  # frames of people without a name, shown forwards and backwards
EIGHT_K = (7680, 4320)


@dataclass(frozen=True)
class Scene:
    """One film.

    Attributes:
        frames: uint8 [T, H, W, 3], made one after the other.
        truth: what is true of it, plain JSON values.
        times: of each frame in 1/90000 s, where they are uneven.
        turn_deg: what a player has to turn the frames by, to the left, as phones write it.
        landmarks: float32 [T, 68, 2], and neck: [T, 3] rotation vectors, where one person is seen throughout.
        fps, quick: frames a second; whether to encode for speed, not for size.
    """

    frames: Iterator[np.ndarray]
    truth: Mapping[str, Any]
    times: list[int] | None = None
    turn_deg: int = 0
    landmarks: list[np.ndarray] = field(default_factory=list)
    neck: np.ndarray | None = None
    fps: int = FPS
    quick: bool = False


class Stage:
    """Where films are made: a wall, and people of one size before it.

    Args:
        size: S, side of a head's picture in px. frames: T of most films.
    """

    def __init__(self, size: int, frames: int) -> None:
        self.size, self.count = size, frames
        self.size_px = 2 * (size * 2 // 2), 2 * (size * 5 // 8)  # W, H

    def person(self, name: str, take: int = 0) -> Scene:
        """A person before a wall, filmed by a hand that trembles a little."""
        film, marks = footage(CAST.index(name), take, self.count, self.size), []
        wall = ground(10 * CAST.index(name) + take, self.size_px)
        for number in range(len(film)):
            marks.append(film.landmarks[number] + self._place(number))
        frames = (placed(wall, film.rgba[k], self._place(k))[0] for k in range(len(film)))
        return Scene(frames, self._truth([name]), landmarks=marks, neck=film.neck)

    def two_cuts(self) -> Scene:
        """Three shots of two people."""
        cast = ("dan", "eva", "dan")
        walls = [ground(40 + k, self.size_px) for k in range(3)]
        films = [footage(CAST.index(name), 0, self.count, self.size) for name in cast]
        frames = (
            placed(wall, film.rgba[k], self._place(k))[0]
            for wall, film in zip(walls, films, strict=True)
            for k in range(len(film))
        )
        return Scene(frames, self._truth(list(cast), frames=3 * self.count, shots=3))

    def crowd(self, number: int) -> Scene:
        """Two people side by side, or ten in two rows."""
        rows, scale = (1, 0.9) if number == 2 else (2, 0.55)
        columns = number // rows
        wall = ground(60 + number, self.size_px)
        films = [
            footage(k, 0, self.count if k < len(CAST) else min(self.count, STRANGERS), self.size) for k in range(number)
        ]
        W, H = self.size_px

        def frame(k: int) -> np.ndarray:
            image = wall
            for person, film in enumerate(films):
                side = self.size * scale
                x = (person % columns + 0.5) * W / columns - side / 2
                y = (person // columns + 1) * H / rows - side
                there_and_back = (k + 7 * person) % (2 * len(film))
                picture = film.rgba[min(there_and_back, 2 * len(film) - 1 - there_and_back)]
                image = placed(image, picture, (x, y), scale)[0]
            return image

        truth = self._truth(["several"], faces=number)
        return Scene((frame(k) for k in range(self.count)), truth)

    def phone(self, name: str) -> Scene:
        """A film whose frames lie on their side, with a flag that says how to hold them."""
        film, wall = footage(CAST.index(name), 1, self.count, self.size), ground(71, self.size_px)
        tall = np.ascontiguousarray(np.asarray(Image.fromarray(wall).resize(self.size_px[::-1])))
        x, y = (tall.shape[1] - self.size) / 2, tall.shape[0] - self.size - 4
        x = max(x, 0)
        frames = (np.rot90(placed(tall, film.rgba[k], (x, y))[0], -1) for k in range(len(film)))
        truth = self._truth([name], rotation_deg=90, size_px=[tall.shape[1], tall.shape[0]])
        return Scene(frames, truth, turn_deg=90)

    def uneven(self, name: str) -> Scene:
        """A film of a phone in poor light: the spans between its frames vary by a factor of four."""
        film, wall = footage(CAST.index(name), 2, self.count, self.size), ground(72, self.size_px)
        spans = np.random.default_rng(5).choice([1800, 3600, 5400, 7200], self.count, p=[0.3, 0.4, 0.2, 0.1])
        times = [0, *np.cumsum(spans)[:-1].tolist()]
        frames = (placed(wall, film.rgba[k], self._place(k))[0] for k in range(len(film)))
        truth = self._truth([name], fps=round(90_000 * (self.count - 1) / times[-1], 2), uneven=True)
        return Scene(frames, truth, times)

    def away(self, name: str) -> Scene:
        """A person who leaves the picture and comes back after a third of the film."""
        film, wall = footage(CAST.index(name), 0, self.count, self.size), ground(73, self.size_px)
        third = self.count // 3
        without = [k for k in range(self.count) if third <= k < 2 * third]
        frames = (wall if k in without else placed(wall, film.rgba[k], self._place(k))[0] for k in range(len(film)))
        return Scene(frames, self._truth([name], frames_without_face=[third, 2 * third]))

    def nobody(self) -> Scene:
        """A wall that the camera moves along."""
        W, H = self.size_px
        wall = ground(74, (2 * W, H))
        frames = (wall[:, 2 * k : 2 * k + W] for k in range(self.count))
        return Scene(frames, self._truth([], faces=0, frames_without_face=[0, self.count]))

    def half_outside(self, name: str, share: float) -> Scene:
        """A person of whom the picture's edge cuts off a share of the face."""
        film, wall = footage(CAST.index(name), 0, self.count, self.size), ground(75, self.size_px)
        at = -self.size * (0.25 + 0.5 * share), self.size_px[1] - self.size
        frames = (placed(wall, film.rgba[k], at)[0] for k in range(len(film)))
        return Scene(frames, self._truth([name], outside_share=share))

    def turns_away(self, name: str) -> Scene:
        """A head that turns from the front past its profile."""
        film = footage(CAST.index(name), 3, self.count, self.size, (0.0, 120.0))
        wall = ground(76, self.size_px)
        frames = (placed(wall, film.rgba[k], self._place(k))[0] for k in range(len(film)))
        return Scene(frames, self._truth([name], yaw_deg=[0, 120]))

    def blurred(self, name: str) -> Scene:
        """A person out of focus."""
        film, wall = footage(CAST.index(name), 1, self.count, self.size), ground(77, self.size_px)
        radius = self.size / 32

        def frame(k: int) -> np.ndarray:
            sharp = Image.fromarray(placed(wall, film.rgba[k], self._place(k))[0])
            return np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius)))

        return Scene((frame(k) for k in range(len(film))), self._truth([name], blur_px=radius))

    def far(self, name: str) -> Scene:
        """A person whose face is some twenty pixels wide."""
        film, wall = footage(CAST.index(name), 0, self.count, self.size), ground(78, self.size_px)
        scale = 40 / self.size
        at = self.size_px[0] / 2, self.size_px[1] - 48
        frames = (placed(wall, film.rgba[k], at, scale)[0] for k in range(len(film)))
        return Scene(frames, self._truth([name], face_px=20))

    def occluded(self, name: str) -> Scene:
        """A person behind a bar that hides nose and mouth."""
        film, wall = footage(CAST.index(name), 0, self.count, self.size), ground(79, self.size_px)

        def frame(k: int) -> np.ndarray:
            x, y = self._place(k)
            image = Image.fromarray(placed(wall, film.rgba[k], (x, y))[0])
            marks = film.landmarks[k] + (x, y)
            top, bottom = marks[28, 1], marks[8, 1] + 4
            ImageDraw.Draw(image).rectangle((0, top, self.size_px[0], bottom), fill=(70, 110, 90))
            return np.asarray(image)

        return Scene((frame(k) for k in range(len(film))), self._truth([name], hidden="from the nose to the chin"))

    def short(self, name: str) -> Scene:
        """Four frames of a person."""
        film, wall = footage(CAST.index(name), 0, self.count, self.size), ground(80, self.size_px)
        frames = (placed(wall, film.rgba[k], self._place(k))[0] for k in range(FEW))
        return Scene(frames, self._truth([name], frames=FEW))

    def eight_k(self, name: str) -> Scene:
        """A person in a film of 8K: each picture stays for four frames, as its making would take long."""
        film = footage(CAST.index(name), 1, self.count, self.size)
        wall = np.asarray(Image.fromarray(ground(81, self.size_px)).resize(EIGHT_K))
        scale = 2000 / self.size

        def frames() -> Iterator[np.ndarray]:
            for k in range(0, self.count, 4):
                image = placed(wall, film.rgba[k], (2840, 2200), scale)[0]
                for _ in range(min(4, self.count - k)):
                    yield image

        return Scene(frames(), self._truth([name], size_px=list(EIGHT_K), face_px=1000), quick=True)

    def photograph(self) -> Scene:
        """The moved photograph, with its label."""
        size_px, fps = moved_photograph.SIZE_PX, moved_photograph.FPS
        made = moved_photograph.frames()
        truth = self._truth(["astronaut"], frames=len(made), size_px=list(size_px), fps=fps)
        return Scene(iter(made), truth, fps=fps)

    def _place(self, number: int) -> tuple[float, float]:
        """Where a head's picture lies in frame `number`: right of the middle, two pixels of a hand's tremble."""
        W, H = self.size_px
        return round(W * 0.3 + 2 * np.sin(number / 5)), round(H - self.size + 2 + 2 * np.sin(number / 7))

    def _truth(self, people: list[str], **more: Any) -> dict[str, Any]:
        plain = {"frames": self.count, "shots": 1, "faces": 1, "rotation_deg": 0, "fps": FPS}
        return plain | {"people": people, "size_px": list(self.size_px)} | more
