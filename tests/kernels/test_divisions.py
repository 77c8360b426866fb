"""Bias and activation are compiled, for a GPU that need not be there: the channel of a value is found in 32 bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from triportrait.kernels.language import HAVE_TRITON

MOST_INSTRUCTIONS = 170  # of a thread's eight values; places of 64 bits take 208 with channels last, 336 without
CODE = """
import torch
from triportrait.kernels.bias_act import bias_leaky_relu
from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.cubin import CHIPS, compile_launch
from triportrait.profiling.launches import recorded

x, bias = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((1, 128, 512, 512), (128,)))
with recorded() as launches, use_backend("triton"), torch.no_grad():
    for layout in (torch.channels_last, torch.contiguous_format):
        bias_leaky_relu(x.contiguous(memory_format=layout), bias)
for launch in launches:
    print(*(int(compile_launch(launch, chip).rest.instructions) for chip in CHIPS))
"""


@pytest.mark.skipif(not HAVE_TRITON, reason="needs Triton")
def test_the_channel_of_a_value_is_found_with_numbers_of_32_bits():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    instructions = [int(word) for word in ran.stdout.split()]
    assert len(instructions) == 4
    assert max(instructions) < MOST_INSTRUCTIONS, instructions
