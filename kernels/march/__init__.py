"""Rays to pixels in one fused pass, forward and backward.

`operator` holds the operator and its definition and decides what runs, `launch` packs tensors and launches the kernels
of `forward`, `backward` and `device`, `cpu` is the pass that a CPU takes in inference mode.
"""

from triportrait.kernels.march.operator import (
    MlpPrecision,
    Rays,
    Warp,
    fuses,
    inside_ring,
    march_rays,
    ringed,
    warped,
)

__all__ = ["MlpPrecision", "Rays", "Warp", "fuses", "inside_ring", "march_rays", "ringed", "warped"]
