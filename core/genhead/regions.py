"""The vertices that the parts of the head hang on: eyeballs, the rest of the face, lips, and each vertex's neighbours.

A published checkpoint carries the lists. For a head model without them (FLAME's own file, the open head) `part_tables`
makes them by this rule, from the mesh, its joints and its 70 landmarks:

    eyeballs        the vertices that turn with an eye's joint by more than half, left then right
    face            the other vertices of the mesh
    lips            the corners of the triangles on which the landmarks 48-67 lie
    neighbours      a vertex, then those it shares an edge with, the nearest in the template first, 10 in all at most; a
                    landmark that is a vertex of its own: itself and the three nearest such vertices
    canonical face  no shape, no expression, the jaw open by 0.3

Letters: U vertices, F faces, L vertices of a list, N = 10 places of a list of neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import CANONICAL_JAW, NUM_JOINTS, Flame, check_indices
from triportrait.core.motion.neck import NeckField

NUM_NEIGHBOURS = 10
NUM_LONE_NEIGHBOURS = 4  # of a landmark that has no triangles, itself included
LIPS = slice(48, 68)  # landmarks
FAR = 1e3  # where the vertex stands that fills lists of neighbours, scene units
EYE_JOINTS = (NUM_JOINTS - 2, NUM_JOINTS - 1)


class PartRegions(nn.Module):
    """The lists, checked; they move with the module that holds them and are not saved again.

    Args:
        field: FLAME and the tables of `part_tables`.

    Attributes:
        eyes: [2, L] int64, the vertices of the left and of the right eyeball.
        face, lips: [L] int64.
        neighbours: [U, 10] int64; U stands for no vertex.
        canonical: [U, 3], the face at rest, scene units.
        eyelids: [L] int64, which take an expression of their own where one is given; None where no list tells them.

    Raises:
        InputError: a list is missing, or names a vertex that is not there.
    """

    eyes: Tensor
    face: Tensor
    lips: Tensor
    neighbours: Tensor
    canonical: Tensor
    eyelids: Tensor | None

    def __init__(self, field: NeckField) -> None:
        super().__init__()
        mesh, count = field.mesh, len(field.flame["template"])
        names = ("eye_idxs", "face_idxs", "lips_idxs", "vertices_region_idxs", "canonical_shape")
        if missing := [name for name in names if name not in mesh]:
            raise InputError(
                f"{missing[0]}: expected this table of a published GenHead, got none; make it with `part_tables`"
            )
        for name in names[:3]:
            check_indices(name, mesh[name], count)
        check_indices("vertices_region_idxs", mesh["vertices_region_idxs"], count + 1, NUM_NEIGHBOURS)
        if len(mesh["vertices_region_idxs"]) != count:
            raise InputError(
                f"vertices_region_idxs: expected {count} lists of neighbours, got {len(mesh['vertices_region_idxs'])}; "
                "convert the weights again"
            )
        if len(mesh["eye_idxs"]) % 2:
            raise InputError(
                f"eye_idxs: expected as many vertices of the left eyeball as of the right one, got "
                f"{len(mesh['eye_idxs'])} in all; convert the weights again"
            )
        if tuple(mesh["canonical_shape"].shape) != (1, count, 3):
            raise InputError(
                f"canonical_shape: expected [1, {count}, 3], got {list(mesh['canonical_shape'].shape)}; convert again"
            )
        eyelids = None
        if "eyelids_idxs" in mesh:
            check_indices("eyelids_idxs", mesh["eyelids_idxs"], count)
            eyelids = mesh["eyelids_idxs"]
        for name, table in {
            "eyes": mesh["eye_idxs"].view(2, -1), "face": mesh["face_idxs"], "lips": mesh["lips_idxs"],
            "neighbours": mesh["vertices_region_idxs"], "canonical": mesh["canonical_shape"][0], "eyelids": eyelids,
        }.items():  # fmt: skip
            self.register_buffer(name, None if table is None else table.clone(), persistent=False)


@torch.no_grad()
def part_tables(flame: Flame, mesh: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Add the lists that are missing, under their published names, made by the rule above.

    Args:
        flame: a head model with the tables of 70 landmarks.
        mesh: the tables that came with it; they stay as they are.

    Returns:
        all of them: eye_idxs, face_idxs, lips_idxs [L], vertices_region_idxs [U, 10], canonical_shape [1, U, 3], and
        what else was there.

    Raises:
        InputError: the model has no landmarks, no joints of eyes, or eyeballs of different meshes.
    """
    tables = dict(mesh or {})
    faces = flame["faces"]
    faces = faces[(faces != faces.roll(1, 1)).all(1)]  # a landmark of its own has a triangle of one point
    in_mesh = torch.zeros(len(flame["template"]), dtype=torch.bool, device=faces.device)
    in_mesh[faces] = True
    if "eye_idxs" not in tables or "face_idxs" not in tables:
        left, right = (in_mesh & (flame["skinning_weights"][:, joint] > 0.5) for joint in EYE_JOINTS)
        if not left.any() or left.sum() != right.sum():
            raise InputError(
                f"head model: expected two eyeballs of as many vertices each, got {int(left.sum())} and "
                f"{int(right.sum())}; choose another"
            )
        tables.setdefault("eye_idxs", torch.cat([left.nonzero()[:, 0], right.nonzero()[:, 0]]))
        tables.setdefault("face_idxs", (in_mesh & ~left & ~right).nonzero()[:, 0])
    if "lips_idxs" not in tables:
        if "landmark70_faces" not in flame:
            raise InputError(
                "head model: expected landmarks, which tell where the lips are, got a mesh alone; choose a model with "
                "them"
            )
        tables["lips_idxs"] = flame["faces"][flame["landmark70_faces"][0, LIPS]].unique()
    if "canonical_shape" not in tables:
        zeros = flame["template"].new_zeros(1, 6)
        betas = zeros.new_zeros(1, flame["shape_directions"].shape[-1])
        tables["canonical_shape"], _ = flame(betas, zeros[:, :3], zeros.new_tensor([CANONICAL_JAW]), zeros)
    if "vertices_region_idxs" not in tables:
        lone = (~in_mesh).nonzero()[:, 0]
        tables["vertices_region_idxs"] = _neighbours(flame["template"], faces, lone)
    return tables


def _neighbours(template: Tensor, faces: Tensor, lone: Tensor) -> Tensor:
    """List each vertex and its neighbours [U, 10], filled with U; `lone` are vertices without triangles."""
    U = len(template)
    places = template.double()
    lists: list[set[int]] = [{u} for u in range(U)]
    for a, b, c in faces.tolist():
        lists[a].update((b, c))
        lists[b].update((a, c))
        lists[c].update((a, b))
    if len(lone):
        distances = torch.cdist(places[lone], places[lone])
        nearest = lone[distances.topk(min(NUM_LONE_NEIGHBOURS, len(lone)), largest=False).indices]
        for u, row in zip(lone.tolist(), nearest.tolist(), strict=True):
            lists[u].update(row)
    table = torch.full((U, NUM_NEIGHBOURS), U, device=template.device)
    for u, members in enumerate(lists):
        ring = torch.tensor(
            [u, *sorted(members - {u})], device=places.device
        )  # itself first, whatever stands where it stands
        order = (places[ring] - places[u]).square().sum(1).argsort(stable=True)[:NUM_NEIGHBOURS]
        table[u, : len(order)] = ring[order]
    return table
