"""The mirror image of a tracked face: which parameters and which camera the flipped picture has.

A head model's mesh is its own mirror image but for the order of its vertices. The mirrored mesh has parameters of
its own, found by least squares: for shapes β over directions D and a template T, with the mirror S = diag(-1, 1, 1)
and the vertex m(u) that stands where u does in the mirror,

    β' = D⁺ (S T[m] - T + S D[m] β),        expressions alike without the template

A rotation vector (x, y, z) becomes (x, -y, -z), the eyes change places, a camera C becomes S C S.
Letters: N faces, U vertices, K directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError

AT_A_TIME = 512  # vertices whose twins are looked for together
MOST_APART = 0.03  # scene units, 1 cm: root mean square between a vertex's mirror image and its twin
MOST_LOST = 0.3  # of the motion of a kind of directions, root mean square, that the mirror image may lack

Rows = Mapping[str, np.ndarray]  # camera [N, 25], shape [N, K], expression [N, K], pose [N, 6], eyes [N, 6]


class HeadMirror:
    """The mirror of a head model.

    Args:
        template: [U, 3]. directions: [U, 3, K], those of shape first; scene units.
        num_shape: how many of them are shape.

    Attributes:
        apart: root mean square distance of a vertex's mirror image from its twin, scene units.
        lost: share of the motion of shape and of expression that the mirror image lacks.

    Raises: `InputError` where the model is not its own mirror image.
    """

    def __init__(self, template: Tensor, directions: Tensor, num_shape: int) -> None:
        template, directions = template.double().cpu(), directions.double().cpu()
        across = template.new_tensor([-1.0, 1.0, 1.0])
        twin, distance = _twins(template, template * across)
        self.apart = float(distance.square().mean().sqrt())
        if self.apart > MOST_APART:
            raise InputError(
                f"flips: expected a head model that is its own mirror image, a vertex of this one is {self.apart:.3f} "
                "scene units away from its twin; say --no-flips"
            )
        offset = (template[twin] * across - template).flatten()
        self.lost = {}
        kinds = {"shape": directions[..., :num_shape], "expression": directions[..., num_shape:]}
        self._maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, kind in kinds.items():
            moves = kind.flatten(0, 1)  # [3 U, K]
            mirrored = (kind[twin] * across[:, None]).flatten(0, 1)
            found = torch.linalg.lstsq(moves, torch.cat([mirrored, offset[:, None]], 1), driver="gelsd").solution
            whole = mirrored.square().sum().clamp(min=1e-30)
            self.lost[name] = float(((moves @ found[:, :-1] - mirrored).square().sum() / whole).sqrt())
            if self.lost[name] > MOST_LOST:
                raise InputError(
                    f"flips: expected directions of {name} whose mirror image is among them, {self.lost[name]:.0%} of "
                    "it are not; say --no-flips"
                )
            shift = found[:, -1] if name == "shape" else torch.zeros_like(found[:, -1])
            self._maps[name] = found[:, :-1].T.float().numpy(), shift.float().numpy()

    def flipped(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return the parameters of the flipped pictures, of the same shapes."""
        mirrored = {name: rows[name] @ turn + shift for name, (turn, shift) in self._maps.items()}
        eyes = np.concatenate([_turned(rows["eyes"][:, 3:]), _turned(rows["eyes"][:, :3])], 1)
        pose = np.concatenate([_turned(rows["pose"][:, :3]), _turned(rows["pose"][:, 3:])], 1)
        camera = rows["camera"].copy()
        across = np.diag(np.array([-1, 1, 1, 1], np.float32))
        camera[:, :16] = (across @ camera[:, :16].reshape(-1, 4, 4) @ across).reshape(-1, 16)
        camera[:, 18] = 1 - camera[:, 18]  # the centre, in picture widths
        return {"camera": camera, **mirrored, "pose": pose, "eyes": eyes}


def _turned(rotations: np.ndarray) -> np.ndarray:
    """Mirror rotation vectors [N, 3]."""
    return rotations * np.array([1, -1, -1], np.float32)


def _twins(places: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each vertex [U, 3] the one whose mirror image is nearest: its number [U], and how far away that is."""
    found = [torch.cdist(part, mirrored).min(1) for part in places.split(AT_A_TIME)]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])
