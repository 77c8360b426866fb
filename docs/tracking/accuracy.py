"""Measure fits against heads whose surface is known: `python -m docs.tracking.accuracy [--count 100]`.

Heads come from a seed that the stand-in never saw; they are no combinations of its directions. Landmarks have one pixel
of noise. Both fits run in turns in one process on the same landmarks.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.motion.flame import Flame, rotation_matrices, rotation_vectors
from triportrait.core.tracking.fit import Bends, Fitted, Priors, fit_landmarks
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.point_model import PointModel
from triportrait.core.tracking.published_fit import published_fit
from triportrait.core.types import PUBLISHED_FOCAL
from triportrait.train.data.heads.linear_model import NUM_SHAPE, LinearHead, linear_head_model
from triportrait.train.data.heads.population import Expression, sample_expression, sample_identity, stream

SEED, SIZE_PX, NOISE_PX, MM_PER_UNIT = 7, 512, 1.0, 1000 / 3
CAMERA = Pinhole.square(PUBLISHED_FOCAL, SIZE_PX)


@dataclass(frozen=True)
class Truth:
    """What is known of N heads in T frames each.

    Attributes:
        vertices: [N, T, U, 3] on the head, scene units. rotation: [N, T, 3, 3]; translation: [N, T, 3].
        pixels: [N, T, 70, 2] without noise.
    """

    vertices: Tensor
    rotation: Tensor
    translation: Tensor
    pixels: Tensor


def heads(parts: LinearHead, count: int, frames: int, seed: int = SEED) -> Truth:
    """Draw heads: stills with any expression (one frame), or films in which head and face move smoothly."""
    generator = torch.Generator().manual_seed(seed)
    who = sample_identity(count, stream(seed, 0)).take(torch.arange(count).repeat_interleave(frames))
    ends = sample_expression(2 * count, stream(seed, 1)).vector.unflatten(0, (2, count))[:, :, None]
    wave = 0.5 - 0.5 * torch.linspace(0, 2 * torch.pi, frames + 1)[:-1].cos()[:, None]  # [T, 1]
    vector = (ends[0] + wave * (ends[1] - ends[0])).flatten(0, 1)
    face = Expression.from_vector(vector, torch.zeros(len(vector), 3))
    vertices = parts.place(who, face).double().unflatten(0, (count, frames))

    def moving(low: list[float], high: list[float]) -> Tensor:
        first, last = (torch.rand(2, count, 1, 3, generator=generator) * (torch.tensor(high) - torch.tensor(low))
                       + torch.tensor(low)).double()  # fmt: skip
        return first + wave.double() * (last - first)

    turns = moving([-0.3, -0.6, -0.15], [0.3, 0.6, 0.15])  # pitch, yaw, roll
    axes = torch.eye(3, dtype=torch.float64)
    pitch, yaw, roll = (rotation_matrices(turns[..., k : k + 1] * axes[k]) for k in range(3))
    rotation, translation = roll @ pitch @ yaw, moving([-0.05, -0.05, -4.8], [0.05, 0.05, -4.2])
    placed = vertices[:, :, parts.first_landmark :] @ rotation.transpose(-1, -2) + translation[:, :, None]
    return Truth(vertices, rotation, translation, CAMERA.project(placed))


def after_alignment(found: Tensor, true: Tensor, scaled: bool) -> Tensor:
    """Return the mean distance of corresponding points [B, U, 3] in mm after a rigid (or similar) alignment, [B]."""
    a, b = found - found.mean(1, keepdim=True), true - true.mean(1, keepdim=True)
    left, scales, right = torch.linalg.svd(a.transpose(1, 2) @ b)
    proper = torch.ones_like(scales)
    proper[:, 2] = torch.linalg.det(left @ right)
    turn = left @ torch.diag_embed(proper) @ right
    scale = (scales * proper).sum(1) / a.square().sum((1, 2)) if scaled else torch.ones_like(scales[:, 0])
    return (scale[:, None, None] * a @ turn - b).norm(dim=-1).mean(1) * MM_PER_UNIT


def row(name: str, parts: LinearHead, truth: Truth, found: Tensor, rotation: Tensor, at: Tensor, seconds: float) -> str:
    """Compare a fit with the truth in one line of the table."""
    N, T = truth.pixels.shape[:2]
    marks = slice(parts.first_landmark, None)
    placed = found[:, :, marks] @ rotation.transpose(-1, -2) + at[:, :, None]
    off = (CAMERA.project(placed) - truth.pixels).norm(dim=-1)
    turn = rotation_vectors(rotation @ truth.rotation.transpose(-1, -2)).norm(dim=-1).rad2deg()
    apart = (at[..., 2] - truth.translation[..., 2]).abs() * MM_PER_UNIT
    solid, points = found[:, :, : parts.first_landmark].flatten(0, 1), found[:, :, marks].flatten(0, 1)
    true_solid, true_points = truth.vertices[:, :, : parts.first_landmark], truth.vertices[:, :, marks]
    mesh = after_alignment(solid, true_solid.flatten(0, 1), False).mean()
    similar = after_alignment(solid, true_solid.flatten(0, 1), True).mean()
    landmarks = after_alignment(points, true_points.flatten(0, 1), False).mean()
    shaking = placed - (truth.vertices[:, :, marks] @ truth.rotation.transpose(-1, -2) + truth.translation[:, :, None])
    jitter = (
        f"{(shaking[:, 2:] - 2 * shaking[:, 1:-1] + shaking[:, :-2])[..., :2].norm(dim=-1).mean() * MM_PER_UNIT:.2f}"
        if T > 2
        else ""
    )
    return (
        f"| {name} | {off.mean():.2f} | {turn.mean():.2f} | {apart.mean():.1f} | {mesh:.2f} | {similar:.2f} |"
        f" {landmarks:.2f} | {jitter} | {N * T / seconds:.3g} |"
    )


def fitted_row(name: str, model: Flame, parts: LinearHead, truth: Truth, fitted: Fitted, seconds: float) -> str:
    """Write the line of our own fit."""
    N, T = truth.pixels.shape[:2]
    betas = torch.cat([fitted.shape[:, None].expand(-1, T, -1), fitted.expression], -1).flatten(0, 1)
    angles = fitted.angles.flatten(0, 1)
    vertices, _ = model(betas, torch.zeros_like(angles[:, :3]), angles[:, :3], angles[:, 3:])
    return row(name, parts, truth, vertices.unflatten(0, (N, T)), fitted.rotation, fitted.translation, seconds)


def main() -> None:
    """Print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--count", type=int, default=100, help="stills, and frames of films")
    given.add_argument("--steps", type=int, nargs=2, default=(1500, 3000), help="of the published schedule")
    options = given.parse_args()
    parts, tables = LinearHead(), linear_head_model()
    model = Flame(tables).double()
    points = PointModel(model, NUM_SHAPE)
    print("| fit | landmarks px | pose ° | distance mm | mesh mm | mesh mm, scaled | landmarks mm | jitter mm | a s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    frames = min(50, options.count)
    for kind, count, each in (("stills", options.count, 1), ("films", max(1, options.count // frames), frames)):
        truth = heads(parts, count, each)
        noise = torch.Generator().manual_seed(SEED)
        pixels = truth.pixels + NOISE_PX * torch.randn(truth.pixels.shape, generator=noise, dtype=torch.float64)
        known = torch.ones(pixels.shape[:3], dtype=torch.float64)
        choices = {"one shape": Priors()} if each > 1 else {"joint solve": Priors()}
        if each > 1:
            choices["one shape, smooth in time"] = Priors(bends=Bends())
        for name, priors in choices.items():
            began = time.perf_counter()
            fitted = fit_landmarks(points, pixels, known, CAMERA, priors)
            line = fitted_row(f"{kind}: {name}", model, parts, truth, fitted, time.perf_counter() - began)
            print(line, flush=True)
        flat, flame = pixels.flatten(0, 1).float(), Flame(tables)
        mean = points.points(torch.zeros(len(flat), 22).double(), torch.zeros(len(flat), 9).double())
        began = time.perf_counter()
        rotation, at = CAMERA.first_pose(mean, flat.double(), known.flatten(0, 1))
        found = published_fit(flame, NUM_SHAPE, flat, CAMERA, rotation.float(), at.float(), steps=tuple(options.steps))
        seconds = time.perf_counter() - began
        straight = torch.zeros(len(flat), 3)
        betas = torch.cat([found.shape, found.expression], 1)
        vertices, _ = flame(betas, straight, straight, torch.cat([found.eyes] * 2, 1))
        shape = (len(truth.pixels), each)
        both = (part.double().unflatten(0, shape) for part in (vertices, rotation, found.translation))
        print(row(f"{kind}: published schedule", parts, truth, *both, seconds), flush=True)


if __name__ == "__main__":
    main()
