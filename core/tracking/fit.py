"""Fit a head model to landmarks: all frames of a clip at once, with one shape, smooth in time, outliers set aside.

A Levenberg-Marquardt solve: landmarks are known but for noise, betas are normal, joints turn little, and neighbouring
frames resemble each other. The derivatives are exact. The most probable parameters alone would make every head too
small and too near: a head that is farther away leaves its lengths more freedom, and there is the more of it. The solve
therefore weighs distances by that freedom (Laplace's approximation), which takes a bias of one per cent away.
Letters: N clips, T frames, P points, K directions, S of them shape, E expression, D unknowns of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import rotation_matrices, rotation_vectors
from triportrait.core.tracking.bends import Bends, second_differences
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.point_model import JOINT_ANGLES, PointModel
from triportrait.core.tracking.tridiagonal import solve_clip

POSE = 6  # unknowns: rotation, translation
OUTLIER = 0.25  # a landmark whose weight falls below this counts as one
MEASURED = (4, 8)  # steps before which the noise and the freedom of lengths are measured
LEAST_NOISE_PX, MOST_NOISE_PX = 1.0, 8.0
RAYLEIGH = 1.1774  # the median of the length of a normal pair, in deviations of one of them


@dataclass(frozen=True)
class Priors:
    """What is known before the landmarks are.

    Attributes:
        noise_px: standard deviation of a landmark's coordinate, pixels; None measures it on each clip, what the model
            cannot say included, between 1 and 8.
        tolerance: so many deviations off, a landmark has a quarter of its weight.
        shape, expression: standard deviations of the betas; those of FLAME are scaled to 1.
        independent: how many frames of a clip count as independent witnesses of the shape. What the model cannot say is
            the same in all of them, so that more frames average noise away and not that.
        jaw, eye: standard deviations of rotation vectors, radians, by axis.
        bends: how evenly faces move; None for pictures that are no film.
    """

    noise_px: float | None = 1.0
    tolerance: float = 4.0
    shape: float = 1.0
    expression: float = 1.0
    independent: float = 1.0
    jaw: tuple[float, float, float] = (0.3, 0.03, 0.03)
    eye: tuple[float, float, float] = (0.3, 0.3, 0.01)
    bends: Bends | None = None


@dataclass(frozen=True)
class Start:
    """What another method read of N clips of T frames, as a 3DMM reconstructor: where the solve begins and stays near.

    Attributes:
        shape: [N, S]; expression: [N, T, E]; jaw: [N, T, 3] rotation vectors, radians.
        rotation: [N, T, 3, 3] camera from head; None is read off the landmarks.
        shape_off, expression_off, jaw_off: standard deviations of their errors: betas, and radians.
    """

    shape: Tensor
    expression: Tensor
    jaw: Tensor
    rotation: Tensor | None = None
    shape_off: float = 0.6
    expression_off: float = 0.6
    jaw_off: float = 0.1


@dataclass(frozen=True)
class Fitted:
    """The parameters of N clips of T frames.

    Attributes:
        shape: [N, S]; expression: [N, T, E]; angles: [N, T, 9], rotation vectors of jaw, left eye, right eye, radians.
        rotation: [N, T, 3, 3] and translation: [N, T, 3] camera from head, scene units.
        weights: [N, T, P], 1 for a landmark that fits, towards 0 for one that does not, 0 for one that was not given.
        error_px: [N, T], root of the mean squared distance of landmarks in proportion to the weights that they came
            with, outliers too; pixels.
    """

    shape: Tensor
    expression: Tensor
    angles: Tensor
    rotation: Tensor
    translation: Tensor
    weights: Tensor
    error_px: Tensor


def fit_landmarks(
    model: PointModel,
    pixels: Tensor,
    weights: Tensor,
    camera: Pinhole,
    priors: Priors | None = None,
    shape: Tensor | None = None,
    iterations: int = 12,
    times: Tensor | None = None,
    start: Start | None = None,
) -> Fitted:
    """Read parameters off landmarks.

    Args:
        model: the head model's landmarks.
        pixels: [N, T, P, 2] float64, finite; P is 70: 68 landmarks and the pupils, right before left.
        weights: [N, T, P], 0 where a landmark is unknown, else up to 1.
        camera: the camera of all frames.
        priors: None takes those of stills.
        shape: [N, S] where the person is known; it stays.
        iterations: steps of the solve, rejected ones included.
        times: [T] or [N, T] seconds of the frames, rising, where `priors` have bends; None is 25 frames/s.
        start: what is known of the parameters beforehand.

    Returns:
        the parameters; frames with fewer than six landmarks hold what their neighbours and the priors say.

    Raises:
        InputError: a landmark that counts is not finite, or no frame of a clip has six of them.
    """
    priors = priors or Priors()
    known = (weights > 0).sum(-1)
    if not torch.isfinite(torch.where(weights[..., None] > 0, pixels, 0.0)).all():
        raise InputError("landmarks: expected finite pixels, got others; give them the weight 0")
    if not bool((known.amax(1) >= 6).all()):
        raise InputError("landmarks: expected six or more in a frame of each clip, got fewer; leave the clip out")
    pixels = torch.where(weights[..., None] > 0, pixels, torch.zeros_like(pixels))
    condensed, turn_shape, turn_expression = model.condensed
    given = None if shape is None else shape @ turn_shape
    begun = None if start is None else _turned(start, turn_shape, turn_expression)
    solve = _Solve(condensed, pixels, weights, camera, priors, given, times, begun)
    state = solve.start()
    damping = pixels.new_full((len(pixels),), 1e-3)
    for iteration in range(iterations):
        tolerance = priors.tolerance * max(1.0, 2.0 ** (3 - iteration))  # outliers fade out slowly
        if iteration in MEASURED:
            solve.measure(state)
        before = solve.cost(state, tolerance)
        moved = solve.step(state, tolerance, damping, count=iteration in MEASURED)
        better = solve.cost(moved, tolerance) < before
        state = _chosen(better, moved, state)
        damping = torch.where(better, damping / 5, damping * 8).clamp(1e-9, 1e6)
    found = solve.fitted(state)
    if turn_shape.shape[0] == turn_shape.shape[1] and turn_expression.shape[0] == turn_expression.shape[1]:
        return found if shape is None else replace(found, shape=shape)
    full_shape, expression = found.shape @ turn_shape.T, found.expression @ turn_expression.T
    if start is not None:  # what landmarks do not see stays as it was read
        full_shape = full_shape + start.shape - start.shape @ turn_shape @ turn_shape.T
        expression = expression + start.expression - start.expression @ turn_expression @ turn_expression.T
    return replace(found, shape=full_shape if shape is None else shape, expression=expression)


def _turned(start: Start, turn_shape: Tensor, turn_expression: Tensor) -> Start:
    return replace(start, shape=start.shape @ turn_shape, expression=start.expression @ turn_expression)


@dataclass(frozen=True)
class _State:
    """What is solved for; the fields are as of `Fitted`."""

    shape: Tensor
    expression: Tensor
    angles: Tensor
    rotation: Tensor
    translation: Tensor


def _chosen(better: Tensor, moved: _State, state: _State) -> _State:
    def one(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)

    return _State(*(one(new, old) for new, old in zip(vars(moved).values(), vars(state).values(), strict=True)))


class _Solve:
    """The cost of parameters, and the step that lowers it."""

    def __init__(
        self,
        model: PointModel,
        pixels: Tensor,
        weights: Tensor,
        camera: Pinhole,
        priors: Priors,
        shape: Tensor | None,
        times: Tensor | None,
        begun: Start | None,
    ) -> None:
        self.model, self.pixels, self.weights, self.camera = model, pixels, weights, camera
        self.priors, self.given, self.begun = priors, shape, begun
        N, T, E = *pixels.shape[:2], model.num_expression
        self.noise = pixels.new_full((N, 1, 1), LEAST_NOISE_PX if priors.noise_px is None else priors.noise_px)
        self.outward = pixels.new_zeros(N, T)  # how many free lengths pull each frame away from the camera
        seen = (weights > 0).any(-1).sum(1)  # frames of each clip
        self.witnesses = (seen / priors.independent).clamp(min=1.0).to(pixels)  # [N]
        shape_off, expression_off = (priors.shape, priors.expression) if begun is None else (
            begun.shape_off, begun.expression_off
        )  # fmt: skip
        jaw = priors.jaw if begun is None else (begun.jaw_off,) * 3
        self.loose = self.witnesses[:, None] / shape_off**2  # [N, 1]
        tight = [1 / sigma**2 for sigma in (*jaw, *priors.eye, *priors.eye)]
        self.prior = pixels.new_tensor([0.0] * POSE + tight + [1 / expression_off**2] * E)
        self.shape_mean = pixels.new_zeros(N, model.num_shape) if begun is None else begun.shape
        self.mean = pixels.new_zeros(N, T, POSE + JOINT_ANGLES + E)
        if begun is not None:
            self.mean[..., POSE : POSE + 3] = begun.jaw
            self.mean[..., POSE + JOINT_ANGLES :] = begun.expression
        self.stiff = torch.zeros_like(self.prior)
        bends = priors.bends
        if bends is not None:
            bent = (
                [bends.rotation] * 3 + [bends.translation] * 3 + [bends.angles] * JOINT_ANGLES + [bends.expression] * E
            )
            self.stiff = 1 / pixels.new_tensor(bent).square()
        self.before, self.after, self.second = second_differences(T, times, pixels)

    def start(self) -> _State:
        """Begin with the face that is known, or the mean face at rest, where landmarks say that it is."""
        N, T = self.pixels.shape[:2]
        shape = self.shape_mean if self.given is None else self.given
        angles, expression = self.mean[..., POSE:].split([JOINT_ANGLES, self.model.num_expression], -1)
        betas = torch.cat([shape[:, None].expand(-1, T, -1), expression], -1).flatten(0, 1)
        points = self.model.points(betas, angles.flatten(0, 1))
        seen = self.pixels.flatten(0, 1), self.weights.flatten(0, 1)
        if self.begun is None or self.begun.rotation is None:
            rotation, translation = self.camera.first_pose(points, *seen)
        else:
            rotation = self.begun.rotation.flatten(0, 1)
            translation = self.camera.first_place(points @ rotation.mT, *seen)
        filled = nearest_known((self.weights > 0).sum(-1) >= 6)
        rows = torch.arange(N, device=filled.device)[:, None]
        pose = (part.unflatten(0, (N, T))[rows, filled] for part in (rotation, translation))
        return _State(shape, expression, angles, *pose)

    def measure(self, state: _State) -> None:
        """Measure the noise of each clip, where it is not given."""
        if self.priors.noise_px is not None:
            return
        apart = (self.camera.project(self._placed(state)[1]) - self.pixels).norm(dim=-1)  # [N, T, P]
        apart = torch.where(self.weights > 0, apart, torch.nan).flatten(1)
        found = apart.nanmedian(1).values / RAYLEIGH
        self.noise = found.clamp(LEAST_NOISE_PX, MOST_NOISE_PX)[:, None, None]

    def _placed(self, state: _State) -> tuple[Tensor, Tensor]:
        """Return the points [N, T, P, 3] turned but not moved, and in the camera's axes."""
        N, T = self.pixels.shape[:2]
        betas = torch.cat([state.shape[:, None].expand(-1, T, -1), state.expression], -1).flatten(0, 1)
        points = self.model.points(betas, state.angles.flatten(0, 1)).unflatten(0, (N, T))
        turned = points @ state.rotation.transpose(-1, -2)
        return turned, turned + state.translation[:, :, None]

    def _off(self, placed: Tensor) -> Tensor:
        """Return how far the model's points are off, [N, T, P, 2] in deviations of the noise."""
        return (self.camera.project(placed) - self.pixels) / self.noise[..., None]

    def cost(self, state: _State, tolerance: float) -> Tensor:
        """Return the cost of each clip, [N]; infinite where a point is behind the camera."""
        _, placed = self._placed(state)
        squared = self._off(placed).square().sum(-1)
        cost = (self.weights * squared / (1 + squared / tolerance**2)).sum((1, 2))
        cost = cost + (self.prior * self._unknowns(state).square()).sum((1, 2))
        cost = cost + (self.loose * (state.shape - self.shape_mean).square()).sum(1) * (self.given is None)
        cost = cost + (self.stiff * self._bends(state).square()).sum((1, 2))
        cost = cost - 2 * (self.outward * state.translation[..., 2].neg().clamp(min=1e-3).log()).sum(1)
        behind = (placed[..., 2] > -1e-3).any(-1).any(-1)
        return torch.where(behind | ~cost.isfinite(), torch.full_like(cost, torch.inf), cost)

    def _unknowns(self, state: _State) -> Tensor:
        """Return how far the unknowns that have a prior are from its means, [N, T, D]; those of the pose are 0."""
        pose = torch.zeros_like(state.expression[..., :1]).expand(-1, -1, POSE)
        return torch.cat([pose, state.angles, state.expression], -1) - self.mean

    def _bends(self, state: _State) -> Tensor:
        """Return how far each frame lies off the even movement of its neighbours, [N, T - 2, D]."""
        turns = rotation_vectors(state.rotation[:, 1:] @ state.rotation[:, :-1].mT)
        rest = torch.cat([state.translation, state.angles, state.expression], -1)
        return torch.cat([self.after * turns[:, 1:] - self.before * turns[:, :-1], self.second @ rest], -1)

    def step(self, state: _State, tolerance: float, damping: Tensor, count: bool = False) -> _State:
        """Move all unknowns by one damped step of Gauss and Newton; `count` the free lengths afresh."""
        turned, placed = self._placed(state)
        off = self._off(placed)
        weight = self.weights / (1 + off.square().sum(-1) / tolerance**2) ** 2  # [N, T, P]
        by_frame, by_shape = self._derivatives(state, turned, placed)  # [N, T, P, 2, D], [N, T, P, 2, S]
        rows = (weight.sqrt()[..., None] * off).flatten(2)  # [N, T, 2P]
        by_frame = (weight.sqrt()[..., None, None] * by_frame).flatten(2, 3)
        by_shape = (weight.sqrt()[..., None, None] * by_shape).flatten(2, 3)
        blocks = by_frame.transpose(-1, -2) @ by_frame
        frames = -(by_frame.transpose(-1, -2) @ rows[..., None])[..., 0] - self.prior * self._unknowns(state)
        frames = frames - self.second.mT @ (self.stiff * self._bends(state))
        frames[..., POSE - 1] -= self.outward / -state.translation[..., 2]
        stiffness = self.second.mT @ self.second  # [N or 1, T, T]
        diagonal = self.prior + stiffness.diagonal(dim1=-2, dim2=-1)[..., None] * self.stiff  # [N or 1, T, D]
        data, own = blocks, blocks + torch.diag_embed(diagonal)
        damped = damping[:, None, None] * (blocks.diagonal(dim1=-2, dim2=-1) + diagonal + 1e-6)
        blocks = blocks + torch.diag_embed(diagonal + damped)
        if self.given is not None:
            by_shape = by_shape[..., :0]
        mixed = by_frame.transpose(-1, -2) @ by_shape
        flat = by_shape.flatten(1, 2)
        shape = -(flat.mT @ rows.flatten(1)[..., None])[..., 0]
        shared = flat.mT @ flat
        if self.given is None:
            shape = shape - self.loose * (state.shape - self.shape_mean)
            shared = shared + torch.diag_embed(damping[:, None] * shared.diagonal(dim1=-2, dim2=-1) + self.loose)
        moves, shape, left = solve_clip(*self._paired(blocks, stiffness, mixed), shared, _paired_rows(frames), shape)
        if count:
            self.outward = self._free_lengths(data, own, left)
        moves = moves.unflatten(-1, (2, -1)).flatten(1, 2)[:, : self.pixels.shape[1]]
        turn, move, angles, expression = moves.split([3, 3, JOINT_ANGLES, self.model.num_expression], -1)
        return _State(
            state.shape + shape if self.given is None else state.shape,
            state.expression + expression,
            state.angles + angles,
            rotation_matrices(turn) @ state.rotation,
            state.translation + move,
        )

    def _free_lengths(self, data: Tensor, own: Tensor, left: Tensor) -> Tensor:
        """Count the lengths that the landmarks of each frame decide, [N, T]: a fraction of one where the prior helps.

        Each is known the less well the farther away the head is, in proportion to its distance, so that the logarithm
        of the distance weighs as often. Those of the shape count as its frames are counted in `Priors.independent`.

        Args:
            data: [N, T, D, D], what landmarks say of the unknowns. own: the same with the priors.
            left: [N, S, S], what is said of the shape once the frames are solved for; S is 0 where it is known.
        """
        decided = torch.cholesky_solve(data, torch.linalg.cholesky_ex(own).L).diagonal(dim1=-2, dim2=-1)
        lengths = decided[..., 3:POSE].sum(-1) + decided[..., POSE + JOINT_ANGLES :].sum(-1)  # [N, T]
        if self.given is None:
            spread = torch.cholesky_inverse(torch.linalg.cholesky_ex(left).L).diagonal(dim1=-2, dim2=-1)
            shape = (1 - self.loose * spread).sum(1)  # [N]
            frames = (self.weights > 0).any(-1).sum(1).clamp(min=1)
            lengths = lengths + (shape * self.witnesses / frames)[:, None]
        return torch.where((self.weights > 0).any(-1), lengths, 0.0)

    def _paired(self, blocks: Tensor, stiffness: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take two frames as one block, as bends tie each frame to the next two; an odd last frame gets an empty twin.

        Returns: blocks [N, ceil(T / 2), 2D, 2D], the ties between them and the border.
        """
        N, T, D, _ = blocks.shape
        pairs = (T + 1) // 2
        whole = blocks.new_zeros(N, pairs, 2, D, 2, D)
        frame = torch.arange(T, device=blocks.device)
        whole[:, frame // 2, frame % 2, :, frame % 2] = blocks.transpose(0, 1)
        if T % 2:
            whole[:, -1, 1, :, 1] = torch.eye(D, dtype=blocks.dtype, device=blocks.device)
        tied = torch.nn.functional.pad(stiffness, (0, 2 * pairs - T, 0, 2 * pairs - T)).unflatten(1, (-1, 2))
        tied = tied.unflatten(3, (-1, 2)).transpose(2, 3)  # [N or 1, pairs, pairs, 2, 2]
        number = torch.arange(pairs, device=blocks.device)
        inside = tied[:, number, number] * (1 - torch.eye(2, dtype=blocks.dtype, device=blocks.device))
        stiff = torch.diag(self.stiff)
        whole = whole + torch.einsum("ntab,de->ntadbe", inside, stiff)
        between = torch.einsum("ntab,de->ntadbe", tied[:, number[:-1], number[1:]], stiff)
        return whole.flatten(4, 5).flatten(2, 3), between.flatten(4, 5).flatten(2, 3), _paired_rows(mixed)

    def _derivatives(self, state: _State, turned: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives of `_off` by the unknowns of the frames, and by the shape."""
        N, T = self.pixels.shape[:2]
        angles = state.angles.flatten(0, 1)
        betas = torch.cat([state.shape[:, None].expand(-1, T, -1), state.expression], -1).flatten(0, 1)
        by_betas = self.model.beta_part(angles).unflatten(0, (N, T))  # [N, T, P, 3, K]
        by_angles = self.model.angle_part(betas, angles).unflatten(0, (N, T))
        seen = self.camera.derivative(placed) / self.noise[..., None, None]  # [N, T, P, 2, 3]
        x, y, z = turned.unbind(-1)
        zero = torch.zeros_like(x)
        # a small turn d moves a point p by d x p
        by_turn = torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).unflatten(-1, (3, 3))
        in_head = seen @ state.rotation[:, :, None]
        parts = [seen @ by_turn, seen, in_head @ by_angles, in_head @ by_betas[..., self.model.num_shape :]]
        return torch.cat(parts, -1), in_head @ by_betas[..., : self.model.num_shape]

    def fitted(self, state: _State) -> Fitted:
        """Say what was found and how well it fits."""
        off = self._off(self._placed(state)[1]).square().sum(-1)
        weights = self.weights / (1 + off / self.priors.tolerance**2) ** 2
        mean = (self.weights * off).sum(-1) / self.weights.sum(-1).clamp(min=1e-12)
        return Fitted(**vars(state), weights=weights, error_px=mean.sqrt() * self.noise[..., 0])


def nearest_known(known: Tensor) -> Tensor:
    """Return for each frame [N, T] the number of the nearest frame that is known, the earlier of two.

    Of a clip without any it is the frame itself.
    """
    T = known.shape[1]
    number = torch.arange(T, device=known.device).expand_as(known)
    before = torch.where(known, number, -T).cummax(1).values
    after = torch.where(known, number, 2 * T).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(number - before <= after - number, before, after)
    return torch.where(known.any(1, keepdim=True), nearest, number)


def _paired_rows(rows: Tensor) -> Tensor:
    """Take the rows [N, T, D, ...] of two frames as one, [N, ceil(T / 2), 2D, ...]; an odd last frame gets zeros."""
    odd = rows.new_zeros(len(rows), rows.shape[1] % 2, *rows.shape[2:])
    return torch.cat([rows, odd], 1).unflatten(1, (-1, 2)).flatten(2, 3)
