"""Triangles to pixels: which face a pixel sees, where on the face, and how deep.

`operator` holds the operator and its definition and decides what runs, `fixed_point` the arithmetic that all
implementations share, `spans` is the one for a CPU, `gpu` holds the kernels.
"""

from triportrait.kernels.rasterize.operator import Cull, Raster, interpolate, rasterize

__all__ = ["Cull", "Raster", "interpolate", "rasterize"]
