"""Whether this CPU is of a kind on which CI takes the short forms of its longest tests, to end in time."""

import torch

from triportrait.core.native_bf16 import multiplies_bf16

SLOW_CPU = not multiplies_bf16(torch.device("cpu"))  # without AVX-512 everything takes two to three times as long
