"""Surfaces of heads: densities on a grid, the level at which a viewer sees a surface, marching cubes."""
