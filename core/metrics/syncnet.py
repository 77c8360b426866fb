"""SyncNet (Chung 2016): two towers that embed 0.2 s of a speaker's face and of sound; the published names are kept.

`sync_score.ShiftSearch` compares the embeddings. Letters: B batch, T frames of a clip, N windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.metrics.mfcc import mfcc

CROP = 224  # pixels
FRAMES, COLUMNS = 5, 20  # of a window: frames at 25 a second, columns of MFCC at 100 a second
COLUMNS_PER_FRAME = 4
SAMPLES_PER_FRAME = 640
EMBEDDING = 1024
SILENT_PEAK = 16  # of 32,768: -66 dB, what a codec leaves of silence


class SyncNet(nn.Module):
    """Both towers."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnlip = nn.Sequential(
            *_step3d(3, 96, (5, 7, 7), 2), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_step3d(96, 256, (1, 5, 5), 2, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_step3d(256, 256, (1, 3, 3), 1, 1), *_step3d(256, 256, (1, 3, 3), 1, 1),
            *_step3d(256, 256, (1, 3, 3), 1, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_step3d(256, 512, (1, 6, 6), 1),
        )  # fmt: skip
        self.netfclip = _head()
        self.netcnnaud = nn.Sequential(
            *_step2d(1, 64, (3, 3), 1), nn.Identity(),
            *_step2d(64, 192, (3, 3), 1), nn.MaxPool2d(3, (1, 2)),
            *_step2d(192, 384, (3, 3), 1), *_step2d(384, 256, (3, 3), 1), *_step2d(256, 256, (3, 3), 1),
            nn.MaxPool2d(3, 2),
            *_step2d(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud = _head()

    def forward(self, faces: Tensor) -> Tensor:
        """Embed windows of faces [B, 3, 5, 224, 224], **BGR** in 0 to 255: [B, 1024]."""
        return self.netfclip(self.netcnnlip(faces).flatten(1))  # type: ignore[no-any-return]

    def embed_sound(self, coefficients: Tensor) -> Tensor:
        """Embed windows of MFCC [B, 1, 13, 20]: [B, 1024]."""
        return self.netfcaud(self.netcnnaud(coefficients).flatten(1))  # type: ignore[no-any-return]


def embed_face_windows(network: SyncNet, crops: Iterable[np.ndarray], batch: int = 8) -> Tensor:
    """Embed every window of five consecutive crops, frame after frame; no more than a batch of crops is held.

    Args:
        network: on any device.
        crops: T crops at 25 frames a second, uint8 [224, 224, 3], RGB.
        batch: windows embedded at once.

    Returns:
        [T - 4, 1024] float32 on the CPU; T counts only as far as five crops are there.
    """
    device, parts = next(network.parameters()).device, []
    with torch.inference_mode():
        for windows in _batches(crops, batch):
            parts.append(network(windows.to(device).float()).float().cpu())
    return torch.cat(parts) if parts else torch.zeros(0, EMBEDDING)


def embed_sound_windows(network: SyncNet, samples: np.ndarray, batch: int = 256) -> Tensor:
    """Embed every window of 0.2 s of sound, one for each frame at 25 a second.

    Args:
        network: on any device.
        samples: int16 [L], mono, 16 kHz, from the first frame on.
        batch: windows embedded at once.

    Returns:
        [N, 1024] float32 on the CPU, N = floor(L / 640) - 5.

    Raises:
        InputError: the sound is silent or too short.
    """
    if len(samples) and np.abs(samples.astype(np.int32)).max() <= SILENT_PEAK:
        raise InputError("sound: expected a voice, got silence; give the sound that the clip was driven by")
    columns = torch.from_numpy(mfcc(samples)).float()
    count = num_windows(len(samples) // SAMPLES_PER_FRAME)
    windows = columns.unfold(1, COLUMNS, COLUMNS_PER_FRAME)[:, :count].permute(1, 0, 2)  # [N, 13, 20]
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network.embed_sound(part[:, None].to(device)).float().cpu() for part in windows.split(batch)]
    return torch.cat(parts)


def num_windows(frames: int) -> int:
    """Return how many windows a clip of so many frames, at 25 a second, has; the last possible one is not used.

    Raises:
        InputError: it has none.
    """
    if frames <= FRAMES:
        raise InputError(
            f"SyncNet: expected a clip of {FRAMES + 1} frames and more at 25 a second with their sound, got {frames}; "
            "leave this clip out"
        )
    return frames - FRAMES


def _batches(crops: Iterable[np.ndarray], batch: int) -> Iterator[Tensor]:
    """Yield windows of crops, [up to batch, 3, 5, 224, 224] uint8, BGR."""
    window: deque[Tensor] = deque(maxlen=FRAMES)
    waiting = []
    for crop in crops:
        if crop.shape != (CROP, CROP, 3) or crop.dtype != np.uint8:
            got = f"{crop.dtype} {list(crop.shape)}"
            raise InputError(f"SyncNet: expected crops uint8 [{CROP}, {CROP}, 3], got {got}; crop with sync_crop")
        window.append(torch.from_numpy(np.ascontiguousarray(crop[..., ::-1])).permute(2, 0, 1))
        if len(window) == FRAMES:
            waiting.append(torch.stack(tuple(window), 1))
        if len(waiting) == batch:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def _step3d(a: int, b: int, kernel: tuple[int, int, int], stride: int, pad: int = 0) -> list[nn.Module]:
    convolution = nn.Conv3d(a, b, kernel, (1, stride, stride), (0, pad, pad))
    return [convolution, nn.BatchNorm3d(b), nn.ReLU()]


def _step2d(a: int, b: int, kernel: tuple[int, int], pad: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, kernel, 1, pad), nn.BatchNorm2d(b), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))
