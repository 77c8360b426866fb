"""Networks with the published names and shapes, rule-made, as nested modules: what a published pickle would hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.core.pickles import Persistent
from triportrait.core.published.names import our_name
from triportrait.core.published.network_contract import PARENTS, STORED, Kind, manifest, numbers_of
from triportrait.core.seeded_weights import rule_tensor

FREE = 7  # what stands for a size that the contract leaves open
FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
FLAME = "deformer.flame_deform.flame_model."


def published_tensors(kind: Kind, flame: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every tensor of a published network, those that we ignore included.

    `flame` replaces FLAME's and the coarse mesh's tables: ours -> tensor.
    """
    tensors = {}
    for name, sizes in manifest(kind).items():
        shape = tuple(FREE if size is None else size for size in sizes)
        ours = our_name(name, kind) if kind in ("portrait", "motion", "genhead") else name  # type: ignore[arg-type]
        if flame is not None and ours in flame:
            tensors[name] = flame[ours]
        elif name.startswith("deformer."):
            tensors[name] = torch.zeros(shape, dtype=STORED[numbers_of(name)])
        else:
            tensors[name] = rule_tensor(name, ours, shape)
    if PARENTS in tensors:
        tensors[PARENTS] = torch.tensor([-1, 0, 1, 1, 1])
    if kind == "portrait":
        tensors["dataset_label_std"] = torch.zeros(())
        for block in (0, 1):
            tensors[f"superresolution.block{block}.resample_filter"] = FILTER
            for conv in (0, 1):
                size = 256 * (block + 1)
                tensors[f"superresolution.block{block}.conv{conv}.resample_filter"] = FILTER
                tensors[f"superresolution.block{block}.conv{conv}.noise_const"] = torch.zeros(size, size)
        tensors[f"{FLAME}eye_pose"], tensors[f"{FLAME}neck_pose"] = torch.zeros(1, 6), torch.zeros(1, 3)
    if kind == "motion":
        tensors["mouth_embed.1.weight"], tensors["mouth_embed.1.bias"] = torch.zeros(500, 512), torch.zeros(500)
        tensors["model.bn1.num_batches_tracked"] = torch.tensor(3)
    return tensors


def as_network(kind: str, tensors: dict[str, Tensor], **options: Any) -> Persistent:
    """A persistent module whose dotted names lead to these tensors: floats as parameters, the rest as buffers."""
    root = Persistent(kind, **{"img_resolution": 512, "mot_dims": 548} | options)
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            child = module._modules[part]
            assert child is not None
            module = child
        if tensor.is_floating_point() and last not in ("w_avg", "resample_filter", "noise_const", "running_mean"):
            module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(last, tensor)
    return root
