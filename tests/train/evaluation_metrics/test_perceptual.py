"""LPIPS beside the package's own reduction, and the mask of the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train.evaluation_metrics.drawn import face, moved, real_face
from triportrait.core.errors import InputError
from triportrait.core.metrics.torchvision_ops import declare
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.perceptual import MASK_RULE, black_beyond, head_mask, mean_within

RANDOM = np.random.default_rng(0)


def test_lpips_is_the_package_s_mean_over_frames():
    """With random weights: what is averaged is its number for each frame, of the whole picture and of the heads."""
    declare()
    lpips = pytest.importorskip("lpips")

    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    result, truth = (RANDOM.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((3, 64, 64), bool)
    mask[:, 16:48, 16:48] = True

    def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        x, y = (torch.from_numpy(z).permute(0, 3, 1, 2).float() / 127.5 - 1 for z in (one, other))
        with torch.no_grad():
            return network(x, y).reshape(-1).numpy()

    whole = distances(result, truth)
    score = METRICS["lpips_alex"].score([{"pair.lpips_alex": whole}])
    assert score.value == pytest.approx(whole.mean(dtype=np.float64))
    heads = distances(black_beyond(result, mask), black_beyond(truth, mask))
    black = METRICS["lpips_h_alex_black_beyond"].score([{"pair.lpips_alex_of_heads": heads}])
    assert black.value == pytest.approx(heads.mean(dtype=np.float64))
    changed = result.copy()
    changed[:, :10] = 255 - changed[:, :10]
    assert (distances(black_beyond(changed, mask), black_beyond(truth, mask)) == heads).all(), "beyond the head"
    assert (distances(changed, truth) != whole).any()


def test_the_mean_within_a_mask_by_hand():
    distances, mask = np.full((2, 4, 4), 9.0), np.zeros((2, 4, 4), bool)
    mask[0, 0, :2] = True
    distances[0, 0, :2] = 1, 2
    mask[1] = True
    assert mean_within(distances, mask).tolist() == [1.5, 9]
    inputs = {"pair.lpips_alex_map": distances, "truth.head_mask": mask}
    assert METRICS["lpips_h_alex_within_mask"].score([inputs]).value == pytest.approx(5.25)
    for bad in (np.zeros_like(mask), mask[:, :3]):
        with pytest.raises(InputError, match=r"truth\.head_mask: expected a head inside the picture"):
            mean_within(distances, bad)


def test_the_head_s_ellipse_as_the_rule_says():
    """The drawn face has its eyes at (100, 100), its chin 130 below, its jaw 180 wide."""
    points = moved(face(), shift=(100.0, 150.0))
    (mask,) = head_mask(points[None], 500, 400)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1]) == (250 - 195, 250 + 143)
    assert (columns[0], columns[-1]) == (200 - 135, 200 + 135)
    assert mask.sum() == pytest.approx(np.pi * 135 * 169, rel=1e-3)
    for number in ("1.1", "1.5", "0.75"):
        assert number in MASK_RULE
    for name in ("lpips_h_alex_within_mask", "lpips_h_alex_black_beyond"):
        assert MASK_RULE in METRICS[name].sentence


def test_the_ellipse_turns_and_grows_with_the_face():
    points = moved(face(), shift=(100.0, 150.0))
    (mask,) = head_mask(points[None], 500, 400)
    (larger,) = head_mask(2 * points[None], 1000, 800)
    assert larger.sum() == pytest.approx(4 * mask.sum(), rel=1e-3)
    upside_down = moved(points, turn=np.pi, shift=(399, 499))
    (turned,) = head_mask(upside_down[None], 500, 400)
    assert (turned == mask[::-1, ::-1]).mean() > 0.9999


def test_the_ellipse_covers_the_photographed_head():
    photo = real_face()
    (mask,) = head_mask(photo[None], 512, 512)
    inside = mask[photo[:, 1].astype(int), photo[:, 0].astype(int)]
    assert inside.all(), "every landmark"
    assert 0.05 < mask.mean() < 0.5


def test_what_is_no_face_has_no_mask():
    for points, said in ((np.zeros((1, 68, 2)), "between the eyes"), (face()[None] * (1, -1), "chin below the eyes")):
        with pytest.raises(InputError, match=said):
            head_mask(points, 64, 64)


def test_pictures_are_black_beyond_the_head():
    frames = RANDOM.integers(1, 256, (2, 8, 8, 3), dtype=np.uint8)
    mask = RANDOM.uniform(size=(2, 8, 8)) < 0.5
    black = black_beyond(frames, mask)
    assert black.dtype == np.uint8
    assert (black[mask] == frames[mask]).all() and not black[~mask].any()
