"""Initialize fresh weights at scales at which signal and motion reach the end of a small network.

PyTorch's default scale of convolutions lets the signal of a network without norms die, and linear layers of a small
scale make the motion tokens all alike: then motion never starts. Both were seen on the tiny preset.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triportrait.core.portrait import Portrait4D
from triportrait.core.reconstruct.attention import Attention, ConvMlp
from triportrait.core.reconstruct.canonicalize import MotionTokens
from triportrait.core.render.superres import ToRgb

DENSITY_SCALE = 8.0  # of the field's last layer: a density that can be opaque within one sample
DENSITY_BIAS = -1.0
RGB_SCALE = 0.1
RESIDUAL_SCALE = 0.5  # of the layers that end a residual branch


def initialize(portrait: Portrait4D, seed: int) -> None:
    """Set every weight of a fresh network, in place; the seed alone decides."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in portrait.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                _scaled(part.weight, 2.0)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.LayerNorm):
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
        for unit in (portrait.volume, portrait.superres):  # these keep weights at unit scale
            for parameter in unit.parameters():
                if parameter.dim() > 1:
                    parameter.normal_()
        for part in portrait.modules():
            if isinstance(part, Attention):
                _scaled(part.q.weight, 1.0)
                _scaled(part.kv.weight, 1.0)
                _scaled(part.proj.weight, RESIDUAL_SCALE**2)
            elif isinstance(part, ConvMlp):
                _scaled(part.fc2.weight, RESIDUAL_SCALE**2)
            elif isinstance(part, MotionTokens):
                _scaled(part.project.weight, 1.0)
            elif isinstance(part, ToRgb):
                part.weight.normal_(0, RGB_SCALE)
        field = portrait.volume.field
        _scaled(portrait.reconstructor.plane_decoder.out.weight, 1.0)
        # what it reads is never negative: only weights of mean 0 begin with a head that is neither air nor stone
        field.density.weight.normal_(0, DENSITY_SCALE)
        field.density.weight.sub_(field.density.weight.mean())
        field.density.bias.fill_(DENSITY_BIAS)


def initialize_motion(portrait: Portrait4D, seed: int) -> None:
    """Set the layers that read motion, in place: what stage 2 adds to the static synthesizer."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in motion_parameters(portrait):
            if parameter.dim() > 1:
                _scaled(parameter, 1.0)
        for part in portrait.modules():
            if isinstance(part, MotionTokens):
                _scaled(part.fc1.weight, 2.0)
                _scaled(part.fc2.weight, 2.0)


def motion_parameters(portrait: Portrait4D) -> list[nn.Parameter]:
    """Return the parameters that the static synthesizer does not have: motion tokens and cross-attention."""
    return [p for name, p in portrait.named_parameters() if reads_motion(name)]


def reads_motion(name: str) -> bool:
    """Return whether a parameter of this name reads motion."""
    return ".tokens." in name or ".cross_attention." in name or ".cross_norm." in name


def _scaled(weight: Tensor, gain: float) -> None:
    """Normal numbers of variance gain / inputs."""
    weight.normal_(0, (gain / weight[0].numel()) ** 0.5)
