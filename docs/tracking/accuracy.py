"""Measure fits against heads whose surface is known: `python -m docs.tracking.accuracy [--stills 60 --films 10]`.

Heads come from a seed that the stand-in never saw; they are no combinations of its directions. Landmarks have one pixel
of noise. Both fits run in turns in one process on the same landmarks, without a start and with one such as a 3DMM
reconstructor would give: the truth on the model's span, and on it the errors of `START`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triportrait.core.motion.flame import rotation_matrices, rotation_vectors
from triportrait.core.tracking.clip_fit import CAMERA
from triportrait.core.tracking.fit import Bends, Fitted, Priors, Start, fit_landmarks
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.core.tracking.published_clip import published_clip
from triportrait.train.data.heads.linear_model import JAW_ANGLE, LinearHead
from triportrait.train.data.heads.population import Expression, sample_expression, sample_identity, stream

SEED, NOISE_PX, MM_PER_UNIT = 7, 1.0, 1000 / 3
SWING = 48  # frames in which a head goes there and back
# standard deviations of what a reconstructor is off: betas of shape (one error for a person) and expression, rotation
# vectors of jaw and head (radians, on each axis)
START = {"shape": 0.5, "expression": 0.5, "jaw": 0.05, "rotation": 0.035}


@dataclass(frozen=True)
class Truth:
    """What is known of N heads in T frames each.

    Attributes:
        vertices: [N, T, U, 3] on the head, scene units. rotation: [N, T, 3, 3]; translation: [N, T, 3].
        pixels: [N, T, 70, 2] without noise. jaw: [N, T], how far it is open, radians.
    """

    vertices: Tensor
    rotation: Tensor
    translation: Tensor
    pixels: Tensor
    jaw: Tensor


def heads(parts: LinearHead, count: int, frames: int, seed: int = SEED, swing: int | None = None) -> Truth:
    """Draw heads: stills with any expression (one frame), or films in which head and face move smoothly.

    Args:
        swing: frames in which they go from one pose to another and back; None is all frames.
    """
    generator = torch.Generator().manual_seed(seed)
    who = sample_identity(count, stream(seed, 0)).take(torch.arange(count).repeat_interleave(frames))
    ends = sample_expression(2 * count, stream(seed, 1)).vector.unflatten(0, (2, count))[:, :, None]
    wave = 0.5 - 0.5 * (torch.arange(frames) * (2 * torch.pi / (swing or frames))).cos()[:, None]  # [T, 1]
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
    jaw = JAW_ANGLE * face.jaw.double().reshape(count, frames)
    return Truth(vertices, rotation, translation, CAMERA.project(placed), jaw)


def _nearest_betas(model: HeadModel, angles: Tensor, vertices: Tensor) -> Tensor:
    """Return the betas [K] whose mesh is nearest to vertices [U, 3] with the jaw and eyes turned by angles [9]."""
    K = model.flame["shape_directions"].shape[-1]
    units = torch.cat([torch.zeros(1, K), torch.eye(K)])
    turns = angles.float().expand(K + 1, -1)
    made, _ = model.flame(units, torch.zeros(K + 1, 3), turns[:, :3], turns[:, 3:])
    made = made.double().flatten(1)
    return torch.linalg.lstsq((made[1:] - made[0]).T, (vertices.flatten() - made[0])[:, None]).solution[:, 0]


def reconstructed(model: HeadModel, parts: LinearHead, truth: Truth) -> Start:
    """Make what a 3DMM reconstructor would give of these heads."""
    N, T = truth.jaw.shape
    angles = torch.zeros(N * T, 9, dtype=torch.float64)
    angles[:, 0] = truth.jaw.flatten()
    betas = torch.stack([_nearest_betas(model, *one) for one in zip(angles, truth.vertices.flatten(0, 1), strict=True)])
    betas = betas.unflatten(0, (N, T))
    noise = torch.Generator().manual_seed(SEED + 1)

    def off(deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(shape, generator=noise, dtype=torch.float64)

    shape, expression = betas[..., : model.num_shape].mean(1), betas[..., model.num_shape :]
    turned = rotation_matrices(off(START["rotation"], N, T, 3)) @ truth.rotation
    return Start(
        shape + off(START["shape"], *shape.shape),
        expression + off(START["expression"], *expression.shape),
        angles[:, :3].unflatten(0, (N, T)) + off(START["jaw"], N, T, 3),
        turned,
        START["shape"],
        START["expression"],
        START["jaw"],
    )


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


def fitted_row(name: str, model: HeadModel, parts: LinearHead, truth: Truth, fitted: Fitted, seconds: float) -> str:
    """Write the line of a fit."""
    N, T = truth.pixels.shape[:2]
    shape = fitted.shape if fitted.shape.ndim == 3 else fitted.shape[:, None].expand(-1, T, -1)
    betas = torch.cat([shape, fitted.expression], -1).flatten(0, 1).float()
    angles = fitted.angles.flatten(0, 1).float()
    vertices, _ = model.flame(betas, torch.zeros_like(angles[:, :3]), angles[:, :3], angles[:, 3:])
    vertices = vertices.double().unflatten(0, (N, T))
    return row(name, parts, truth, vertices, fitted.rotation, fitted.translation, seconds)


def rows(
    model: HeadModel, kind: Literal["stills", "films"], count: int, frames: int, steps: tuple[int, int]
) -> Iterator[str]:
    """Fit `count` stills, or films of so many frames, in all ways, a line for each."""
    parts, points = LinearHead(), model.points()
    truth = heads(parts, count, 1) if kind == "stills" else heads(parts, count, frames, swing=SWING)
    noise = torch.Generator().manual_seed(SEED)
    pixels = truth.pixels + NOISE_PX * torch.randn(truth.pixels.shape, generator=noise, dtype=torch.float64)
    known = torch.ones(pixels.shape[:3], dtype=torch.float64)
    fit_landmarks(points, pixels[:1], known[:1], CAMERA)  # what is made once is not timed
    for words, start in (("", None), (", with a start", reconstructed(model, parts, truth))):
        choices = {"one shape, smooth": Priors(bends=Bends())} if kind == "films" else {"joint solve": Priors()}
        if kind == "films":
            choices = {"one shape": Priors()} | choices
        for name, priors in choices.items():
            began = time.perf_counter()
            fitted = fit_landmarks(points, pixels, known, CAMERA, priors, start=start)
            yield fitted_row(f"{kind}{words}: {name}", model, parts, truth, fitted, time.perf_counter() - began)
        began = time.perf_counter()
        # each picture by itself, as published: its own shape, and not the mean of its film's
        alone = None if start is None else _pictures(start)
        fitted = published_clip(
            model, pixels.flatten(0, 1)[:, None], known.flatten(0, 1)[:, None], CAMERA, alone, steps=steps
        )
        seconds = time.perf_counter() - began
        whole = {name: part.unflatten(0, pixels.shape[:2]) for name, part in vars(fitted).items()}
        whole = {name: part if name == "shape" else part[:, :, 0] for name, part in whole.items()}
        yield fitted_row(f"{kind}{words}: published schedule", model, parts, truth, Fitted(**whole), seconds)


def _pictures(start: Start) -> Start:
    """Take each frame of a start [N, T] as a picture of its own, [N * T, 1]."""
    T = start.jaw.shape[1]
    assert start.rotation is not None
    return Start(
        start.shape.repeat_interleave(T, 0),
        start.expression.flatten(0, 1)[:, None],
        start.jaw.flatten(0, 1)[:, None],
        start.rotation.flatten(0, 1)[:, None],
    )


def main() -> None:
    """Print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--stills", type=int, default=60)
    given.add_argument("--films", type=int, default=10)
    given.add_argument("--frames", type=int, default=12, help="of a film")
    given.add_argument("--steps", type=int, nargs=2, default=(1500, 3000), help="of the published schedule")
    options = given.parse_args()
    model = load_head_model()
    print("| fit | landmarks px | pose ° | distance mm | mesh mm | mesh mm, scaled | landmarks mm | jitter mm | a s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    counts: tuple[tuple[Literal["stills", "films"], int], ...] = (("stills", options.stills), ("films", options.films))
    for kind, count in counts:
        for line in rows(model, kind, count, options.frames, tuple(options.steps)) if count else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
