"""Weights made from the names of the tensors: they check an installation at full size, and their picture is noise.

The same rule made the stored parity numbers, so anybody can rebuild the same network without any trained weight:
n = standard_normal(shape) of a generator seeded with the CRC of the published name, then a scale by kind of tensor.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .published.names import Kind

_UNIT_SCALE = ("superresolution.", "decoder.")  # networks whose stored weights have unit scale, by published prefix
_SPREAD = 0.1


def rule_tensor(published: str, shape: Iterable[int], unit_scale: bool = False) -> Tensor:
    """The rule's float32 values for the tensor of that published name.

    Args:
        published: the name in the published file.
        shape: sizes of the tensor.
        unit_scale: the network keeps weights at unit scale and applies 1 / sqrt(inputs) when it runs.
    """
    shape = tuple(shape)
    last = published.rsplit(".", 1)[-1]
    n = np.random.Generator(np.random.PCG64(zlib.crc32(published.encode()))).standard_normal(shape)
    return torch.from_numpy(np.asarray(_scale(n, published, last, shape, unit_scale), dtype=np.float32))


def _scale(n: np.ndarray, name: str, last: str, shape: tuple[int, ...], unit_scale: bool) -> np.ndarray | float:
    if last == "running_mean":
        return n * _SPREAD
    if last == "running_var":
        return np.abs(1 + n * _SPREAD)
    if last in ("noise_const", "const"):
        return n
    if last in ("noise_strength", "w_avg"):
        return n * _SPREAD
    if last == "bias":
        return n * _SPREAD + (1 if name.endswith("affine.bias") else 0)
    if len(shape) == 1:
        return 1 + n * _SPREAD
    if name.endswith("out_sigma.weight"):
        return n * 8  # densities that make a head of noise rather than fog
    if unit_scale:
        return n * (100 if "mapping." in name and ".fc" in name else 1)
    return n / math.sqrt(math.prod(shape[1:]))


def rule_weights(shapes: dict[str, tuple[int, ...]], kind: Kind) -> dict[str, Tensor]:
    """Rule values for published names of one network. About ten seconds for the full size.

    Args:
        shapes: published name -> shape.
        kind: which network; the portrait's super-resolution and field keep weights at unit scale.
    """
    return {
        name: rule_tensor(name, shape, kind == "portrait" and name.startswith(_UNIT_SCALE)) for name, shape in shapes.items()
    }
