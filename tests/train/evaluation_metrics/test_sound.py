"""SyncNet's search over shifts: known shifts, the published module's own numbers, and clips that end."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.parity import TOLERANCE, seeded, stored
from triportrait.core.errors import InputError
from triportrait.core.metrics.sync_score import REACH, ShiftSearch
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Score
from triportrait.train.evaluation.metrics.sound import LipsAndSound

OF = ("confidence", "distance", "offset")


def scores(lips: np.ndarray, sound: np.ndarray, found: np.ndarray | None = None) -> dict[str, Score]:
    portion = {"result.lip_embedding": lips, "driving.sound_embedding": sound}
    if found is not None:
        portion["found"] = found
    return {of: METRICS[f"syncnet_{of}"].score([portion]) for of in OF}


def directly(lips: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """m of the 31 shifts, by the padded matrix of the published script's rule."""
    padded = np.pad(sound, ((REACH, REACH), (0, 0)))
    windows = np.stack([padded[j : j + len(lips)] for j in range(2 * REACH + 1)], 1)
    return np.linalg.norm(lips[:, None] - windows + 1e-6, axis=2).mean(0)


def test_the_search_is_the_published_module_s():
    lips = seeded("syncnet_fv", (60, 1024)).numpy()
    sound = seeded("syncnet_fa", (60, 1024)).numpy() * np.float32(0.7)
    sound[:57] += lips[3:]
    published, ours = stored("17_syncnet"), scores(lips, sound)
    median = ours["distance"].value + ours["confidence"].value
    got = [ours["offset"].value, ours["distance"].value, median, ours["confidence"].value]
    assert got == pytest.approx(published["score"].tolist(), rel=TOLERANCE)
    assert got[0] == 3 and got[3] == pytest.approx(24.5746, abs=1e-3)


@pytest.mark.parametrize("shift", [-14, -4, 0, 1, 9])
def test_a_known_shift_is_found(shift):
    """Sound that comes `shift` frames before the lips; far from the ends nothing is padded."""
    random = np.random.default_rng(0)
    track = random.normal(0, 1, (160, 64))
    lips = track[20:140] + random.normal(0, 0.1, (120, 64))
    found = scores(lips, track[20 + shift : 140 + shift])
    assert found["offset"].value == shift
    assert found["distance"].value < 3 and found["confidence"].value > 5
    apart = scores(lips, random.normal(0, 1, (120, 64)))
    assert apart["confidence"].value < 1 < found["confidence"].value
    assert apart["distance"].value > found["distance"].value


@pytest.mark.parametrize("count", [1, 14, 15, 16, 31, 80])
def test_the_walk_is_the_padded_matrix(count):
    random = np.random.default_rng(count)
    lips, sound = random.normal(0, 1, (2, count, 24))
    expected = directly(lips, sound)
    search, reduction = ShiftSearch(24), LipsAndSound("distance")
    for start in range(0, count, 7):
        for face, heard in zip(lips[start : start + 7], sound[start : start + 7], strict=True):
            search.add(face, heard)
        reduction.add(lips[start : start + 7], sound[start : start + 7])
        assert reduction.score().value == search.score().distance, "looking on the way changes nothing"
    assert search.score().mean_distances == pytest.approx(expected, abs=1e-12)
    assert reduction.score().value == pytest.approx(expected.min())
    assert reduction.score().frames == search.windows == count
    assert ("100 frames" in reduction.score().note) == (count < 96)


def test_windows_without_a_face_are_left_out_and_the_sound_goes_on():
    random = np.random.default_rng(0)
    lips, sound = random.normal(0, 1, (2, 60, 24))
    found = np.ones(60, bool)
    found[[0, 20, 21, 59]] = False
    padded = np.pad(sound, ((REACH, REACH), (0, 0)))
    rows = [np.linalg.norm(lips[i] - padded[i : i + 31] + 1e-6, axis=1) for i in np.flatnonzero(found)]
    lips[~found] = np.nan
    score = scores(lips, sound, found)
    assert score["distance"].value == pytest.approx(np.mean(rows, 0).min())
    assert (score["distance"].frames, score["distance"].missing) == (56, 4)


def test_embeddings_of_two_networks_are_refused():
    zeros = np.zeros((4, 24))
    with pytest.raises(InputError, match="expected embeddings as long as the sound's, 24"):
        scores(zeros[:, 1:], zeros)
    search = LipsAndSound("offset")
    search.add(zeros, zeros)
    with pytest.raises(InputError, match="take both from one SyncNet"):
        search.add(zeros[:, 1:], zeros[:, 1:])
    with pytest.raises(InputError, match="expected 4 windows"):
        scores(zeros[1:], zeros)
