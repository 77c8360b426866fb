"""The learned part of a refinement: a residual of planes, and low-rank updates of weights as parametrizations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from triportrait.core.person import LowRank, least_rank, refinable_weights, with_own_parts
from triportrait.core.portrait import Portrait4D


class _Update(nn.Module):
    """weight -> weight + up @ down: it begins as no change, as `up` is zero."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.down = nn.Parameter(down.to(weight.device))
        self._weight_square = weight.detach().square().sum().item()

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape).to(weight.dtype)

    def size(self) -> Tensor:
        """Return |up @ down|² / |weight|², by products of [R, R] alone; of a weight of zeros |up @ down|²."""
        square = ((self.up.T @ self.up) * (self.down @ self.down.T)).sum()
        return square / (self._weight_square or 1.0)


class LearnedPerson(nn.Module):
    """What a refinement learns, and the networks with it.

    Args:
        portrait: the frozen networks; their numbers stay as they are, and take no gradient from now on.
        rank: of the updates; 0: the planes alone are learned.
        generator: draws what the updates begin as.

    Attributes:
        portrait: the networks with the updates in place; the parts that have none are those of the frozen ones.
        planes: [1, 3, H, W, C], the residual.
    """

    def __init__(self, portrait: Portrait4D, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        render = portrait.config.render
        device = next(portrait.parameters()).device
        self.portrait = with_own_parts(portrait)
        self.planes = nn.Parameter(
            torch.zeros(1, 3, render.plane_size, render.plane_size, render.plane_width, device=device)
        )
        self.portrait.requires_grad_(False)
        self._updated: dict[str, _Update] = {}
        for name, layer in list(refinable_weights(self.portrait)) if rank else []:
            update = _Update(layer.weight, least_rank(layer, rank), generator)
            parametrize.register_parametrization(layer, "weight", update)
            self._updated[name] = update

    def residual_size(self) -> Tensor:
        """Return the mean square of the residual."""
        return self.planes.square().mean()

    def update_size(self) -> Tensor:
        """Return the mean over the updated weights W of |up @ down|² / |W|², sums of squares; 0 without any."""
        sizes = [update.size() for update in self._updated.values()]
        return torch.stack(sizes).mean() if sizes else self.planes.new_zeros(())

    def learned(self) -> dict[str, nn.Parameter]:
        """Name what is learned: "planes", and "NAME.up" and "NAME.down" of each weight that is updated."""
        named: dict[str, nn.Parameter] = {"planes": self.planes}
        for name, update in self._updated.items():
            named |= {f"{name}.up": update.up, f"{name}.down": update.down}
        return named

    def updates(self, values: Mapping[str, Tensor]) -> dict[str, LowRank]:
        """Return the updates as a file holds them, of values by the names of `learned`."""
        return {name: LowRank(values[f"{name}.up"], values[f"{name}.down"]) for name in self._updated}
