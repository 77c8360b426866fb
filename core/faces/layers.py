"""The operators of the face networks as PyTorch modules; images are [B, C, H, W], in memory with the channels last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triportrait.core.faces.convolution import Sides, activate
from triportrait.core.faces.operators import Options, Shape


class Activation(nn.Module):
    """An activation that follows no convolution."""

    def __init__(self, kind: str, slopes: Tensor | None) -> None:
        super().__init__()
        self.kind = kind
        self.slopes = None if slopes is None else nn.Parameter(slopes.reshape(-1), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        """Apply it to values of any shape; a PRELU to [B, C, H, W]."""
        if self.slopes is not None:
            return F.prelu(values, self.slopes)
        return activate(values.clone(), self.kind)


class Elementwise(nn.Module):
    """A sum or a product of two values, one of which may be a constant; what has one entry on an axis is repeated."""

    def __init__(self, kind: str, activation: str, constant: Tensor | None) -> None:
        super().__init__()
        self.kind, self.activation = kind, activation
        self.constant = None if constant is None else nn.Parameter(constant, requires_grad=False)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Combine both, or the first with the constant."""
        other = second if second is not None else self.constant
        assert other is not None
        return activate(first + other if self.kind == "ADD" else first * other, self.activation)


class Pool(nn.Module):
    """The largest or the mean value of each window."""

    def __init__(self, kind: str, window: tuple[int, int], stride: tuple[int, int], padding: Sides, act: str) -> None:
        super().__init__()
        self.kind, self.window, self.stride, self.activation = kind, window, stride, act
        top, bottom, left, right = padding
        self.before = (left, right, top, bottom) if any(padding) else None

    def forward(self, image: Tensor) -> Tensor:
        """Pool [B, C, H, W]."""
        if self.kind == "AVERAGE_POOL_2D":
            whole = self.window == image.shape[2:]
            result = image.mean((2, 3), keepdim=True) if whole else F.avg_pool2d(image, self.window, self.stride)
        else:
            if self.before is not None:
                image = F.pad(image, self.before, value=-torch.inf)
            result = _halved(image) if self._halves(image) else F.max_pool2d(image, self.window, self.stride)
        return activate(result, self.activation)

    def _halves(self, image: Tensor) -> bool:
        """Tell whether four slices are compared faster than windows: on a CPU, of few channels and many pixels."""
        even = image.shape[2] % 2 == 0 == image.shape[3] % 2 and self.window == self.stride == (2, 2)
        return even and image.device.type == "cpu" and image.shape[1] <= 32


def _halved(image: Tensor) -> Tensor:
    """Take the largest of each 2 x 2 pixels of [B, C, H, W]."""
    rows = torch.maximum(image[:, :, ::2], image[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


class Resize(nn.Module):
    """Bilinear interpolation to a fixed size, by any of TensorFlow's three conventions of where pixels are."""

    def __init__(self, size: tuple[int, int], align_corners: bool, half_pixel_centers: bool) -> None:
        super().__init__()
        self.size, self.align_corners, self.half_pixel = size, align_corners, half_pixel_centers

    def forward(self, image: Tensor) -> Tensor:
        """Resize [B, C, H, W]."""
        if self.half_pixel or self.align_corners:
            return F.interpolate(image, self.size, mode="bilinear", align_corners=self.align_corners)
        # TensorFlow's oldest convention: pixel k of the result lies at k times the factor, from the first pixel on.
        for axis, pixels in ((2, self.size[0]), (3, self.size[1])):
            count = image.shape[axis]
            at = torch.arange(pixels, device=image.device, dtype=torch.float32) * (count / pixels)
            first = at.long().clamp_(max=count - 1)
            shape = [1, 1, 1, 1]
            shape[axis] = pixels
            share = (at - first).reshape(shape).to(image.dtype)
            image = torch.lerp(
                image.index_select(axis, first), image.index_select(axis, (first + 1).clamp_(max=count - 1)), share
            )
        return image


class CropMatrix(nn.Module):
    """Matrices that take pixels of upright crops to where they are in the picture, from landmarks (Attention Mesh).

    A crop is the box of a subset of landmarks, in the frame of the line from one landmark to another, enlarged.

    Args:
        crops: the options of each crop; only the landmarks differ.
    """

    indices: Tensor
    factors: Tensor
    corner: Tensor
    turn: Tensor
    identity: Tensor

    def __init__(self, crops: Sequence[Options]) -> None:
        super().__init__()
        rows: list[list[int]] = []
        for options in crops:
            subset, left, right = (options[k] for k in ("subset_idxs", "left_rotation_idx", "right_rotation_idx"))
            assert isinstance(subset, tuple) and isinstance(left, int) and isinstance(right, int)
            rows.append([left, right, *subset])
        longest = max(map(len, rows))
        padded = [row + row[2:3] * (longest - len(row)) for row in rows]  # a repeated landmark changes no box
        self.count = len(rows)
        height, width, scale_x, scale_y = (
            float(crops[0][k])  # type: ignore[arg-type]
            for k in ("output_height", "output_width", "scale_x", "scale_y")
        )
        self.register_buffer("indices", torch.tensor(padded).reshape(-1), persistent=False)
        self.register_buffer("factors", torch.tensor([scale_x / width, scale_y / height]), persistent=False)
        # the crop's pixel (0, 0), as a share of the way from the low to the high end of the box
        self.register_buffer("corner", torch.tensor([0.5 - scale_x / 2, 0.5 - scale_y / 2]), persistent=False)
        self.register_buffer("turn", torch.tensor([[1.0, 0, 0, 1], [0, -1, 1, 0]]), persistent=False)
        self.register_buffer("identity", torch.eye(4), persistent=False)

    def forward(self, landmarks: Tensor) -> Tensor:
        """Make the matrices [B, crops, 4, 4] from landmarks [B, N, 2 or 3], both float32; [B, 4, 4] of one crop."""
        batch = len(landmarks)
        chosen = landmarks[..., :2].float().index_select(1, self.indices).view(batch, self.count, -1, 2)
        along = chosen[:, :, 1] - chosen[:, :, 0]
        along = along / along.square().sum(2, keepdim=True).sqrt().clamp(min=1e-12)
        axes = (along @ self.turn).view(batch, self.count, 2, 2)  # columns along the line and across it
        low, high = (chosen[:, :, 2:] @ axes).aminmax(dim=2, keepdim=True)  # [B, S, 1, 2]
        matrix = self.identity.repeat(batch, self.count, 1, 1)
        matrix[..., :2, :2] = axes * ((high - low) * self.factors)
        matrix[..., :2, 3] = (axes * torch.lerp(low, high, self.corner)).sum(3)
        return matrix if self.count > 1 else matrix[:, 0]


class CropImage(nn.Module):
    """Crops of features where matrices say, interpolated bilinearly (Attention Mesh).

    Args:
        size: rows and columns of a crop.
        count: of crops.
    """

    pixels: Tensor

    def __init__(self, size: tuple[int, int], count: int) -> None:
        super().__init__()
        self.size, self.count = size, count
        rows, columns = size
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        ones = torch.ones(rows * columns)
        self.register_buffer("pixels", torch.stack([x.flatten(), y.flatten(), ones], 1), persistent=False)

    def forward(self, image: Tensor, matrix: Tensor) -> Tensor:
        """Crop [B, C, H, W] by [B, crops, 4, 4], or [B, 4, 4], to [B, crops * C, *size]."""
        batch, _, high, wide = image.shape
        matrix = matrix.reshape(batch, self.count, 4, 4)
        # grid_sample counts from -1 to 1 over the picture
        rows = torch.cat([matrix[..., :2, :2], matrix[..., :2, 3:]], 3).float()  # [B, S, 2, 3]
        scaled = torch.stack([rows[..., 0, :] * (2 / wide), rows[..., 1, :] * (2 / high)], 3)
        grid = (self.pixels.float() @ scaled - 1).reshape(batch, -1, self.size[1], 2)
        # float32: on a CPU grid_sample in half gives wrong numbers (torch 2.13)
        cropped = F.grid_sample(image.float(), grid, align_corners=False, padding_mode="zeros").to(image.dtype)
        cropped = cropped.unflatten(2, (self.count, -1)).transpose(1, 2).flatten(1, 2)
        return cropped.contiguous(memory_format=torch.channels_last)


class TransformLandmarks(nn.Module):
    """Landmarks of a crop taken to the picture by the crop's matrix."""

    def forward(self, landmarks: Tensor, matrix: Tensor) -> Tensor:
        """Move [B, N, 2 or 3] by [B, 4, 4]."""
        size = landmarks.shape[2]
        return landmarks.float() @ matrix[:, :size, :size].mT + matrix[:, None, :size, 3]


class Rearrange(nn.Module):
    """Operators that only move values: PAD, RESHAPE, CONCATENATION, STRIDED_SLICE, DEPTH_TO_SPACE, MEAN.

    Args:
        shape: of the result for one picture, in TFLite's layout.
    """

    def __init__(self, kind: str, options: Options, shape: Shape) -> None:
        super().__init__()
        self.kind, self.options, self.shape = kind, options, shape

    def forward(self, *values: Tensor) -> Tensor:
        """Move the values of a batch; rank 4 is [B, C, H, W] on both sides."""
        value = values[0]
        match self.kind:
            case "PAD":
                sides = self.options["paddings"]
                assert isinstance(sides, tuple)
                return F.pad(value, (sides[4], sides[5], sides[2], sides[3], sides[6], sides[7]))
            case "MEAN":
                return value.mean((2, 3), keepdim=True)
            case "RESHAPE":
                return _inside(_outside(value).reshape(value.shape[0], *self.shape[1:]))
            case "CONCATENATION":
                axis = self.options["axis"]
                assert isinstance(axis, int)
                return _inside(torch.cat([_outside(one) for one in values], axis))
            case "STRIDED_SLICE":
                begin, end = self.options["begin"], self.options["end"]
                assert isinstance(begin, tuple) and isinstance(end, tuple)
                places = tuple(slice(first, last) for first, last in zip(begin[1:], end[1:], strict=True))
                return _inside(_outside(value)[(slice(None), *places)])
            case "DEPTH_TO_SPACE":
                block = self.options["block_size"]
                batch, channels, high, wide = value.shape
                assert isinstance(block, int)
                # TensorFlow's channels are [block row, block column, channel]; PyTorch's pixel_shuffle has them last
                parts = value.reshape(batch, block, block, channels // block**2, high, wide)
                moved = parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, high * block, wide * block)
                return moved.contiguous(memory_format=torch.channels_last)
        raise AssertionError(self.kind)


def _outside(value: Tensor) -> Tensor:
    """Give rank 4 in TFLite's layout [B, H, W, C]."""
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


def _inside(value: Tensor) -> Tensor:
    """Give rank 4 in PyTorch's order [B, C, H, W]."""
    return value.permute(0, 3, 1, 2) if value.ndim == 4 else value


class Select(nn.Module):
    """Values taken out of others that hold several side by side, and put side by side.

    Args:
        picks: which input, which of its parts, and how many it has. Images have them as groups of channels,
            matrices [B, parts, 4, 4] on an axis of their own.
    """

    def __init__(self, picks: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.picks = picks

    def forward(self, *values: Tensor) -> Tensor:
        """Take them out of [B, parts * C, H, W] or [B, parts, 4, 4]."""
        found = []
        for place, part, count in self.picks:
            value = values[place]
            if count > 1 and value.shape[1] == count and value.shape[2:] == (4, 4):
                value = value[:, part]
            elif count > 1:
                size = value.shape[1] // count
                value = value[:, part * size : (part + 1) * size]
            found.append(value)
        if len(found) == 1:
            return found[0]
        return torch.cat(found, 1).contiguous(memory_format=torch.channels_last)
