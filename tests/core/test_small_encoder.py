"""The small motion encoder: its sizes, its crop, and what its file must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.weights_folders import change_card
from tests.train import little
from triportrait.core.checkpoint import load_motion_encoder, save_weights
from triportrait.core.errors import InputError
from triportrait.core.motion.motion_crop import motion_crop
from triportrait.core.motion.small_encoder import SmallMotionEncoder


@pytest.fixture
def folder(tmp_path) -> Path:
    """As earlier versions wrote it: its card names no encoder."""
    encoder = little.encoder()
    save_weights(tmp_path / "w", "motion", encoder.state_dict(), encoder, {})
    change_card(tmp_path / "w", lambda card: card.pop("encoder"), "motion")
    return tmp_path / "w"


def crops(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size) * 2 - 1


@pytest.mark.parametrize("width, size, widths", [(9, 64, (32, 64, 96, 128)), (5, 32, (8, 8, 16, 24)), (3, 48, (8, 8))])
def test_a_crop_becomes_numbers(width, size, widths):
    encoder = SmallMotionEncoder(width, size, widths)
    assert encoder(crops(2, size)).shape == (2, width)
    again = SmallMotionEncoder(**encoder.to_dict())
    shapes = [{name: t.shape for name, t in x.state_dict().items()} for x in (encoder, again)]
    assert shapes[0] == shapes[1]
    assert json.loads(json.dumps(encoder.to_dict())) == {"motion_width": width, "crop_size": size, "widths": [*widths]}


def test_a_batch_is_its_members():
    encoder, batch = little.encoder(), crops(3, 32)
    alone = torch.cat([encoder(batch[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(encoder(batch), alone)


def test_a_fresh_encoder_tells_crops_apart():
    with torch.no_grad():
        for seed in range(3):
            torch.manual_seed(seed)
            motions = SmallMotionEncoder()(crops(16, 64) + torch.randn(16, 3, 1, 1) / 3)
            assert 0.16 < motions.std(0).mean() < 1, "the usual scale of layers leaves half of it"


def test_every_weight_is_learned():
    encoder = little.encoder()
    encoder(crops(8, 32)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in encoder.parameters())


def test_a_smaller_crop_shows_the_same():
    image = torch.nn.functional.interpolate(crops(2, 16), scale_factor=8, mode="bilinear")
    whole, small = motion_crop(image), motion_crop(image, size=48)
    assert whole.shape == (2, 3, 224, 224)
    assert small.shape == (2, 3, 48, 48)
    torch.testing.assert_close(
        torch.nn.functional.interpolate(whole, 48, mode="bilinear", antialias=True), small, atol=0.05, rtol=0
    )
    assert torch.equal(motion_crop(image, size=224), whole)


def test_what_was_saved_comes_back(folder):
    loaded, encoder, crop = load_motion_encoder(folder), little.encoder(), crops(2, 32)
    assert isinstance(loaded, SmallMotionEncoder)
    assert loaded.to_dict() == encoder.to_dict()
    assert torch.equal(loaded(crop), encoder(crop))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_half_precision_is_lifted(tmp_path):
    encoder = little.encoder()
    halves = {name: t.half() for name, t in encoder.state_dict().items()}
    save_weights(tmp_path, "motion", halves, encoder, {})
    loaded, crop = load_motion_encoder(tmp_path), crops(2, 32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(crop), encoder(crop), atol=5e-3, rtol=5e-3)


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"\x1b": 3}, r"\(motion_width, crop_size, widths\), got \\x1b, crop_size"),
    "a crop of another kind": ({"crop_size": "64"}, "crop_size as a whole number from 1 to 1024, got '64'"),
    "no whole number": ({"crop_size": 32.5}, "crop_size as a whole number from 1 to 1024, got 32.5"),
    "no crop": ({"crop_size": 0}, "crop_size as a whole number from 1 to 1024, got 0"),
    "a crop that cannot be halved": ({"crop_size": 40}, "got {"),
    "a huge crop": ({"crop_size": 10**9}, "crop_size as a whole number from 1 to 1024, got 1000000000"),
    "no motion": ({"motion_width": 0}, "motion_width as a whole number from 1 to 4096, got 0"),
    "a truth": ({"motion_width": True}, "motion_width as a whole number from 1 to 4096, got True"),
    "a negative width": ({"widths": [32, -64]}, r"widths as 1 to 8 whole numbers from 1 to 4096, got \[32, -64\]"),
    "widths that norms cannot share": ({"widths": [8, 8, 8, 12]}, "got {"),
    "no widths": ({"widths": []}, "widths as 1 to 8 whole numbers"),
    "many widths": ({"widths": [8] * 999}, "widths as 1 to 8 whole numbers"),
    "widths of text": ({"widths": "abcd"}, "widths as 1 to 8 whole numbers"),
    "a number for widths": ({"widths": 4}, "got {"),
}


@pytest.mark.parametrize(("change", "message"), SIZES.values(), ids=SIZES)
def test_sizes_that_make_no_encoder_are_refused(change, message, folder):
    change_card(folder, lambda card: card["config"].update(change), "motion")
    expected = rf"motion\.json config: expected the sizes of a small motion encoder.*{message}"
    with pytest.raises(InputError, match=expected) as result:
        load_motion_encoder(folder)
    assert str(result.value).isprintable()


@pytest.mark.parametrize("sizes", [[], "small", 3, False], ids=repr)
def test_a_card_without_an_object_of_sizes_is_refused(sizes, folder):
    change_card(folder, lambda card: card.update(config=sizes), "motion")
    with pytest.raises(InputError):
        load_motion_encoder(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"motion_width": 7}, r"2 of another shape \(out.bias \[9\] instead of \[7\]"),
        ({"crop_size": 64}, r"1 of another shape \(hidden.weight"),
        ({"widths": [8, 8, 8]}, r"the small motion encoder: .* unknown"),
    ],
)
def test_weights_of_another_encoder_are_refused(change, message, folder):
    change_card(folder, lambda card: card["config"].update(change), "motion")
    with pytest.raises(InputError, match=message):
        load_motion_encoder(folder)
