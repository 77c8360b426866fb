"""These conditions say where a fake GPU can be made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from triportrait.kernels.language import HAVE_TRITON

ROOT = Path(__file__).parents[2]
NEEDS = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="a build of PyTorch for CUDA has a device of its own"),
    pytest.mark.skipif(not HAVE_TRITON, reason="needs Triton"),
]
