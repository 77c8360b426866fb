"""Shows portraits as the faces in raw frames are, on a GPU: one graph follows the faces, drives and renders.

Of a frame the host uploads its pixels and a few numbers, in pinned memory; with the picture comes back whether the face
was there. Frames are put on canvases of a few sizes, and each canvas has graphs of its own.
Letters: B frames, H, W rows and columns of a canvas, S side of the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triportrait.core.errors import InputError
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.motion.motion_crop import ANCHOR_TARGETS, crop_map
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Camera
from triportrait.kernels.dispatch import runs_triton
from triportrait.serve.controls import Controls
from triportrait.serve.faces.alignment import align, alignment_points, middle_square
from triportrait.serve.faces.face import AlignedFace, Face
from triportrait.serve.faces.following import NUM_POINTS, TAKE, Followed, Following, Given, Packed
from triportrait.serve.faces.head_pose import neck_parameters
from triportrait.serve.faces.views import View
from triportrait.serve.media.provenance.watermark import BITS
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.refined import Refined, places_by
from triportrait.serve.shown_geometry import RENDERED, places_of
from triportrait.serve.tracking_files import LENGTHS, Tracking

# Rows and columns, the smallest first; films and cameras have these sizes. A larger frame is followed on the host.
CANVASES = (
    (480, 640), (640, 480), (720, 1280), (1280, 720), (1080, 1920), (1920, 1080), (2160, 3840), (3840, 2160),
)  # fmt: skip
# Of a frame, float64: its size, what its face does, the controls, and where it is seen from.
NUMBERS = {
    "size": 2, "time_s": 1, "does": 1, "anew": 1, "neck": 1, "motion_strength": 1, "gaze": 2, "of_head": 1, "turn": 16,
    "world_from_camera": 16, "intrinsics": 9, "points": 3 * NUM_POINTS, "view": 4,
}  # fmt: skip
REPORT = {"finite": 1, "found": 1, "world_from_camera": 16, "points": 3 * NUM_POINTS, "view": 4}  # back, float64


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One frame, what its face does, and how a portrait follows it.

    Attributes:
        source: the portrait, not a static one.
        image: uint8 [h, w, 3]; pinned memory, as of `FollowedFrames.stage`, is not copied again.
        time_s: later than that of the last frame with the face.
        controls: how the portrait follows. Without a camera it is seen from the fixed one, or by a still neck from
            where the head is turned to, as `animation.base_camera` says.
        turn: [4, 4], is put before the camera, as `cameras.turned` does.
        does: FOLLOW, TAKE or HOLD.
        face: the one that is taken. anew: it is in another shot.
        state: of the face, of B = 1.
    """

    source: PreparedSource
    image: np.ndarray | Tensor
    time_s: float
    controls: Controls
    turn: Tensor
    state: Packed
    does: int
    face: Face | None = None
    anew: bool = False


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """What comes of a raw frame.

    Attributes:
        plain, marked: uint8 [S, S, 3], without a watermark and with it; either may not have been asked for.
        found: whether the frame shows the face; if not, the last pose is held.
        face: where the face was last. camera: from where the portrait is seen.
        state: for the next frame.
    """

    plain: np.ndarray | None
    marked: np.ndarray | None
    found: bool
    face: Face
    camera: Camera
    state: Packed


def can_follow(reenactor: Reenactor) -> bool:
    """Tell whether all that a frame needs can be captured: on a GPU, of motion, and with the neck's kernel."""
    if reenactor.device.type != "cuda" or reenactor.static or reenactor.reads_parameters:
        return False
    return not reenactor.can_turn_neck or runs_triton(numbers=torch.empty(1, device=reenactor.device))


def followed_frames(reenactor: Reenactor, smooth: bool) -> FollowedFrames:
    """Give what shows faces in raw frames by a network, made once for its captures.

    Raises:
        InputError: the face networks are missing or damaged.
    """
    key = f"followed frames, {'smooth' if smooth else 'as they are'}"
    if key not in reenactor.beside:
        reenactor.beside[key] = FollowedFrames(reenactor, FaceMesh(load_model("mesh")), smooth)
    kept = reenactor.beside[key]
    assert isinstance(kept, FollowedFrames)
    return kept


def canvas_of(height: int, width: int) -> tuple[int, int] | None:
    """Choose the smallest canvas that holds a frame; None where none does."""
    return next(((h, w) for h, w in CANVASES if h >= height and w >= width), None)


class FollowedFrames:
    """Follows faces and shows portraits by them, each batch of frames by one graph.

    Graphs are captured when a canvas, with or without necks that turn, watermarks and pictures of geometry, is first
    used, or by `capture`: at most eight for each of CANVASES and each size of a batch. Nobody else may use the device
    meanwhile.

    Args:
        reenactor: the network, for which `can_follow` is true, captured already.
        mesh: fits meshes.
        smooth: as of `FaceTracker`.
    """

    def __init__(self, reenactor: Reenactor, mesh: FaceMesh, smooth: bool = True) -> None:
        self._reenactor, self.smooth = reenactor, smooth
        device = reenactor.device
        self._following = Following(mesh, reenactor.image_size, smooth, reenactor.has_flame_neck).to(device)
        self._graphs = reenactor.more_graphs()
        self._targets = torch.tensor(ANCHOR_TARGETS).to(device)

    @torch.inference_mode()
    def begin(self) -> Packed:
        """Make the state of a face that was never seen, which the first frame has to TAKE."""
        return self._following.begin(1, self._reenactor.device).packed()

    def capture(self, frame: RawFrame, sizes: Sequence[int], marked: bool, geometry: bool = False) -> None:
        """Capture batches of these sizes on a frame's canvas, with necks that turn and without; nothing more later.

        Args:
            frame: shows a face, which is taken.
            sizes: of batches.
            marked: whether pictures get watermarks.
            geometry: capture batches that show depth or normals, too.
        """
        necks = (False, True) if self._reenactor.can_turn_neck else (False,)
        shows: tuple[Shown, ...] = ("picture", *(("normals",) if geometry else ()))
        for size, neck, show in product(sizes, necks, shows):
            frames = [replace(frame, controls=replace(frame.controls, neck=neck, show=show))] * size
            self.show(frames, torch.zeros(size, BITS) if marked else None, plain=not marked)()
        if self._graphs is not None:
            self._graphs.seal()

    @torch.inference_mode()
    def aligned(self, shown: ShownFrame) -> AlignedFace:
        """Fetch a face that was shown as `FaceTracker` gives it, but for `placed`, which is not smoothed."""
        downloads = [self._reenactor.download(part) for part in shown.state]
        numbers, crop = (torch.from_numpy(download().copy()) for download in downloads)
        followed = Followed.unpacked((numbers, crop))
        tracking = Tracking(neck_parameters(followed.neck), followed.landmarks)
        picture = crop[0].numpy()
        return AlignedFace(picture, tracking, shown.found, align(shown.face.alignment) or middle_square(picture))

    def stage(self, image: np.ndarray) -> Tensor:
        """Copy a frame, uint8 [h, w, 3], to pinned memory; any thread may."""
        return self._reenactor.stage(image)

    @torch.inference_mode()
    def show(
        self, frames: Sequence[RawFrame], signs: Tensor | None = None, plain: bool = True
    ) -> Callable[[], list[ShownFrame]]:
        """Begin to follow faces into frames and to show the portraits so.

        Args:
            frames: B of them, together on one canvas: `canvas_of` their largest height and width is not None.
            signs: [B, 64], watermarks as of `Reenactor.reenact_many`.
            plain: give pictures without watermark, too.

        Returns:
            A function that waits for what is shown. It raises `InputError` where numbers are not finite.
        """
        groups = places_by([frame.source.refined for frame in frames])
        if len(groups) == 1:
            return self._show(frames, signs, plain, *groups)
        waits = [
            (places, self._show([frames[i] for i in places], None if signs is None else signs[places], plain, refined))
            for refined, places in groups.items()
        ]

        def wait() -> list[ShownFrame]:
            done = {place: shown for places, each in waits for place, shown in zip(places, each(), strict=True)}
            return [done[place] for place in range(len(frames))]

        return wait

    def _show(
        self, frames: Sequence[RawFrame], signs: Tensor | None, plain: bool, refined: Refined | None
    ) -> Callable[[], list[ShownFrame]]:
        """Begin to show frames, see `show`, whose planes are all made by the networks as they are, or by `refined`."""
        network, sources = self._reenactor, [frame.source for frame in frames]
        uploads = [network.upload(_tensor(frame.image)) for frame in frames]
        heights, widths = zip(*(frame.image.shape[:2] for frame in frames), strict=True)
        canvas = canvas_of(max(heights), max(widths))
        assert canvas is not None, "frames that no canvas holds are followed on the host"
        pictures = torch.stack(
            [F.pad(x, (0, 0, 0, canvas[1] - x.shape[1], 0, canvas[0] - x.shape[0])) for x in uploads]
        )
        turns = network.can_turn_neck and any(frame.controls.neck for frame in frames)
        rows = torch.cat(
            [
                torch.stack([_numbers(frame, network.gaze_units) for frame in frames]),
                torch.cat([x.shape for x in sources]),
            ],
            1,
        )
        shows = [_rendered(frame) for frame in frames]
        geometry = set(shows) != {"picture"}
        parts = (rows, *(() if signs is None else (signs,)), *((places_of(shows),) if geometry else ()))
        numbers = network.upload(torch.cat(parts, 1))
        motions = [source.motion for source in sources]
        origins = [
            motion if frame.controls.neutral is None or motion is None else frame.controls.neutral.to(motion)
            for frame, motion in zip(frames, motions, strict=True)
        ]
        read = [source.source for source in sources]
        joined = [
            _cat(each)
            for each in (
                motions, origins, [each.tokens for each in read], [each.detail_partial for each in read],
                [each.background for each in read],
            )
        ]  # fmt: skip
        states = [_cat([frame.state[i] for frame in frames]) for i in range(2)]
        inputs = pictures, numbers, *joined, *states
        name = f"followed frame, {canvas[0]} x {canvas[1]}" + ", neck turned" * turns + ", marked" * (signs is not None)
        name += ", geometry" * geometry
        function = partial(self._frame, turns, geometry, refined)
        graphs = self._graphs if refined is None else None  # nobody captures a graph for each person
        results = function(*inputs) if graphs is None else graphs(name, function, inputs)
        count = 1 if signs is None else 2
        images, (report, *state) = list(results[:count]), results[count:]
        downloads = [network.download(x) for x in (*(images if plain else images[1:]), report)]
        return lambda: self._shown(frames, [download() for download in downloads], state, plain, signs is not None)

    def _shown(
        self, frames: Sequence[RawFrame], arrays: list[np.ndarray], state: list[Tensor], plain: bool, marked: bool
    ) -> list[ShownFrame]:
        *pictures, report = arrays
        shown, ends = [], np.cumsum([*REPORT.values()])[:-1]
        for i, frame in enumerate(frames):
            finite, found, world, points, view = np.split(report[i], ends)
            if not finite[0]:
                raise InputError(
                    "picture: expected finite numbers, the network made others; check the weights with --weights rule"
                )
            landmarks = points.reshape(NUM_POINTS, 3).astype(np.float32)
            square = View(*view.tolist()) if np.isfinite(view).all() else None
            base = frame.controls.camera or fixed_camera()
            shown.append(
                ShownFrame(
                    pictures[0][i] if plain else None, pictures[-1][i] if marked else None, bool(found[0]),
                    Face(landmarks, alignment_points(landmarks), view=square),
                    Camera(torch.from_numpy(world.reshape(1, 4, 4)).float(), base.intrinsics),
                    (state[0][i : i + 1], state[1][i : i + 1]),
                )
            )  # fmt: skip
        return shown

    def _frame(
        self, turns: bool, geometry: bool, refined: Refined | None, canvas: Tensor, numbers: Tensor,
        source_motion: Tensor, origin: Tensor, tokens: Tensor, detail_partial: Tensor, background: Tensor,
        *last: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Follow, drive and render B frames.

        Args:
            turns: necks turn, at least one of them.
            geometry: not all frames show pictures.
            refined: as of `Reenactor.frame_planes`.
            canvas: uint8 [B, H, W, 3].
            numbers: float64 [B, N], as NUMBERS says, then the shape, then the signs of watermarks, if any, then what
                each shows where `geometry` says so.
            source_motion, origin, tokens, detail_partial, background: as of `Reenactor.frame_planes` and `frame_view`.
            last: the state.

        Returns:
            Pictures as of `Reenactor.frame_view`, the report as REPORT says, and the state.
        """
        network = self._reenactor
        widths = [*NUMBERS.values(), network.portrait.config.neck.num_shape]
        *parts, shape, signs = numbers.split([*widths, numbers.shape[1] - sum(widths)], 1)
        signs, places = signs.split([signs.shape[1] - geometry, int(geometry)], 1)
        of = dict(zip(NUMBERS, parts, strict=True))
        given = Given(of["points"].float().unflatten(1, (NUM_POINTS, 3)), of["view"])
        state, found = self._following(
            canvas, of["size"].long(), of["time_s"][:, 0], of["does"][:, 0].long(), of["anew"][:, 0] > 0, given,
            Followed.unpacked((last[0], last[1])),
        )  # fmt: skip
        maps = crop_map(state.landmarks, network.image_size, self._targets).flatten(1)
        small = torch.cat([maps, of["motion_strength"].float(), of["gaze"].float()], 1)
        (planes,) = network.frame_planes(state.crop, small, source_motion, origin, tokens, detail_partial, refined)
        world = self._cameras(of, state.neck)
        grids = self._necks(shape.float(), state.neck, of["neck"].float()) if turns else ()
        view = torch.cat([world, of["intrinsics"].float(), signs.float()], 1)
        if geometry:
            view = torch.cat([places.float(), view], 1)
            *images, finite = network.frame_geometry(RENDERED, planes, background, view, *grids)
        else:
            *images, finite = network.frame_view(planes, background, view, *grids)
        told = finite[:, None], found[:, None], world, state.points.flatten(1), state.view
        report = torch.cat([part.double() for part in told], 1)
        return *images, report, *state.packed()

    def _cameras(self, of: dict[str, Tensor], neck: Tensor) -> Tensor:
        """Place the cameras: [B, 16], by the head where its neck is kept still."""
        turn, world = (of[name].float().unflatten(1, (4, 4)) for name in ("turn", "world_from_camera"))
        head = F.pad(rotation_matrices(neck).mT, (0, 1, 0, 1))
        head = head + torch.eye(4, device=neck.device) * (torch.arange(4, device=neck.device) == 3)
        seen = torch.where(of["of_head"][..., None] > 0, head @ world, world)
        return (turn @ seen).flatten(1)

    def _necks(self, shape: Tensor, neck: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the grids of necks; those that do not move have zeros."""
        widths = [LENGTHS[name] for name in ("expression", "neck", "jaw", "eyes")]
        pose = F.pad(neck, (widths[0], sum(widths[2:])))
        fine, coarse = self._reenactor.frame_necks([shape.shape[1], *widths], torch.cat([shape, pose], 1))
        return fine * moves[:, :, None, None, None], coarse * moves[:, :, None, None, None]


def _numbers(frame: RawFrame, gaze_units: Tensor) -> Tensor:
    """Return the numbers of a frame, float64 [N], in the order of NUMBERS."""
    controls, camera = frame.controls, frame.controls.camera or fixed_camera()
    gaze = torch.tensor(controls.gaze) / gaze_units
    face = frame.face
    points = torch.zeros(NUM_POINTS, 3) if face is None else torch.from_numpy(face.points)
    view = [math.nan] * 4 if face is None or face.view is None else [*face.view]
    assert (face is None) == (frame.does != TAKE)
    few = [
        *frame.image.shape[:2], frame.time_s, frame.does, frame.anew, controls.neck, controls.motion_strength,
    ]  # fmt: skip
    of_head = controls.camera is None and not controls.neck
    parts = (
        torch.tensor(few, dtype=torch.float64), gaze, torch.tensor([float(of_head)]), frame.turn,
        camera.world_from_camera, camera.intrinsics, points, torch.tensor(view, dtype=torch.float64),
    )  # fmt: skip
    return torch.cat([part.double().flatten() for part in parts])


def _rendered(frame: RawFrame) -> Shown:
    """Return what a frame shows of its rays; a mesh is made of its face later, by who asks for one."""
    return "picture" if frame.controls.show == "mesh" else frame.controls.show


def _tensor(image: np.ndarray | Tensor) -> Tensor:
    return image if isinstance(image, Tensor) else torch.tensor(image)


def _cat(tensors: Sequence[Tensor | None]) -> Tensor:
    """Join rows; one row stays the tensor that it is, so that a graph that has it does not copy it again."""
    rows = [tensor for tensor in tensors if tensor is not None]
    assert len(rows) == len(tensors), "a static source has no motion"
    return rows[0] if len(rows) == 1 else torch.cat(rows)
