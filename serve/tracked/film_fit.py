"""Fits a head model to the face that was followed through a film: shot by shot, long shots in pieces.

A shot has one shape, and moves evenly where it was filmed fast enough. What a piece costs is bounded, whatever the
length of the film. Letters: N frames that show the face, T frames of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from triportrait.core.tracking.clip_fit import ClipFit, fit_clip
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.records import WIDTHS
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.tracked.fitted_frames import FittedFrames, FollowedFaces, parameters_of_record
from triportrait.serve.tracking_files import HeadParameters

LONGEST_PIECE = 250  # frames that are solved at once
OVERLAP = 20  # frames that neighbouring pieces share, of which each keeps its half
LONGEST_GAP = 12  # frames without the face that are filled; after more of them the movement begins anew
WITNESSES = 100  # frames that tell the shape of a person who is seen in several pieces
SLOWEST_FILM_S = 1 / 20  # between frames; slower ones are fitted as stills

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Piece:
    """Rows of `FollowedFaces` that are solved together; `keep` are those whose solution is taken."""

    rows: slice
    keep: slice


def fit_film(
    faces: FollowedFaces,
    model: HeadModel,
    *,
    film: bool = True,
    one_person: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> FittedFrames:
    """Fit a head model to a film.

    Args:
        faces: what was seen in it.
        model: the head model.
        film: its frames follow each other; False for pictures that need not.
        one_person: all shots have one shape; else each has its own.
        device: where to solve.
        progress: is told how many of the N frames are done.
    """
    model = replace(model, flame=model.flame.to(device))
    shots = [np.flatnonzero(faces.shots == shot) for shot in np.unique(faces.shots)]
    shared = _shape_of(faces, np.arange(len(faces)), model, device) if one_person and len(shots) > 1 else None
    records = torch.zeros(len(faces), sum(WIDTHS.values()))
    error_px, outliers = np.zeros(len(faces)), np.zeros(len(faces), np.int64)
    done = 0
    for rows in shots:
        moves = film and len(rows) > 1 and float(np.median(np.diff(faces.times_s[rows]))) <= SLOWEST_FILM_S
        pieces = list(_pieces(faces.numbers[rows]))
        shape = shared
        if shape is None and len(pieces) > 1:
            shape = _shape_of(faces, rows, model, device)
        for piece in pieces:
            here = rows[piece.rows]
            fit = _fit(faces, here, model, moves, shape, device)
            at = torch.from_numpy(faces.numbers[here] - faces.numbers[here[0]] if moves else np.arange(len(here)))
            kept = slice(piece.keep.start - piece.rows.start, piece.keep.stop - piece.rows.start)
            into = rows[piece.keep]
            records[into] = fit.records.cpu()[at][kept]
            error_px[into] = fit.error_px.cpu().numpy()[at][kept]
            outliers[into] = fit.outliers.cpu().numpy()[at][kept]
            done += len(into)
            progress(done, len(faces))
    return FittedFrames(faces, records, error_px, outliers, model.identity)


def fit_picture(face: Face, placed: Alignment, model: HeadModel) -> HeadParameters:
    """Fit the face of one picture.

    Args:
        face: in the raw picture.
        placed: where the aligned picture lies in it.
        model: the head model.
    """
    points, weights = fit_points(face, placed)
    fit = fit_clip(model, torch.from_numpy(points)[None], torch.from_numpy(weights)[None], film=False)
    return parameters_of_record(fit.records[0].cpu())


def _pieces(numbers: np.ndarray) -> Iterator[_Piece]:
    """Cut a shot, of which these frames show the face, where it is away for long and where it is long."""
    ends = [0, *(np.flatnonzero(np.diff(numbers) > LONGEST_GAP + 1) + 1), len(numbers)]
    half = OVERLAP // 2
    for start, stop in pairwise(ends):
        first, last = numbers[start], numbers[stop - 1]
        count = max(1, -(-(last + 1 - first - OVERLAP) // (LONGEST_PIECE - OVERLAP)))
        bounds = np.searchsorted(numbers, np.linspace(first, last + 1, count + 1).round())
        for a, b in pairwise(bounds):
            if a < b:
                yield _Piece(slice(max(a - half, start), min(b + half, stop)), slice(a, b))


def _shape_of(faces: FollowedFaces, rows: np.ndarray, model: HeadModel, device: torch.device | str) -> Tensor:
    """Fit the shape [S] to frames from all over these rows."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(WITNESSES, len(rows))).round().astype(int))]
    return _fit(faces, chosen, model, False, None, device).fitted.shape[0]


def _fit(
    faces: FollowedFaces, rows: np.ndarray, model: HeadModel, film: bool, shape: Tensor | None,
    device: torch.device | str,
) -> ClipFit:  # fmt: skip
    """Fit frames; in a film those without the face between them have no points, but their time."""
    at = faces.numbers[rows] - faces.numbers[rows[0]] if film else np.arange(len(rows))
    points, weights = np.zeros((at[-1] + 1, 70, 2)), np.zeros((at[-1] + 1, 70))
    points[at], weights[at] = faces.points[rows], faces.weights[rows]
    return fit_clip(
        model, torch.from_numpy(points).to(device), torch.from_numpy(weights).to(device), film=film, shape=shape
    )
