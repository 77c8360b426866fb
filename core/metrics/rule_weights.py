"""Fill metric networks by the rule of `seeded_weights`, and tell networks that were filled so from trained ones.

They check a pipeline at full size and say nothing about pictures. The command line calls them `--networks rule`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from triportrait.core.metrics.inception import Inception
from triportrait.core.metrics.lpips_network import LpipsDistance
from triportrait.core.seeded_weights import rule_tensor

RULE = "rule"
BY_RULE = "by rule"  # the mark of a number
NOTE = "made by rule: the network's weights are random numbers, which check the pipeline and say nothing about pictures"
_INCEPTION_GAIN = 2**0.5  # of its convolutions, so that the ReLUs of 48 layers do not quench the picture
_RELATIVE, _ABSOLUTE = 1e-2, 1e-3  # by which the formats of half precision round at most


def fill_by_rule(network: nn.Module) -> str:
    """Fill a metric network by the rule, under the names of its published file.

    Returns:
        SHA-256 of the tensors in the order of their names.
    """
    digest = hashlib.sha256()
    with torch.no_grad():
        for (_, tensor), made in zip(_tensors(network), _rule(network), strict=True):
            tensor.copy_(made)
            digest.update(made.numpy().tobytes())
    return digest.hexdigest()


def is_made_by_rule(network: nn.Module) -> bool:
    """Tell whether all tensors of a metric network on the CPU are the rule's, also where a file rounded them to half.

    The tensors themselves are compared, so that no file's name or card can hide where they come from.
    """
    pairs = zip(_tensors(network), _rule(network), strict=True)
    return all(torch.allclose(tensor, made, _RELATIVE, _ABSOLUTE) for (_, tensor), made in pairs)


def published_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return a metric network's tensors under the names of its published file, the counters of batch norms left out."""
    if isinstance(network, LpipsDistance):  # its slices keep the numbers of the trunk's layers
        trunk = network.network.net.named_parameters()
        return {f"features.{name.partition('.')[2]}": parameter for name, parameter in trunk}
    state = (network.layers if isinstance(network, Inception) else network).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return sorted(published_tensors(network).items())


def _rule(network: nn.Module) -> Iterator[Tensor]:
    """Make the rule's tensors one by one, in the order of their names."""
    for name, tensor in _tensors(network):
        made = rule_tensor(name, name, tuple(tensor.shape))
        yield made * _INCEPTION_GAIN if isinstance(network, Inception) and name.endswith("conv.weight") else made
