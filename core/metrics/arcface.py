"""ArcFace (Deng 2019) tells by 512 numbers whose face an aligned crop shows: the small residual network, r18.

The network keeps the published names of its tensors, so that the converted file loads as it is. Letters: B batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.metrics.warp import fit_similarity, similarity_crop

CROP = 112  # pixels
TEMPLATE = (  # of the eyes, the nose and the corners of the mouth in the crop, pixels
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
)  # fmt: skip
WIDTHS = (64, 64, 128, 256, 512)
EMBEDDING = 512
NORM_FLOOR = 1e-5


class _Block(nn.Module):
    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width, NORM_FLOOR)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width, NORM_FLOOR)
        self.prelu = nn.PReLU(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width, NORM_FLOOR)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width, NORM_FLOOR))
            if stride > 1 or in_width != out_width
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)  # type: ignore[no-any-return]


class FaceIdentity(nn.Module):
    """ArcFace's network, which embeds aligned faces; it is frozen and stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0], NORM_FLOOR)
        self.prelu = nn.PReLU(WIDTHS[0])
        for i, (a, b) in enumerate(itertools.pairwise(WIDTHS), start=1):
            self.add_module(f"layer{i}", nn.Sequential(_Block(a, b, 2), _Block(b, b, 1)))
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1], NORM_FLOOR)
        self.fc = nn.Linear(WIDTHS[-1] * (CROP // 16) ** 2, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING, NORM_FLOOR)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FaceIdentity:
        """Stay in evaluation mode, with the statistics of the faces that the network was trained on."""
        return super().train(False)

    def load(self, tensors: Mapping[str, Tensor]) -> FaceIdentity:
        """Take the tensors of a converted file.

        Raises:
            InputError: one is missing or has another shape.
        """
        try:
            self.load_state_dict({**_counters(self), **tensors})
        except RuntimeError as error:
            raise InputError(f"arcface: these are no tensors of ArcFace's r18 ({error}); convert its file") from error
        return self

    def forward(self, crop: Tensor) -> Tensor:
        """Embed aligned crops [B, 3, 112, 112] in [-1, 1]: [B, 512]."""
        x = self.prelu(self.bn1(self.conv1(crop)))
        for i in range(1, len(WIDTHS)):
            x = self.get_submodule(f"layer{i}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))  # type: ignore[no-any-return]


def _counters(module: nn.Module) -> dict[str, Tensor]:
    """Return the counters of batch norms, which published files lack."""
    return {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}


def arcface_points(landmarks: np.ndarray) -> np.ndarray:
    """Return the five points [5, 2] of 68 landmarks [68, 2 or 3]: eyes by their outlines, nose, mouth's corners."""
    points = landmarks[:, :2]
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def arcface_crop(image: np.ndarray, points: np.ndarray) -> Tensor:
    """Crop one face so that its five points lie on the template as nearly as a similarity allows.

    Args:
        image: uint8 [H, W, 3], RGB.
        points: [5, 2] pixels, x then y, the centre of the first pixel at 0; the eye at the picture's left, the other
            one, the tip of the nose, the corner of the mouth at the picture's left, the other one.

    Returns:
        [1, 3, 112, 112] in [-1, 1], black (-1) beyond the picture.

    Raises:
        InputError: the points lie at one place.
    """
    seen = torch.view_as_complex(torch.tensor(points, dtype=torch.float32).contiguous())[None]
    template = torch.view_as_complex(torch.tensor(TEMPLATE))[None]
    turn, shift = fit_similarity(seen, template)
    if not bool(turn.isfinite().all() and turn.abs().min() > 0):
        raise InputError("points: expected five points of a face, got one place; leave this face out")
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    return similarity_crop(picture, turn, shift, CROP) / 127.5 - 1
