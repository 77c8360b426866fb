"""Fit a head model to the landmarks of one clip or of many stills, and say how well each frame fits.

A short clip is solved whole. Of a long one the shape is read off frames that are spread over its head poses, then the
frames are solved in windows that overlap, a few at once, so that memory is bounded however long it is. What a frame
gets depends on the shape and the frames of its window alone; windows lie where the length of the clip puts them.
Letters: N people, T frames, P landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import rotation_vectors
from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.tracking.bends import RATE, Bends, check_times
from triportrait.core.tracking.fit import OUTLIER, Fitted, Priors, Start, fit_landmarks, nearest_known
from triportrait.core.tracking.head_model import HeadModel, ModelIdentity
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.point_model import POINTS, PointModel
from triportrait.core.tracking.published_clip import published_clip
from triportrait.core.tracking.records import records_of
from triportrait.core.types import PUBLISHED_FOCAL

CAMERA = Pinhole.square(PUBLISHED_FOCAL, ALIGNED_SIZE)  # of aligned pictures
NEEDED = 6  # landmarks of a frame with a face
WINDOW, MARGIN = 192, 24  # frames: of a solve, and of those at its ends that the next window says better
SHAPE_FRAMES, CANDIDATES = 64, 1024  # frames that the shape of a long clip is read off, and among which they are chosen
STACKED = 4  # windows that are solved together
STILLS = 256  # of one solve
Method = Literal["solve", "published"]


@dataclass(frozen=True)
class ClipFit:
    """The parameters of the T frames of a clip, or of T stills.

    Attributes:
        records: float32 [T, 437], the published numbers; frames without a face hold what their neighbours say.
        fitted: the same as tensors of the solve: N = 1 of a clip, N = T and one frame each of stills.
        error_px: [T], root mean squared distance of all landmarks that were given, outliers too, in proportion to the
            weights that they came with; pixels of the aligned picture, NaN where none was given, or, by the published
            method, less than all.
        outliers: [T] int64, landmarks that were given and do not fit.
        quality: [T] in [0, 1], how much of 70 landmarks was seen and fits; 0 without a face.
        model: whose parameters these are.
    """

    records: Tensor
    fitted: Fitted
    error_px: Tensor
    outliers: Tensor
    quality: Tensor
    model: ModelIdentity


def fit_clip(
    model: HeadModel,
    landmarks: Tensor,
    weights: Tensor,
    *,
    film: bool = True,
    shape: Tensor | None = None,
    fps: float = RATE,
    times: Tensor | None = None,
    noise_px: float | None = None,
    start: Start | None = None,
    method: Method = "solve",
    device: torch.device | str = "cpu",
) -> ClipFit:
    """Fit one clip, which has no cuts.

    Args:
        landmarks: [T, 70, 2] pixels of the 512² aligned pictures, y down: 68 landmarks and the pupils, right before
            left. Those of the jaw are points of the mesh, which turn with the head, and not the outline that is seen.
        weights: [T, 70], 0 where a landmark is unknown (all of a frame without a face), else up to 1.
        film: the frames follow each other; False for stills of one person.
        shape: [S] where the person is known.
        fps: frames a second of a film, or `times`, [T] seconds, where they vary.
        noise_px: standard deviation of a landmark's coordinate; None measures it on the clip.
        start: what a 3DMM reconstructor said, N = 1; the solve begins there and stays near.
        method: `solve`, or `published`, the Adam schedule of the published pipeline: it refines a start, knows neither
            films nor outliers, and takes some four hundred times as long. The shape is then the mean of the frames'.
        device: where it is solved, in float64 (the published schedule in float32); the answer is on the CPU.

    Raises:
        InputError: no frame has six landmarks, one that counts is not finite, or the times do not rise.
    """
    landmarks, weights = _checked(landmarks, weights, device)
    frames = len(landmarks)
    if not fps > 0:
        raise InputError(f"fps: expected more than 0 frames/s, got {fps:g}")
    if times is None:
        times = torch.arange(frames, dtype=torch.float64, device=device) / fps
    else:
        check_times(times, frames)
        times = times.to(device, torch.float64)
    if int((weights > 0).sum(-1).max()) < NEEDED:
        raise InputError(f"landmarks: expected {NEEDED} or more in a frame of the clip, got fewer; leave the clip out")
    given = None if shape is None else shape[None].to(device, torch.float64)
    begun = None if start is None else _start_on(start, device)
    if method == "published":
        fitted = published_clip(model, landmarks, weights, CAMERA, begun, given)
    else:
        points, priors = _points(model, device), Priors(bends=Bends() if film else None, noise_px=noise_px)
        fitted = _fitted(points, landmarks, weights, priors, given, times, begun)
    return _clip_fit(model, fitted, weights)


def fit_stills(
    model: HeadModel,
    landmarks: Tensor,
    weights: Tensor,
    *,
    noise_px: float | None = None,
    start: Start | None = None,
    method: Method = "solve",
    device: torch.device | str = "cpu",
) -> ClipFit:
    """Fit stills of people who have nothing in common, each with a shape of its own, many at once.

    Args:
        landmarks: [T, 70, 2]; weights: [T, 70]; method and device: as of `fit_clip`. A still with fewer than six
            landmarks, or with less than all of them by the published method, gets the mean face and the quality 0.
        start: N = T, one frame each.

    Raises:
        InputError: as of `fit_clip`.
    """
    landmarks, weights = _checked(landmarks, weights, device)
    seen = (weights > 0).sum(-1) >= NEEDED
    if not bool(seen.any()):
        raise InputError(f"landmarks: expected {NEEDED} or more in one of the stills, got fewer; leave them out")
    if method == "published":  # which leaves out by itself what it cannot fit
        begun = None if start is None else _start_on(start, device)
        counted = weights * seen[:, None]
        return _clip_fit(model, published_clip(model, landmarks[:, None], counted[:, None], CAMERA, begun), counted)
    # a still without a face is solved with those of another, and its answer thrown away
    rows = torch.where(seen, torch.arange(len(seen), device=seen.device), seen.int().argmax())
    points, priors, parts = _points(model, device), Priors(noise_px=noise_px), []
    for some in rows.split(STILLS):
        begun = None if start is None else _start_on(start, device, some)
        pixels, counted = landmarks[some][:, None], weights[some][:, None]
        parts.append(fit_landmarks(points, pixels, counted, CAMERA, priors, start=begun))
    fitted = _joined(parts, 0)
    mean = {"shape": 0.0, "expression": 0.0, "angles": 0.0, "weights": 0.0}
    blank = {
        name: torch.where(seen.view(-1, *[1] * (part.ndim - 1)), part, value)
        for name, value in mean.items()
        for part in [getattr(fitted, name)]
    }
    return _clip_fit(model, replace(fitted, **blank), weights * seen[:, None])


def _checked(landmarks: Tensor, weights: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    if landmarks.ndim != 3 or tuple(landmarks.shape[1:]) != (POINTS, 2) or landmarks.shape[:2] != weights.shape:
        raise InputError(
            f"landmarks: expected [T, {POINTS}, 2] and weights [T, {POINTS}], got {list(landmarks.shape)} and "
            f"{list(weights.shape)}"
        )
    weights = weights.to(device, torch.float64)
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise InputError("weights: expected numbers from 0 to 1, got others")
    landmarks = landmarks.to(device, torch.float64)
    landmarks = torch.where(weights[..., None] > 0, landmarks, 0.0)
    if not bool(torch.isfinite(landmarks).all()):
        raise InputError("landmarks: expected finite pixels, got others; give them the weight 0")
    return landmarks, weights


def _points(model: HeadModel, device: torch.device | str) -> PointModel:
    return model.points().to(device)


def _start_on(start: Start, device: torch.device | str, rows: Tensor | slice = slice(None)) -> Start:
    def moved(part: Tensor) -> Tensor:
        return part.to(device, torch.float64)[rows]

    rotation = None if start.rotation is None else moved(start.rotation)
    return replace(
        start, shape=moved(start.shape), expression=moved(start.expression), jaw=moved(start.jaw), rotation=rotation
    )


def _frames_of(start: Start | None, frames: Tensor) -> Start | None:
    """Take windows [n, W] of the frames of a start of one clip."""
    if start is None:
        return None
    rotation = None if start.rotation is None else start.rotation[0][frames]
    shape = start.shape.expand(len(frames), -1)
    return replace(start, shape=shape, expression=start.expression[0][frames], jaw=start.jaw[0][frames],
                   rotation=rotation)  # fmt: skip


def _fitted(
    points: PointModel,
    landmarks: Tensor,
    weights: Tensor,
    priors: Priors,
    shape: Tensor | None,
    times: Tensor,
    start: Start | None,
) -> Fitted:
    """Solve one clip, N = 1."""
    frames = len(landmarks)
    if frames <= WINDOW:
        return fit_landmarks(
            points, landmarks[None], weights[None], CAMERA, priors, shape, times=times[None], start=start
        )
    if shape is None:
        some = _spread(points, landmarks, weights)
        alone = replace(priors, bends=None)
        begun = _frames_of(start, some[None])
        shape = fit_landmarks(points, landmarks[some][None], weights[some][None], CAMERA, alone, start=begun).shape
    parts = []
    core = WINDOW - 2 * MARGIN
    seen = (weights > 0).sum(-1) >= NEEDED
    nearest = nearest_known(seen[None])[0]
    firsts = torch.arange(0, frames, core, device=landmarks.device)
    starts = (firsts - MARGIN).clamp(min=0, max=frames - WINDOW)
    for some in torch.arange(len(firsts), device=landmarks.device).split(STACKED):
        here = starts[some, None] + torch.arange(WINDOW, device=landmarks.device)  # [n, W]
        # a window without any face stands where the nearest face was: its frames are held at that frame
        lost = ~seen[here].any(1)
        taken = torch.where(lost[:, None], nearest[here], here)
        found = fit_landmarks(
            points, landmarks[taken], weights[taken], CAMERA, priors, shape.expand(len(some), -1), times=times[here],
            start=_frames_of(start, here),
        )  # fmt: skip
        for row, (first, at) in enumerate(zip(firsts[some].tolist(), starts[some].tolist(), strict=True)):
            kept = slice(first - at, min(first + core, frames) - at)
            parts.append(Fitted(shape=shape, **{name: getattr(found, name)[row, kept][None] for name in _FRAMES}))
    return _joined(parts, 1)


_FRAMES = ("expression", "angles", "rotation", "translation", "weights", "error_px")


def _joined(parts: list[Fitted], axis: int) -> Fitted:
    """Put fits of people (axis 0) or of frames (axis 1, the shape of the first) together."""
    names = [field.name for field in fields(Fitted)]
    whole = {name: torch.cat([getattr(part, name) for part in parts], axis) for name in names if name != "shape"}
    shape = torch.cat([part.shape for part in parts]) if axis == 0 else parts[0].shape
    return Fitted(shape=shape, **whole)


def _spread(points: PointModel, landmarks: Tensor, weights: Tensor) -> Tensor:
    """Choose frames of a long clip that show the head from as many sides as they can: [SHAPE_FRAMES] rising numbers.

    Frames evenly spread in time are candidates; then the one that is turned farthest from all chosen ones comes next.
    """
    seen = ((weights > 0).sum(-1) >= NEEDED).nonzero()[:, 0]
    some = seen[torch.linspace(0, len(seen) - 1, min(CANDIDATES, len(seen)), device=seen.device).round().long()]
    mean = points.at_rest().expand(len(some), -1, -1)
    turns = rotation_vectors(CAMERA.first_pose(mean, landmarks[some], weights[some])[0])  # [n, 3]
    chosen = torch.zeros(min(SHAPE_FRAMES, len(some)), dtype=torch.int64, device=seen.device)
    apart = (turns - turns[0]).norm(dim=-1)
    for k in range(1, len(chosen)):
        farthest = apart.argmax()
        chosen[k] = farthest
        apart = torch.minimum(apart, (turns - turns[farthest]).norm(dim=-1))
    return some[chosen.unique()]


def _clip_fit(model: HeadModel, fitted: Fitted, weights: Tensor) -> ClipFit:
    """Say how well frames fit; `weights` are [T, 70]."""
    fitted = Fitted(**{field.name: getattr(fitted, field.name).cpu() for field in fields(Fitted)})
    weights = weights.cpu()
    given, kept = weights > 0, fitted.weights.reshape(weights.shape)
    kept = torch.where(given, kept, 0.0)
    seen = given.sum(-1) >= NEEDED
    error = torch.where(given.any(-1), fitted.error_px.reshape(-1), torch.nan)
    outliers = torch.where(error.isnan(), 0, (given & (kept < OUTLIER * weights)).sum(-1))
    quality = torch.where(seen, kept.sum(-1) / POINTS, 0.0)
    records = records_of(fitted).flatten(0, 1)
    return ClipFit(records, fitted, error, outliers, quality, model.identity)
