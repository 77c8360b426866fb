"""Networks run in bfloat16 where the device multiplies it, and in float32 where it would only be emulated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from triportrait.core import native_bf16
from triportrait.core.native_bf16 import multiplies_bf16
from triportrait.train.stages import common

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_a_device_is_asked(monkeypatch, native):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: native))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert multiplies_bf16(CPU) is native
    assert multiplies_bf16(torch.device("cuda")) is native


def test_a_build_without_the_operator_and_other_devices_are_trusted(monkeypatch):
    monkeypatch.setattr(native_bf16.torch.ops, "mkldnn", SimpleNamespace())
    assert multiplies_bf16(CPU)
    assert multiplies_bf16(torch.device("mps"))


@pytest.mark.parametrize(("precision", "native", "expected"), [
    ("bf16", True, torch.bfloat16), ("bf16", False, torch.float32), ("fp32", True, torch.float32),
])  # fmt: skip
def test_networks_run_in_what_is_not_emulated(monkeypatch, precision, native, expected):
    monkeypatch.setattr(common, "multiplies_bf16", lambda device: native)
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with common.autocast(precision, x):
        assert layer(x).dtype == expected
