"""Runs the network: a source is prepared once, then driven frame by frame, pictures in and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.surface import Surface
from triportrait.core.motion.motion_crop import crop_map, cut
from triportrait.core.person import Person
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.geometry_pictures import GeometryPictures, Shown
from triportrait.core.types import Camera, Head, NeckGrid, Rendering, Source
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.march import inside_ring, ringed
from triportrait.serve.controls import DEFAULT_CONTROLS, Controls
from triportrait.serve.cuda_graph import BATCHES, Graphs
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.image_tensors import finished, to_float
from triportrait.serve.media.provenance.watermark import BITS, mark
from triportrait.serve.motion_parameters import parameters_for, still_parameters
from triportrait.serve.network_on_device import NetworkOnDevice
from triportrait.serve.refined import Refined, joined_planes, refined_by
from triportrait.serve.shown_geometry import RENDERED, places_of, shown_images, surface_of, surface_picture
from triportrait.serve.source_and_driving import SourcePicture
from triportrait.serve.tracking_files import HeadParameters, Tracking


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """Holds what was computed of a source picture once and serves any number of frames.

    Attributes:
        source: the features of the network, cached.
        face: the source's own face, aligned.
        shape: [1, 300] FLAME shape, zeros (the mean face) where it is unknown.
        motion: [1, M], v_s; None for a static source.
        head: the head of a static source, its neck still; no driving frame changes its planes.
        picture: the whole picture that the face was cut out of, where `Pipeline.prepare` read it.
        refined: what a person's file makes the planes with; None takes the networks as they are.
    """

    source: Source
    face: AlignedFace
    shape: Tensor
    motion: Tensor | None
    head: Head | None = None
    picture: SourcePicture | None = None
    refined: Refined | None = None


_SMALL_NUMBERS = 9  # of a driving frame, see `Reenactor._numbers`
Request = tuple[PreparedSource, AlignedFace, Controls]


class Reenactor(NetworkOnDevice):
    """Runs the networks: prepares sources, drives them, and shows heads; see `NetworkOnDevice` for its arguments."""

    def to(self, device: torch.device | str) -> None:
        """Move the networks; captures are dropped, and sources must be prepared again."""
        super().to(device)
        self._geometry = GeometryPictures().to(self.device)
        self._last_neck: tuple[list[Tensor], NeckGrid] | None = None
        self._last_surface: tuple[Head, Surface] | None = None

    @torch.inference_mode()
    def capture(
        self, most_batch: int = 1, marked: Sequence[bool] = (False, True), geometry: bool | None = None
    ) -> None:
        """Capture the launches of frames as CUDA graphs; on a CPU do nothing.

        Do it before other threads use the device. From then on hooks of the parts are not called, and `dtype` must not
        change. Nothing is captured later: what is not asked for here runs launch by launch, slower.

        Args:
            most_batch: capture the batches of `cuda_graph.BATCHES` that hold as many heads, and those below.
            marked: whether views get a watermark: capture those without, those with one, or both.
            geometry: capture views of depth and normals, too; None captures those later, when they are first asked for:
                nobody else may use the device then.
        """
        if self.device.type == "cuda":
            self.beside.clear()
            self._graphs, self._last_neck = Graphs(), None  # a neck that is remembered would not be captured
            self._geometry_graphs = Graphs(self._graphs)
            self.warm_up(most_batch, marked, geometry or False)
            self._graphs.seal()
            if geometry is not None:
                self._geometry_graphs.seal()

    @torch.inference_mode()
    def warm_up(
        self, most_batch: int = 1, marked: Sequence[bool] = (False, True), geometry: bool = False
    ) -> None:  # fmt: skip
        """Make a frame of each kind that `capture` captures, by which kernels are compiled; on a CPU do nothing."""
        if self.device.type != "cuda":
            return
        side = self.image_size
        grey = np.full((side, side, 3), 128, np.uint8)
        neck = self.portrait.config.neck
        columns = self.motion_encoder.columns if self.reads_parameters else None  # a turned neck is of no head model
        parameters = still_parameters(neck.num_shape, neck.num_expression, columns)
        faces = [AlignedFace.whole(grey)]
        if self.reads_parameters:  # every face has them
            faces = [AlignedFace.whole(grey, Tracking(parameters))]
        elif self.can_turn_neck:
            faces.append(AlignedFace.whole(grey, Tracking(parameters)))
        source = self.prepare(faces[0])
        sizes = [size for size, below in zip(BATCHES, (0, *BATCHES), strict=False) if below < most_batch]
        shown = (DEFAULT_CONTROLS, *([replace(DEFAULT_CONTROLS, show="normals")] * geometry))
        if self.reads_parameters and self.can_turn_neck:  # a still neck has graphs of its own
            shown = (*shown, *(replace(controls, neck=False) for controls in shown))
        for size, face, gets_mark, controls in product(sizes, faces, marked, shown):
            signs = torch.zeros(size, BITS) if gets_mark else None
            self.reenact_many([(source, face, controls)] * size, signs)

    @torch.inference_mode()
    def prepare(self, face: AlignedFace, person: Person | None = None) -> PreparedSource:
        """Read the face of a source picture once.

        Args:
            face: the source's.
            person: what was learned of this very person; None takes the networks as they are.

        Raises:
            InputError: the network made numbers that are not finite, or the person was refined for other weights or
                from another picture.
        """
        refined = None if person is None else refined_by(self, person, face.crop)
        motion = None if self.static else self.motion(face)
        picture = to_float(self.upload(torch.tensor(face.crop)[None]))
        source = self.portrait.prepare(picture, motion)  # once: in float32
        _check_finite("neutral features of the source", source.tokens)
        parameters = face.tracking.parameters
        if parameters is not None:
            self.check_head_model(parameters.head_model, "source")
        shape = torch.zeros(1, self.portrait.config.neck.num_shape) if parameters is None else parameters.shape
        head, networks = None, refined or self.portrait
        with self._autocast():
            source = networks.cache(source)
            if self.static:
                planes = networks.planes(source.tokens, source.grid, None, None, source.detail_partial)
                head = self._head(self._as_read(Head(planes, source.background)), source.background, None)
        return PreparedSource(source, face, shape, motion, head, refined=refined)

    @torch.inference_mode()
    def motion(self, face: AlignedFace) -> Tensor:
        """Read the motion v [1, M] off a face."""
        with self._autocast():
            if self.reads_parameters:
                return self.motion_encoder(self.upload(self._parameters(face.tracking))).float()
            picture, maps = torch.tensor(face.crop)[None], self._crop_map(face.tracking)
            return self._encode_motion(self.upload(picture), self.upload(maps))

    def head(self, source: PreparedSource, face: AlignedFace, controls: Controls = DEFAULT_CONTROLS) -> Head:
        """Make the source's head as it follows a driving face, ready for `views`; the controls' camera is not read."""
        return self._heads([(source, face, controls)])

    @torch.inference_mode()
    def views(self, head: Head, cameras: Sequence[Camera], shows: Sequence[Shown] = ()) -> list[np.ndarray]:
        """Render a head as one uint8 [S, S, 3] per camera; the transformer does not run.

        Args:
            head: one head.
            cameras: from where it is seen.
            shows: what each camera shows; pictures if it is not given.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        shows = shows or ["picture"] * len(cameras)
        downloads = [self._pictures(head, camera, [show]) for camera, show in zip(cameras, shows, strict=True)]
        return [picture for wait in downloads for picture in wait()[0]]

    @torch.inference_mode()
    def marked_views(
        self, head: Head, cameras: Sequence[Camera], signs: Tensor, shows: Sequence[Shown] = ()
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pictures as of `views`, each once as it is and once with the watermark `signs`, [64]."""
        shows = shows or ["picture"] * len(cameras)
        downloads = [
            self._pictures(head, camera, [show], signs[None]) for camera, show in zip(cameras, shows, strict=True)
        ]
        return [(plain[0], marked[0]) for plain, marked in (wait() for wait in downloads)]

    def reenact(
        self, source: PreparedSource, face: AlignedFace, controls: Controls = DEFAULT_CONTROLS
    ) -> np.ndarray:  # fmt: skip
        """Show the source as one driving face is, uint8 [S, S, 3]: `head`, then one of `views`.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        return self.views(self.head(source, face, controls), [controls.camera or fixed_camera()], [controls.show])[0]

    @torch.inference_mode()
    def reenact_many(self, requests: Sequence[Request], signs: Tensor | None = None) -> list[np.ndarray]:
        """Show several driving faces, of one source or of several, in one pass.

        Args:
            requests: sources, driving faces and controls.
            signs: [B, 64], the watermarks that the pictures get on the device; a row of zeros is none.

        Returns:
            For each request the picture that `reenact` gives, in float32 within 2 of 255 levels: the sums of a batch
            run in another order.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        if not requests:
            return []
        cameras = Camera.cat([controls.camera or fixed_camera() for _, _, controls in requests])
        shows = [controls.show for _, _, controls in requests]
        return self._pictures(self._heads(requests), cameras, shows, signs, plain=signs is None)()[-1]

    @torch.inference_mode()
    def render(self, head: Head, camera: Camera) -> Rendering:
        """Render B views of B heads as tensors, for comparisons."""
        with self._autocast():
            return self.portrait.render(head, camera.to(self.device))

    @torch.inference_mode()
    def _heads(self, requests: Sequence[Request]) -> Head:
        sources = [source for source, _, _ in requests]
        neck, backgrounds = self.necks(requests), [each.source.background for each in sources]
        background = backgrounds[0] if len(backgrounds) == 1 else torch.cat(backgrounds)
        if self.static:
            made = [self._as_read(each.head) for each in sources if each.head is not None]
            return self._head(made[0] if len(made) == 1 else torch.cat(made), background, neck)
        planes = joined_planes(
            [each.refined for each in sources], lambda places, of: self._planes([requests[i] for i in places], of)
        )
        return self._head(planes, background, neck)

    def _planes(self, requests: Sequence[Request], refined: Refined | None) -> Tensor:
        """Compute the planes of driving faces by the networks of all or of one person, as views read them."""
        sources = [source for source, _, _ in requests]
        source = sources[0].source if len(requests) == 1 else Source.cat([each.source for each in sources])
        images = self.upload(torch.from_numpy(np.stack([face.crop for _, face, _ in requests])))
        numbers = self.upload(torch.cat([self._numbers(face, controls) for _, face, controls in requests]))
        motions = [each.motion for each in sources if each.motion is not None]
        neutrals = [controls.neutral for _, _, controls in requests]
        source_motion = origin = motions[0] if len(motions) == 1 else torch.cat(motions)
        if any(neutral is not None for neutral in neutrals):
            origin = torch.cat([m if n is None else n.to(m) for m, n in zip(motions, neutrals, strict=True)])
        assert source.detail_partial is not None
        inputs = images, numbers, source_motion, origin, source.tokens, source.detail_partial
        if refined is not None:  # launch by launch: a graph would have to be captured for every person
            return self.frame_planes(*inputs, refined)[0]
        return self._run("planes", self.frame_planes, inputs)[0]

    def _as_read(self, head: Head) -> Tensor:
        """Return the planes as views read them: within a ring of zeros where the march has its kernels."""
        if not self.portrait.volume.reads_ring:
            return head.planes
        return ringed(head.planes) if head.ringed_planes is None else head.ringed_planes

    def _head(self, planes: Tensor, background: Tensor, neck: NeckGrid | None) -> Head:
        """Make the head of planes that are as `_as_read` returns them."""
        if not self.portrait.volume.reads_ring:
            return Head(planes, background, neck)
        return Head(inside_ring(planes), background, neck, planes)

    def frame_planes(
        self, images: Tensor, numbers: Tensor, source_motion: Tensor, origin: Tensor, tokens: Tensor,
        detail_partial: Tensor, refined: Refined | None = None,
    ) -> tuple[Tensor]:  # fmt: skip
        """Compute what a driving frame changes.

        v = v_d + (s - 1) (v_d - origin) + shift, where the origin is v_s or the driving face's neutral motion.

        Args:
            images: uint8 [B, S, S, 3]. numbers: [B, 9 or 9 + M], see `_numbers`. source_motion, origin: [B, M].
            tokens, detail_partial: of the cached source.
            refined: what the planes of all B are made with; None takes the networks as they are.

        Returns:
            The planes as views read them.
        """
        with self._autocast():
            if self.reads_parameters:
                motion = self.motion_encoder(numbers[:, _SMALL_NUMBERS:]).float()
            else:
                motion = self._encode_motion(images, numbers[:, :6].unflatten(1, (2, 3)))
            shift = source_motion - origin
            if not self.static and (gaze := self.motion_encoder.gaze) is not None:
                shift = shift + F.pad(numbers[:, 7:_SMALL_NUMBERS], (gaze.start, shift.shape[1] - gaze.stop))
            motion = motion + (numbers[:, 6:7] - 1) * (motion - origin) + shift  # at s = 1 not a bit is changed
            side = self.portrait.config.image_size // 16
            planes = (refined or self.portrait).planes(tokens, (side, side), motion, None, detail_partial)
            return (ringed(planes) if self.portrait.volume.reads_ring else planes,)

    def _encode_motion(self, images: Tensor, maps: Tensor) -> Tensor:
        assert self.motion_encoder.crop_size is not None
        crops = cut(to_float(images), maps, self.motion_encoder.crop_size)
        return self.motion_encoder(crops).float()

    def _numbers(self, face: AlignedFace, controls: Controls) -> Tensor:
        """Return what a driving frame has of small numbers, [1, 9]: the crop's map, the strength s, the gaze.

        Where parameters are the motion they follow, [1, 9 + M].
        """
        gaze = torch.tensor(controls.gaze) / self.gaze_units
        small = [self._crop_map(face.tracking).flatten(), torch.tensor([controls.motion_strength]), gaze]
        if not self.reads_parameters:
            return torch.cat(small)[None]
        if face.tracking.parameters is None and controls.motion_strength == 0:  # nobody is seen yet, and v_s is taken
            return torch.cat([*small, torch.zeros(self.motion_encoder.motion_width)])[None]
        return torch.cat([*small, self._parameters(face.tracking)[0]])[None]

    def _parameters(self, tracking: Tracking) -> Tensor:
        """Return the parameters of a tracked face that the motion encoder takes, [1, M].

        Raises: `InputError` where the face is not tracked, or by another head model.
        """
        columns = self.motion_encoder.columns
        assert columns is not None
        return parameters_for(columns, tracking.parameters)

    def _pictures(
        self, head: Head, camera: Camera, shows: Sequence[Shown], signs: Tensor | None = None, plain: bool = True
    ) -> Callable[[], list[list[np.ndarray]]]:
        """Begin B views of B heads.

        Args:
            shows: what each of them shows.
            signs: [B, 64], their watermarks.
            plain: give the pictures without watermark, too.

        Returns:
            A function that waits for the pictures, and gives those without a watermark, those with one, or both.
        """
        if "mesh" in shows:
            return self._with_meshes(head, camera, shows, signs, plain)
        neck = head.neck
        grids = () if neck is None else (neck.fine, neck.coarse)
        geometry = set(shows) != {"picture"}
        places = (places_of(shows),) if geometry else ()
        parts = (*places, camera.world_from_camera, camera.intrinsics, *(() if signs is None else (signs,)))
        numbers = self.upload(torch.cat([part.flatten(1) for part in parts], 1))
        name = ("view" if neck is None else "turned view") + ("" if signs is None else ", marked")
        inputs = self._as_read(head), head.background, numbers, *grids
        if geometry:
            *images, finite = self._run_geometry(name, set(shows), inputs)
        else:
            *images, finite = self._run(name, self.frame_view, inputs)
        # the numbers travel with the pictures: one wait for the device, and only then who is to blame
        downloads = [self.download(x) for x in (*(images if plain else images[1:]), finite)]

        def wait() -> list[list[np.ndarray]]:
            *pictures, all_finite = (download() for download in downloads)
            if not all_finite.all():
                self._raise_not_finite(head, camera)
            return [list(each) for each in pictures]

        return wait

    def _with_meshes(
        self, head: Head, camera: Camera, shows: Sequence[Shown], signs: Tensor | None, plain: bool
    ) -> Callable[[], list[list[np.ndarray]]]:
        """Make `_pictures` of which some show meshes: these now, and one by one."""
        others = [i for i, show in enumerate(shows) if show != "mesh"]
        rest = None
        if others:
            signs_of_others = None if signs is None else signs[others]
            shown = [shows[i] for i in others]
            rest = self._pictures(head.take(others), camera.take(others), shown, signs_of_others, plain)
        meshes = {}
        for i in sorted({*range(len(shows))} - {*others}):
            one = head if len(shows) == 1 else head.take([i])
            picture = surface_picture(self.surface(one), camera.take([i]), self.image_size, self.device)
            marked = [] if signs is None else [mark(torch.tensor(picture)[None], signs[i : i + 1].cpu())[0].numpy()]
            meshes[i] = [picture, *marked] if plain else marked

        def wait() -> list[list[np.ndarray]]:
            made = dict(zip(others, zip(*rest(), strict=True), strict=True)) if rest is not None else {}
            pictures = made | meshes
            return [list(each) for each in zip(*(pictures[i] for i in range(len(shows))), strict=True)]

        return wait

    def surface(self, head: Head) -> Surface:
        """Extract the surface of one head; that of the last one is kept, for other views of it.

        Raises:
            InputError: it has none, the network made numbers that are not finite, or a package is missing.
        """
        if self._last_surface is None or self._last_surface[0] is not head:
            _check_finite("planes", head.planes)
            self._last_surface = head, surface_of(self.portrait, head)
        return self._last_surface[1]

    def frame_view(self, planes: Tensor, background: Tensor, numbers: Tensor, *grids: Tensor) -> tuple[Tensor, ...]:
        """Render B views.

        Args:
            planes: as `_as_read` returns them.
            background: as in `Head`.
            numbers: [B, 25], pose and intrinsics of the cameras; [B, 89] with the signs of watermarks.
            grids: of the necks, if they turn.

        Returns:
            Pictures uint8 [B, S, S, 3], where there are signs the marked pictures, too, and [B], whether all numbers of
            a picture are finite.
        """
        head, camera = self._seen(planes, background, numbers, grids)
        with self._autocast():
            image = self.portrait.render(head, camera).image
        return finished(image, numbers[:, 25:])

    def frame_geometry(
        self, kinds: Collection[Shown], planes: Tensor, background: Tensor, numbers: Tensor, *grids: Tensor
    ) -> tuple[Tensor, ...]:
        """Render B views like `frame_view`, each of what it shows.

        Args:
            kinds: what is made, at least what is asked for.
            planes, background, grids: as of `frame_view`.
            numbers: [B, 26 or 90]: what each view shows, as `places_of` has it, then the numbers of `frame_view`.
        """
        places, numbers = numbers[:, 0], numbers[:, 1:]
        head, camera = self._seen(planes, background, numbers, grids)
        with self._autocast():
            image = shown_images(self.portrait, self._geometry, head, camera, places, kinds)
        return finished(image, numbers[:, 25:])

    def _run_geometry(self, name: str, kinds: set[Shown], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._geometry_graphs is None:
            return self.frame_geometry(kinds, *inputs)
        # one graph for whatever the heads of a batch show
        return self._geometry_graphs(f"{name}, geometry", partial(self.frame_geometry, RENDERED), inputs)

    def _seen(
        self, planes: Tensor, background: Tensor, numbers: Tensor, grids: tuple[Tensor, ...]
    ) -> tuple[Head, Camera]:  # fmt: skip
        config = self.portrait.config
        box_side, near = config.render.box_side, config.neck.near_squared_distance
        neck = NeckGrid(grids[0], grids[1], box_side, near) if grids else None
        camera = Camera(numbers[:, :16].unflatten(1, (4, 4)), numbers[:, 16:25].unflatten(1, (3, 3)))
        return self._head(planes, background, neck), camera

    @torch.inference_mode()
    def _raise_not_finite(self, head: Head, camera: Camera) -> None:
        rendering = self.render(head, camera)
        _check_finite("planes", head.planes)
        _check_finite("rendered feature", rendering.feature)
        _check_finite("picture", rendering.image)

    def _crop_map(self, tracking: Tracking) -> Tensor:
        landmarks = None if tracking.landmarks is None else tracking.landmarks.cpu().float()
        return crop_map(landmarks, self.image_size)

    def necks(self, requests: Sequence[Request]) -> NeckGrid | None:
        """Compute how the necks of requests turn; None where none does."""
        grids = [self._neck_grid(s, face.tracking.parameters) if c.neck else None for s, face, c in requests]
        moving = [grid for grid in grids if grid is not None]
        if not moving:
            return None
        if len(grids) == 1:
            return moving[0]
        still = replace(moving[0], fine=torch.zeros_like(moving[0].fine), coarse=torch.zeros_like(moving[0].coarse))
        return NeckGrid.cat([still if grid is None else grid for grid in grids])

    def _neck_grid(self, source: PreparedSource, parameters: HeadParameters | None) -> NeckGrid | None:
        if parameters is None or self.portrait.neck is None:
            return None
        self.check_head_model(parameters.head_model, "driving")
        pose = [parameters.expression, parameters.neck, parameters.jaw, parameters.eyes]
        inputs = [source.shape, *pose]  # a held pose has the same inputs again, and the mesh is slow
        if self._last_neck is None or not all(map(torch.equal, inputs, self._last_neck[0])):
            numbers = self.upload(torch.cat(inputs, 1))
            grids = partial(self.frame_necks, [p.shape[1] for p in inputs])
            # without its kernel the search for the nearest triangles waits for the device, and cannot be captured
            captured = runs_triton(numbers=numbers)
            fine, coarse = self._run("neck", grids, (numbers,)) if captured else grids(numbers)
            config = self.portrait.config
            grid = NeckGrid(fine, coarse, config.render.box_side, config.neck.near_squared_distance)
            self._last_neck = inputs, grid
        return self._last_neck[1]

    def frame_necks(self, widths: list[int], numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the grids of a pose: shape, expression, neck, jaw and eyes, [1, their widths together]."""
        assert self.portrait.neck is not None
        grid = self.portrait.neck(*numbers.split(widths, 1))
        return grid.fine, grid.coarse


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise InputError(
            f"{name}: expected finite numbers, the network made others; check the weights with --weights rule"
        )
