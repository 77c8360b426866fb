"""Define FID and KID: distances between the sets of all results and of all driving frames, from Inception's features.

Both walk the features once. Of each side FID keeps the mean and the covariance, 34 MB where D is 2048, and KID a fair
choice of up to 5,000 frames, 41 MB: more frames take no more. Letters: N frames of one call, n frames so far, D the
feature's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.definition import Definition, Score
from triportrait.train.evaluation.metrics.inputs import checked_all
from triportrait.train.evaluation.metrics.reductions import NO_FRAME

FEWEST_FOR_FID = 5_000
BLOCK = 256  # frames that enter the covariance together; fixed, so that portions of any size give the same bits
RESERVOIR = 5_000  # frames of each side that KID chooses its subsets from
SUBSETS, SUBSET_SIZE = 100, 1_000
TILE = 500  # frames by frames that KID's kernel is computed for together
SEED = 0


class RunningMoments:
    """Accumulates the mean [D] and the covariance [D, D] of vectors, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None
        self._squares: np.ndarray | None = None  # Σ (x - mean)(x - mean)ᵀ
        self._block: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Take in vectors [N, D]."""
        for row in rows:
            self._block.append(row.astype(np.float64))
            if len(self._block) == BLOCK:
                self.count, self._mean, self._squares = self._with_block()
                self._block = []

    def moments(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the count n ≥ 2, the mean [D] and the covariance [D, D], over n - 1."""
        count, mean, squares = self._with_block()
        return count, mean, squares / (count - 1)

    @property
    def frames(self) -> int:
        """Return how many vectors came."""
        return self.count + len(self._block)

    def _with_block(self) -> tuple[int, np.ndarray, np.ndarray]:
        if not self._block:
            assert self._mean is not None and self._squares is not None
            return self.count, self._mean, self._squares
        rows = np.stack(self._block)
        mean = rows.mean(0)
        squares = (rows - mean).T @ (rows - mean)
        if self._mean is None or self._squares is None:
            return len(rows), mean, squares
        total = self.count + len(rows)
        apart = mean - self._mean
        squares += self._squares
        squares += np.outer(apart, apart) * (self.count * len(rows) / total)
        return total, self._mean + apart * (len(rows) / total), squares


class Reservoir:
    """Keeps a uniform random choice of the vectors that came, all of them up to a size, in float32."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random, self.frames = size, np.random.default_rng(seed), 0
        self.kept: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Take in vectors [N, D]."""
        for row in rows:
            self.frames += 1
            if len(self.kept) < self.size:
                self.kept.append(row.astype(np.float32))
            elif (place := int(self.random.integers(self.frames))) < self.size:
                self.kept[place] = row.astype(np.float32)


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Return |m1 - m2|² + tr(C1 + C2 - 2 √(C1 C2)) of means [D] and covariances [D, D].

    √(C1 C2) has the trace of √(√C1 C2 √C1), which is symmetric: its eigenvalues are real, whatever the ranks.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * _roots(values)) @ vectors.T
    shared = _roots(np.linalg.eigvalsh(root @ other_covariance @ root)).sum()
    difference = mean - other_mean
    return float(difference @ difference + covariance.trace() + other_covariance.trace() - 2 * shared)


def _roots(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the roots of a matrix's ascending eigenvalues [D]; those that are rounding errors of 0 are 0.

    Fewer frames than D leave most of them 0, and the roots of their errors would add up.
    """
    floor = eigenvalues[-1] * len(eigenvalues) * np.finfo(np.float64).eps
    return np.sqrt(np.where(eigenvalues > max(floor, 0), eigenvalues, 0))


def kernel_distance(
    one: np.ndarray, other: np.ndarray, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> tuple[float, float | None]:
    """Return mean and standard deviation, over subsets, of the unbiased squared MMD of [n1, D] and [n2, D].

    The kernel is (x·y / D + 1)³. Subsets are drawn without repetition, with at most as many vectors as the smaller set
    has, in the order of torchmetrics under `torch.manual_seed(seed)`. Where one subset holds all vectors of both sets,
    it is the only one, and there is no deviation.
    """
    size = min(subset_size, len(one), len(other))
    subsets = 1 if size == len(one) == len(other) else subsets
    generator = torch.Generator().manual_seed(seed)
    in_one, in_other = np.zeros((subsets, len(one))), np.zeros((subsets, len(other)))
    for chosen in zip(in_one, in_other, strict=True):
        for row in chosen:
            row[torch.randperm(len(row), generator=generator)[:size].numpy()] = 1
    within = sum(_kernel_sums(x, x, c, c) - c @ _kernel_of_itself(x) for x, c in ((one, in_one), (other, in_other)))
    scores = within / (size * (size - 1)) - 2 * _kernel_sums(one, other, in_one, in_other) / size**2
    return float(np.mean(scores)), None if subsets == 1 else float(np.std(scores))


def _kernel_sums(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Return the kernel's sum over all pairs of each subset, [subsets], from 1.0 where it has a row: [subsets, n].

    A row is in many subsets: the kernel of all rows is computed once, a tile at a time, of `x` with itself by half.
    """
    sums = np.zeros(len(in_x))
    for i in range(0, len(x), TILE):
        rows = x[i : i + TILE].astype(np.float64)
        for j in range(i if x is y else 0, len(y), TILE):
            base = rows @ y[j : j + TILE].astype(np.float64).T / x.shape[1] + 1
            of_tile = (in_x[:, i : i + TILE] @ (base * base * base) * in_y[:, j : j + TILE]).sum(1)
            sums += of_tile if x is not y or i == j else 2 * of_tile
    return sums


def _kernel_of_itself(x: np.ndarray) -> np.ndarray:
    """Return the kernel of each row with itself, [n]."""
    squares = np.array([np.square(row, dtype=np.float64).sum() for row in x])
    return np.asarray((squares / x.shape[1] + 1) ** 3)


Side = TypeVar("Side", RunningMoments, Reservoir)


class SetDistance(Generic[Side]):
    """Measures the distance between two streams of features; every frame counts, with a face or without.

    Args:
        title: of the metric, for notes.
        reads: the names of the inputs.
        sides: what takes in the results' features and the driving frames'.
        measure: both sides, of two frames at least -> the score.
    """

    def __init__(
        self, title: str, reads: tuple[str, str], sides: tuple[Side, Side], measure: Callable[[Side, Side], Score]
    ) -> None:
        self.title, self.reads = title, reads
        self.sides: tuple[Side, Side] = sides
        self.measure: Callable[[Side, Side], Score] = measure

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`."""
        result, driving = checked_all(self.reads, inputs, None)
        if result.shape != driving.shape:
            raise InputError(
                f"{self.reads[0]}: expected as many numbers as {self.reads[1]}, got {result.shape[1]} and"
                f" {driving.shape[1]}; take both from one network"
            )
        for side, rows in zip(self.sides, (result, driving), strict=True):
            side.add(rows)

    def score(self) -> Score:
        """See `Reduction`; its frames are those of one side."""
        frames = self.sides[0].frames
        if frames < 2:
            return Score(None, frames, note=f"{self.title} needs two frames at least" if frames else NO_FRAME)
        return self.measure(*self.sides)


def _fid(result: RunningMoments, driving: RunningMoments) -> Score:
    (frames, *one), (_, *other) = result.moments(), driving.moments()
    biased = f"FID is biased upwards under {FEWEST_FOR_FID:,} frames, and {frames:,} came: read KID"
    return Score(frechet_distance(*one, *other), frames, note=biased if frames < FEWEST_FOR_FID else "")


def _kid(result: Reservoir, driving: Reservoir) -> Score:
    mean, spread = kernel_distance(np.stack(result.kept), np.stack(driving.kept))
    return Score(1000 * mean, result.frames, spread=None if spread is None else 1000 * spread)


RESIZES = {
    "legacy_pytorch": "pytorch-fid's rule of resizing (bilinear, no antialias)",
    "legacy_tensorflow": "StyleGAN's, EG3D's and torch-fidelity's rule of resizing (TensorFlow 1 bilinear)",
    "clean": "clean-fid's rule of resizing (bicubic, antialiased)",
}


def _definitions(resize: str, said: str) -> tuple[Definition, Definition]:
    reads = (f"result.inception_{resize}", f"driving.inception_{resize}")
    title = resize.replace("_", " ")
    return (
        Definition(
            f"fid_{resize}", f"FID ({title})",
            f"Fréchet distance between the Inception features of all results and of all driving frames, by {said}; the"
            f" paper does not state its tool; biased upwards under {FEWEST_FOR_FID:,} frames.",
            "paper", "", "lower", ("self", "cross"), ("weights:inception",), reads,
            lambda: SetDistance("FID", reads, (RunningMoments(), RunningMoments()), _fid), "set",
        ),
        Definition(
            f"kid_{resize}", f"KID ({title})",
            f"Mean over {SUBSETS} subsets of {SUBSET_SIZE:,} frames (fewer where fewer came) of the unbiased squared"
            f" MMD with the cubic kernel, between the Inception features of results and of driving frames, by {said};"
            f" times 1000; of more than {RESERVOIR:,} frames a uniform choice of that many enters.",
            "field", "1e-3", "lower", ("self", "cross"), ("weights:inception",), reads,
            lambda: SetDistance("KID", reads, (Reservoir(RESERVOIR, SEED), Reservoir(RESERVOIR, SEED + 1)), _kid),
            "set",
        ),
    )  # fmt: skip


DEFINITIONS = tuple(definition for resize, said in RESIZES.items() for definition in _definitions(resize, said))
