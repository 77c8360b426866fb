"""FID and KID beside the libraries' own on the same features, and on sets whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.metrics.torchvision_ops import declare
from triportrait.train.evaluation.metrics import distributions
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Score
from triportrait.train.evaluation.metrics.distributions import (
    BLOCK,
    FEWEST_FOR_FID,
    Reservoir,
    RunningMoments,
    frechet_distance,
    kernel_distance,
)

D = 32


class Given(torch.nn.Module):
    """A network for torchmetrics whose features are its input."""

    num_features = D

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def features(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Non-negative features [count, D], correlated, as after a ReLU."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(0, 1, (D, D)) / np.sqrt(D)
    return np.maximum(random.normal(0.4, 1, (count, D)) @ mix * scale + shift, 0).astype(np.float32)


def score(name: str, result: np.ndarray, driving: np.ndarray) -> Score:
    return METRICS[name].score([dict(zip(METRICS[name].reads, (result, driving), strict=True))])


@pytest.mark.parametrize("counts", [(500, 700), (20, 25)], ids=["full rank", "fewer frames than numbers"])
def test_fid_is_that_of_torchmetrics_and_of_a_matrix_square_root(counts):
    declare()
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = features(counts[1], 1), features(counts[0], 2, 1.3, 0.1)
    library = FrechetInceptionDistance(Given(), input_img_size=(D,)).set_dtype(torch.float64)
    library.update(torch.from_numpy(real), real=True)
    library.update(torch.from_numpy(fake), real=False)
    moments = [RunningMoments(), RunningMoments()]
    for running, rows in zip(moments, (fake, real), strict=True):
        running.add(rows)
    (_, *one), (_, *other) = (running.moments() for running in moments)
    ours = frechet_distance(*one, *other)
    assert ours == pytest.approx(library.compute().item(), rel=1e-5)
    (m1, c1), (m2, c2) = (
        (x.astype(np.float64).mean(0), np.cov(x.astype(np.float64), rowvar=False)) for x in (fake, real)
    )
    root = pytest.importorskip("scipy.linalg").sqrtm(c1 @ c2)
    assert ours == pytest.approx(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real), rel=1e-5)


def test_fid_of_gaussians_with_a_known_distance():
    """For covariances that commute: |shift|² + Σ (σ1 - σ2)²."""
    mean, one, other = np.zeros(3), np.diag([1.0, 4, 9]), np.diag([4.0, 4, 0])
    assert frechet_distance(mean, one, mean, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(mean + 2, one, mean, one) == pytest.approx(12)
    assert frechet_distance(mean, one, mean, other) == pytest.approx(1 + 0 + 9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert frechet_distance(mean, turn @ one @ turn.T, mean, turn @ other @ turn.T) == pytest.approx(10)


def test_fid_of_a_shifted_set_is_the_square_of_the_shift():
    rows = features(600, 1)
    shifted = score("fid_clean", rows + np.float32(0.5), rows)
    assert shifted.value == pytest.approx(D * 0.25, rel=1e-5)
    assert score("fid_clean", rows[::-1], rows).value == pytest.approx(0, abs=1e-6), "their order does not matter"


def test_under_5_000_frames_fid_says_that_it_is_biased():
    few = score("fid_clean", features(50, 1), features(50, 2))
    assert "biased upwards under 5,000 frames, and 50 came" in few.note
    many = score("fid_clean", features(FEWEST_FOR_FID, 1), features(FEWEST_FOR_FID, 2))
    assert many.note == ""
    assert few.value > 10 * many.value > 0, "both come from one distribution"


def test_kid_is_unbiased_where_fid_is_not():
    values = [score("kid_clean", features(30, 2 * i), features(30, 2 * i + 1)).value for i in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40)
    assert min(values) < 0 < max(values)
    assert score("kid_clean", features(30, 1, 1.5), features(30, 2)).value > max(values)


@pytest.mark.parametrize("size", [60, 200], ids=["subsets", "all"])
def test_kid_is_that_of_torchmetrics_with_its_subsets(size):
    declare()
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = (torch.from_numpy(features(200, seed)).double() for seed in (1, 2))
    library = KernelInceptionDistance(Given(), subsets=20, subset_size=size)
    library.update(real, real=True)
    library.update(fake, real=False)
    torch.manual_seed(5)
    mean, spread = library.compute()
    value, deviation = kernel_distance(real.numpy(), fake.numpy(), 20, size, seed=5)
    assert (value, deviation or 0) == pytest.approx((mean.item(), spread.item()), rel=1e-6, abs=1e-12)
    assert (deviation is None) == (size == 200), "one subset holds all"


def test_kid_s_tiles_add_up(monkeypatch):
    """Tiles that cut the rows unevenly, of sets of two sizes, give what one tile gives."""
    one, other = features(75, 1), features(64, 2)
    whole = kernel_distance(one, other, 20, 30)
    monkeypatch.setattr(distributions, "TILE", 16)
    assert kernel_distance(one, other, 20, 30) == pytest.approx(whole, rel=1e-12)


def test_kid_by_sums_written_out():
    x, y = np.array([[1.0, 0], [0, 2]]), np.array([[1.0, 1], [3, 0]])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 2 + 1) ** 3

    across = np.mean([kernel(a, b) for a in x for b in y])
    expected = kernel(x[0], x[1]) + kernel(y[0], y[1]) - 2 * across
    value, deviation = kernel_distance(x, y, subsets=3)
    assert value == pytest.approx(expected) and deviation is None
    printed = score("kid_clean", x.astype(np.float32), y.astype(np.float32))
    assert printed.value == pytest.approx(1000 * expected)


def test_running_moments_are_those_of_all():
    rows = features(3 * BLOCK + 17, 4) + 1000  # far from zero, where sums of squares lose their digits
    running = RunningMoments()
    for start in range(0, len(rows), 100):
        running.add(rows[start : start + 100])
        running.frames  # noqa: B018
        if running.frames > 1:
            running.moments()  # looking changes nothing
    count, mean, covariance = running.moments()
    assert count == len(rows)
    assert mean == pytest.approx(rows.astype(np.float64).mean(0), rel=1e-12)
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    assert np.abs(covariance - expected).max() < 1e-10 * np.abs(expected).max()


def test_a_reservoir_is_a_fair_choice():
    counts = np.zeros(50)
    for seed in range(400):
        reservoir = Reservoir(10, seed)
        reservoir.add(np.arange(50.0)[:, None])
        assert len(reservoir.kept) == 10 and reservoir.frames == 50
        counts[np.concatenate(reservoir.kept).astype(int)] += 1
    assert counts.sum() == 4000
    assert np.abs(counts - 80).max() < 4 * np.sqrt(80), "each has a chance of one in five"
    whole = Reservoir(50, 0)
    whole.add(np.arange(50.0)[:, None])
    assert np.concatenate(whole.kept).tolist() == list(range(50))


def test_one_frame_and_two_networks():
    for name in ("fid_clean", "kid_clean"):
        single = score(name, features(1, 1), features(1, 2))
        assert single.value is None and "two frames" in single.note
        with pytest.raises(InputError, match="got 31 and 32; take both from one network"):
            score(name, features(5, 1)[:, 1:], features(5, 2))
