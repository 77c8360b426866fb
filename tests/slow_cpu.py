"""Whether CI takes the short forms of its longest tests, to end in time: on a CPU without AVX-512.

With TRIPORTRAIT_WHOLE_TESTS in the environment such a CPU runs the whole forms, too.
"""

import os

import torch

from triportrait.core.native_bf16 import multiplies_bf16

# without AVX-512 everything takes two to three times as long
SLOW_CPU = "TRIPORTRAIT_WHOLE_TESTS" not in os.environ and not multiplies_bf16(torch.device("cpu"))
