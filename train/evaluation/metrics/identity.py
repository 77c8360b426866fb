"""Define ID and Cons.: cosines between ArcFace's embeddings of faces. Letters: N frames, D the embedding's length."""

from __future__ import annotations

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.definition import DRIVEN, Definition, Score
from triportrait.train.evaluation.metrics.inputs import checked_all
from triportrait.train.evaluation.metrics.reductions import NO_FRAME, FrameMean


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosines between vectors [N, D]: [N].

    Raises:
        InputError: their lengths D differ, or a vector is 0.
    """
    if one.shape != other.shape:
        raise InputError(
            f"features: expected vectors of one length, got {one.shape[1]} and {other.shape[1]} numbers; measure both"
            " pictures with one network"
        )
    return (unit(one) * unit(other)).sum(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [N, D] divided by their lengths.

    Raises:
        InputError: one is 0, as some scripts give for a picture without a face.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (length > 0).all():
        raise InputError(
            f"features: expected vectors with a direction, got zeros in frame {int((length[:, 0] == 0).argmax())} of"
            " this call; mark frames without a face as not found"
        )
    return vectors / length


class Consistency:
    """Compares the embeddings of one source under many drivers, by the sum s of their unit vectors alone.

        mean cosine over all pairs = (|s|² - n) / (n (n - 1))        mean cosine to the mean direction = |s| / n

    Args:
        to_mean: the score is the second of the two.
    """

    def __init__(self, to_mean: bool) -> None:
        self.to_mean = to_mean
        self.sum: np.ndarray | None = None
        self.frames, self.missing = 0, 0

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`: a row for each driver."""
        (embeddings,) = checked_all(("result.identity",), inputs, found)
        if found is not None:
            self.missing += int((~found).sum())
        for row in unit(embeddings) if len(embeddings) else embeddings:
            if self.sum is not None and self.sum.shape != row.shape:
                raise InputError(
                    f"result.identity: expected {len(self.sum)} numbers as before, got {len(row)}; measure all results"
                    " with one network"
                )
            self.sum = row.copy() if self.sum is None else self.sum + row
            self.frames += 1

    def score(self) -> Score:
        """See `Reduction`; its frames are the drivers."""
        if self.sum is None:
            return Score(None, 0, self.missing, NO_FRAME)
        if self.frames < 2:
            return Score(None, self.frames, self.missing, "consistency needs two drivers at least")
        n, square = self.frames, float(self.sum @ self.sum)
        return Score(square**0.5 / n if self.to_mean else (square - n) / (n * (n - 1)), n, self.missing)


_SOURCE = ("result.identity", "source.identity")
_TRUTH = ("result.identity", "truth.identity")

DEFINITIONS = (
    Definition(
        "id", "ID",
        "Mean over frames of the cosine between ArcFace's embeddings of result and source picture, each aligned by its"
        " own five points; which ArcFace the paper used is not stated.",
        "paper", "", "higher", DRIVEN, ("faces", "weights:arcface"), _SOURCE, lambda: FrameMean(_SOURCE, cosine),
    ),
    Definition(
        "id_to_truth", "ID to truth",
        "Mean over frames of the cosine between ArcFace's embeddings of result and truth, each aligned by its own five"
        " points: what others call CSIM in self-reenactment.",
        "field", "", "higher", ("self",), ("truth", "faces", "weights:arcface"), _TRUTH,
        lambda: FrameMean(_TRUTH, cosine),
    ),
    Definition(
        "cons_pairwise", "Cons. (pairs)",
        "Mean cosine between ArcFace's embeddings over all pairs of frontal results of one source under different"
        " drivers; the paper does not state its pairing.",
        "paper", "", "higher", ("consistency",), ("faces", "weights:arcface"), ("result.identity",),
        lambda: Consistency(to_mean=False), "group",
    ),
    Definition(
        "cons_to_mean", "Cons. (to mean)",
        "Mean cosine between ArcFace's embeddings of the frontal results of one source under different drivers and the"
        " mean of their directions; the paper does not state its pairing.",
        "paper", "", "higher", ("consistency",), ("faces", "weights:arcface"), ("result.identity",),
        lambda: Consistency(to_mean=True), "group",
    ),
)  # fmt: skip
