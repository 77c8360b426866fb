"""Files of the published layout whose weights are made by rule, as none can be downloaded."""

from __future__ import annotations

from pathlib import Path

import torch

from triportrait.core.metrics.inception import Inception
from triportrait.core.metrics.rule_weights import fill_by_rule, published_tensors


def write_inception(folder: Path) -> Path:
    """Write every tensor of torch-fidelity's file of Inception-v3, the classifier's included."""
    network = Inception(None)
    fill_by_rule(network)
    path = folder / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(published_tensors(network) | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path
