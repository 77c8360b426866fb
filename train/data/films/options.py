"""What `triportrait prepare videos` is asked for: how clips are chosen, and what they must be like."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from triportrait.core.errors import InputError
from triportrait.core.weights import OPEN_HEAD

Reason = Literal[
    "unreadable", "no face", "too short", "two people", "face lost", "too small", "cut off", "blurred", "turned away",
    "occluded", "bad fit", "failed",
]  # fmt: skip
SMALLEST_SIZE, LARGEST_SIZE = 64, 1024  # px
LARGEST_WINDOW, LARGEST_SEED = 1000, 2**31 - 1
_RANGES: dict[str, tuple[float, float]] = {
    "frames": (2, LARGEST_WINDOW), "window": (2, LARGEST_WINDOW), "seed": (0, LARGEST_SEED), "minutes": (0.01, 1e5),
    "most_enlarged": (0.1, 100), "most_outside": (0, 1), "most_blur": (0, 1), "most_turned_deg": (1, 180),
    "most_hidden": (0, 1), "most_outliers": (0, 70), "most_error_px": (0.1, 512), "other_face": (0.1, 10),
    "most_flawed": (0, 1),
}  # fmt: skip


@dataclass(frozen=True)
class FilmOptions:
    """How clips are chosen and judged; every number decides what comes out.

    Attributes:
        size: S, side of the aligned pictures, px.
        frames: of a clip, drawn from those of the window without a flaw.
        fewest: frames that a clip may have where there are fewer without a flaw.
        window: consecutive frames of a shot, its first ones, that are looked at.
        seed: chooses the frames.
        minutes: how much of a film is read, from its start.
        head_model: the name of the head model whose parameters are fitted.
        motion: the folder of the motion encoder; None leaves motion out.
        most_enlarged: how much larger than in the film a face may come out, by its side.
        most_outside: share of the aligned square that may lie beyond the film's picture.
        most_blur: of `picture_quality.blur` at 256 px, 0 sharp to 1.
        most_turned_deg: between where the head looks and where the camera is.
        most_hidden: share of the face that the segmentation takes for something else than a person.
        most_outliers: landmarks of 70 that may miss the fitted head.
        most_error_px: root mean squared distance of landmarks from the fitted head, in pixels of 512.
        other_face: share of the face's size from which on another one in the picture makes two people.
        most_flawed: share of the window's frames that may have a flaw.
    """

    size: int = 512
    frames: int = 50
    fewest: int = 50
    window: int = 200
    seed: int = 0
    minutes: float = 60.0
    head_model: str = OPEN_HEAD
    motion: str | None = None
    most_enlarged: float = 2.0
    most_outside: float = 0.25
    most_blur: float = 0.6
    most_turned_deg: float = 60.0
    most_hidden: float = 0.2
    most_outliers: int = 30
    most_error_px: float = 10.0
    other_face: float = 0.5
    most_flawed: float = 0.5

    def __post_init__(self) -> None:
        """Raises: `InputError` for numbers out of range."""
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE or self.size % 2:
            raise InputError(f"size: expected an even number from {SMALLEST_SIZE} to {LARGEST_SIZE}, got {self.size}")
        for name, (least, most) in _RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                option = name.replace("_", "-")
                raise InputError(f"{option}: expected {least:g} to {most:g}, got {value:g}; choose another")
        if self.window < self.frames:
            raise InputError(
                f"window: expected the {self.frames} frames of a clip or more, got {self.window}; choose more, or "
                "fewer --frames"
            )
        if not 2 <= self.fewest <= self.frames:
            raise InputError(f"fewest: expected 2 to the {self.frames} frames of a clip, got {self.fewest}")

    def plain(self) -> dict[str, Any]:
        """Return what the index of a store says of them: all but the head model and the encoder, which it names."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("head_model", "motion")}
