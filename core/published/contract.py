"""What a published network must hold, tensor by tensor, before anything is converted from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.published import manifests
from triportrait.core.published.reading import shown

Kind = Literal["portrait", "motion", "genhead", "discriminator", "arcface"]

# Tensors that a published file may hold and that we knowingly do not use.
IGNORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"dataset_label_std",  # a scalar 0 that the training loop registers
        r"superresolution\..*\.noise_const",  # super-resolution always runs without noise
        r"(.*\.)?resample_filter",  # we make our own, and check that this one is the same: `check_filters`
        r"(.*\.)?num_batches_tracked",  # a counter of batch normalisation in training
        r"mouth_embed\..*",  # PD-FGC: a head whose output nothing reads
        r"model\.(bl|al)\d+\..*",  # PD-FGC: what the face alignment network has for more than one hourglass
        r"deformer\.flame_deform\.flame_model\.(eye|neck)_pose",  # FLAME: nine numbers, always zero
    )
)
TAPS = (1.0, 3.0, 3.0, 1.0)
SHOWN = 3


def ignored(name: str) -> bool:
    """Whether a published tensor is one that we knowingly do not use."""
    return any(pattern.fullmatch(name) for pattern in IGNORED)


@cache
def manifest(kind: Kind) -> dict[str, tuple[int | None, ...]]:
    """Published tensor name -> shape, None where any size will do, without the ignored tensors."""
    listed = json.loads(resources.files(manifests).joinpath(f"{kind}.json").read_text(encoding="utf-8"))
    return {name: tuple(shape) for name, shape in listed.items()}


def check_filters(tensors: Mapping[str, Tensor], file: str) -> None:
    """Check that every `resample_filter` is the one that we build in: outer([1, 3, 3, 1]) / 64, shape [4, 4].

    Raises:
        InputError: names `file` and the first filter that is another.
    """
    taps = torch.tensor(TAPS, dtype=torch.float64)
    wanted = torch.outer(taps, taps) / taps.sum() ** 2
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "resample_filter" and (
            tensor.shape != wanted.shape or not torch.allclose(tensor.double(), wanted, rtol=0, atol=1e-6)
        ):
            raise InputError(f"{file}: {shown(name)}: expected the filter outer([1, 3, 3, 1]) / 64, got another")


def check_contract(kind: Kind, tensors: Mapping[str, Tensor], file: str) -> None:
    """Check names and shapes of a network that a published file holds, and its built-in filters.

    Raises:
        InputError: names `file`, and counts and shows the tensors that are missing, unknown or of another shape.
    """
    wanted = manifest(kind)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not ignored(name)}
    misshapen = [
        f"{name} {list(found[name])} for {['any' if n is None else n for n in shape]}"
        for name, shape in wanted.items()
        if name in found and not _fits(found[name], shape)
    ]
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [shown(name) for name in found if name not in wanted],
        "misshapen": misshapen,
    }
    clauses = [f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names]
    if clauses:
        raise InputError(
            f"{file}: expected the {len(wanted)} tensors of a published {kind}, got {', '.join(clauses)}; "
            "give the file that was published for it"
        )
    check_filters(tensors, file)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(n in (None, m) for n, m in zip(wanted, shape, strict=True))


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
