"""Solve the normal equations of a clip: a block for each frame or two, neighbours tied, one shape shared by all.

Letters: N clips, T blocks, D unknowns of a block, S unknowns of the shape.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_clip(
    blocks: Tensor, ties: Tensor, mixed: Tensor, shared: Tensor, frames: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a symmetric positive definite system whose matrix is block tridiagonal with a border.

    Args:
        blocks: [N, T, D, D], the diagonal.
        ties: [N or 1, T - 1, D, D], the blocks of row t and column t + 1.
        mixed: [N, T, D, S], the border. shared: [N, S, S], its corner.
        frames: [N, T, D] and shape: [N, S], the right side.

    Returns:
        the unknowns of the blocks [N, T, D] and of the shape [N, S], and the corner [N, S, S] once the blocks are
        eliminated. Where the matrix is not positive definite they are no numbers that mean anything, often not finite;
        nothing is raised, as a device would have to be waited for.
    """
    right = torch.cat([frames[..., None], mixed], -1)  # [N, T, D, 1 + S]
    factors: list[Tensor] = []
    swept: list[Tensor] = []
    for t in range(blocks.shape[1]):
        block, side = blocks[:, t], right[:, t]
        if t:
            below = ties[:, t - 1].mT.expand_as(block)
            block = block - below @ torch.cholesky_solve(below.mT, factors[-1])
            side = side - below @ torch.cholesky_solve(swept[-1], factors[-1])
        factors.append(torch.linalg.cholesky_ex(block).L)
        swept.append(side)
    solved: list[Tensor] = []
    for t in reversed(range(blocks.shape[1])):
        side = swept[t] - ties[:, t] @ solved[-1] if solved else swept[t]
        solved.append(torch.cholesky_solve(side, factors[t]))
    both = torch.stack(solved[::-1], 1)
    alone, border = both[..., 0], both[..., 1:]
    rest = shared - mixed.flatten(1, 2).mT @ border.flatten(1, 2)
    wanted = shape - (mixed.flatten(1, 2).mT @ alone.flatten(1)[..., None])[..., 0]
    if not shape.shape[1]:
        return alone, shape, rest
    found = torch.cholesky_solve(wanted[..., None], torch.linalg.cholesky_ex(rest).L)[..., 0]
    return alone - (border @ found[:, None, :, None])[..., 0], found, rest
