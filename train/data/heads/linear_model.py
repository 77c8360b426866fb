"""An open stand-in for FLAME: a linear model of procedural heads, with the same joints, tables and landmarks.

Skull, eyeballs and neck of many heads at rest give the directions of shape by a principal component analysis, faces
whose jaw was turned back those of expression. Landmarks are vertices of their own, as lids and lips slide over the
procedural skin. FLAME's data have no part in it.
Letters: B heads, U vertices, J joints (root, neck, jaw, left eye, right eye), K directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.motion.flame import rotation_matrices
from triportrait.train.data.heads import organs
from triportrait.train.data.heads.anatomy import mean_identity, neck_share, skull_template
from triportrait.train.data.heads.landmarks import landmark_template, landmarks
from triportrait.train.data.heads.population import Expression, Identity, sample_expression, sample_identity, stream
from triportrait.train.data.heads.skull import EYEBALL_RADIUS, anchors, face_points, jaw_share, to_world

SEED = 1 << 20  # heads of this seed alone make the model: whoever measures a fit takes heads of others
SAMPLES = 3000
NUM_SHAPE, NUM_EXPRESSION = 12, 10
JAW_ANGLE = 0.222  # radians of a jaw that is wide open: the rotation nearest to the way that the chin goes
LANDMARK_WEIGHT = 6.0  # in the analysis; lids and lips are few among the vertices
SKULL, BALL, NECK = (56, 48), (16, 12), (16, 6)  # columns, rows
_IDENTITY, _EXPRESSION = 0, 1


class LinearHead:
    """The vertices of the model in their order: skull, two eyeballs, neck, landmarks, pupils."""

    def __init__(self) -> None:
        (self.skull, skull), (self.ball, ball), (self.neck, neck) = (
            skull_template(*SKULL), organs.sphere(*BALL), organs.neck_paint(*NECK)
        )  # fmt: skip
        starts = [0, len(self.skull), len(self.skull) + len(self.ball), len(self.skull) + 2 * len(self.ball)]
        self.first_landmark = starts[-1] + len(self.neck)
        marks = torch.arange(self.first_landmark, self.first_landmark + 70)
        self.marks = torch.stack([marks] * 3, 1)  # faces without an area: nothing draws them
        solid = [part + start for part, start in zip((skull, ball, ball, neck), starts, strict=True)]
        self.faces = torch.cat([*solid, self.marks])
        self.eyes = [slice(starts[1], starts[2]), slice(starts[2], starts[3])]
        self.below = slice(starts[3], self.first_landmark)

    def place(self, identity: Identity, expression: Expression) -> Tensor:
        """Place the vertices of B heads, [B, U, 3] scene units, necks straight."""
        who, face = identity.columns(), expression.columns()
        anchor = anchors(who)
        eyes = [anchor["eye_left"], anchor["eye_right"]]
        radius = EYEBALL_RADIUS * identity.eye_size[:, None, None]
        forward = self.skull.new_tensor([0.0, 0.0, 1.0])
        return torch.cat(
            [
                face_points(self.skull, who, face),
                *(to_world(organs.eyeball(eye, self.ball, who)) for eye in eyes),
                organs.neck(self.neck, who),
                landmarks(identity, expression),
                *(to_world(eye[:, None] + radius * forward) for eye in reversed(eyes)),  # 68 is the right eye's
            ],
            1,
        )

    def skin(self) -> Tensor:
        """Return the skinning weights [U, J]."""
        at_rest, mean = Expression.neutral(1), mean_identity()
        marks = landmark_template(mean, at_rest)[0]
        jaws = [jaw_share(part[:, 1], part[:, 2]) for part in (self.skull, marks)]
        weights = torch.zeros(len(self.place(mean, at_rest)[0]), 5)
        weights[: len(self.skull), 2] = jaws[0]
        weights[self.first_landmark : self.first_landmark + 68, 2] = jaws[1]
        for joint, rows in zip((3, 4), self.eyes, strict=True):
            weights[rows, joint] = 1
        weights[-2, 4] = weights[-1, 3] = 1
        share = neck_share(organs.neck(self.neck, mean.columns())[0, :, 1])
        weights[self.below, 0] = 1 - share
        weights[:, 1] = 1 - weights.sum(1)
        return weights


def linear_head_model(samples: int = SAMPLES) -> dict[str, Tensor]:
    """Make the tables of the stand-in.

    Args:
        samples: heads, and as many faces, that are analysed.

    Returns:
        the tables that `core.motion.flame.Flame` takes, float32: template [U, 3] and directions [U, 3, 22] in scene
        units (12 of shape, 10 of expression, each times its standard deviation), landmark70_faces [1, 70] and
        landmark70_barycentrics [1, 70, 3] among them.
    """
    parts = LinearHead()
    people = sample_identity(samples, stream(SEED, _IDENTITY))
    faces = sample_expression(samples, stream(SEED, _EXPRESSION), neutral_share=0)
    rest = parts.place(people, Expression.neutral(samples)).double()
    posed = parts.place(people, faces).double()
    skin, joints = parts.skin().double(), _joints(people).double()
    moved = _jaw_shut(posed, faces.jaw.double(), skin[:, 2], joints[:, 2]) - rest
    mean = rest.mean(0)
    weight = torch.ones(len(mean), 1, dtype=torch.float64)
    weight[parts.first_landmark :] = LANDMARK_WEIGHT
    shape = _components(rest - mean, weight, NUM_SHAPE)
    expression = _components(moved, weight, NUM_EXPRESSION)
    tables = {
        "template": mean,
        "shape_directions": torch.cat([shape, expression]).permute(1, 2, 0),
        "pose_directions": torch.zeros(36, mean.numel()),
        "joint_regressor": _regressor(rest, joints),
        "skinning_weights": skin,
        "landmark70_barycentrics": torch.tensor([1.0, 0, 0]).expand(1, 70, 3),
    }
    whole = {
        "parents": torch.tensor([-1, 0, 1, 1, 1]),
        "faces": parts.faces,
        "landmark70_faces": torch.arange(len(parts.faces) - 70, len(parts.faces))[None],
    }
    return {name: table.float().contiguous() for name, table in tables.items()} | whole


def _joints(people: Identity) -> Tensor:
    """Return the joints of heads at rest, [B, J, 3] scene units."""
    anchor = {name: to_world(point) for name, point in anchors(people.columns()).items()}
    neck = torch.zeros(len(people), 3)
    root = neck + neck.new_tensor([0.0, -0.4, 0.0])
    jaw = (anchor["ear_left"] + anchor["ear_right"]) / 2
    return torch.stack([root, neck, jaw, anchor["eye_left"], anchor["eye_right"]], 1)


def _jaw_shut(posed: Tensor, jaw: Tensor, share: Tensor, joint: Tensor) -> Tensor:
    """Turn the jaws of posed heads [B, U, 3] back: what skinning will turn open again."""
    vectors = torch.zeros(len(jaw), 3, dtype=jaw.dtype)
    vectors[:, 0] = JAW_ANGLE * jaw
    identity = torch.eye(3, dtype=jaw.dtype)
    turn = rotation_matrices(vectors)[:, None]  # [B, 1, 3, 3]
    blend = share[:, None, None] * turn + (1 - share)[:, None, None] * identity  # [B, U, 3, 3]
    offset = share[:, None] * (joint[:, None] - (turn @ joint[:, None, :, None])[..., 0])
    return torch.linalg.solve(blend, (posed - offset)[..., None])[..., 0]


def _components(offsets: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the principal components of offsets [N, U, 3], each times its standard deviation: [count, U, 3]."""
    flat = (offsets * weight).flatten(1)
    _, deviations, components = torch.svd_lowrank(flat, q=count + 10, niter=6)
    scaled = (components * deviations / len(flat) ** 0.5).T[:count].unflatten(1, (-1, 3)) / weight
    return scaled * scaled.flatten(1).sum(1).sign()[:, None, None]  # a sign that does not depend on the library


def _regressor(rest: Tensor, joints: Tensor) -> Tensor:
    """Fit the joints [N, J, 3] as weighted sums of vertices [N, U, 3]: [J, U], whose rows add up to 1."""
    axes = rest.transpose(1, 2).flatten(0, 1)  # [3N, U]
    targets = joints.transpose(1, 2).flatten(0, 1)  # [3N, J]
    ones, unit = axes.new_ones(1, axes.shape[1]) * len(axes) ** 0.5, axes.new_ones(1, 5) * len(axes) ** 0.5
    axes, targets = torch.cat([axes, ones]), torch.cat([targets, unit])
    kernel = axes @ axes.T if len(axes) < axes.shape[1] else None
    if kernel is not None:
        return (axes.T @ torch.linalg.solve(kernel + 1e-6 * torch.eye(len(axes)).to(axes), targets)).T
    gram = axes.T @ axes + 1e-4 * torch.eye(axes.shape[1]).to(axes)
    return torch.linalg.solve(gram, axes.T @ targets).T
