"""I = R(Ψ(I_s, v_s, v_d), θ): the whole model as three verbs, prepare, reenact, render."""

from __future__ import annotations

from torch import Tensor, nn

from triportrait.core.config import ModelConfig
from triportrait.core.motion.neck import NeckField
from triportrait.core.reconstruct.decode import Reconstructor
from triportrait.core.render.superres import FoldedSuperResolution, SuperResolution
from triportrait.core.render.volume import VolumeRenderer, over_background, resize_background
from triportrait.core.types import Camera, Driving, NeckGrid, Rendering, Source
from triportrait.kernels.checks import shapes


class Portrait4D(nn.Module):
    """One network for all three published reconstructors (v2, v1, static): they differ in their weights alone.

    `prepare` runs once per source, `reenact` once per driving frame, `render` once per view:

        source = portrait.prepare(image, v_s)
        planes = portrait.reenact(source, Driving(v_d, neck))
        rendering = portrait.render(planes, camera, source.background, neck)

    Attributes:
        config: every size of the model.
        neck: the neck field when FLAME's tables are at hand, else None: the neck then stays still.
    """

    neck: NeckField | None

    def __init__(self, config: ModelConfig, neck: NeckField | None = None) -> None:
        super().__init__()
        self.config = config
        self.reconstructor = Reconstructor(config)
        self.volume = VolumeRenderer(config.render)
        self.superres: SuperResolution | FoldedSuperResolution = SuperResolution(config.render)
        self.neck = neck

    def prepare(self, image: Tensor, motion: Tensor | None) -> Source:
        """All that depends on the source alone.

        Args:
            image: [B, 3, S, S], aligned source pictures in [-1, 1], S = config.image_size.
            motion: v_s, [B, M]; None for the static synthesizer.

        Raises:
            ValueError: a shape disagrees.
        """
        side = self.config.image_size
        sizes = shapes(image=(image, f"B 3 {side} {side}"))
        if motion is not None:
            shapes(image=(image, "B 3 H W"), motion=(motion, f"B {self.config.transformer.motion_width}"))
        parts = self.reconstructor
        tokens, grid = parts.neutralizer(parts.global_encoder(image), motion)
        background = resize_background(parts.background_encoder(image).sigmoid(), self.config.render.neural_size)
        assert len(tokens) == sizes.B
        return Source(parts.detail_encoder(image), tokens, grid, background)

    def reenact(self, source: Source, driving: Driving | None) -> Tensor:
        """The planes [B, 3, H, W, C] of the source with the driver's expression; None: the static synthesizer."""
        canonical = self.reconstructor.reenactor(
            source.tokens, source.grid, None if driving is None else driving.motion
        )
        return self.reconstructor.plane_decoder(canonical, source.detail)

    def render(
        self, planes: Tensor, camera: Camera, background: Tensor, neck: NeckGrid | None = None, size: int | None = None
    ) -> Rendering:
        """A view of a head.

        Args:
            planes: [B, 3, H, W, C] from `reenact`.
            camera: B cameras.
            background: [B, C, h, w] from `prepare`.
            neck: B neck poses; None keeps the neck still.
            size: side of the ray grid, the config's neural size by default.
        """
        feature, depth, opacity = over_background(self.volume(planes, camera, neck, size), background)
        raw_image = feature[:, :3]
        return Rendering(self.superres(raw_image, feature), raw_image, feature, depth, opacity)

    def fold(self) -> Portrait4D:
        """Multiply the constant style into super-resolution, in place. For inference: the result cannot be trained."""
        if isinstance(self.superres, SuperResolution):
            self.superres = self.superres.fold()
        return self
