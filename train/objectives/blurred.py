"""Blur what a discriminator sees while the generator is young: details come when the coarse shape is there."""

from __future__ import annotations

from torch import Tensor

from triportrait.core.genhead.masks import blur
from triportrait.train.objectives.discriminator import Discriminator


class Blurred:
    """A discriminator before which picture and ray grid are blurred alike; positions and mask stay as they are.

    Args:
        discriminator: what judges.
        sigma: pixels of the picture, see `masks.blur`; the ray grid is blurred by as much of its own side. Below 1/3 px
            of either there is nothing to blur.
    """

    def __init__(self, discriminator: Discriminator, sigma: float) -> None:
        self.discriminator, self.sigma = discriminator, sigma

    def __call__(self, image: Tensor, raw: Tensor, positions: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        """Return logits [B, 1]; arguments are those of `Discriminator.forward`."""
        raw = blurred(raw, self.sigma * raw.shape[-1] / image.shape[-1])
        logits: Tensor = self.discriminator(blurred(image, self.sigma), raw, positions, mask, label)
        return logits


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur pictures [B, C, S, S] by the taps 2^-(k / sigma)², |k| <= floor(3 sigma); 0 is beyond the border."""
    if int(3 * sigma) == 0:
        return picture
    return blur(picture.flatten(0, 1)[:, None], sigma)[:, 0].unflatten(0, picture.shape[:2])
