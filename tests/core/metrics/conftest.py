"""The metric networks with rule-made weights, as the stored outputs have them, built once for the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.core.published_like import published_tensors
from triportrait.core.checkpoint import filled
from triportrait.core.metrics.emotion import EmotionNetwork
from triportrait.core.metrics.recon3d import FaceReconstructor
from triportrait.core.metrics.syncnet import SyncNet


def _made(network: nn.Module, kind: Any) -> Any:
    return filled(network, published_tensors(kind), "rule", kind)


@pytest.fixture(scope="session")
def reconstructor() -> FaceReconstructor:
    return _made(FaceReconstructor(), "recon3d")


@pytest.fixture(scope="session")
def syncnet() -> SyncNet:
    return _made(SyncNet(), "syncnet")


@pytest.fixture(scope="session")
def emotion() -> EmotionNetwork:
    return _made(EmotionNetwork(), "emotion")


@pytest.fixture(scope="session")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`published_file(kind)` is a file of the published layout with rule-made weights, made once."""
    folder, made = tmp_path_factory.mktemp("published"), {}

    def write(kind: Any) -> Path:
        if kind not in made:
            made[kind] = folder / {"recon3d": "epoch_20.pth", "syncnet": "syncnet_v2.model"}.get(kind, f"{kind}.pth")
            tensors = published_tensors(kind) | {"netcnnlip.1.num_batches_tracked": torch.tensor(7)} * (
                kind == "syncnet"
            )
            torch.save({"net_recon": tensors} if kind == "recon3d" else tensors, made[kind])
        return made[kind]

    return write
