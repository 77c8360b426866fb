"""Make weights from the names of the tensors: they check an installation at full size, but their picture is noise.

The command line calls them `--weights rule`. The stored parity numbers come from the same rule, so that no trained
weight is needed to check the network:
n = standard_normal(shape), seeded with the CRC of the published name, times a scale that the kind of tensor decides.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checkpoint import build_motion_encoder, build_portrait
from triportrait.core.config import GenHeadConfig, ModelConfig, genhead_ffhq512, portrait4d_v2
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import build_genhead
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.portrait import Portrait4D
from triportrait.core.published.names import our_name
from triportrait.core.published.network_contract import manifest
from triportrait.core.shapes_alone import shapes_alone

_MAPPINGS = ("mapping.", "background_mapping.")
# these networks store weights at unit scale
_UNIT_SCALE = ("superres.", "volume.field.", "plane_synthesis.", "background_synthesis.", *_MAPPINGS)
_SPREAD = 0.1  # for biases, norms and other small numbers
_SLOW = 100  # the layers of mappings learn slowly, and store what they multiply by 1/100
_DENSITY = 8  # enough for a head of noise rather than fog


def rule_normal(seed_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw the rule's float64 normal numbers for a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(seed_name.encode()))).standard_normal(shape)


def rule_tensor(seed_name: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """Make the rule's float32 tensor.

    Args:
        seed_name: the name that seeds it, the published one where there is one.
        name: our name, which decides the scale.
        shape: its sizes.
    """
    n, last = rule_normal(seed_name, shape), name.rsplit(".", 1)[-1]
    values: np.ndarray
    if last in ("running_mean", "noise_strength", "style", "mean_style"):
        values = n * _SPREAD
    elif last == "running_var":
        values = np.abs(1 + n * _SPREAD)
    elif last in ("noise_const", "start"):
        values = n
    elif last == "bias":
        values = n * _SPREAD + (1 if name.endswith("affine.bias") else 0)
    elif len(shape) == 1:
        values = 1 + n * _SPREAD
    elif name.endswith("density.weight"):
        values = n * _DENSITY
    elif name.startswith(_MAPPINGS) and ".layers." in name:
        values = n * _SLOW
    elif name.startswith(_UNIT_SCALE):
        values = n
    else:
        values = n / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def rule_portrait(config: ModelConfig) -> Portrait4D:
    """Build a portrait network of rule-made weights, without FLAME, in about five seconds at the published size.

    The published preset is seeded by the published names, so that its numbers are comparable; others by ours.
    """
    if config == portrait4d_v2():
        names = {our_name(n, "portrait"): n for n in manifest("portrait") if not n.startswith("deformer.")}
    else:
        names = {}
    with shapes_alone():
        shapes = {name: tuple(t.shape) for name, t in Portrait4D(config).state_dict().items()}
    tensors = {name: rule_tensor(names.get(name, name), name, shape) for name, shape in shapes.items()}
    return build_portrait(config, tensors, "rule")


def rule_motion_encoder() -> PDFGC:
    """Build a motion encoder of rule-made weights, seeded by the published names."""
    names = {our_name(n, "motion"): n for n in manifest("motion")}
    shapes = {name: tuple(t.shape) for name, t in PDFGC().state_dict().items() if name in names}
    return build_motion_encoder({name: rule_tensor(names[name], name, shape) for name, shape in shapes.items()}, "rule")


def rule_genhead(config: GenHeadConfig) -> GenHead:
    """Build a GenHead of rule-made weights, without a head model.

    The published preset is seeded by the published names, so that its numbers are comparable; others by ours.
    """
    names = {}
    if config == genhead_ffhq512():
        names = {our_name(n, "genhead"): n for n in manifest("genhead") if not n.startswith("deformer.")}
    with shapes_alone():
        shapes = {name: tuple(t.shape) for name, t in GenHead(config).state_dict().items()}
    tensors = {name: rule_tensor(names.get(name, name), name, shape) for name, shape in shapes.items()}
    return build_genhead(config, tensors, "rule")
