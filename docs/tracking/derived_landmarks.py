"""Measure the landmarks that are derived for a head model without any: `python -m docs.tracking.derived_landmarks`.

The open head's landmarks are laid over procedural heads that it never saw, whose meshes have other vertices and whose
landmarks are known. Letters: N heads, U vertices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.motion.flame import SCENE_UNITS_PER_METRE
from triportrait.core.tracking.completing import registered_landmarks
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.heads import linear_model
from triportrait.train.data.heads.population import Expression, sample_identity, stream

SEED, HEADS = 77, 12  # no seed of the open head's
GRIDS = {
    "SKULL": (70, 61),
    "BALL": (20, 15),
    "NECK": (20, 9),
}  # columns, rows; the open head has 56 x 48, 16 x 12, 16 x 6
GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68), "pupils": (68, 70)}


def errors_mm(heads: int = HEADS) -> Tensor:
    """Return how far each derived landmark lies from the true one, [N, 70] mm."""
    open_head = load_head_model()
    tables = dict(open_head.flame.named_buffers())
    before = {name: getattr(linear_model, name) for name in GRIDS}
    try:
        for name, grid in GRIDS.items():
            setattr(linear_model, name, grid)
        parts = linear_model.LinearHead()
    finally:
        for name, grid in before.items():
            setattr(linear_model, name, grid)
    people = sample_identity(heads, stream(SEED, 0))
    rest = parts.place(people, Expression.neutral(heads))
    joints = linear_model._joints(people)
    U, faces, skin = parts.first_landmark, parts.faces[:-70], parts.skin()
    found = []
    for vertices, places in zip(rest, joints, strict=True):
        system = torch.cat([vertices[:U], torch.ones(U, 1)], 1).double()  # weights that put the joints where they are
        regressor = torch.cat([places, torch.ones(len(places), 1)], 1).double() @ torch.linalg.pinv(system)
        bare = {
            "template": vertices[:U], "faces": faces, "skinning_weights": skin[:U], "joint_regressor": regressor.float()
        }  # fmt: skip
        derived = registered_landmarks(bare, tables, open_head.num_shape)
        corners = vertices[faces[derived["landmark70_faces"][0]]]
        marks = (corners * derived["landmark70_barycentrics"][0][..., None]).sum(1)
        found.append((marks - vertices[-70:]).norm(dim=-1) / SCENE_UNITS_PER_METRE * 1000)
    return torch.stack(found)


def main() -> None:
    """Print the table."""
    errors = errors_mm()
    print("| landmarks | mean, mm | 95 of 100 below, mm | largest, mm |\n| --- | ---: | ---: | ---: |")
    for name, (start, stop) in {"all": (0, 70), **GROUPS}.items():
        part = errors[:, start:stop].flatten()
        print(f"| {name} | {part.mean():.1f} | {part.quantile(0.95):.1f} | {part.max():.1f} |")


if __name__ == "__main__":
    main()
