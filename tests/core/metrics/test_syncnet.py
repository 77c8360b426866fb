"""SyncNet's search finds shifts that were made, its sound is read exactly, and what cannot be scored is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.metrics.mfcc import mfcc
from triportrait.core.metrics.sync_crop import GREY, face_track, median_filter, sync_crop
from triportrait.core.metrics.sync_score import REACH, ShiftSearch, SyncScore
from triportrait.core.metrics.syncnet import embed_face_windows, embed_sound_windows, num_windows


def walks(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 64))


def sync_score(lips: np.ndarray, sound: np.ndarray) -> SyncScore:
    search = ShiftSearch(lips.shape[1])
    for face, heard in zip(lips, sound, strict=True):
        search.add(face, heard)
    return search.score()


@pytest.mark.parametrize("early", [-15, -4, 0, 1, 7, 15])
def test_the_search_finds_a_shift(early):
    """Sound that comes `early` frames before its lips."""
    lips = walks(120)
    sound = np.roll(lips, -early, 0)
    score = sync_score(lips, sound)
    assert score.offset == early
    assert score.mean_distances.argmin() == REACH - early
    assert score.confidence == pytest.approx(float(np.sort(score.mean_distances)[15]) - score.distance)
    assert score.confidence > 5


def test_distances_on_a_made_pair_are_those_of_the_definition():
    lips, sound = walks(20), walks(20, seed=1)
    score = sync_score(lips, sound)
    for j in range(31):
        ends = [sound[i + j - 15] if 0 <= i + j - 15 < 20 else np.zeros(64) for i in range(20)]
        mean = np.mean([np.sqrt(((v - a + 1e-6) ** 2).sum()) for v, a in zip(lips, ends, strict=True)])
        assert score.mean_distances[j] == pytest.approx(mean)


def test_sound_of_another_clip_is_less_sure():
    lips = walks(200)
    assert sync_score(lips, lips + 0.5 * walks(200, 1)).confidence > 10 * sync_score(lips, walks(200, 2)).confidence


def test_a_median_has_zeros_beyond_the_ends():
    assert median_filter(np.array([5.0, 1.0, 4.0, 2.0, 8.0]), 3).tolist() == [1, 4, 2, 4, 2]


@pytest.mark.parametrize("length", [1, 399, 400, 401, 560, 561, 16000, 161_234])
def test_the_count_of_columns_and_the_end_in_zeros(length):
    """One window more than the samples fill, and no portion of the work shows."""
    samples = (np.random.default_rng(length).standard_normal(length) * 3000).astype(np.int16)
    count = 1 + max(0, -(-(length - 400) // 160))
    whole = mfcc(samples)
    assert whole.shape == (13, count)
    padded = np.concatenate([samples, np.zeros(160 * count + 400, np.int16)])
    pre = padded.astype(float) - 0.97 * np.concatenate([[0], padded[:-1]])
    pre[length:] = 0  # zeros are appended after the emphasis
    last = pre[(count - 1) * 160 :][:400]
    assert whole[0, -1] == pytest.approx(np.log((np.abs(np.fft.rfft(last, 512)) ** 2).sum() / 512))


def test_silence_has_a_finite_floor_and_a_tone_lies_in_its_band():
    floor = np.log(np.finfo(float).eps)
    assert mfcc(np.zeros(800, np.int16))[0].tolist() == pytest.approx([floor] * 4)
    with pytest.raises(InputError, match=r"expected mono samples of 16 bits, int16 \[L\], got float64"):
        mfcc(np.zeros(800))


@pytest.mark.parametrize(
    "samples, words",
    [(np.zeros(32000, np.int16), "expected a voice, got silence"),
     (np.full(640 * 5, 900, np.int16), "expected a clip of 6 frames and more .* got 5"),
     (np.zeros(0, np.int16), "got int16 .0.")],
)  # fmt: skip
def test_sound_that_cannot_be_scored(syncnet, samples, words):
    with pytest.raises(InputError, match=words):
        embed_sound_windows(syncnet, samples)


def test_windows_of_faces_are_read_in_bgr_and_in_any_batch(syncnet, no_grad):
    crops = np.random.default_rng(0).integers(0, 256, (7, 224, 224, 3), dtype=np.uint8)
    embedded = embed_face_windows(syncnet, iter(crops), batch=2)
    window = torch.from_numpy(crops[2:7, ..., ::-1].copy()).permute(3, 0, 1, 2)[None].float()  # blue first
    torch.testing.assert_close(embedded[2:], syncnet(window), rtol=1e-4, atol=1e-3)
    assert embedded.shape == (3, 1024)
    assert num_windows(7) == 2
    assert embed_face_windows(syncnet, iter(crops[:4])).shape == (0, 1024)
    with pytest.raises(InputError, match=r"expected crops uint8 \[224, 224, 3\], got uint8 \[112, 112, 3\]"):
        embed_face_windows(syncnet, [crops[0, ::2, ::2]])


def test_the_crop_is_2_8_times_half_the_box_with_the_face_above():
    rows, columns = np.mgrid[:300, :400]
    image = np.stack([rows * 255 // 299, columns * 255 // 399, 0 * rows], 2).astype(np.uint8)
    crop = sync_crop(image, 200, 150, 50)  # rows 100 to 239, columns 130 to 269
    assert crop[0, 0].tolist() == image[100, 130].tolist()
    assert crop[-1, -1].tolist() == image[239, 269].tolist()
    edge = sync_crop(image, 10, 10, 50)
    assert (edge[0, 0] == GREY).all()
    assert edge[-1, -1].tolist() == image[99, 79].tolist()
    assert (sync_crop(image, -5000, 10, 50) == GREY).all()
    with pytest.raises(InputError, match="expected a box in a picture of 400 x 300"):
        sync_crop(image, 10, 10, 1e9)


def test_a_track_is_smoothed_by_its_median():
    boxes = np.tile([100.0, 80.0, 200.0, 160.0], (40, 1))
    boxes[20] += 300  # found elsewhere in one frame
    track = face_track(boxes)
    assert track[6:34].tolist() == [[150, 120, 50]] * 28
    assert face_track(boxes[:7]).tolist() == [[150, 120, 50]] * 7
    with pytest.raises(InputError, match="expected a clip of 7 frames and more at 25 a second, got 6; leave"):
        face_track(boxes[:6])
