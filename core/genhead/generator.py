"""GenHead as a whole: noise, FLAME's parameters and a camera become a picture and the volume behind it.

    styles = genhead.styles(latent, genhead.condition(camera, shape))
    painted = genhead.paint(styles, genhead.background_styles(latent))      # once for a head
    posed = genhead.pose(shape, expression, pose, eyes)                     # once for an expression
    view = genhead.render(painted, posed, camera)                           # once for a view

Letters: B batch, Z width of the noise, D of styles, L styles, S side of the picture, h of the ray grid, H W of a plane,
C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triportrait.core.config import GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.genhead.deformation import PosedHead, pose_head
from triportrait.core.genhead.fuse import Fuse
from triportrait.core.genhead.mapping import Mapping
from triportrait.core.genhead.masks import PartMasks, draw_openings, has_openings, soften
from triportrait.core.genhead.regions import PartRegions
from triportrait.core.genhead.rendering import PartRenderer
from triportrait.core.genhead.synthesis import Noise, Synthesis
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import camera_label
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.render.superres import FoldedSuperResolution, SuperResolution
from triportrait.core.render.volume import VolumeSamples, as_images, over_background
from triportrait.core.types import Camera, Index, Rendering
from triportrait.kernels.checks import shapes

CAMERA_WIDTH = 25  # numbers of a camera's label
NUM_PLANES = 6  # three of eyes and mouth, three of the rest


@dataclass(frozen=True)
class PaintedHead:
    """A head as planes, for any expression and view.

    Attributes:
        planes: [B, 6, H, W, C], channels last; xy, yz, zx of eyes and mouth, then of everything else.
        background: [B, C, s, s] in [0, 1], what is behind the head, independent of the camera.
    """

    planes: Tensor
    background: Tensor

    def take(self, rows: Index) -> PaintedHead:
        """Select the heads that `rows` names."""
        return PaintedHead(self.planes[rows], self.background[rows])


@dataclass(frozen=True)
class GeneratedView:
    """One view of generated heads.

    Attributes:
        rendering: the picture [B, 3, S, S], the raw image, the feature image, depth and opacity at the ray grid.
        masks: how much of each ray and pixel is eye and mouth.
        planes: [B, 6, H, W, C], as in `PaintedHead`.
    """

    rendering: Rendering
    masks: PartMasks
    planes: Tensor


class GenHead(nn.Module):
    """The generator.

    Args:
        config: every size.
        neck: the head model with the lists of `part_tables`, and the field that undoes the neck's rotation. None builds
            planes and backgrounds alone; nothing can be posed or rendered then.

    Raises: `InputError` where a list of the head model is missing or wrong.
    """

    def __init__(self, config: GenHeadConfig, neck: NeckField | None = None) -> None:
        super().__init__()
        self.config = config
        render, style_width = config.render, config.render.style_width
        self.mapping = Mapping(
            config.latent_width, style_width, config.mapping_layers, CAMERA_WIDTH + config.neck.num_shape
        )
        self.plane_synthesis = Synthesis(config.plane_widths, NUM_PLANES * render.plane_width, style_width)
        self.background_mapping = Mapping(config.latent_width, style_width, config.background_mapping_layers)
        self.background_synthesis = Synthesis(config.background_widths, render.plane_width, style_width)
        self.volume = PartRenderer(config)
        self.superres: SuperResolution | FoldedSuperResolution = SuperResolution(render)
        self.superres.style.fill_(1)  # trained so; a published file may say otherwise
        self.neck: NeckField | None = None
        self.regions: PartRegions | None = None
        self._maps: tuple[torch.device, FaceMaps] | None = None
        if neck is not None:
            self.set_head_model(neck)

    def set_head_model(self, neck: NeckField) -> None:
        """Give the generator its head model, with the lists of `part_tables`.

        Raises: `InputError` where a list is missing or wrong, or the model has other numbers of directions.
        """
        expected, got = self.config.neck, neck.config
        if (got.num_shape, got.num_expression) != (expected.num_shape, expected.num_expression):
            raise InputError(
                f"head model: expected {expected.num_shape} directions of shape and {expected.num_expression} of "
                f"expression, got {got.num_shape} and {got.num_expression}; choose the model that the generator knows"
            )
        self.neck, self.regions, self._maps = neck, PartRegions(neck), None

    @property
    def head_model(self) -> ModelIdentity:
        """Return whose parameters it takes; the published model's where nobody said, as in published files.

        Raises: `InputError` where the generator has no head model.
        """
        neck, _ = self._head_model()
        return neck.identity or PUBLISHED_MODEL

    def condition(self, camera: Camera, shape: Tensor) -> Tensor:
        """Return the condition of the mapping [B, 25 + num_shape]: B cameras, and shapes [B, num_shape]."""
        return torch.cat([camera_label(camera), shape], 1)

    def styles(self, latent: Tensor, condition: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Compute the styles of the planes.

        Args:
            latent: [B, Z], standard normal noise.
            condition: [B, 25 + num_shape], see `condition`.
            truncation, cutoff: see `Mapping.truncated`; stage 1 learns from 0.95 in all layers.

        Returns:
            [B, L, D].
        """
        styles = self.mapping(latent, condition)
        return self.mapping.truncated(styles, self.plane_synthesis.num_styles, truncation, cutoff)

    def background_styles(self, latent: Tensor) -> Tensor:
        """Compute the styles [B, L, D] of the background of noise [B, Z], the planes' own as published."""
        return self.background_mapping.truncated(self.background_mapping(latent), self.background_synthesis.num_styles)

    def paint(
        self,
        styles: Tensor,
        background_styles: Tensor,
        noise: Noise = "const",
        rng: torch.Generator | None = None,
    ) -> PaintedHead:
        """Compute planes and background.

        Args:
            styles: [B, L, D] of `styles`. background_styles: [B, L', D] of `background_styles`.
            noise, rng: see `Synthesis.forward`; training draws new noise.
        """
        planes = self.planes(styles, noise, rng)
        return PaintedHead(planes, self.background_synthesis(background_styles, noise, rng).sigmoid())

    def planes(self, styles: Tensor, noise: Noise = "const", rng: torch.Generator | None = None) -> Tensor:
        """Compute the planes [B, 6, H, W, C] alone; arguments are those of `paint`."""
        flat = self.plane_synthesis(styles, noise, rng)  # [B, 6 C, H, W]
        return flat.unflatten(1, (NUM_PLANES, -1)).permute(0, 1, 3, 4, 2).contiguous()

    def pose(
        self, shape: Tensor, expression: Tensor, pose: Tensor, eyes: Tensor, eyelid_expression: Tensor | None = None
    ) -> PosedHead:
        """Pose B heads; arguments are those of `deformation.pose_head`.

        Raises: `InputError` where the generator has no head model.
        """
        neck, regions = self._head_model()
        return pose_head(neck, regions, shape, expression, pose, eyes, eyelid_expression)

    def masks(self, posed: PosedHead, camera: Camera, size: int | None = None) -> PartMasks:
        """Draw the masks of eyes and mouth for a ray grid; `size` is the config's ray size by default.

        Raises: `InputError` where the generator has no head model.
        """
        neck, _ = self._head_model()
        device = posed.vertices.device
        if has_openings(neck) and (self._maps is None or self._maps[0] != device):
            self._maps = device, FaceMaps(neck)
        maps = None if self._maps is None else self._maps[1]
        openings = draw_openings(neck, posed.vertices, camera, self.config.mask_size, maps)
        return soften(*openings, size or self.config.ray_size)

    def render(
        self,
        painted: PaintedHead,
        posed: PosedHead,
        camera: Camera,
        size: int | None = None,
        fuse: Fuse | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> GeneratedView:
        """Render a view of B heads.

        Args:
            painted, posed, camera: B of each.
            size: h, side of the ray grid, the config's ray size by default.
            fuse, jitter, uniforms: see `PartRenderer.forward`.

        Raises: `InputError` where the generator has no head model.
        """
        _, regions = self._head_model()
        masks = self.masks(posed, camera, size)
        samples = self.volume(painted.planes, camera, posed, regions, masks, fuse, jitter, uniforms)
        return GeneratedView(self.picture(samples, painted.background), masks, painted.planes)

    def picture(self, samples: VolumeSamples, background: Tensor) -> Rendering:
        """Put a ray grid before its background [B, C, s, s] in [0, 1], and raise it to the picture's size."""
        foreground, depth, opacity, behind = as_images(samples, background)
        feature = over_background(foreground, opacity, behind)
        raw_image = feature[:, :3]
        return Rendering(self.superres(raw_image, feature), raw_image, feature, depth, opacity, foreground, behind)

    def plane_samples(
        self,
        painted: PaintedHead,
        posed: PosedHead,
        camera: Camera,
        masks: PartMasks,
        picks: Tensor,
        jitter: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read the face's planes at coarse samples of a view beside eyes and mouth: what L_T compares planes with.

        Args:
            painted, posed, camera, jitter: of `render`. masks: of the view that it gave.
            picks: [B, P], see `PartRenderer.points_beside`.

        Returns:
            points [B, P, 3] of the posed head, scene units, and the mean feature [B, P, C] of the face's planes there.

        Raises: `InputError` where the generator has no head model.
        """
        _, regions = self._head_model()
        points = self.volume.points_beside(camera, masks, picks, jitter)
        return points, self.volume.face_features(painted.planes, points, posed, regions)

    def forward(
        self,
        latent: Tensor,
        shape: Tensor,
        expression: Tensor,
        pose: Tensor,
        eyes: Tensor,
        camera: Camera,
        mapping_camera: Camera | None = None,
        truncation: float = 1.0,
        noise: Noise = "const",
        size: int | None = None,
        fuse: Fuse | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> GeneratedView:
        """Draw B heads.

        Args:
            latent: [B, Z], standard normal; the background is drawn from the same noise.
            shape: [B, num_shape]. expression: [B, num_expression].
            pose: [B, 6], rotation vectors of neck and jaw, radians. eyes: [B, 6].
            camera: B cameras that look at the heads.
            mapping_camera: B cameras that the mapping is told; None tells it `camera`.
            truncation, noise, size, fuse, jitter, uniforms: as in `styles`, `paint` and `render`.

        Raises:
            InputError: the generator has no head model.
            ValueError: a shape disagrees.
        """
        shapes(
            latent=(latent, f"B {self.config.latent_width}"), shape=(shape, f"B {self.config.neck.num_shape}"),
            expression=(expression, f"B {self.config.neck.num_expression}"), pose=(pose, "B 6"), eyes=(eyes, "B 6"),
            world_from_camera=(camera.world_from_camera, "B 4 4"),
        )  # fmt: skip
        condition = self.condition(mapping_camera or camera, shape)
        painted = self.paint(self.styles(latent, condition, truncation), self.background_styles(latent), noise)
        return self.render(painted, self.pose(shape, expression, pose, eyes), camera, size, fuse, jitter, uniforms)

    def fold(self) -> GenHead:
        """Multiply the constant style into super-resolution, in place. For inference: the result cannot be trained."""
        if isinstance(self.superres, SuperResolution):
            self.superres = self.superres.fold()
        return self

    def _head_model(self) -> tuple[NeckField, PartRegions]:
        if self.neck is None or self.regions is None:
            raise InputError(
                "GenHead: expected a head model, these weights have none; convert the published file again, or give "
                "one with `set_head_model`"
            )
        return self.neck, self.regions
