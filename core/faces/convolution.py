"""Convolutions of the face networks, with the addition and the activation that follow them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_PACKED = 4  # shapes of pictures for which a packed kernel is kept
FEW_PIXELS = 48  # up to so many a product of matrices is faster than a convolution, on a CPU
FEW_PRODUCTS = 12_000  # of a depthwise convolution, up to which a sum of them all is faster

Sides = tuple[int, int, int, int]  # above, below, left, right


def same_padding(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Sides:
    """Find how much TensorFlow's padding SAME adds on each side; the odd pixel goes below and to the right."""
    sides: list[int] = []
    for pixels, reach, step in zip(size, window, stride, strict=True):
        total = max(0, (-(-pixels // step) - 1) * step + reach - pixels)
        sides += [total // 2, total - total // 2]
    return sides[0], sides[1], sides[2], sides[3]


class Convolution(nn.Module):
    """A convolution, what is added to its result, and an activation; or several of one shape side by side.

    Args:
        kernel: [out, in, H, W]; of a depthwise one [C, 1, H, W].
        bias: [out] or None.
        groups: 1, or C for a depthwise one; times `parts`.
        stride: of rows and of columns.
        padding: zeros on each side.
        activation: NONE, RELU, RELU6, PRELU, HARD_SWISH or LOGISTIC.
        slopes: [out] of a PRELU.
        parts: how many lie side by side, each with its own channels of the picture and of the result.
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
        parts: int = 1,
    ) -> None:
        super().__init__()
        top, bottom, left, right = padding
        self.padding, self.before = (0, 0), None
        uneven = bottom - top, right - left
        # Zeros above and on the left of a depthwise kernel make the padding even, so that the picture is not copied.
        if uneven == (0, 0) or (kernel.shape[1] == 1 and min(uneven) >= 0 and max(uneven) <= 1):
            kernel = F.pad(kernel, (uneven[1], 0, uneven[0], 0))
            self.padding = (bottom, right)
        else:
            self.before = (left, right, top, bottom)
        self.stride, self.groups, self.activation, self.parts = stride, groups, activation, parts
        self.depthwise = kernel.shape[1] == 1 and groups > 1
        self.kernel = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.slopes = None if slopes is None else nn.Parameter(slopes.reshape(-1), requires_grad=False)
        self._packed: dict[torch.Size, Tensor] = {}

    def forward(self, image: Tensor, added: Tensor | None = None) -> Tensor:
        """Convolve [B, C, H, W], add [B, at most out, H', W'] to the first channels, and apply the activation."""
        if image.dtype != self.kernel.dtype:
            image = image.to(self.kernel.dtype)
        if self.before is not None:
            image = F.pad(image, self.before)
        result = self._convolved(image)
        if added is not None:
            if added.shape[1] == result.shape[1]:
                result.add_(added)
            else:
                wide, narrow = (value.unflatten(1, (self.parts, -1)) for value in (result, added))
                wide[:, :, : narrow.shape[2]].add_(narrow)
        if self.slopes is not None:
            return torch.prelu(result, self.slopes)
        return activate(result, self.activation)

    def _convolved(self, image: Tensor) -> Tensor:
        """Convolve by what is fastest."""
        batch, channels, high, wide = image.shape
        if channels == 1 and image.device.type == "cpu":
            return self._convolved_channel(image)
        if self.parts == 1 and not self.depthwise:
            if (high, wide) == self.kernel.shape[2:] and self.padding == (0, 0):
                return self._summed_whole(image)
            few = batch * high * wide <= FEW_PIXELS and image.device.type == "cpu"
            if few and self.kernel.shape[2:] == self.stride == (1, 1):
                pixels = image.permute(0, 2, 3, 1)
                return F.linear(pixels, self.kernel[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
        if image.device.type == "cpu" and image.dtype == torch.float32 and packing_works():
            if self.depthwise and self.stride == (1, 1) and batch * (high * wide) ** 2 * channels <= FEW_PRODUCTS:
                return self._summed_products(image)
            return self._convolved_packed(image)
        return F.conv2d(image, self.kernel, self.bias, self.stride, self.padding, groups=self.groups)

    def _summed_products(self, image: Tensor) -> Tensor:
        """Convolve each channel of few pixels: the sum over all, each times its weight for a pixel of the result."""
        batch, channels, high, wide = image.shape
        key = torch.Size((high, wide))
        weights = self._packed.get(key)
        if weights is None:
            pixels = torch.eye(high * wide).reshape(-1, 1, high, wide).expand(-1, channels, -1, -1)
            seen = F.conv2d(pixels, self.kernel, None, self.stride, self.padding, groups=self.groups)
            weights = self._packed[key] = seen.permute(0, 2, 3, 1).flatten(1, 2).contiguous()  # [pixels, result, C]
        products = image.permute(0, 2, 3, 1).reshape(batch, high * wide, 1, channels) * weights
        result = products.sum(1)
        if self.bias is not None:
            result += self.bias
        columns = wide + 2 * self.padding[1] - self.kernel.shape[3] + 1
        return result.unflatten(1, (-1, columns)).permute(0, 3, 1, 2)

    def _summed_whole(self, image: Tensor) -> Tensor:
        """Convolve with a kernel that is as large as the picture: a product of matrices."""
        kernel = self.kernel.permute(0, 2, 3, 1).flatten(1)
        return F.linear(image.permute(0, 2, 3, 1).flatten(1), kernel, self.bias)[:, :, None, None]

    def _convolved_channel(self, image: Tensor) -> Tensor:
        """Convolve pictures of one channel on a CPU, both tensors with the strides of [B, C, H, W].

        The strides of one channel can also mean that the channels are last. PyTorch 2.13 takes them so and then may,
        where the result has one column, leave the result unwritten, with packed kernels and without.
        """
        image, kernel = (value.reshape(-1).view(value.shape) for value in (image, self.kernel))
        result = F.conv2d(image, kernel, self.bias, self.stride, self.padding, groups=self.groups)
        return result.contiguous(memory_format=torch.channels_last)

    def _convolved_packed(self, image: Tensor) -> Tensor:
        """Convolve on a CPU with a kernel that was put in order for it once, and not for each picture."""
        packed = self._packed.get(image.shape)
        if packed is None:
            if len(self._packed) >= MOST_PACKED:
                self._packed.clear()
            kernel = self.kernel.contiguous()
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                kernel, self.padding, self.stride, (1, 1), self.groups, list(image.shape)
            )
            self._packed[image.shape] = packed
        return torch.ops.mkldnn._convolution_pointwise(
            image, packed, self.bias, self.padding, self.stride, (1, 1), self.groups, "none", [], ""
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}}  # packed kernels cannot be copied

    def _apply(self, *args: Any, **keywords: Any) -> Convolution:
        self._packed.clear()
        super()._apply(*args, **keywords)
        return self


@cache
def packing_works() -> bool:
    """Try once whether this PyTorch convolves with packed kernels, which is not part of its public interface."""
    try:
        picture = torch.ones(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
        kernel, bias = torch.ones(4, 4, 1, 1), torch.ones(4)
        packed = torch.ops.mkldnn._reorder_convolution_weight(kernel, (0, 0), (1, 1), (1, 1), 1, [1, 4, 3, 3])
        result = torch.ops.mkldnn._convolution_pointwise(
            picture, packed, bias, (0, 0), (1, 1), (1, 1), 1, "none", [], ""
        )
        return bool((result == 5).all()) and result.is_contiguous(memory_format=torch.channels_last)
    except (AttributeError, RuntimeError, TypeError):
        return False


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
        """Enlarge [B, in, H, W]: a product of matrices gives each pixel a tile, and the tiles are put in order."""
        weights = self.kernel.flatten(1).mT  # [out * tile, in]
        tiles = F.linear(image.to(self.kernel.dtype).permute(0, 2, 3, 1), weights)
        placed = tiles.unflatten(3, self.kernel.shape[1:]).permute(0, 3, 1, 4, 2, 5)  # [B, out, H, rows, W, columns]
        result = placed.flatten(4).flatten(2, 3)
        return result if self.bias is None else result.add_(self.bias[:, None, None])
