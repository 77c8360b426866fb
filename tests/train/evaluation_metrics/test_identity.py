"""ID and Cons. on embeddings with known angles."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.identity import cosine

EMBEDDINGS = np.random.default_rng(0).normal(0.5, 1, (50, 512))


def at_angle(degrees: float) -> np.ndarray:
    return np.array([[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]])


@pytest.mark.parametrize("degrees", [0, 60, 90, 180])
def test_cosine_of_a_known_angle(degrees):
    assert cosine(at_angle(10), 7 * at_angle(10 + degrees)) == pytest.approx([np.cos(np.radians(degrees))])


def test_id_is_the_mean_over_frames_against_one_source():
    frames = np.concatenate([at_angle(0), at_angle(60), at_angle(90)])
    score = METRICS["id"].score([{"result.identity": frames, "source.identity": at_angle(0)}])
    assert score.value == pytest.approx(0.5) and score.frames == 3
    truth = METRICS["id_to_truth"].score([{"result.identity": frames, "truth.identity": frames[::-1]}])
    assert truth.value == pytest.approx(1 / 3)


def test_faces_that_gave_zeros_are_refused():
    """Some scripts write zeros where no face was found, and average them in."""
    spoilt = EMBEDDINGS.copy()
    spoilt[7] = 0
    for name in ("id", "cons_pairwise"):
        inputs = {"result.identity": spoilt, "source.identity": EMBEDDINGS[:1]}
        with pytest.raises(InputError, match="got zeros in frame"):
            METRICS[name].score([inputs])
        found = np.arange(50) != 7
        left = METRICS[name].score([{**inputs, "found": found}])
        assert (left.frames, left.missing) == (49, 1)


def test_consistency_beside_all_pairs():
    units = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    pairs = np.mean([a @ b for a, b in combinations(units, 2)])
    middle = units.mean(0)
    to_mean = (units @ middle / np.linalg.norm(middle)).mean()
    portions = [{"result.identity": EMBEDDINGS[:20]}, {"result.identity": EMBEDDINGS[20:]}]
    assert METRICS["cons_pairwise"].score(portions).value == pytest.approx(pairs, abs=1e-12)
    assert METRICS["cons_to_mean"].score(portions).value == pytest.approx(to_mean, abs=1e-12)
    assert pairs < to_mean < 1


def test_consistency_of_known_sets():
    same = np.repeat(EMBEDDINGS[:1], 5, 0) * np.arange(1, 6)[:, None]
    square = np.concatenate([at_angle(a) for a in (0, 90)])
    for name, alike, right_angle in (("cons_pairwise", 1, 0), ("cons_to_mean", 1, np.sqrt(0.5))):
        assert METRICS[name].score([{"result.identity": same}]).value == pytest.approx(alike)
        assert METRICS[name].score([{"result.identity": square}]).value == pytest.approx(right_angle, abs=1e-12)
        alone = METRICS[name].score([{"result.identity": same[:1]}])
        assert alone.value is None and "two drivers" in alone.note


def test_embeddings_of_two_networks_are_refused():
    with pytest.raises(InputError, match="got 512 and 256 numbers"):
        METRICS["id"].score([{"result.identity": EMBEDDINGS, "source.identity": EMBEDDINGS[:1, :256]}])
    with pytest.raises(InputError, match="expected 512 numbers as before, got 256"):
        METRICS["cons_to_mean"].score([{"result.identity": EMBEDDINGS}, {"result.identity": EMBEDDINGS[:, :256]}])
