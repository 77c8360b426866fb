"""Whether a device multiplies bfloat16 itself: one that only emulates it is slower than in float32, not faster."""

from __future__ import annotations

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether autocast to bfloat16 is worth its rounding on a device.

    A CPU without AVX-512 computes convolutions in bfloat16 by a reference implementation, some 20 times slower than in
    float32; a GPU before Ampere emulates them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    asks = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # a build without oneDNN has no such operator
    return asks is None or bool(asks())
