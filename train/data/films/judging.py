"""Judges the frames of a run, and with them the run: what has too many flaws does not become a clip.

Letters: T frames of a run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.tracking.clip_fit import ClipFit
from triportrait.train.data.films.options import FilmOptions, Reason
from triportrait.train.data.films.runs import LANDMARKS, Run
from triportrait.train.data.picture_quality import blur

Flaws = list[Reason | None]


def flaws_seen(run: Run, options: FilmOptions) -> Flaws:
    """Return the flaw of each frame that its picture shows, None where there is none."""
    return [
        _flaw_of(crop, enlarged, outside, options)
        for crop, enlarged, outside in zip(run.crops, run.enlarged, run.outside, strict=True)
    ]


def flaws_fitted(flaws: Flaws, fit: ClipFit, options: FilmOptions) -> Flaws:
    """Add to the flaws of T frames those that the fit of a head model tells."""
    towards_camera = fit.fitted.rotation[0, :, 2, 2].clamp(-1, 1).acos()  # [T], the head's front from the camera's axis
    turned = np.rad2deg(towards_camera.cpu().numpy())
    errors, outliers = fit.error_px.cpu().numpy(), fit.outliers.cpu().numpy()
    found: Flaws = []
    for flaw, angle, missed, error in zip(flaws, turned, outliers, errors, strict=True):
        if flaw is None and angle > options.most_turned_deg:
            flaw = "turned away"
        elif flaw is None and missed > options.most_outliers:
            flaw = "occluded"
        elif flaw is None and not error <= options.most_error_px:
            flaw = "bad fit"
        found.append(flaw)
    return found


def flaws_segmented(flaws: Flaws, run: Run, rows: Sequence[int], masks: np.ndarray, options: FilmOptions) -> Flaws:
    """Add to the flaws of T frames those that the segmentation tells.

    Args:
        rows: the N frames that were segmented. masks: bool [N, S, S], true on the person.
    """
    found = list(flaws)
    for row, mask in zip(rows, masks, strict=True):
        face = face_of(run.points[row][:LANDMARKS], len(mask))
        if face.any() and 1 - mask[face].mean() > options.most_hidden:
            found[row] = "occluded"
    return found


def face_of(points: np.ndarray, side: int) -> np.ndarray:
    """Return where a face is: bool [side, side], within its jaw and brows.

    Args:
        points: [68, 2], pixels of the 512² aligned picture.
    """
    from PIL import Image, ImageDraw

    outline = (np.concatenate([points[:17], points[17:27][::-1]]) + 0.5) * (side / ALIGNED_SIZE) - 0.5
    picture = Image.new("1", (side, side))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    return np.asarray(picture)


def verdict(run: Run, flaws: Sequence[Reason | None], options: FilmOptions) -> Reason | None:
    """Say why a run does not become a clip; None where it does."""
    if len(run) < options.fewest:
        return "too short"
    if run.two_people:
        return "two people"
    good = sum(flaw is None for flaw in flaws)
    if good >= max(options.fewest, math.ceil((1 - options.most_flawed) * len(run))):
        return None
    (worst, _), *_ = Counter(flaw for flaw in flaws if flaw is not None).most_common(1)
    return worst


def drawn(flaws: Sequence[Reason | None], options: FilmOptions, stream: Sequence[int]) -> np.ndarray:
    """Draw the frames of a clip among those without a flaw; returns their places in the run, ascending."""
    good = np.flatnonzero([flaw is None for flaw in flaws])
    count = min(options.frames, len(good))
    return np.sort(np.random.default_rng(list(stream)).choice(good, count, replace=False))


def _flaw_of(crop: np.ndarray | None, enlarged: float, outside: float, options: FilmOptions) -> Reason | None:
    if crop is None:
        return "face lost"
    if enlarged > options.most_enlarged:
        return "too small"
    if outside > options.most_outside:
        return "cut off"
    return "blurred" if blur(crop) > options.most_blur else None
