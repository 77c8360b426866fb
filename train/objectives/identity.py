"""The identity loss of Eq. 2: ArcFace's small residual network on a crop that five points align.

The network keeps the published names of its tensors, so that the converted file loads as it is. Letters: B batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.train.data.upload import upload

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


def aligned_crop(image: Tensor, points: Tensor) -> Tensor:
    """Crop faces so that their five points lie on the template as nearly as a turn, a scale and a shift allow.

    Args:
        image: [B, 3, S, S] in [-1, 1].
        points: [B, 5, 2] pixels, x then y, the centre of the first pixel at 0; the eye at the picture's left first.

    Returns:
        [B, 3, 112, 112] in [-1, 1]; black (0) beyond the picture. Differentiable in the image.
    """
    points = points.detach()
    template = upload(torch.tensor(TEMPLATE, dtype=points.dtype), points.device)
    # from the crop to the picture, by least squares in complex numbers: turn * crop + shift
    crop, seen = torch.view_as_complex(template), torch.view_as_complex(points.contiguous())
    return _warp(image, *_similarity(seen, crop.expand_as(seen)))


def five_points(landmarks: Tensor) -> Tensor:
    """Return eyes, nose and corners of the mouth [B, 5, 2] of 68 landmarks; their first pixel has its centre at 0.5."""
    eyes = [landmarks[:, start : start + 6].mean(1) for start in (36, 42)]
    return torch.stack([*eyes, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]], 1) - 0.5


def _similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Fit complex turn and shift [B] so that turn * source + shift is nearest to target [B, 5] in mean square."""
    middle, aim = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    away = source - middle
    turn = (away.conj() * (target - aim)).sum(1) / away.abs().square().sum(1)
    return turn, aim[:, 0] - turn * middle[:, 0]


def _warp(image: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Resample the picture after turn * x + shift on the crop's pixels."""
    pixel = torch.arange(CROP, device=image.device, dtype=torch.float32)
    down, across = torch.meshgrid(pixel, pixel, indexing="ij")
    at = (torch.complex(across, down) - shift[:, None, None]) / turn[:, None, None]
    size = image.shape[-1] - 1
    grid = torch.view_as_real(at) * (2 / size) - 1
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="zeros", align_corners=True)


def identity_loss(network: FaceIdentity, picture: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """Return 1 - the cosine between the embeddings of picture and target, [B]; both are cropped alike."""
    embedding = network(aligned_crop(picture, points))
    with torch.no_grad():
        target_embedding = network(aligned_crop(target, points))
    return 1 - F.cosine_similarity(embedding, target_embedding, dim=1)
