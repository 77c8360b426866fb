"""I = R(Ψ(I_s, v_s, v_d), θ): the whole model as three verbs, prepare, reenact, render."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from triportrait.core.config import ModelConfig
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.polynomial_neck import PolynomialNeck
from triportrait.core.reconstruct.decode import Reconstructor
from triportrait.core.render.superres import FoldedSuperResolution, SuperResolution
from triportrait.core.render.volume import VolumeRenderer, as_images, over_background, resize_background
from triportrait.core.types import Camera, Driving, Head, Rendering, Source
from triportrait.kernels.checks import shapes


class Portrait4D(nn.Module):
    """One network for all three published reconstructors (v2, v1, static): they differ in their weights alone.

    `prepare` runs once per source, `reenact` once per driving frame, `render` once per view:

        source = portrait.prepare(image, v_s)
        head = portrait.reenact(source, Driving(v_d, neck))
        rendering = portrait.render(head, camera)

    Attributes:
        config: every size of the model.
        neck: the neck field where the tables of FLAME or of a mean head are at hand, else None: the neck stays still.
    """

    neck: NeckField | PolynomialNeck | None

    def __init__(self, config: ModelConfig, neck: NeckField | PolynomialNeck | None = None) -> None:
        super().__init__()
        self.config = config
        self.reconstructor = Reconstructor(config)
        self.volume = VolumeRenderer(config.render)
        self.superres: SuperResolution | FoldedSuperResolution = SuperResolution(config.render)
        self.neck = neck

    def prepare(self, image: Tensor, motion: Tensor | None, motion_scale: Tensor | None = None) -> Source:
        """Compute all that depends on the source alone.

        Args:
            image: [B, 3, S, S], aligned source pictures in [-1, 1], S = config.image_size.
            motion: v_s, [B, M]; None for the static synthesizer.
            motion_scale: [B], multiplies what cross-attention to v_s adds: 0 is the static synthesizer; None stands for
                1. The driving frame has its own.

        Raises:
            ValueError: a shape disagrees.
        """
        side = self.config.image_size
        shapes(image=(image, f"B 3 {side} {side}"))
        if motion is not None:
            shapes(image=(image, "B 3 H W"), motion=(motion, f"B {self.config.transformer.motion_width}"))
        parts = self.reconstructor
        tokens, grid = parts.neutralizer(parts.global_encoder(image), motion, motion_scale)
        background = parts.background_encoder(image).sigmoid()
        return Source(parts.detail_encoder(image), tokens, grid, background, static=motion is None)

    def cache(self, source: Source) -> Source:
        """Compute what else depends on the source alone, for many frames of it. The result carries no gradient."""
        assert source.detail is not None, "the source is cached already"
        with torch.no_grad():
            return replace(
                source,
                detail=None,
                detail_partial=self.reconstructor.plane_decoder.detail_partial(source.detail),
                background=resize_background(source.background, self.config.render.neural_size),
            )

    def reenact(self, source: Source, driving: Driving) -> Head:
        """Give the source's head the expression and the neck pose of a driving frame.

        Raises:
            ValueError: the source was prepared without motion and the driving frame has one, or the other way round.
        """
        if source.static != (driving.motion is None):
            raise ValueError(
                f"motion: expected {'none' if source.static else 'v_d'}, as the source was prepared "
                f"{'without' if source.static else 'with'} v_s; give both or neither"
            )
        planes = self.planes(
            source.tokens, source.grid, driving.motion, source.detail, source.detail_partial, driving.motion_scale
        )
        return Head(planes, source.background, driving.neck)

    def planes(
        self, tokens: Tensor, grid: tuple[int, int], motion: Tensor | None, detail: Tensor | None,
        detail_partial: Tensor | None = None, motion_scale: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Compute the part of `reenact` that a driving frame changes, on bare tensors, which a CUDA graph can capture.

        Args:
            tokens, grid, detail, detail_partial: as in `Source`; one of the last two is enough.
            motion: v_d, [B, M]; None for a static source.
            motion_scale: as in `Driving`.

        Returns:
            planes [B, 3, H, W, C], channels last.
        """
        canonical = self.reconstructor.transfer(tokens, grid, motion, motion_scale)
        return self.reconstructor.plane_decoder(canonical, detail, detail_partial)

    def render(
        self,
        head: Head,
        camera: Camera,
        size: int | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
        box_scale: Tensor | None = None,
    ) -> Rendering:
        """Render a view of a head.

        Args:
            head: B heads.
            camera: B cameras.
            size: side of the ray grid, the config's neural size by default.
            jitter, uniforms: the randomness of training, see `VolumeRenderer.forward`; none by default.
            box_scale: [B], factor on the side of the box, 1 by default.
        """
        samples = self.volume(
            head.planes, camera, head.neck, size, box_scale, jitter, uniforms, head.ringed_planes
        )  # fmt: skip
        foreground, depth, opacity, background = as_images(samples, head.background)
        feature = over_background(foreground, opacity, background)
        raw_image = feature[:, :3]
        return Rendering(self.superres(raw_image, feature), raw_image, feature, depth, opacity, foreground, background)

    def fold(self) -> Portrait4D:
        """Multiply the constant style into super-resolution, in place. For inference: the result cannot be trained."""
        if isinstance(self.superres, SuperResolution):
            self.superres = self.superres.fold()
        return self
