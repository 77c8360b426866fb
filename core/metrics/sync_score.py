"""SyncNet's score: how well, and at which shift, a face's windows fit those of the sound. Letters: N windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError

REACH = 15  # windows, of 40 ms, by which the sound is shifted to either side
EPSILON = 1e-6  # added to every difference
SMOOTHED = 9  # frames of the curve's median filter


@dataclass(frozen=True)
class SyncScore:
    """What the search over shifts found.

    Attributes:
        confidence: the median of the 31 mean distances less the smallest (Sync-C, LSE-C): higher is better.
        distance: the smallest mean distance (Sync-D, LSE-D): lower is better.
        offset: frames of 40 ms by which the sound comes early.
        mean_distances: [31], by shift.
        framewise: [N], confidence at each window, smoothed.
    """

    confidence: float
    distance: float
    offset: int
    mean_distances: np.ndarray
    framewise: np.ndarray


def sync_score(faces: Tensor, sound: Tensor) -> SyncScore:
    """Score the embeddings of a clip.

    Args:
        faces: [N, 1024], as `embed_face_windows` gives them.
        sound: [M, 1024], as `embed_sound_windows` gives them; the longer of the two is cut at its end.

    Raises:
        InputError: there are none, or they have different widths.
    """
    count = min(len(faces), len(sound))
    if not count or faces.shape[1:] != sound.shape[1:]:
        raise InputError(
            f"SyncNet: expected embeddings [N, 1024] of faces and of sound, got {list(faces.shape)} and "
            f"{list(sound.shape)}; leave this clip out"
        )
    distances = shifted_distances(faces[:count], sound[:count])
    means = distances.mean(0)
    best, median = int(means.argmin()), float(means.median())
    curve = median - distances[:, best].numpy()
    nearest = float(means[best])
    return SyncScore(median - nearest, nearest, REACH - best, means.numpy(), median_filter(curve, SMOOTHED))


def shifted_distances(faces: Tensor, sound: Tensor) -> Tensor:
    """Return the distances [N, 31] of embeddings [N, D] of faces to those of sound, shifted by -15 to 15 windows.

    Beyond the clip the sound's embedding is 0.
    """
    count = len(sound)
    padded = torch.nn.functional.pad(sound, (0, 0, REACH, REACH))
    shifts = [padded[j : j + count] for j in range(2 * REACH + 1)]
    return torch.stack([(faces - shifted + EPSILON).norm(dim=1) for shifted in shifts], 1)


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running median of values [N] over an odd width, with zeros beyond the ends."""
    padded = np.pad(values, width // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
