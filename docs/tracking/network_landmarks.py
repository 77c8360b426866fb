"""Measure where face networks put landmarks on procedural heads: `python -m docs.tracking.network_landmarks`.

Each head is fitted by its true landmarks first; what the networks find of it then tells, landmark by landmark, an
offset on the head and how it changes with its shape and expression. Heads of another seed judge the result. With
`--write` the tables are written beside the open head's.
Letters: B heads, K directions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checkpoint import save_weights
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.tracking.clip_fit import CAMERA
from triportrait.core.tracking.fit import Priors, fit_landmarks
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.network_landmarks import TABLES, for_networks
from triportrait.core.types import Camera
from triportrait.core.weights import OPEN_HEAD_FOLDER
from triportrait.serve.faces.alignment import align
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import expressions, population, take_pictures, to_uint8

LEARNED, JUDGED = (90_001, 120), (90_002, 40)  # seed and heads
SIZE = 320  # pixels of the pictures
FAR_PX = 12.0  # a landmark that is farther off counts a quarter
OFFSET_RIDGE, DIRECTION_RIDGE = 100.0, 1e6
# The landmark that stands on the other side of the face, for each.
TWIN = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
TWIN += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
TWIN += [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1), 69, 68]


@dataclass(frozen=True)
class Observed:
    """Heads as they are and as networks see them.

    Attributes:
        network: [B, 70, 2] and weights [B, 70], as of `fit_points`; true: [B, 68, 2], pixels of the aligned pictures.
        betas: [B, K], angles: [B, 9], rotation: [B, 3, 3], translation: [B, 3]: fitted to the true landmarks.
    """

    network: Tensor
    weights: Tensor
    true: Tensor
    betas: Tensor
    angles: Tensor
    rotation: Tensor
    translation: Tensor


def observe(seed: int, count: int) -> Observed:
    """Draw heads, and let the networks look at them."""
    who, light = population(seed, count)
    fixed = fixed_camera()
    cameras = Camera(fixed.world_from_camera.expand(count, 4, 4), fixed.intrinsics.expand(count, 3, 3))
    view = take_pictures(HeadRenderer(), who, expressions(seed, count, 1), light, cameras, SIZE, 1)
    pictures, landmarks = to_uint8(view.image).numpy(), view.landmarks.numpy() - 0.5
    finder, seen = NetworkFaces(), []
    for picture, points in zip(pictures, landmarks, strict=True):
        for face in finder.find(picture)[:1]:
            placed = align(face.alignment)
            assert placed is not None
            seen.append((*fit_points(face, placed), placed.to_aligned(points)[:68]))
    print(f"seed {seed}: a face in {len(seen)} of {count} pictures")
    network, weights, true = (torch.from_numpy(np.stack(each)).double() for each in zip(*seen, strict=True))
    points = torch.cat([true, torch.zeros_like(true[:, :2])], 1)
    given = torch.cat([torch.ones_like(weights[:, :68]), torch.zeros_like(weights[:, :2])], 1)
    fit = fit_landmarks(load_head_model().points(), points[:, None], given[:, None], CAMERA, Priors())
    betas = torch.cat([fit.shape, fit.expression[:, 0]], -1)
    return Observed(network, weights, true, betas, fit.angles[:, 0], fit.rotation[:, 0], fit.translation[:, 0])


def learn(seen: Observed) -> tuple[Tensor, Tensor]:
    """Return offsets [70, 3] and how they change [70, 3, K], scene units, by least squares in the pictures."""
    model = load_head_model().points()
    points = model.points(seen.betas, seen.angles)
    shown = torch.cat([torch.ones_like(seen.betas[:, :1]), seen.betas], 1)  # [B, 1 + K]
    found = torch.zeros(70, 3, shown.shape[1], dtype=torch.float64)
    ridge = torch.full_like(found[0], DIRECTION_RIDGE)
    ridge[:, 0] = OFFSET_RIDGE
    slope = torch.func.vmap(torch.func.vmap(torch.func.jacrev(CAMERA.project)))
    for _ in range(3):
        moved = points + torch.einsum("pck,bk->bpc", found, shown)
        placed = moved @ seen.rotation.mT + seen.translation[:, None]
        by_point = slope(placed) @ seen.rotation[:, None]  # [B, 70, 2, 3]
        off = seen.network - CAMERA.project(placed)
        weight = seen.weights / (1 + (off.norm(dim=-1) / FAR_PX) ** 2)  # [B, 70]
        for p in range(70):
            rows = torch.einsum("buc,bk->buck", by_point[:, p], shown).flatten(2).flatten(0, 1)  # [2 B, 3 (1 + K)]
            each = weight[:, p].repeat_interleave(2)
            normal = rows.mT @ (each[:, None] * rows) + torch.diag(ridge.flatten())
            right = rows.mT @ (each * off[:, p].flatten()) - ridge.flatten() * found[p].flatten()
            found[p] += torch.linalg.solve(normal, right).view(3, -1)
    offsets = (found[..., 0] + found[TWIN, :, 0] * found.new_tensor([-1.0, 1.0, 1.0])) / 2  # no face leans
    return offsets, found[..., 1:]


def judge(seen: Observed, networks: bool) -> str:
    """Word how well the open head fits what the networks found: landmarks, pose, and where the true landmarks are."""
    plain = load_head_model()
    model = (for_networks(plain) if networks else plain).points()
    fit = fit_landmarks(model, seen.network[:, None], seen.weights[:, None], CAMERA, Priors(noise_px=3.0))
    betas = torch.cat([fit.shape, fit.expression[:, 0]], -1)
    turn, place = fit.rotation[:, 0], fit.translation[:, 0, None]

    def off(points: Tensor, wanted: Tensor) -> float:
        pixels = CAMERA.project(points @ turn.mT + place)[:, : wanted.shape[1]]
        return float((pixels - wanted).square().sum(-1).mean().sqrt())

    cosine = ((turn @ seen.rotation.mT).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    pose = float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean())
    own = off(model.points(betas, fit.angles[:, 0])[:, :68], seen.network[:, :68])
    true = off(plain.points().points(betas, fit.angles[:, 0]), seen.true)
    return f"landmarks of the networks {own:.1f} px off, pose {pose:.1f} degrees, true landmarks {true:.1f} px off"


def main() -> None:
    """Learn on the heads of one seed, judge on those of another."""
    if "--write" in sys.argv[1:]:
        offsets, directions = learn(observe(*LEARNED))
        provenance = {"made_from": "what the networks of mediapipe 0.10.21 (Apache-2.0) see of procedural heads"}
        tables = {"offsets": offsets.float(), "directions": directions.float()}
        print(save_weights(OPEN_HEAD_FOLDER, TABLES, tables, None, {**provenance, "licence": "Apache-2.0"}))
    judged = observe(*JUDGED)
    print("open head as it is:", judge(judged, False))
    print("open head for networks:", judge(judged, True))


if __name__ == "__main__":
    main()
