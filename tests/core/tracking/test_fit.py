"""Fits of heads whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import triportrait.core.tracking.fit as fit
import triportrait.core.tracking.published_fit as published
from docs.tracking.accuracy import CAMERA, after_alignment, heads
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame, rotation_matrices, rotation_vectors
from triportrait.core.tracking.fit import Bends, Priors, fit_landmarks
from triportrait.core.tracking.point_model import PointModel
from triportrait.core.tracking.published_fit import published_fit
from triportrait.core.tracking.tridiagonal import solve_clip
from triportrait.train.data.heads.linear_model import NUM_SHAPE, LinearHead, linear_head_model


@pytest.fixture(scope="module")
def parts():
    return LinearHead()


@pytest.fixture(scope="module")
def flame():
    return Flame(linear_head_model(300)).double()


@pytest.fixture(scope="module")
def model(flame):
    return PointModel(flame, NUM_SHAPE)


def drawn(flame, count, seed=0):
    random = torch.Generator().manual_seed(seed)
    betas = 0.7 * torch.randn(count, flame["shape_directions"].shape[-1], generator=random, dtype=torch.float64)
    angles = 0.15 * torch.randn(count, 9, generator=random, dtype=torch.float64)
    return betas, angles


def known(pixels):
    return torch.ones(pixels.shape[:3], dtype=torch.float64)


def test_points_are_the_landmarks_of_the_posed_mesh(flame, model):
    betas, angles = drawn(flame, 4)
    vertices, _ = flame(betas, torch.zeros(4, 3).double(), angles[:, :3], angles[:, 3:])
    torch.testing.assert_close(model.points(betas, angles), flame.landmarks(vertices), atol=1e-12, rtol=0)


def test_derivatives_are_those_of_finite_differences(flame, model):
    betas, angles = drawn(flame, 2)
    by_beta, by_angle, step = model.beta_part(angles), model.angle_part(betas, angles), 1e-6
    for k in range(betas.shape[1]):
        move = step * torch.eye(betas.shape[1]).double()[k]
        slope = (model.points(betas + move, angles) - model.points(betas - move, angles)) / (2 * step)
        torch.testing.assert_close(by_beta[..., k], slope, atol=1e-8, rtol=0)
    for k in range(9):
        move = step * torch.eye(9).double()[k]
        slope = (model.points(betas, angles + move) - model.points(betas, angles - move)) / (2 * step)
        torch.testing.assert_close(by_angle[..., k], slope, atol=1e-8, rtol=0)


def test_the_seen_pixel_moves_as_its_derivative_says():
    points, step = torch.tensor([[0.2, -0.1, -4.3]]).double(), 1e-6
    for k in range(3):
        move = step * torch.eye(3).double()[k]
        slope = (CAMERA.project(points + move) - CAMERA.project(points - move)) / (2 * step)
        torch.testing.assert_close(CAMERA.derivative(points)[..., k], slope, atol=1e-4, rtol=0)


def test_up_is_up_and_the_middle_is_the_middle():
    up = CAMERA.project(torch.tensor([[0.0, 0.1, -4.0], [0.0, 0.0, -4.0]]).double())
    assert up[0, 1] < up[1, 1] == 255.5 == up[1, 0]


def test_a_clip_is_solved_as_one_dense_system():
    random = torch.Generator().manual_seed(0)
    N, T, D, S = 2, 5, 4, 3
    half = torch.randn(N, T, D, D, generator=random, dtype=torch.float64)
    ties = 0.3 * torch.randn(T - 1, D, D, generator=random, dtype=torch.float64)
    blocks = half @ half.transpose(-1, -2) + 5 * torch.eye(D)
    mixed = 0.3 * torch.randn(N, T, D, S, generator=random, dtype=torch.float64)
    shared = 9 * torch.eye(S).double().expand(N, S, S)
    frames, shape = (torch.randn(N, *n, generator=random, dtype=torch.float64) for n in ((T, D), (S,)))
    whole = torch.zeros(N, T * D + S, T * D + S).double()
    for t in range(T):
        here = slice(t * D, t * D + D)
        whole[:, here, here], whole[:, here, -S:] = blocks[:, t], mixed[:, t]
        whole[:, -S:, here] = mixed[:, t].transpose(1, 2)
        if t:
            whole[:, t * D - D : t * D, here], whole[:, here, t * D - D : t * D] = ties[t - 1], ties[t - 1].T
    whole[:, -S:, -S:] = shared
    expected = torch.linalg.solve(whole, torch.cat([frames.flatten(1), shape], 1))
    found, found_shape, _ = solve_clip(blocks, ties[None], mixed, shared, frames, shape)
    torch.testing.assert_close(torch.cat([found.flatten(1), found_shape], 1), expected)


def test_a_head_of_the_model_without_noise_comes_back(flame, model):
    betas, angles = drawn(flame, 3)
    angles[:, 3:] = 0
    rotation = rotation_matrices(torch.tensor([[0.2, 0.4, 0.1], [0, -0.7, 0], [-0.3, 0, 0.2]]).double())
    at = torch.tensor([[0.05, 0, -4.3], [0, 0.02, -4.6], [0, 0, -4.0]]).double()
    pixels = CAMERA.project(model.points(betas, angles) @ rotation.transpose(1, 2) + at[:, None])[:, None]
    fitted = fit_landmarks(model, pixels, known(pixels), CAMERA, Priors(noise_px=0.1, tolerance=100.0), iterations=25)
    assert fitted.error_px.max() < 0.1
    assert rotation_vectors(fitted.rotation[:, 0] @ rotation.transpose(1, 2)).norm(dim=-1).rad2deg().max() < 0.1
    assert (fitted.translation[:, 0] - at).norm(dim=-1).max() < 0.05


def test_heads_outside_the_model_are_found_better_than_by_the_mean_head(parts, flame, model):
    truth = heads(parts, 24, 1)
    noise = torch.randn(truth.pixels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted = fit_landmarks(model, truth.pixels + noise, known(truth.pixels), CAMERA)
    betas = torch.cat([fitted.shape, fitted.expression[:, 0]], 1)
    vertices, _ = flame(betas, torch.zeros(24, 3).double(), fitted.angles[:, 0, :3], fitted.angles[:, 0, 3:])
    turn = rotation_vectors(fitted.rotation @ truth.rotation.transpose(-1, -2)).norm(dim=-1).rad2deg()
    mean = after_alignment(flame["template"].expand_as(vertices), truth.vertices[:, 0], True).mean()
    assert turn.mean() < 1 and after_alignment(vertices, truth.vertices[:, 0], True).mean() < 0.6 * mean


def test_outliers_lose_their_weight_and_do_not_move_the_rest(parts, model):
    truth = heads(parts, 2, 4)
    spoiled = truth.pixels.clone()
    spoiled[:, 1, [5, 30, 60]] += torch.tensor([80.0, -50.0]).double()
    clean = fit_landmarks(model, truth.pixels, known(spoiled), CAMERA)
    fitted = fit_landmarks(model, spoiled, known(spoiled), CAMERA)
    assert fitted.weights[:, 1, [5, 30, 60]].max() < 0.01 and fitted.weights.flatten().median() > 0.9
    turn = rotation_vectors(fitted.rotation @ clean.rotation.transpose(-1, -2)).norm(dim=-1).rad2deg()
    assert turn.max() < 0.5


def test_a_frame_without_landmarks_lies_between_its_neighbours(parts, model):
    truth = heads(parts, 1, 15)
    weights = known(truth.pixels)
    weights[0, 7] = 0
    pixels = truth.pixels.clone()
    pixels[0, 7] = torch.nan
    fitted = fit_landmarks(model, pixels, weights, CAMERA, Priors(bends=Bends()), iterations=25)
    turn = rotation_vectors(fitted.rotation[0] @ truth.rotation[0].mT).norm(dim=-1).rad2deg()
    assert turn[7] < 1.5 * turn.median() + 0.3
    middle = (fitted.translation[0, 6] + fitted.translation[0, 8]) / 2
    torch.testing.assert_close(fitted.translation[0, 7], middle, atol=0.01, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 7])
def test_films_of_any_length_are_fitted(parts, model, frames):
    pixels = heads(parts, 2, frames, swing=48).pixels
    fitted = fit_landmarks(model, pixels, known(pixels), CAMERA, Priors(bends=Bends()))
    assert fitted.error_px.max() < 4 and fitted.expression.shape[:2] == (2, frames)


@pytest.mark.parametrize("frames", [2, 3, 6, 7])
def test_pairs_of_frames_hold_every_tie_between_frames(frames, parts, model):
    pixels = heads(parts, 1, frames).pixels
    solve = fit._Solve(model, pixels, known(pixels), CAMERA, Priors(bends=Bends()), None, None, None)
    D, stiffness = len(solve.stiff), solve.second.mT @ solve.second  # [1, T, T]
    half = torch.randn(1, frames, D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, mixed = half @ half.mT, torch.zeros(1, frames, D, 2).double()
    blocks, ties, _ = solve._paired(own, stiffness, mixed)
    whole = torch.block_diag(*blocks[0])
    for t, tie in enumerate(ties[0]):
        here, after = slice(2 * D * t, 2 * D * (t + 1)), slice(2 * D * (t + 1), 2 * D * (t + 2))
        whole[here, after], whole[after, here] = tie, tie.mT
    between = stiffness[0] - torch.diag(stiffness[0].diagonal())
    expected = torch.block_diag(*own[0]) + torch.kron(between, torch.diag(solve.stiff))
    torch.testing.assert_close(whole[: frames * D, : frames * D], expected)
    assert (whole[frames * D :, : frames * D] == 0).all()


def test_steps_of_a_film_lead_to_a_minimum_of_its_cost(parts, model):
    """Blocks of two frames, bends and the shape that all share add up to the slope of one cost."""
    pixels = heads(parts, 1, 7).pixels
    solve = fit._Solve(model, pixels, known(pixels), CAMERA, Priors(bends=Bends()), None, None, None)
    state = solve.start()
    step = solve.step(state, 1e6, torch.full((1,), 1e-9).double())
    best = solve.cost(step, 1e6)
    for _ in range(8):
        step = solve.step(step, 1e6, torch.full((1,), 1e-9).double())
    assert solve.cost(step, 1e6) < best < 0.05 * solve.cost(state, 1e6)
    grown = [getattr(step, name).clone().requires_grad_() for name in ("shape", "expression", "angles", "translation")]
    moved = fit._State(grown[0], grown[1], grown[2], step.rotation, grown[3])
    slopes = torch.autograd.grad(solve.cost(moved, 1e6).sum(), grown)
    assert max(slope.abs().max() for slope in slopes) < 0.3  # a minimum: the cost is hundreds


def test_smooth_films_tremble_less(parts, model):
    truth = heads(parts, 1, 40)
    noise = torch.randn(truth.pixels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def trembling(priors):
        rotation = fit_landmarks(model, truth.pixels + noise, known(noise), CAMERA, priors).rotation[0]
        off = rotation_vectors(rotation @ truth.rotation[0].transpose(1, 2))
        return (off[1:] - off[:-1]).norm(dim=-1).mean()

    assert trembling(Priors(bends=Bends())) < 0.7 * trembling(Priors())


def test_a_known_shape_stays(parts, flame, model):
    shape = drawn(flame, 2)[0][:, :NUM_SHAPE]
    pixels = heads(parts, 2, 3).pixels
    fitted = fit_landmarks(model, pixels, known(pixels), CAMERA, shape=shape)
    torch.testing.assert_close(fitted.shape, shape, atol=1e-6, rtol=0)


def test_clips_are_fitted_as_if_alone(parts, model):
    pixels = heads(parts, 3, 2).pixels
    together = fit_landmarks(model, pixels, known(pixels), CAMERA)
    alone = fit_landmarks(model, pixels[1:2], known(pixels[1:2]), CAMERA)
    torch.testing.assert_close(together.expression[1:2], alone.expression, atol=1e-9, rtol=0)


def test_what_cannot_be_fitted_is_said(parts, model):
    pixels = heads(parts, 2, 2).pixels
    weights = known(pixels)
    weights[1, :, 5:] = 0
    with pytest.raises(InputError, match="six or more in a frame of each clip"):
        fit_landmarks(model, pixels, weights, CAMERA)
    pixels[0, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="finite"):
        fit_landmarks(model, pixels, known(pixels), CAMERA)


def test_the_published_schedule_comes_nearer_and_holds_to_its_start(parts, flame, model, monkeypatch):
    truth = heads(parts, 3, 1)
    pixels, (betas, _) = truth.pixels[:, 0], drawn(flame, 3)
    turn, at = truth.rotation[:, 0], truth.translation[:, 0] + 0.02
    free = published_fit(flame, NUM_SHAPE, pixels, CAMERA, turn, at, steps=(30, 30))
    later = published_fit(flame, NUM_SHAPE, pixels, CAMERA, turn, at, steps=(30, 90))
    assert (later.loss < free.loss).all() and (later.translation != at).all()
    moved = []
    for held in (0.0, 1e12):
        monkeypatch.setattr(published, "HELD", held)
        found = published_fit(flame, NUM_SHAPE, pixels, CAMERA, turn, at, None, betas, torch.arange(9), (30, 60))
        moved.append((found.shape - betas[:, :NUM_SHAPE]).norm())
    assert moved[1] < 0.2 * moved[0]


def test_rotation_vectors_turn_back():
    vectors = torch.tensor([[0.3, -0.2, 0.9], [0, 0, 1e-7], [2.9, 0, 0]]).double()
    torch.testing.assert_close(rotation_vectors(rotation_matrices(vectors)), vectors, atol=1e-7, rtol=0)


def test_priors_weigh_against_noise(parts, model):
    pixels = heads(parts, 2, 1).pixels
    tight = fit_landmarks(model, pixels, known(pixels), CAMERA, replace(Priors(), noise_px=20.0))
    assert tight.shape.abs().max() < fit_landmarks(model, pixels, known(pixels), CAMERA).shape.abs().max()
