"""A motion encoder that its user declares layer by layer on the card, so that no code travels with weights.

A layer is a JSON object with `op` and the entries that `_LAYERS` lists; the layers are an `nn.Sequential` named
`layers`, and a tensor's name is its place there: `layers.0.weight`, inside a residual block `layers.3.main.0.weight`
and `layers.3.shortcut.0.weight`. Every layer is tried on the meta device as it is made: no memory is taken before all
sizes are known to be in bounds.
Letters: B batch, M width of the motion vector, c side of the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.safe_text import LONGEST_NAME, listed, literal

MOST_LAYERS = 512  # in all
MOST_DEPTH = 4  # of residual blocks in each other
MOST_CHANNELS = 8192
MOST_SIDE = 1024  # px of a crop or of a map
MOST_WEIGHTS = 1 << 28  # numbers: 1 GiB in float32
MOST_VALUES = 1 << 26  # numbers that a layer gives for one crop: 256 MiB
MOST_WORK = 1 << 38  # multiplications for one crop
ADVICE = "mend the card"

Entry = Mapping[str, Any]


class _Refused(ValueError):
    """A layer that cannot be, in words, without the name of the file."""


class Residual(nn.Module):
    """Add what layers give to what a shortcut gives; an empty shortcut is the input itself."""

    def __init__(self, main: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return main(x) + shortcut(x)."""
        y: Tensor = self.main(x) + self.shortcut(x)
        return y


class Concatenated(Residual):
    """Put what layers give beside what a shortcut gives, along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return main(x) and shortcut(x) along the channels."""
        return torch.cat([self.main(x), self.shortcut(x)], 1)


class _Resize(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)


class _Normalize(nn.Module):
    """Subtract a mean and divide by a deviation, per channel; both stand on the card, not among the weights."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        numbers = torch.tensor([mean, std], device="cpu")[:, :, None, None]  # the meta device would lose them
        self.numbers: Tensor
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.numbers.to("meta") if x.is_meta else self.numbers
        return (x - mean) / std


class DeclaredEncoder(MotionEncoder):
    """A motion encoder v of declared layers, from a face crop to M numbers.

    Args:
        sizes: {"crop_size": c, "layers": [...]}, as the card's `config` has them.
        name: for the card.
        columns: what its numbers mean, where that is known.
        origin: starts the sentence of an error.

    Raises:
        InputError: a layer, a size or the whole is no network, or is out of bounds; nothing was allocated.
    """

    architecture = "layers"

    def __init__(
        self, sizes: Entry, name: str = "own", columns: MotionColumns | None = None, origin: str = "layers"
    ) -> None:
        super().__init__()
        if not isinstance(sizes, Mapping) or sizes.keys() != {"crop_size", "layers"}:
            keys = listed(sorted(map(str, sizes))) if isinstance(sizes, Mapping) else literal(sizes)
            raise InputError(f"{origin}: expected crop_size and layers, got {keys}; {ADVICE}")
        try:
            self.crop_size: int = _whole(sizes, "crop_size", 1, MOST_SIDE)
            with torch.device("meta"):
                builder = _Builder()
                layers, given = builder.sequence(sizes["layers"], torch.empty(1, 3, self.crop_size, self.crop_size), "")
            if given.dim() != 2:
                raise _Refused(f"expected a vector at the end (flatten, linear), got {_shape(given)}")
            if columns is not None and columns.width != given.shape[1]:
                raise _Refused(
                    f"expected {columns.width} numbers at the end, as its columns have, got {given.shape[1]}"
                )
        except _Refused as error:
            raise InputError(f"{origin}: {error}; {ADVICE}") from error
        self._sizes, self.name, self.columns, self.motion_width = dict(sizes), name, columns, int(given.shape[1])
        self.layers = layers
        for layer in layers.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.num_batches_tracked = torch.tensor(0)  # no weights file has it, and nothing reads it
        self.eval()

    def train(self, mode: bool = True) -> DeclaredEncoder:
        """Stay in evaluation mode: the statistics of its norms belong to its weights."""
        return super().train(False)

    def to_dict(self) -> dict[str, Any]:
        """Return `sizes`."""
        return self._sizes

    def forward(self, crop: Tensor) -> Tensor:
        """Turn crops [B, 3, c, c] in [-1, 1] into motion [B, M]."""
        motion: Tensor = self.layers(crop)
        return motion


class _Builder:
    """Makes layers and tries each on the output of the one before; counts what they take together."""

    def __init__(self) -> None:
        self._count = self._weights = self._work = 0

    def sequence(self, entries: Any, x: Tensor, place: str, depth: int = 0) -> tuple[nn.Sequential, Tensor]:
        """Make layers one after the other. Raises: `_Refused`."""
        if not isinstance(entries, list):
            raise _Refused(f"{place or 'layers'}: expected a list of layers, got {literal(entries, LONGEST_NAME)}")
        if depth > MOST_DEPTH:
            raise _Refused(f"{place}: expected at most {MOST_DEPTH} blocks in each other, got more")
        made = []
        for number, entry in enumerate(entries):
            here = f"{place}.{number}" if place else f"layers.{number}"
            layer, x = self._layer(entry, x, here, depth)
            made.append(layer)
        return nn.Sequential(*made), x

    def _layer(self, entry: Any, x: Tensor, here: str, depth: int) -> tuple[nn.Module, Tensor]:
        self._count += 1
        if self._count > MOST_LAYERS:
            raise _Refused(f"{here}: expected at most {MOST_LAYERS} layers in all, got more")
        if not isinstance(entry, dict):
            raise _Refused(f"{here}: expected a layer (an object with op), got {literal(entry, LONGEST_NAME)}")
        op = entry.get("op")
        if not isinstance(op, str) or op not in _ENTRIES:
            raise _Refused(f"{here}: op: expected one of {', '.join(_ENTRIES)}, got {literal(op, LONGEST_NAME)}")
        if unknown := entry.keys() - {"op", *_ENTRIES[op]}:
            known = ", ".join(_ENTRIES[op]) or "nothing beside it"
            raise _Refused(f"{here}: {op}: expected {known}, got {listed(sorted(unknown))}")
        try:
            if op in _BLOCKS:
                layer = self._block(entry, x, here, depth)
            else:
                layer = _MAKERS[op](entry, x)
                self._add(layer, x, here)
            y = layer.eval()(x)
        except _Refused as error:
            raise error if str(error).startswith("layers") else _Refused(f"{here}: {op}: {error}") from None
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:  # torch, of what does not fit together
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _Refused(f"{here}: {op}: expected a layer that takes {_shape(x)}, got one of other sizes ({reason})")\
                from error  # fmt: skip
        if y.numel() > MOST_VALUES or y.numel() == 0:
            raise _Refused(f"{here}: {op}: expected 1 to {MOST_VALUES:,} numbers for one crop, got {_shape(y)}")
        if isinstance(layer, nn.Conv2d | nn.Linear):
            self._work += y.numel() * layer.weight[0].numel()
            if self._work > MOST_WORK:
                raise _Refused(f"{here}: expected at most {MOST_WORK:,} multiplications for one crop, got more")
        return layer, y

    def _block(self, entry: Entry, x: Tensor, here: str, depth: int) -> nn.Module:
        main, y = self.sequence(entry.get("layers"), x, f"{here}.main", depth + 1)
        shortcut, z = self.sequence(entry.get("shortcut", []), x, f"{here}.shortcut", depth + 1)
        if entry["op"] == "residual":
            if y.shape != z.shape:
                raise _Refused(f"expected layers and a shortcut of one size, got {_shape(y)} and {_shape(z)}")
            return Residual(main, shortcut)
        return Concatenated(main, shortcut)

    def _add(self, layer: nn.Module, x: Tensor, here: str) -> None:
        self._weights += sum(p.numel() for p in layer.parameters())
        if self._weights > MOST_WEIGHTS:
            raise _Refused(f"{here}: expected at most {MOST_WEIGHTS:,} weights in all, got more")


def _conv(entry: Entry, x: Tensor) -> nn.Module:
    _map_wanted(x)
    kernel, out = _whole(entry, "kernel", 1, 31, 3), _whole(entry, "out", 1, MOST_CHANNELS)
    groups = _whole(entry, "groups", 1, MOST_CHANNELS, 1)
    if x.shape[1] % groups or out % groups:
        raise _Refused(f"expected groups that divide {x.shape[1]} and {out} channels, got {groups}")
    return nn.Conv2d(
        x.shape[1], out, kernel, _whole(entry, "stride", 1, 16, 1), _whole(entry, "padding", 0, 64, kernel // 2),
        _whole(entry, "dilation", 1, 16, 1), groups, _truth(entry, "bias", True),
    )  # fmt: skip


def _linear(entry: Entry, x: Tensor) -> nn.Module:
    if x.dim() != 2:
        raise _Refused(f"expected a vector before it, got {_shape(x)}: flatten it")
    out = _whole(entry, "out", 1, MOST_CHANNELS)
    return nn.Linear(x.shape[1], out, _truth(entry, "bias", True))


def _norm(entry: Entry, x: Tensor) -> nn.Module:
    kind, width = _word(entry, "kind", ("batch", "group", "layer")), x.shape[1]
    if ("groups" in entry) != (kind == "group"):
        raise _Refused(f"expected groups for kind group alone, got kind {kind}")
    if kind == "batch":
        return nn.BatchNorm1d(width) if x.dim() == 2 else nn.BatchNorm2d(width)
    if kind == "layer":
        return nn.LayerNorm(width) if x.dim() == 2 else nn.GroupNorm(1, width)
    groups = _whole(entry, "groups", 1, MOST_CHANNELS)
    if width % groups:
        raise _Refused(f"expected groups that divide {width} channels, got {groups}")
    return nn.GroupNorm(groups, width)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.1), "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "softplus": nn.Softplus, "hardswish": nn.Hardswish,
}  # fmt: skip


def _activation(entry: Entry, x: Tensor) -> nn.Module:
    kind = _word(entry, "kind", tuple(_ACTIVATIONS))
    if "slope" not in entry:
        return _ACTIVATIONS[kind]()
    if kind != "leaky_relu":
        raise _Refused(f"expected slope for kind leaky_relu alone, got kind {kind}")
    return nn.LeakyReLU(_number(entry["slope"], "slope", 0.0, 1.0))


def _pool(entry: Entry, x: Tensor) -> nn.Module:
    _map_wanted(x)
    kind = _word(entry, "kind", ("max", "average", "global"))
    if kind == "global":
        if entry.keys() - {"op", "kind"}:
            raise _Refused("expected no sizes for kind global, got some")
        return nn.AdaptiveAvgPool2d(1)
    size = _whole(entry, "size", 1, 64, 2)
    stride, padding = _whole(entry, "stride", 1, 64, size), _whole(entry, "padding", 0, size // 2, 0)
    return nn.MaxPool2d(size, stride, padding) if kind == "max" else nn.AvgPool2d(size, stride, padding)


def _resize(entry: Entry, x: Tensor) -> nn.Module:
    _map_wanted(x)
    size = entry.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 1 <= n <= MOST_SIDE for n in size):
        raise _Refused(f"size: expected height and width from 1 to {MOST_SIDE}, got {literal(size, LONGEST_NAME)}")
    if x.shape[1] * size[0] * size[1] > MOST_VALUES:
        raise _Refused(
            f"expected at most {MOST_VALUES:,} numbers for one crop, got {x.shape[1]} x {size[0]} x {size[1]}"
        )
    return _Resize((size[0], size[1]))


def _normalize(entry: Entry, x: Tensor) -> nn.Module:
    _map_wanted(x)
    values = []
    for name, least in (("mean", -1e3), ("std", 1e-6)):
        given = entry.get(name)
        if not isinstance(given, list) or len(given) != x.shape[1]:
            raise _Refused(f"{name}: expected a number for each of {x.shape[1]} channels, got "
                           f"{literal(given, LONGEST_NAME)}")  # fmt: skip
        values.append([_number(value, name, least, 1e3) for value in given])
    return _Normalize(*values)


def _flatten(entry: Entry, x: Tensor) -> nn.Module:
    return nn.Flatten()


# op -> its entries; those of `_whole`, `_truth` and so on say what they may be
_ENTRIES: dict[str, tuple[str, ...]] = {
    "conv": ("out", "kernel", "stride", "padding", "dilation", "groups", "bias"),
    "norm": ("kind", "groups"), "activation": ("kind", "slope"), "pool": ("kind", "size", "stride", "padding"),
    "resize": ("size",), "normalize": ("mean", "std"), "flatten": (), "linear": ("out", "bias"),
    "residual": ("layers", "shortcut"), "concatenate": ("layers", "shortcut"),
}  # fmt: skip
_BLOCKS = ("residual", "concatenate")
_MAKERS: dict[str, Callable[[Entry, Tensor], nn.Module]] = {
    "conv": _conv, "norm": _norm, "activation": _activation, "pool": _pool, "resize": _resize,
    "normalize": _normalize, "flatten": _flatten, "linear": _linear,
}  # fmt: skip


def _map_wanted(x: Tensor) -> None:
    if x.dim() != 4:
        raise _Refused(f"expected a map before it, got {_shape(x)}")


def _whole(entry: Entry, name: str, least: int, most: int, default: int | None = None) -> int:
    value = entry.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise _Refused(f"{name}: expected a whole number from {least} to {most}, got {literal(value, LONGEST_NAME)}")
    return value


def _number(value: Any, name: str, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:
        raise _Refused(f"{name}: expected a number from {least:g} to {most:g}, got {literal(value, LONGEST_NAME)}")
    return float(value)


def _truth(entry: Entry, name: str, default: bool) -> bool:
    value = entry.get(name, default)
    if type(value) is not bool:
        raise _Refused(f"{name}: expected true or false, got {literal(value, LONGEST_NAME)}")
    return value


def _word(entry: Entry, name: str, words: tuple[str, ...]) -> str:
    value = entry.get(name)
    if value not in words:
        raise _Refused(f"{name}: expected one of {', '.join(words)}, got {literal(value, LONGEST_NAME)}")
    return str(value)


def _shape(x: Tensor) -> str:
    return "a vector of " + f"{x.shape[1]:,}" if x.dim() == 2 else "a map of " + " x ".join(map(str, x.shape[1:]))
