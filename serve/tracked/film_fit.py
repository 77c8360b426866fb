"""Fits a head model to the face that was followed through a film, shot by shot.

A shot has one shape, and moves evenly where it was filmed fast enough. Letters: N frames that show the face.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from triportrait.core.tracking.bends import moves_evenly
from triportrait.core.tracking.clip_fit import ClipFit, Method, fit_clip
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.network_landmarks import OUTLINE_WEIGHT, for_networks, weights_for_networks
from triportrait.core.tracking.records import RECORD_WIDTH
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import Face, FaceProvider
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.tracked.fitted_frames import FittedFrames, FollowedFaces, parameters_of_record
from triportrait.serve.tracked.starts import FilmStart
from triportrait.serve.tracking_files import HeadParameters

WITNESSES = 100  # frames that tell the shape of a person who is seen in several shots

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


def seen_by(provider: FaceProvider | None, model: HeadModel, weights: np.ndarray) -> tuple[HeadModel, np.ndarray]:
    """Return the head model with the landmarks of what found faces, and how much they count.

    Args:
        provider: None: they come from files, which have the points of the mesh.
        weights: [..., 70], as of `fit_points`.
    """
    if not isinstance(provider, NetworkFaces):
        return model, weights
    return for_networks(model), weights_for_networks(model, torch.from_numpy(weights)).numpy()


def fit_film(
    faces: FollowedFaces,
    model: HeadModel,
    *,
    provider: FaceProvider | None = None,
    film: bool = True,
    one_person: bool = False,
    start: FilmStart | None = None,
    method: Method = "solve",
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> FittedFrames:
    """Fit a head model to a film.

    Args:
        faces: what was seen in it.
        model: the head model.
        provider: what found the faces; None: files did.
        film: its frames follow each other; False for pictures that need not.
        one_person: all shots have one shape; else each has its own.
        start: what a 3DMM reconstructor said of the N frames. method: as of `fit_clip`.
        device: where to solve.
        progress: is told how many of the N frames are done.

    Raises:
        InputError: landmarks that count are not finite.
    """
    fitted_model, weights = seen_by(provider, model, faces.weights)
    if not np.array_equal(weights, faces.weights):
        logger.info(
            "%s: no table says where networks that find faces see its jaw line, which counts %g of other landmarks",
            model.identity.name, OUTLINE_WEIGHT,
        )  # fmt: skip
    faces, model = replace(faces, weights=weights), fitted_model
    shots = [np.flatnonzero(faces.shots == shot) for shot in np.unique(faces.shots)]
    shape = _shape_of(faces, model, device, start) if one_person and len(shots) > 1 else None
    records = torch.zeros(len(faces), RECORD_WIDTH)
    error_px, outliers = np.zeros(len(faces)), np.zeros(len(faces), np.int64)
    done = 0
    for rows in shots:
        times = faces.times_s[rows]
        moves = film and moves_evenly(torch.from_numpy(times))
        at = faces.numbers[rows] - faces.numbers[rows[0]] if moves else np.arange(len(rows))
        fit = _fit(faces, rows, model, at, moves, shape, device, start, method)
        records[rows] = fit.records[at]
        error_px[rows], outliers[rows] = fit.error_px.numpy()[at], fit.outliers.numpy()[at]
        done += len(rows)
        progress(done, len(faces))
    return FittedFrames(faces, records, error_px, outliers, model.identity)


def fit_picture(
    face: Face, placed: Alignment, model: HeadModel, provider: FaceProvider | None = None
) -> HeadParameters:
    """Fit the face of one picture.

    Args:
        face: in the raw picture.
        placed: where the aligned picture lies in it.
        model: the head model. provider: what found the face; None: a file did.
    """
    points, weights = fit_points(face, placed)
    model, weights = seen_by(provider, model, weights)
    fit = fit_clip(model, torch.from_numpy(points)[None], torch.from_numpy(weights)[None], film=False)
    return parameters_of_record(fit.records[0], fit.model)


def _shape_of(faces: FollowedFaces, model: HeadModel, device: torch.device | str, start: FilmStart | None) -> Tensor:
    """Fit the shape [S] to frames from all over the film."""
    rows = np.unique(np.linspace(0, len(faces) - 1, min(WITNESSES, len(faces))).round().astype(int))
    return _fit(faces, rows, model, np.arange(len(rows)), False, None, device, start, "solve").fitted.shape[0]


def _fit(
    faces: FollowedFaces, rows: np.ndarray, model: HeadModel, at: np.ndarray, film: bool, shape: Tensor | None,
    device: torch.device | str, start: FilmStart | None, method: Method,
) -> ClipFit:  # fmt: skip
    """Fit frames at their places `at` in a clip; between them are those without the face, which have no points."""
    count = int(at[-1]) + 1
    points, weights = np.zeros((count, 70, 2)), np.zeros((count, 70))
    points[at], weights[at] = faces.points[rows], faces.weights[rows]
    times = torch.from_numpy(np.interp(np.arange(count), at, faces.times_s[rows])) if film else None
    return fit_clip(
        model, torch.from_numpy(points), torch.from_numpy(weights), film=film, shape=shape, times=times,
        start=None if start is None else start.of_frames(rows, at), method=method, device=device,
    )  # fmt: skip
