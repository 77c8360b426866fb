"""What a bare FLAME file lacks is taken from asset files, lent by a model of the same topology, or derived by a rule.

Rules: landmarks are those of the open head, whose shape is fitted to the template's surface; pupils are the foremost
points of the eyeballs; the coarse mesh is the mesh clustered (`core.motion.neck.cluster_mesh`). What the rules cost is
measured in docs/tracking/head_models.md.
Letters: U vertices, F faces, P points, K directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import EYELIDS, SCENE_UNITS_PER_METRE, check_landmark_tables, rotation_matrices
from triportrait.core.motion.neck import CLUSTER_SIDE, COARSE, cluster_mesh
from triportrait.core.published.flame_assets import Assets

EYE_JOINTS = (3, 4)  # left, right
LANDMARK_TABLES = ("landmark70", "landmark53", "contour")
ROUNDS = 30  # of the registration
FARTHEST = 0.12  # scene units: what is farther from the template has no counterpart on it
FEWEST = 200  # vertices with a counterpart
SAME_SIDE = 0.3  # cosine between the normals of counterparts
NOISE = 0.006  # scene units: how well the open head's shapes describe a template
SLIDE = 0.2  # how much a distance along the surface counts against one across it
WITNESSES = 400  # so many of the vertices count as independent


@dataclass
class Completed:
    """The tables of a model, scene units, and where those came from that its file lacked.

    Attributes:
        flame: of `Flame`, with 70 landmarks. mesh: with a coarse mesh.
        derived: a sentence by table, which its card repeats.
    """

    flame: dict[str, Tensor]
    mesh: dict[str, Tensor]
    derived: dict[str, str] = field(default_factory=dict)


def completed(
    flame: Mapping[str, Tensor],
    mesh: Mapping[str, Tensor],
    assets: Assets | None,
    lender: tuple[str, Mapping[str, Tensor], Mapping[str, Tensor]] | None,
    open_head: Mapping[str, Tensor],
    num_shape: int,
) -> Completed:
    """Complete the tables of a model.

    Args:
        flame: of `Flame`, scene units. mesh: of its coarse mesh and regions, where there are any.
        assets: what files bring. lender: name, `flame` and `mesh` of a model of the same topology.
        open_head: of the open head; num_shape: how many of its directions are shape.

    Raises:
        InputError: the lender has another topology, or a table does not fit the mesh.
    """
    whole = Completed(dict(flame), dict(mesh))
    if assets is not None:
        _take(whole, assets.flame, assets.mesh, lambda name: f"from {assets.origin.get(name, 'an asset file')}")
        if EYELIDS in assets.flame:
            whole.flame[EYELIDS] = assets.flame[EYELIDS] * SCENE_UNITS_PER_METRE
    _add_pupils(whole)  # before a lender is asked, whose landmarks are others
    if lender is not None:
        name, tables, coarse = lender
        if not torch.equal(tables["faces"], flame["faces"]):
            raise InputError(
                f"{name}: expected a head model of the same topology to lend tables, got one of another; name "
                "another by --tables-from"
            )
        landmarks = {f"{table}_{kind}" for table in LANDMARK_TABLES for kind in ("faces", "barycentrics")}
        lent = {key: table for key, table in tables.items() if key in {*landmarks, EYELIDS}}
        # regions of a coarse mesh are of that mesh alone: its tables are lent together or not at all
        own = "coarse_faces" in whole.mesh
        indices = {
            k: t
            for k, t in coarse.items()
            if (k in COARSE or not t.is_floating_point()) and not (own and k.startswith("coarse_"))
        }
        _take(whole, lent, indices, lambda _: f"lent by {name}")
    if "landmark70_faces" not in whole.flame:
        whole.flame |= registered_landmarks(whole.flame, open_head, num_shape)
        whole.derived["landmark70"] = "derived: the open head's landmarks, its shape fitted to the template's surface"
    if "coarse_faces" not in whole.mesh:
        whole.mesh |= cluster_mesh(whole.flame["template"], whole.flame["faces"], CLUSTER_SIDE)
        whole.derived["coarse mesh"] = f"derived: the mesh clustered in cubes of {CLUSTER_SIDE} scene units"
    check_landmark_tables(whole.flame)
    return whole


def _take(
    whole: Completed, flame: Mapping[str, Tensor], mesh: Mapping[str, Tensor], origin: Callable[[str], str]
) -> None:
    """Add tables that are not there yet, and note where they came from."""
    for mine, new in ((whole.flame, flame), (whole.mesh, mesh)):
        for name, table in new.items():
            if name not in mine:
                mine[name] = table
                whole.derived[name.removesuffix("_faces").removesuffix("_barycentrics")] = origin(name)


def _add_pupils(whole: Completed) -> None:
    """Make tables of 70 and 53 landmarks of those of 68 and 51, which lack the pupils."""
    on_eyes = _on_eyes(whole.flame)
    for bare, full, axis in (("landmark68", "landmark70", 1), ("landmark51", "landmark53", 0)):
        faces, shares = (whole.flame.pop(f"{bare}_{kind}", None) for kind in ("faces", "barycentrics"))
        origin = whole.derived.pop(bare, "from the file")
        if faces is not None and shares is not None and f"{full}_faces" not in whole.flame:
            pupils = _pupils(whole.flame, on_eyes)
            faces = torch.cat([faces.flatten(), pupils[0]])
            whole.flame[f"{full}_faces"] = faces[None] if axis else faces
            shares = torch.cat([shares.flatten(0, -2), pupils[1]])
            whole.flame[f"{full}_barycentrics"] = shares[None] if axis else shares
            whole.derived[full] = f"{origin}; pupils are the foremost points of the eyeballs"


def _on_eyes(flame: Mapping[str, Tensor]) -> Tensor:
    """Tell for each face [F] whether it is of an eyeball."""
    turns = flame["skinning_weights"][:, list(EYE_JOINTS)].sum(1) > 0.5
    return turns[flame["faces"]].all(1)


def _pupils(flame: Mapping[str, Tensor], on_eyes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the faces [2] and barycentrics [2, 3] of the foremost points of the right and the left eyeball."""
    joints = flame["joint_regressor"] @ flame["template"]
    places = [joint + joint.new_tensor([0.0, 0.0, 0.2]) for joint in joints[list(reversed(EYE_JOINTS))]]
    faces = on_eyes if bool(on_eyes.any()) else torch.ones_like(on_eyes)
    return nearest_on_surface(torch.stack(places), flame["template"], flame["faces"], faces)


def registered_landmarks(
    flame: Mapping[str, Tensor], open_head: Mapping[str, Tensor], num_shape: int
) -> dict[str, Tensor]:
    """Derive where the 70 landmarks lie on a mesh that has none.

    The open head is laid over the template by its joints, then its shape is fitted to the surface: each of its vertices
    is drawn to the plane of the nearest vertex of the template. Its landmarks go to the nearest points
    of the skin, the pupils to the front of the eyeballs.

    Args:
        flame: of `Flame`, scene units. open_head: of the open head; num_shape: how many of its directions are shape.

    Returns:
        landmark70_faces [1, 70] and landmark70_barycentrics [1, 70, 3].
    """
    template, on_eyes = flame["template"].double(), _on_eyes(flame)
    mean, shapes = open_head["template"].double(), open_head["shape_directions"].double()[..., :num_shape]
    marks = open_head["faces"][open_head["landmark70_faces"][0], 0]  # each is a vertex of its own
    skin = torch.unique(open_head["faces"][~_on_eyes(open_head)])
    skin = skin[(mean[skin, 1] > 0) & ~torch.isin(skin, marks)]  # not the neck, which ends anywhere
    joints = (open_head["joint_regressor"].double() @ mean)[1:], (flame["joint_regressor"].double() @ template)[1:]
    numbers = torch.unique(flame["faces"][~on_eyes])
    target, normals = template[numbers], vertex_normals(template, flame["faces"][~on_eyes])[numbers]
    betas = mean.new_zeros(num_shape)
    scale, turn, offset = _similarity(*joints)
    for _ in range(ROUNDS):
        head = mean + shapes @ betas
        own = vertex_normals(head, open_head["faces"])[skin] @ turn.T
        placed = scale * head[skin] @ turn.T + offset
        distance, nearest = torch.cdist(placed, target).min(1)
        counts = (distance < FARTHEST) & ((own * normals[nearest]).sum(-1) > SAME_SIDE)
        if int(counts.sum()) < FEWEST or not bool(placed.isfinite().all()):
            raise InputError(
                "landmarks: expected a template over which the open head can be laid, to derive its landmarks, got "
                "none; bring landmark_embedding.npy by --assets, or name by --tables-from a model that has them"
            )
        step = _step(placed[counts], target[nearest[counts]], normals[nearest[counts]],
                     scale * torch.einsum("ac,pck->pak", turn, shapes[skin[counts]]), betas)  # fmt: skip
        middle = placed[counts].mean(0)
        spin, growth = rotation_matrices(step[:3]), step[6].exp()
        turn, scale = spin @ turn, growth * scale
        offset = growth * spin @ (offset - middle) + middle + step[3:6]
        betas = betas + step[7:]
    landmarks = scale * (mean + shapes @ betas)[marks[:68]] @ turn.T + offset
    faces, shares = nearest_on_surface(landmarks.float(), flame["template"], flame["faces"], ~on_eyes)
    pupils = _pupils(flame, on_eyes)
    return {
        "landmark70_faces": torch.cat([faces, pupils[0]])[None],
        "landmark70_barycentrics": torch.cat([shares, pupils[1]])[None],
    }


def _step(placed: Tensor, goal: Tensor, normals: Tensor, directions: Tensor, betas: Tensor) -> Tensor:
    """Return the step that lays points [P, 3] closer to planes through goals [P, 3] with normals [P, 3].

    Along the planes points may slide almost freely.

    Args:
        directions: [P, 3, K], how the points go with the betas [K].

    Returns:
        [7 + K]: rotation vector and translation about the points' middle, log of the scale, betas.
    """
    arm = placed - placed.mean(0)
    zero = torch.zeros_like(arm[:, 0])
    x, y, z = arm.unbind(1)
    spin = torch.stack([torch.stack(row, -1) for row in ((zero, z, -y), (-z, zero, x), (y, -x, zero))], 1)
    shift = torch.eye(3).to(arm).expand(len(arm), 3, 3)
    jacobian = torch.cat([spin, shift, arm[..., None], directions], -1)  # [P, 3, 7 + K]
    off = goal - placed
    across = torch.einsum("pc,pcd->pd", normals, jacobian)
    rows = torch.cat([across, SLIDE * jacobian.flatten(0, 1)]) / NOISE
    values = torch.cat([(normals * off).sum(-1), SLIDE * off.flatten()]) / NOISE
    prior = torch.ones(rows.shape[1]).to(rows)
    prior[:7] = 1e-6
    told = torch.cat([betas.new_zeros(7), betas])
    weight = WITNESSES / len(placed)  # neighbours say the same
    system = weight * rows.T @ rows + torch.diag(prior)
    return torch.linalg.solve(system, weight * rows.T @ values - prior * told)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return unit normals [U, 3] at vertices [U, 3]: means of those of their faces [F, 3], by area; 0 at no face."""
    a, b, c = vertices[faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed.index_add_(0, faces[:, corner], normals)
    return torch.nn.functional.normalize(summed, dim=-1)


def _similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, rotation [3, 3] and offset [3] that lay points [P, 3] over others best (Umeyama 1991)."""
    middle, goal = source.mean(0), target.mean(0)
    covariance = (target - goal).T @ (source - middle)
    u, strength, v = torch.linalg.svd(covariance)
    mirror = torch.ones(3).to(source)
    mirror[2] = torch.linalg.det(u @ v).sign()
    turn = u @ torch.diag(mirror) @ v
    scale = (strength * mirror).sum() / (source - middle).square().sum()
    return scale, turn, goal - scale * turn @ middle


def nearest_on_surface(points: Tensor, vertices: Tensor, faces: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest points of a surface.

    Args:
        points: [P, 3]. vertices: [U, 3]. faces: [F, 3]. allowed: [F], faces that are asked.

    Returns:
        faces [P] and barycentrics [P, 3], each in [0, 1].
    """
    numbers = allowed.nonzero()[:, 0]
    a, b, c = vertices.double()[faces[numbers]].unbind(1)  # [F, 3]
    points = points.double()[:, None]  # [P, 1, 3]
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    area = (uu * vv - uv * uv).clamp(min=1e-15)
    beta, gamma = (vv * uw - uv * vw) / area, (uu * vw - uv * uw) / area
    inside = (beta >= 0) & (gamma >= 0) & (beta + gamma <= 1)
    along_ab, along_ac = (uw / uu.clamp(min=1e-15)).clamp(0, 1), (vw / vv.clamp(min=1e-15)).clamp(0, 1)
    edge = c - b
    along_bc = (((points - b) * edge).sum(-1) / (edge * edge).sum(-1).clamp(min=1e-15)).clamp(0, 1)
    zero = torch.zeros_like(beta)
    candidates = torch.stack(
        [
            torch.stack([1 - beta - gamma, beta, gamma], -1),
            torch.stack([1 - along_ab, along_ab, zero], -1),
            torch.stack([1 - along_ac, zero, along_ac], -1),
            torch.stack([zero, 1 - along_bc, along_bc], -1),
        ],
        2,
    )  # [P, F, 4, 3]
    places = candidates @ torch.stack([a, b, c], 1)  # [P, F, 4, 3]
    distance = (places - points[:, :, None]).square().sum(-1)  # [P, F, 4]
    distance[..., 0] = torch.where(inside, distance[..., 0], torch.inf)
    best = distance.flatten(1).argmin(1)
    rows = torch.arange(len(best))
    return numbers[best // 4], candidates.flatten(1, 2)[rows, best].float()
