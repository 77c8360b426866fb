"""Draws the strips that the page of kept and dropped films shows: three frames side by side, with their landmarks."""

from __future__ import annotations

import io

import numpy as np
import torch

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.tracking.clip_fit import CAMERA, ClipFit
from triportrait.core.tracking.head_model import HeadModel
from triportrait.train.data.films.runs import Run

SIDE = 144  # px of one picture
SHOWN = 3
QUALITY = 82
CURVES: tuple[tuple[int, int, bool], ...] = (  # first, end, closed: jaw, brows, nose, nostrils, eyes, lips
    (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False), (36, 42, True), (42, 48, True),
    (48, 60, True), (60, 68, True),
)  # fmt: skip
GIVEN, FITTED = (255, 196, 60), (64, 255, 190)
_FINE = 2  # the curves are drawn this much larger, and reduced


def strip_of(run: Run, model: HeadModel | None = None, fit: ClipFit | None = None) -> np.ndarray:
    """Draw the first, the middle and the last frame of a run that show the face: uint8 [SIDE, 3 SIDE, 3].

    Landmarks that were found are dots, the fitted head's are curves.
    """
    rows = [row for row, crop in enumerate(run.crops) if crop is not None]
    rows = [rows[0], rows[len(rows) // 2], rows[-1]]
    fitted = None if model is None or fit is None else _fitted_points(model, fit)
    pictures = []
    for row in rows:
        crop = run.crops[row]
        assert crop is not None
        curves = None if fitted is None else fitted[row]
        pictures.append(_drawn(crop, run.points[row][run.weights[row] > 0], curves))
    return np.concatenate(pictures, 1)


def small(image: np.ndarray) -> np.ndarray:
    """Reduce a frame uint8 [H, W, 3] to SIDE px high, 3 SIDE wide at most."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((SHOWN * SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def jpeg(image: np.ndarray) -> bytes:
    """Encode a picture uint8 [H, W, 3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _fitted_points(model: HeadModel, fit: ClipFit) -> np.ndarray:
    """Return where the fitted head's landmarks lie, [T, 70, 2] in pixels of the 512² picture."""
    of = fit.fitted
    count = of.expression.shape[1]
    betas = torch.cat([of.shape[0, None].expand(count, -1), of.expression[0]], -1)
    points = model.points().points(betas, of.angles[0])
    placed = (of.rotation[0, :, None] @ points[..., None])[..., 0] + of.translation[0, :, None]
    return CAMERA.project(placed).cpu().numpy()


def _drawn(crop: np.ndarray, points: np.ndarray, fitted: np.ndarray | None) -> np.ndarray:
    from PIL import Image, ImageDraw

    side = SIDE * _FINE
    picture = Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    scale = side / ALIGNED_SIZE
    if fitted is not None:
        for first, end, closed in CURVES:
            curve = [tuple((point + 0.5) * scale) for point in fitted[first:end]]
            draw.line(curve + curve[:1] * closed, FITTED, 2)
    for x, y in (points + 0.5) * scale:
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=GIVEN)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
