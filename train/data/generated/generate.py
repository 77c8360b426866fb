"""Make generated heads of what was drawn: pictures, and the volume behind them.

Letters: B heads, V views, S side of the pictures, h of the generator's ray grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from triportrait.core.genhead.deformation import PosedHead
from triportrait.core.genhead.generator import GenHead, PaintedHead
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.tracking.head_model import HeadModel
from triportrait.train.data.clip_store.tracks import LANDMARKS
from triportrait.train.data.generated.draws import GeneratedConfig, HeadDraws
from triportrait.train.data.generated.source import GeneratedBatch
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.pictures import Pictures, join
from triportrait.train.data.upload import upload

AT_A_TIME = 4  # heads: planes, and what makes them, take about 200 MB each at the published sizes
SOURCE, MOTION, TARGET = range(3)  # views of a drawn head


def generator_model(generator: GenHead) -> HeadModel:
    """Return the head model of a generator, whose directions beyond those that it knows are 0.

    Raises: `InputError` where the generator has no head model.
    """
    identity, neck = generator.head_model, generator.neck
    assert neck is not None
    return HeadModel(neck.flame, neck.config.num_shape, identity, dict(neck.mesh.named_buffers()))


class HeadMaker:
    """Make the pictures of drawn heads, a few heads at a time.

    Args:
        generator: with a head model, on the device where pictures are made.
        config: how heads are generated.
        positions: show where each visible point lies on the face at rest, which a discriminator sees.
        features: keep the feature images of head and background.
        at_a_time: heads that are made together; it bounds the memory.

    Raises: `InputError` where the generator has no head model.
    """

    def __init__(
        self,
        generator: GenHead,
        config: GeneratedConfig | None = None,
        positions: bool = False,
        features: bool = False,
        at_a_time: int = AT_A_TIME,
    ) -> None:
        self.generator = generator
        self.head_model = generator.head_model
        self.config, self.features = config or GeneratedConfig(), features
        assert generator.neck is not None
        self._flame = generator.neck.flame
        self._maps = FaceMaps(generator.neck) if positions else None
        self._at_a_time = at_a_time

    @property
    def device(self) -> torch.device:
        """Return where pictures are made."""
        return self.generator.mapping.mean_style.device

    @torch.no_grad()
    def pictures(self, heads: HeadDraws, views: Sequence[int], compared: Sequence[int] | None = None) -> list[Pictures]:
        """Make the views of B heads.

        Args:
            heads: on the CPU.
            views: their numbers.
            compared: those of them that bring the truth behind them; None: all.

        Returns:
            B pictures of each view, on the generator's device.
        """
        pieces = [
            self._piece(
                heads.take(slice(start, start + self._at_a_time)), views, views if compared is None else compared
            )
            for start in range(0, len(heads), self._at_a_time)
        ]
        return [join([piece[v] for piece in pieces]) for v in range(len(views))]

    def batch(self, heads: HeadDraws, motion: bool) -> GeneratedBatch:
        """Make source, target and, with `motion`, the picture whose motion is read, of B heads of three views each.

        The target alone brings the truth behind it.
        """
        views = (SOURCE, TARGET, *((MOTION,) if motion else ()))
        source, target, *others = self.pictures(heads, views, compared=(TARGET,))
        return GeneratedBatch(source, target, others[0] if motion else None, upload(heads.is_static, self.device))

    def _piece(self, heads: HeadDraws, views: Sequence[int], compared: Sequence[int]) -> list[Pictures]:
        generator, on_device = self.generator, upload(heads, self.device)
        shape = on_device.shape[:, : generator.config.neck.num_shape]
        condition = generator.condition(camera_from_label(on_device.mapping_camera), shape)
        styles = generator.styles(on_device.latent, condition, self.config.truncation)
        painted = generator.paint(styles, generator.background_styles(on_device.latent), "const")
        pictures, posed, before = list[Pictures](), None, views[0]
        for view in views:
            if posed is None or not torch.equal(heads.motion[:, view], heads.motion[:, before]):
                expression = on_device.expression[:, view, : generator.config.neck.num_expression]
                posed = generator.pose(shape, expression, on_device.pose[:, view], on_device.eyes[:, view])
            before = view
            pictures.append(self._picture(on_device, painted, posed, view, view in compared))
        names = tuple(f"generated head {number}" for number in heads.number.tolist())
        return [replace(picture, origin=names) for picture in pictures]

    def _picture(
        self, heads: HeadDraws, painted: PaintedHead, posed: PosedHead, view: int, with_truth: bool
    ) -> Pictures:
        """Make one view of B heads; their necks are straight, so that the camera is the camera of the label."""
        camera, jitter = camera_from_label(heads.camera[:, view]), heads.jitter[:, view]
        seen = self.generator.render(painted, posed, camera, jitter=jitter)
        image = seen.rendering.image.clamp(-1, 1)
        truth = None
        if with_truth:
            picks, background = heads.picks[:, view], seen.rendering.background
            points, plane_feature = self.generator.plane_samples(painted, posed, camera, seen.masks, picks, jitter)
            truth = GeneratedTruth(
                points=points,
                plane_feature=plane_feature,
                background=background if self.features else background[:, :3],
                foreground=seen.rendering.foreground if self.features else None,
            )
        landmarks = self._flame.landmarks(posed.vertices)[:, :LANDMARKS]
        size = image.shape[-1]
        return Pictures(
            image=image,
            opacity=seen.rendering.opacity,
            depth=seen.rendering.depth,
            landmarks=picture_points(landmarks, camera, size)[..., :2].contiguous(),
            camera=camera,
            motion=heads.motion[:, view],
            neck=None,  # straight: there is nothing to undo
            positions=None if self._maps is None else self._maps.positions(posed.vertices, camera, size),
            points=landmarks,
            truth=truth,
        )
