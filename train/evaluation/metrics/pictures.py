"""Define what is measured on pictures alone: likeness to the truth, sharpness, flicker, and the speed of the method.

These are defaults of ours, which need no weights and no face. Letters: N frames, H, W height and width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.metrics.torchvision_ops import declare
from triportrait.train.evaluation import image_metrics
from triportrait.train.evaluation.metrics.definition import DRIVEN, EVERY_KIND, Definition, Score
from triportrait.train.evaluation.metrics.inputs import checked_all
from triportrait.train.evaluation.metrics.reductions import FrameMean, Successive

SMALLEST_SSIM = 11  # pixels, the side of its window
SMALLEST_MS_SSIM = 176  # pixels, so that the smallest of five scales is 11 wide


def psnr(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the PSNR of frames uint8 [N, H, W, 3], [N] dB: of the squared error over pixels and colours.

    Frames that agree to the last grey level get 100 dB.
    """
    return image_metrics.psnr(*_pair(result, truth)).double().numpy()


def ssim(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the structural similarity of frames uint8 [N, H, W, 3], [N], 1 at best.

    The window is Gaussian, 11 pixels wide with σ 1.5; beyond its border the picture is mirrored; colours are averaged.
    """
    _sized(result, SMALLEST_SSIM, "SSIM")
    return image_metrics.ssim(*_pair(result, truth)).double().numpy()


def ms_ssim(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the multi-scale structural similarity of frames uint8 [N, H, W, 3], [N], 1 at best, at five scales.

    Weights 0.0448, 0.2856, 0.3001, 0.2363, 0.1333; negative similarities count as 0. Windows of the first four scales
    lie inside the picture; at the smallest it is mirrored as in `ssim`.
    """
    _sized(result, SMALLEST_MS_SSIM, "MS-SSIM")
    declare()
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    result_unit, truth_unit = ((picture + 1) / 2 for picture in _pair(result, truth))
    value: Tensor = multiscale_structural_similarity_index_measure(
        result_unit, truth_unit, data_range=1.0, reduction="none", normalize="relu"
    )
    return value.reshape(len(result)).double().numpy()


def sharpness(result: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the mean length of the gradient of the brightness over that of a reference, uint8 [N, H, W, 3] each: [N].

    Raises:
        InputError: the reference has no gradient at all.
    """
    one, other = _pair(result, reference)
    if not (other.amax((2, 3)) > other.amin((2, 3))).any(1).all():
        raise InputError("sharpness: expected a reference with detail, got a picture of one colour; leave it out")
    return image_metrics.sharpness(one, other).double().numpy()


def flicker(frames: np.ndarray) -> float:
    """Return the flicker of three successive frames uint8 [3, H, W, 3]: mean over pixels of |a - 2b + c| / 4.

    a, b, c are brightnesses (the mean of the colours) in grey levels of 255. A picture that gets steadily brighter has
    none; one whose every pixel alternates between x - f and x + f has f.
    """
    a, b, c = frames.mean(3, dtype=np.float64)
    return float(np.abs(a - 2 * b + c).mean() / 4)


class Speed:
    """Divides the number of frames by the seconds that making them took."""

    def __init__(self) -> None:
        self.seconds, self.frames = 0.0, 0

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`; every frame counts, with a face or without."""
        (seconds,) = checked_all(("result.seconds",), inputs, None)
        if (seconds < 0).any():
            raise InputError(
                f"result.seconds: expected times of at least 0, got {seconds.min():g}; give durations, not moments"
            )
        for value in seconds:
            self.seconds += float(value)
            self.frames += 1

    def score(self) -> Score:
        """See `Reduction`."""
        if not self.seconds:
            return Score(None, self.frames, note="the manifest says of no frame how long it took")
        return Score(self.frames / self.seconds, self.frames)


def _pair(result: np.ndarray, truth: np.ndarray) -> tuple[Tensor, Tensor]:
    if result.shape != truth.shape:
        raise InputError(
            f"result.frames: expected the size of the frames they are compared with, {list(truth.shape[1:3])} pixels,"
            f" got {list(result.shape[1:3])}; scale neither, make the results in the protocol's size"
        )
    one, other = (torch.from_numpy(np.array(x, np.float32)).permute(0, 3, 1, 2) for x in (result, truth))
    return one / 127.5 - 1, other / 127.5 - 1


def _sized(frames: np.ndarray, least: int, name: str) -> None:
    if min(frames.shape[1:3]) < least:
        raise InputError(
            f"{name}: expected frames of at least {least} x {least} pixels, got {frames.shape[1]} x {frames.shape[2]};"
            " measure larger ones, or leave the column out"
        )


_TRUTH = ("result.frames", "truth.frames")
_SOURCE = ("result.frames", "source.frames")

DEFINITIONS = (
    Definition(
        "psnr", "PSNR",
        "Mean over frames of the peak signal to noise ratio of the whole picture against the truth, RGB, 8 bit; frames"
        " that agree exactly count as 100 dB.",
        "default", "dB", "higher", ("self",), ("truth",), _TRUTH, lambda: FrameMean(_TRUTH, psnr),
    ),
    Definition(
        "ssim", "SSIM",
        "Mean over frames of the structural similarity to the truth, RGB, Gaussian window of 11 pixels with σ 1.5,"
        " borders mirrored, constants 0.01 and 0.03 (torchmetrics); in smooth pictures faint noise costs more than a"
        " face in the wrong place.",
        "default", "", "higher", ("self",), ("truth",), _TRUTH, lambda: FrameMean(_TRUTH, ssim),
    ),
    Definition(
        "ms_ssim", "MS-SSIM",
        "Mean over frames of the structural similarity to the truth at five scales, windows as SSIM's, negative"
        " similarities counted as 0 (torchmetrics).",
        "default", "", "higher", ("self",), ("truth",), _TRUTH, lambda: FrameMean(_TRUTH, ms_ssim),
    ),
    Definition(
        "sharpness", "sharpness",
        "Mean over frames of the mean length of the brightness' gradient, divided by that of the truth: 1 is as sharp,"
        " less is softer, more is noisier; it does not look at movement.",
        "default", "", None, ("self",), ("truth",), _TRUTH, lambda: FrameMean(_TRUTH, sharpness),
    ),
    Definition(
        "sharpness_to_source", "sharpness to source",
        "Mean over frames of the mean length of the brightness' gradient, divided by that of the source picture.",
        "default", "", None, EVERY_KIND, (), _SOURCE, lambda: FrameMean(_SOURCE, sharpness),
    ),
    Definition(
        "flicker", "flicker",
        "Mean over every three successive frames a, b, c and over pixels of |a - 2b + c| / 4 of the brightness: a"
        " picture whose pixels alternate by ±f has f; steady change has none, fast movement has some, a result that"
        " never moves has none.",
        "default", "grey levels", "lower", DRIVEN, (), ("result.frames",),
        lambda: Successive(("result.frames",), flicker, 3, nothing="flicker needs three successive frames"),
    ),
    Definition(
        "frame_rate", "frames per second",
        "Number of frames divided by the seconds that the method took to make them, as the manifest of its results"
        " says; whose machine that was is the manifest's word.",
        "default", "1/s", "higher", EVERY_KIND, ("seconds",), ("result.seconds",), Speed,
    ),
)  # fmt: skip
