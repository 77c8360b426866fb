"""Where a head is known in advance, the grids of its neck are polynomials of the neck's rotation alone.

Where `neck.NeckField` asks a mesh for the nearest triangles in every frame, here that was done once, for some hundred
rotations of one head, and each number of the grids was fitted: near the head an offset is off by 0.5 mm, in one of a
hundred by 2 mm, and a frame costs one small product.
Letters: B batch, T terms, L numbers of both grids.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.safe_text import shown
from triportrait.core.types import NeckGrid

DEGREE = 3
_ALL = itertools.product(range(DEGREE + 1), repeat=3)
EXPONENTS = torch.tensor(sorted((e for e in _ALL if sum(e) <= DEGREE), key=sum))  # [T, 3], the constant first
LIMITS = (0.35, 0.6, 0.3)  # radians about x (nod), y (turn), z (tilt): further rotations stay there
ROTATIONS = 120  # to which the polynomials are fitted


class PolynomialNeck(nn.Module):
    """The grids that undo a neck's rotation; it takes the place of `NeckField` where a mean head is enough.

    Args:
        config: grid sizes and thresholds.
        box_side: scene units.
        tables: `coefficients` [T, L], as `fit_polynomial_neck` makes them.

    Raises:
        InputError: the tables are of other grids.
    """

    coefficients: Tensor
    exponents: Tensor
    limits: Tensor

    def __init__(self, config: NeckConfig, box_side: float, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config, self.box_side = config, box_side
        expected = {"coefficients": [len(EXPONENTS), 4 * config.fine_size**3 + 3 * config.coarse_size**3]}
        sizes = {name: list(table.shape) for name, table in tables.items()}
        if sizes != expected:
            raise InputError(
                f"neck: expected the tables {expected}, got {shown(sizes)}; make them again for these grids"
            )
        if not tables["coefficients"].is_floating_point():
            got = str(tables["coefficients"].dtype).removeprefix("torch.")
            raise InputError(f"neck: coefficients: expected real numbers, got {got}; make them again")
        self.register_buffer("coefficients", tables["coefficients"].float(), persistent=False)
        self.register_buffer("exponents", EXPONENTS.clone(), persistent=False)
        self.register_buffer("limits", torch.tensor(LIMITS), persistent=False)

    def forward(self, shape: Tensor, expression: Tensor, neck: Tensor, jaw: Tensor, eyes: Tensor) -> NeckGrid:
        """Compute the grids of B rotations `neck` [B, 3] in radians; the other arguments, `NeckField`'s, are not read.

        Returns:
            The grids; carries no gradient.
        """
        with torch.no_grad(), torch.autocast(neck.device.type, enabled=False):
            c, fine = self.config, 4 * self.config.fine_size**3
            values = _terms(neck.float(), self.exponents, self.limits) @ self.coefficients
            near = values[:, :fine].view(-1, c.fine_size, c.fine_size, c.fine_size, 4)
            near[..., 3].clamp_(min=0)
            far = values[:, fine:].reshape(-1, c.coarse_size, c.coarse_size, c.coarse_size, 3)
            return NeckGrid(near, far, self.box_side, c.near_squared_distance)


def fit_polynomial_neck(grids: Callable[[Tensor], NeckGrid]) -> dict[str, Tensor]:
    """Fit the tables of a `PolynomialNeck` by least squares; a straight neck keeps its own grids exactly.

    Args:
        grids: rotation vectors [B, 3] in radians -> the grids of B poses of one head.
    """
    limits = torch.tensor(LIMITS)
    uniform = torch.rand(ROTATIONS, 3, generator=torch.Generator().manual_seed(0))
    rotations = torch.cat([torch.zeros(1, 3), (2 * uniform - 1) * limits])
    straight, *turned = (_numbers(grids(rotation[None])) for rotation in rotations)
    terms = _terms(rotations[1:].double(), EXPONENTS, limits.double())[:, 1:]
    solution = torch.linalg.lstsq(terms, (torch.cat(turned) - straight).double()).solution
    return {"coefficients": torch.cat([straight, solution.to(straight)])}


def _numbers(grid: NeckGrid) -> Tensor:
    """Flatten both grids to [B, L]."""
    return torch.cat([grid.fine.flatten(1), grid.coarse.flatten(1)], 1)


def _terms(rotations: Tensor, exponents: Tensor, limits: Tensor) -> Tensor:
    """Compute the terms [B, T] of rotations [B, 3], the constant first."""
    shares = (rotations / limits).clamp(-1, 1)
    return (shares[:, None] ** exponents).prod(-1)
