"""Reduce frames to one number, in memory that stays flat: means over frames, correlation and gain of a movement."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from triportrait.train.evaluation.metrics.definition import Score
from triportrait.train.evaluation.metrics.inputs import checked_all

NO_FRAME = "no frame could be measured"
STILL = 1e-12  # variance below which nothing moved


class FrameMean:
    """Averages over frames what a function gives for each.

    Args:
        reads: the names of the inputs.
        measure: the inputs, [N, ...] each -> [N] numbers.
        scale: the mean is multiplied by it.
    """

    def __init__(self, reads: tuple[str, ...], measure: Callable[..., np.ndarray], scale: float = 1.0) -> None:
        self.reads, self.measure, self.scale = reads, measure, scale
        self.total, self.frames, self.missing = 0.0, 0, 0

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`."""
        rows = checked_all(self.reads, inputs, found)
        if found is not None:
            self.missing += int((~found).sum())
        for i in range(len(rows[0])):  # one by one, so that portions of any size give the same bits
            (value,) = self.measure(*(array[i : i + 1] for array in rows))
            assert math.isfinite(value), self.reads
            self.total += float(value)
            self.frames += 1

    def score(self) -> Score:
        """See `Reduction`."""
        if not self.frames:
            return Score(None, 0, self.missing, NO_FRAME)
        return Score(self.scale * self.total / self.frames, self.frames, self.missing)


class Movement:
    """Keeps running means and covariances of K series of a result and of its driver.

    With Δ the deviation of a series from its mean over the clip, summed over frames and over the K series:

        gain = Σ Δ_result Δ_driving / Σ Δ_driving²
        correlation = Σ Δ_result Δ_driving / √(Σ Δ_result² Σ Δ_driving²)

    Args:
        reads: the inputs of the result and of the driver.
        measure: an input [N, ...] -> [N, K].
        of: which of the two is the score.
        subject: what moves, for the note of a driver that is still.
        least: the root mean square deviation of the driver's series below which nothing is measured: what landmarks
            vary by without any movement has no correlation with anything.
    """

    def __init__(
        self, reads: tuple[str, str], measure: Callable[[np.ndarray], np.ndarray], of: str, subject: str,
        least: float,
    ) -> None:  # fmt: skip
        assert of in ("correlation", "gain"), of
        self.reads, self.measure, self.of, self.subject, self.least = reads, measure, of, subject, least
        self.frames, self.missing = 0, 0
        self.mean: np.ndarray | float = 0.0  # [2, K]
        self.products = np.zeros(3)  # of result and driving, of the result's own, of the driver's own

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`."""
        result, driving = checked_all(self.reads, inputs, found)
        if found is not None:
            self.missing += int((~found).sum())
        for i in range(len(result)):
            both = np.stack([self.measure(result[i : i + 1])[0], self.measure(driving[i : i + 1])[0]])
            self.frames += 1
            before = both - self.mean
            self.mean = self.mean + before / self.frames
            after = both - self.mean
            self.products += (before[0] @ after[1], before[0] @ after[0], before[1] @ after[1])

    def score(self) -> Score:
        """See `Reduction`."""
        if not self.frames:
            return Score(None, 0, self.missing, NO_FRAME)
        across, result, driving = self.products / self.frames
        if math.sqrt(driving / np.size(self.mean, -1)) < self.least:
            return Score(None, self.frames, self.missing, f"no motion in the driver's {self.subject}")
        if self.of == "gain":
            return Score(float(across / driving), self.frames, self.missing)
        if result <= STILL:
            return Score(0.0, self.frames, self.missing, f"no motion in the result's {self.subject}")
        return Score(float(across / math.sqrt(result * driving)), self.frames, self.missing)


class Successive:
    """Averages over runs of successive frames what a function gives for each; a frame that was not found ends a run.

    Args:
        reads: the names of the inputs.
        measure: the inputs, `length` rows each -> a number, or None where the run does not count.
        length: how many successive frames the function looks at.
        root: the score is the root of the mean, for squares.
        nothing: the note where no run counted.
    """

    def __init__(
        self,
        reads: tuple[str, ...],
        measure: Callable[..., float | None],
        length: int,
        root: bool = False,
        nothing: str = NO_FRAME,
    ) -> None:
        self.reads, self.measure, self.length, self.root, self.nothing = reads, measure, length, root, nothing
        self.run: list[tuple[np.ndarray, ...]] = []
        self.total, self.runs, self.missing = 0.0, 0, 0

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`."""
        rows = zip(*checked_all(self.reads, inputs, found), strict=True)
        for seen in [True] * len(inputs[0]) if found is None else found:
            if not seen:
                self.run.clear()
                self.missing += 1
                continue
            self.run = [*self.run[1 - self.length :], tuple(array.copy() for array in next(rows))]
            if len(self.run) == self.length:
                value = self.measure(*(np.stack(series) for series in zip(*self.run, strict=True)))
                if value is not None:
                    assert math.isfinite(value), self.reads
                    self.total += value
                    self.runs += 1

    def score(self) -> Score:
        """See `Reduction`; its frames are the runs that counted."""
        if not self.runs:
            return Score(None, 0, self.missing, self.nothing)
        mean = self.total / self.runs
        return Score(math.sqrt(mean) if self.root else mean, self.runs, self.missing)
