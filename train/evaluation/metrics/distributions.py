"""Define FID and KID: distances between the sets of all results and of all driving frames, from Inception's features.

Both walk the features once. FID keeps the mean and the covariance, KID a fair choice of bounded size. Letters: N frames
of one call, n frames so far, D the feature's length.
"""

from __future__ import annotations

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
    """Keeps a uniform random choice of the vectors that came, all of them up to a size."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random, self.frames = size, np.random.default_rng(seed), 0
        self.kept: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Take in vectors [N, D]."""
        for row in rows:
            self.frames += 1
            if len(self.kept) < self.size:
                self.kept.append(row.copy())
            elif (place := int(self.random.integers(self.frames))) < self.size:
                self.kept[place] = row.copy()


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Return |m1 - m2|² + tr(C1 + C2 - 2 √(C1 C2)) of means [D] and covariances [D, D].

    √(C1 C2) has the trace of √(√C1 C2 √C1), which is symmetric: its eigenvalues are real, whatever the ranks.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(min=0)).sum()
    difference = mean - other_mean
    return float(difference @ difference + covariance.trace() + other_covariance.trace() - 2 * shared)


def kernel_distance(
    one: np.ndarray, other: np.ndarray, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> tuple[float, float]:
    """Return mean and standard deviation, over subsets, of the unbiased squared MMD of [n1, D] and [n2, D].

    The kernel is (x·y / D + 1)³. Subsets are drawn without repetition, with at most as many vectors as the smaller set
    has, in the order of torchmetrics under `torch.manual_seed(seed)`.
    """
    size = min(subset_size, len(one), len(other))
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=generator)[:size].numpy()] for rows in (one, other))
        within = sum(_kernel(z, z).sum() - ((np.square(z).sum(1) / z.shape[1] + 1) ** 3).sum() for z in (x, y))
        scores.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return float(np.mean(scores)), float(np.std(scores))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


class FrechetInceptionDistance:
    """Computes FID between two streams of features; the covariances have n - 1 in the denominator."""

    def __init__(self, reads: tuple[str, str]) -> None:
        self.reads, self.sides = reads, (RunningMoments(), RunningMoments())

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`; every frame counts, with a face or without."""
        for side, rows in zip(self.sides, _features(self.reads, inputs), strict=True):
            side.add(rows)

    def score(self) -> Score:
        """See `Reduction`; its frames are those of one side."""
        frames = self.sides[0].frames
        if frames < 2:
            return Score(None, frames, note="FID needs two frames at least" if frames else NO_FRAME)
        (_, *result), (_, *driving) = (side.moments() for side in self.sides)
        biased = f"FID is biased upwards under {FEWEST_FOR_FID:,} frames, and {frames:,} came: read KID"
        return Score(frechet_distance(*result, *driving), frames, note=biased if frames < FEWEST_FOR_FID else "")


class KernelInceptionDistance:
    """Computes KID, times 1000, between two streams of features."""

    def __init__(self, reads: tuple[str, str]) -> None:
        self.reads, self.sides = reads, tuple(Reservoir(RESERVOIR, SEED + i) for i in range(2))

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`; every frame counts, with a face or without."""
        for side, rows in zip(self.sides, _features(self.reads, inputs), strict=True):
            side.add(rows)

    def score(self) -> Score:
        """See `Reduction`; its frames are those of one side."""
        frames = self.sides[0].frames
        if frames < 2:
            return Score(None, frames, note="KID needs two frames at least" if frames else NO_FRAME)
        result, driving = (np.stack(side.kept) for side in self.sides)
        mean, spread = kernel_distance(result, driving)
        return Score(1000 * mean, frames, spread=1000 * spread)


def _features(reads: tuple[str, str], inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    result, driving = checked_all(reads, inputs, None)
    if result.shape != driving.shape:
        raise InputError(
            f"{reads[0]}: expected as many numbers as {reads[1]}, got {result.shape[1]} and {driving.shape[1]}; take"
            " both from one network"
        )
    return [result, driving]


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
            lambda: FrechetInceptionDistance(reads), "set",
        ),
        Definition(
            f"kid_{resize}", f"KID ({title})",
            f"Mean over {SUBSETS} subsets of {SUBSET_SIZE:,} frames (fewer where fewer came) of the unbiased squared"
            f" MMD with the cubic kernel, between the Inception features of results and of driving frames, by {said};"
            f" times 1000; of more than {RESERVOIR:,} frames a uniform choice of that many enters.",
            "field", "1e-3", "lower", ("self", "cross"), ("weights:inception",), reads,
            lambda: KernelInceptionDistance(reads), "set",
        ),
    )  # fmt: skip


DEFINITIONS = tuple(definition for resize, said in RESIZES.items() for definition in _definitions(resize, said))
