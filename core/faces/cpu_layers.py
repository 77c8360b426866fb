"""Tell which layers can be compiled for a CPU: those whose sizes fit, whose code and whose memory are bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from triportrait.core.faces.convolution import Convolution, Sides
from triportrait.core.faces.cpu_loops import ACTIVATIONS, CHANNELS
from triportrait.core.faces.layers import Elementwise, Pool, Select

Size = tuple[int, int, int]  # rows, columns, channels
MOST_SIDE = 7  # of a window whose every place has its own instruction
MOST_NUMBERS = 1 << 22  # of one value, whole vectors of channels


class Part(NamedTuple):
    """One layer of a network: it reads values by their names and gives one."""

    layer: nn.Module
    inputs: tuple[str, ...]
    output: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what `run` gives."""
        return (self.output,)

    def run(self, *values: Tensor) -> Sequence[Tensor]:
        """Run it by PyTorch."""
        return (self.layer.forward(*values),)


def padded(channels: int) -> int:
    """Round up to whole vectors."""
    return -(-channels // CHANNELS) * CHANNELS


def compilable(part: Part, sizes: Mapping[str, Size]) -> bool:
    """Tell whether a layer can be part of a program: its sizes fit, and its code and its memory are bounded."""
    layer, names = part.layer, (*part.inputs, part.output)
    if any(name not in sizes for name in names):
        return False  # no image
    images, result = [sizes[name] for name in part.inputs], sizes[part.output]
    if any(high * wide * padded(channels) > MOST_NUMBERS for high, wide, channels in (*images, result)):
        return False
    match layer:
        case Convolution():
            return _convolvable(layer, images, result)
        case Pool() if layer.activation == "NONE" and layer.before is None and len(images) == 1:
            whole = layer.kind == "AVERAGE_POOL_2D" and layer.window == images[0][:2] and result[:2] == (1, 1)
            largest = layer.kind == "MAX_POOL_2D" and max(layer.window) <= MOST_SIDE
            sides = (0, 0, 0, 0)
            return result[2] == images[0][2] and (
                whole or (largest and result[:2] == _counts(images[0], layer.window, layer.stride, sides))
            )
        case Elementwise() if layer.constant is None and layer.activation in ("NONE", "RELU", "RELU6"):
            fits = len(images) == 2 and images[0] == result
            return fits and images[1] in (result, (1, 1, result[2]))
        case Select():
            picked = [(images[place], each, count) for place, each, count in layer.picks]
            whole = all(image[2] % count == 0 and image[2] // count % CHANNELS == 0 for image, _, count in picked)
            inside = all(0 <= each < count and image[:2] == result[:2] for image, each, count in picked)
            return whole and inside and sum(image[2] // count for image, _, count in picked) == result[2]
    return False


def _convolvable(layer: Convolution, images: Sequence[Size], result: Size) -> bool:
    kernel, sides = trimmed(layer)
    parts, depthwise = layer.parts, layer.depthwise
    if not images or len(images) > 2 or layer.activation not in ACTIVATIONS:
        return False
    if layer.activation == "LOGISTIC" and result[:2] != (1, 1):
        return False  # PyTorch is as fast
    if depthwise and max(side_pair(kernel)) > MOST_SIDE:
        return False
    high, wide = images[0][0] + sides[0] + sides[1], images[0][1] + sides[2] + sides[3]
    if high * wide * padded(images[0][2]) > MOST_NUMBERS:
        return False
    channels = len(kernel) if depthwise else kernel.shape[1] * parts
    fits = images[0][2] == channels and result[2] == len(kernel)
    fits = fits and result[:2] == _counts(images[0], side_pair(kernel), layer.stride, sides)
    if len(images) == 2:
        fits = fits and images[1][:2] == result[:2] and images[1][2] <= result[2]
        fits = fits and (images[1][2] == result[2] or not depthwise)
    return fits and (parts == 1 or all(size[2] % (parts * CHANNELS) == 0 for size in (*images, result)))


def _counts(image: Size, window: tuple[int, int], stride: tuple[int, int], sides: Sides) -> tuple[int, int]:
    """Count the rows and columns of what a window gives."""
    rows = (image[0] + sides[0] + sides[1] - window[0]) // stride[0] + 1
    return rows, (image[1] + sides[2] + sides[3] - window[1]) // stride[1] + 1


def side_pair(kernel: Tensor) -> tuple[int, int]:
    return kernel.shape[2], kernel.shape[3]


def trimmed(layer: Convolution) -> tuple[Tensor, Sides]:
    """Give a kernel without the zeros that make its padding even, and its padding: above, below, left, right."""
    kernel: Tensor = layer.kernel
    left, right, top, bottom = layer.before or (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])
    while top > 0 and kernel.shape[2] > 1 and not bool(kernel[:, :, 0].any()):
        kernel, top = kernel[:, :, 1:], top - 1
    while left > 0 and kernel.shape[3] > 1 and not bool(kernel[:, :, :, 0].any()):
        kernel, left = kernel[:, :, :, 1:], left - 1
    return kernel, (top, bottom, left, right)
