"""Let metric networks compute in float32 whatever precision a process chose, so that a GPU's numbers are a CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

PRECISION = "float32, TF32 off"


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products and convolutions in float32 without TF32 and without autocast; it works as a decorator, too.

    What the process had before is restored, by PyTorch's flags for TF32 and by its newer `fp32_precision`, of which a
    process may use either: where it uses the newer one, PyTorch refuses to read the flags.
    """
    backends: Any = torch.backends
    gpu = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    switches: tuple[Any, ...] = (*gpu, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    matmul, convolution = _matmul_flag(), _convolution_flag()
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            backends.cudnn.allow_tf32 = convolution
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _matmul_flag() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the process chose by `fp32_precision`
        return None


def _convolution_flag() -> bool | None:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None
