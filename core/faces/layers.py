"""The operators of the face networks as PyTorch modules; images are [B, C, H, W], in memory with the channels last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triportrait.core.faces.operators import Options, Shape

Sides = tuple[int, int, int, int]  # above, below, left, right


def same_padding(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Sides:
    """Find how much TensorFlow's padding SAME adds on each side; the odd pixel goes below and to the right."""
    sides: list[int] = []
    for pixels, reach, step in zip(size, window, stride, strict=True):
        total = max(0, (-(-pixels // step) - 1) * step + reach - pixels)
        sides += [total // 2, total - total // 2]
    return sides[0], sides[1], sides[2], sides[3]


class Convolution(nn.Module):
    """A convolution, what is added to its result, and an activation.

    Args:
        kernel: [out, in, H, W]; of a depthwise one [C, 1, H, W].
        bias: [out] or None.
        groups: 1, or C for a depthwise one.
        stride: of rows and of columns.
        padding: zeros on each side.
        activation: NONE, RELU, RELU6, PRELU, HARD_SWISH or LOGISTIC.
        slopes: [out] of a PRELU.
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None,
        groups: int,
        stride: tuple[int, int],
        padding: Sides,
        activation: str,
        slopes: Tensor | None,
    ) -> None:
        super().__init__()
        top, bottom, left, right = padding
        # A kernel with zeros above and on the left makes the padding even, so that the picture need not be copied.
        if bottom - top in (0, 1) and right - left in (0, 1) and top + bottom + left + right:
            kernel = F.pad(kernel, (right - left, 0, bottom - top, 0))
            self.padding, self.before = (bottom, right), None
        else:
            self.padding = (0, 0)
            self.before = (left, right, top, bottom) if any(padding) else None
        self.stride, self.groups, self.activation = stride, groups, activation
        self.kernel = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.slopes = None if slopes is None else nn.Parameter(slopes.reshape(-1), requires_grad=False)

    def forward(self, image: Tensor, added: Tensor | None = None) -> Tensor:
        """Convolve [B, C, H, W], add [B, at most out, H', W'] to the first channels, and apply the activation."""
        image = image.to(self.kernel.dtype)
        if self.before is not None:
            image = F.pad(image, self.before)
        result = F.conv2d(image, self.kernel, self.bias, self.stride, self.padding, groups=self.groups)
        if added is not None:
            result[:, : added.shape[1]].add_(added)
        if self.slopes is not None:
            return F.prelu(result, self.slopes)
        return activate(result, self.activation)


def activate(values: Tensor, activation: str) -> Tensor:
    """Apply an activation without slopes, in place."""
    match activation:
        case "RELU":
            return values.relu_()
        case "RELU6":
            return values.clamp_(0, 6)
        case "HARD_SWISH":
            return F.hardswish(values, inplace=True)
        case "LOGISTIC":
            return values.sigmoid_()
    return values


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
            result = F.max_pool2d(image, self.window, self.stride)
        return activate(result, self.activation)


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


class TransposedConvolution(nn.Module):
    """A transposed convolution whose kernel is as large as its stride: each pixel becomes a tile of pixels.

    Args:
        kernel: [in, out, H, W].
        bias: [out] or None.
    """

    def __init__(self, kernel: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge [B, in, H, W]."""
        stride = self.kernel.shape[2], self.kernel.shape[3]
        return F.conv_transpose2d(image.to(self.kernel.dtype), self.kernel, self.bias, stride)


class CropMatrix(nn.Module):
    """The matrix that takes pixels of an upright crop to where they are in the picture, from landmarks (Attention Mesh).

    The crop is the box of a subset of landmarks, in the frame of the line from one landmark to another, enlarged.
    """

    indices: Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        subset, left, right = (options[k] for k in ("subset_idxs", "left_rotation_idx", "right_rotation_idx"))
        assert isinstance(subset, tuple) and isinstance(left, int) and isinstance(right, int)
        self.register_buffer("indices", torch.tensor([left, right, *subset]), persistent=False)
        height, width, scale_x, scale_y = (
            float(options[k])  # type: ignore[arg-type]
            for k in ("output_height", "output_width", "scale_x", "scale_y")
        )
        self.factors = scale_x / width, scale_y / height
        self.middle = width / 2, height / 2

    def forward(self, landmarks: Tensor) -> Tensor:
        """Make the matrices [B, 4, 4] from landmarks [B, N, 2 or 3], both in float32."""
        flat = landmarks.float()[:, self.indices, :2]
        along = F.normalize(flat[:, 1] - flat[:, 0], dim=1)  # [B, 2]
        across = torch.stack([-along[:, 1], along[:, 0]], 1)
        axes = torch.stack([along, across], 2)  # [B, 2, 2], columns
        turned = flat[:, 2:] @ axes
        low, high = turned.amin(1), turned.amax(1)  # [B, 2]
        scaled = axes * ((high - low) * _row(self.factors, flat))[:, None]
        centre = (axes @ ((low + high) / 2)[:, :, None]) - scaled @ _row(self.middle, flat)[:, None]
        matrix = F.pad(torch.cat([scaled, torch.zeros_like(centre), centre], 2), (0, 0, 0, 2))
        matrix[:, 2, 2] = 1
        matrix[:, 3, 3] = 1
        return matrix


class CropImage(nn.Module):
    """A crop of features where a matrix says, interpolated bilinearly (Attention Mesh)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor, matrix: Tensor) -> Tensor:
        """Crop [B, C, H, W] by [B, 4, 4] to [B, C, *size]."""
        high, wide = image.shape[2:]
        rows, columns = self.size
        # grid_sample counts from -1 to 1 over the picture's edges, in the result and in the picture
        linear, shift = matrix[:, :2, :2], matrix[:, :2, 3:]
        half = _row((columns / 2, rows / 2), matrix)
        to_grid = _row((2 / wide, 2 / high), matrix)[:, None]
        theta = torch.cat([linear * half, linear @ half[:, None] + shift], 2) * to_grid
        theta = theta - F.pad(torch.ones_like(shift), (2, 0))
        grid = F.affine_grid(theta, [image.shape[0], 1, rows, columns], align_corners=False)
        # float32: on a CPU grid_sample in half gives wrong numbers (torch 2.13)
        cropped = F.grid_sample(image.float(), grid, align_corners=False, padding_mode="zeros")
        return cropped.to(image.dtype)


class TransformLandmarks(nn.Module):
    """Landmarks of a crop taken to the picture by the crop's matrix."""

    def forward(self, landmarks: Tensor, matrix: Tensor) -> Tensor:
        """Move [B, N, 2 or 3] by [B, 4, 4]."""
        size = landmarks.shape[2]
        return landmarks @ matrix[:, :size, :size].mT + matrix[:, None, :size, 3]


def _row(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Make a vector without reading host memory later, so that a CUDA graph can hold it."""
    return torch.stack([torch.full((), number, dtype=like.dtype, device=like.device) for number in numbers])


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
