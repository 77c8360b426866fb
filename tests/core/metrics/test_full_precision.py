"""Metric networks compute in float32 without TF32 or autocast, and what the process chose comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from triportrait.core.metrics.full_precision import full_precision

CHOICES = {
    "nothing": "",
    "a flag": "torch.backends.cuda.matmul.allow_tf32 = True",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "a flag off": "torch.backends.cudnn.allow_tf32 = False",
    "the newer switch": "torch.backends.fp32_precision = 'tf32'",
    "newer switches": "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
}
PROGRAM = """
import os
import sys
import torch
from triportrait.core.metrics.full_precision import full_precision

def told(read):
    try:
        return read()
    except RuntimeError:  # flags and newer switches mixed
        return "mixed"

def state():
    b = torch.backends
    return [told(read) for read in (
        torch.get_float32_matmul_precision, lambda: b.cuda.matmul.allow_tf32, lambda: b.cudnn.allow_tf32,
        lambda: b.cuda.matmul.fp32_precision, lambda: b.cudnn.conv.fp32_precision, lambda: b.cudnn.rnn.fp32_precision,
        lambda: b.mkldnn.matmul.fp32_precision, lambda: b.mkldnn.conv.fp32_precision)]

for choice in sys.argv[1:]:
    if not os.fork():  # PyTorch refuses some flags for good once the newer switches were used
        exec(choice)
        before = state()
        with full_precision():
            inside = state()
        os._exit((inside != ['highest', False, False] + ['ieee'] * 5) + 2 * (state() != before))
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_what_the_process_chose_comes_back():
    root = str(Path(__file__).parents[3])
    words = [sys.executable, "-c", PROGRAM, *CHOICES.values()]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert dict(zip(CHOICES, done.stdout.split(), strict=True)) == dict.fromkeys(CHOICES, "0"), done.stderr[-2000:]


def test_autocast_is_off_inside_and_an_error_restores():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(KeyError), full_precision():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
