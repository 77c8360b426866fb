"""Rays to pixels in one fused pass, forward and backward.

`contract` holds the operator and its definition, `launch` prepares what the kernels take, `forward`, `backward` and
`device` are the kernels, `cpu` is the pass that a CPU takes in inference mode.
"""

from triportrait.kernels.march.contract import MlpPrecision, Rays, Warp, fuses, march_rays, warped

__all__ = ["MlpPrecision", "Rays", "Warp", "fuses", "march_rays", "warped"]
