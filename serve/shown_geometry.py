"""Shows heads as pictures, depths or normals: of each batch every head as it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import get_args

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.geometry_pictures import GeometryPictures, Shown
from triportrait.core.render.volume import as_images
from triportrait.core.types import Camera, Head

RENDERED: tuple[Shown, ...] = ("picture", "depth", "normals")  # what comes of the rays of a view


def check_show(show: object, paste_back: bool = False, spell: Callable[[str], str] = str) -> None:
    """Check what a program or a command wants to be shown.

    Args:
        show: that.
        paste_back: the result is put back into the portrait.
        spell: how a sentence writes an option's name.

    Raises:
        InputError: nothing of this name can be shown, or it cannot be pasted back.
    """
    kinds = get_args(Shown)
    if show not in kinds:
        raise InputError(f"{spell('show')}: expected one of {', '.join(kinds)}, got {show!r}; choose one of them")
    if paste_back and show != "picture":
        raise InputError(
            f"{spell('paste_back')}: expected a picture, which fits into the portrait, got {show}; leave "
            f"{spell('show')} out"
        )


def places_of(shows: Sequence[Shown]) -> Tensor:
    """Number what each of B heads shows, [B, 1] float32, as `shown_images` takes it."""
    return torch.tensor([[float(RENDERED.index(show))] for show in shows])


def shown_images(
    portrait: Portrait4D, geometry: GeometryPictures, head: Head, camera: Camera, places: Tensor,
    kinds: Collection[Shown] = RENDERED,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Render B heads, each as it was asked for, from one march of their rays.

    Args:
        portrait: the network.
        geometry: makes pictures of depth and normals.
        head, camera: B heads, and from where they are seen.
        places: [B], what each shows, see `places_of`.
        kinds: what is made; at least what is asked for. Where a graph is captured, all of it.

    Returns:
        images [B, 3, S, S] in about [-1, 1], and [B], whether the numbers behind them are finite.
    """
    made: dict[Shown, Tensor] = {}
    if "picture" in kinds:
        rendering = portrait.render(head, camera)
        made["picture"], depth, opacity = rendering.image, rendering.depth, rendering.opacity
    else:
        samples = portrait.volume(head.planes, camera, head.neck, ringed_planes=head.ringed_planes)
        _, depth, opacity, _ = as_images(samples, head.background)
    side = portrait.config.image_size
    if "depth" in kinds:
        made["depth"] = geometry.depth(depth, opacity, camera, side)
    if "normals" in kinds:
        made["normals"] = geometry.normals(depth, opacity, portrait.volume, head, camera, side)
    (_, images), *others = made.items()
    for kind, other in others:
        images = torch.where(places[:, None, None, None] == RENDERED.index(kind), other, images)
    finite = torch.cat([part.flatten(1).isfinite() for part in (images, depth, opacity)], 1).all(1)
    return images, finite
