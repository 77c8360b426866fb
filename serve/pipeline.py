"""`Pipeline`, the library: it turns a portrait and driving pictures into frames; docs/python.md shows how to use it."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.density import Progress
from triportrait.core.gpus import named_device
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Camera, Head
from triportrait.core.weights import log_weights, named_weights
from triportrait.serve.animation import (
    AnimatedFrame,
    Animation,
    Options,
    Origin,
    base_camera,
    check_controls,
    until_seen,
)
from triportrait.serve.controls import DEFAULT_CONTROLS, Controls
from triportrait.serve.faces.face import AlignedFace, FaceProvider
from triportrait.serve.faces.providers import FaceKind, LazyProvider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.first_start import FirstStart
from triportrait.serve.head_meshes import DEFAULT_MESH, MeshOptions, make_mesh, source_stamp
from triportrait.serve.media.meshes.mesh_file import HeadMesh
from triportrait.serve.media.output_file import VIDEO_ENDINGS, check_output
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.encoders import EncoderChoice, chosen_encoder
from triportrait.serve.personalizing import PersonalizingNetworks
from triportrait.serve.picture_inputs import Picture, to_picture
from triportrait.serve.pipeline_inputs import Driving, Source, open_driving, optional_path
from triportrait.serve.precision import Precision, use_precision
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.refined import GivenPerson, PersonOrPath
from triportrait.serve.saving import WRITTEN_PICTURES, write_frames
from triportrait.serve.shown_geometry import check_show
from triportrait.serve.source_and_driving import DrivingFrames
from triportrait.serve.source_and_driving import Progress as LookProgress
from triportrait.serve.tracked.fitted_inputs import (
    TrackKind,
    check_fit,
    first_tracker,
    fit_driving,
)
from triportrait.serve.turntable import SWAY_DEG, TURN_S, check_turntable, turntable_frames
from triportrait.serve.weight_loading import RULE, WeightFiles, load_weights, need_faces

logger = logging.getLogger(__name__)


class Pipeline(PersonalizingNetworks):
    """Animates portraits; `from_pretrained` makes one.

    It serves one thread at a time. Several animations of one pipeline may be under way in that thread. Use it as a
    context manager, or close it, to release the networks and the face detector.

    Attributes:
        weights: `demo`, `rule` or the folder of its weights.
        times: how long each step took, see `time_parts`.
    """

    @classmethod
    def from_pretrained(
        cls,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        faces: FaceKind | FaceProvider | LazyProvider = "auto",
        static: bool = False,
    ) -> Self:
        """Load the networks.

        Args:
            weights: a folder, "demo" for the package's own, which know procedural heads alone, or "rule" for weights
                that only check an installation. None takes $TRIPORTRAIT_WEIGHTS, else "demo".
            device: "auto" (CUDA where torch has it), "cpu", "cuda", or a device of torch.
            precision: "fp32", "bf16", "fp16", or "auto": half precision on a GPU where its frame has 50 dB PSNR
                against that of float32.
            faces: what finds faces: "networks" (that `triportrait fetch faces` brought), "auto" (those where they
                are), "none" (pictures are aligned already), or a provider of your own.
            static: switch the layers for motion off: the source keeps its own expression, only cameras and the neck
                move.

        Raises:
            InputError: there are no such weights or no such device, or a frame in the named precision is too far from
                float32's.
        """
        name = named_weights(None if weights is None else os.fspath(weights))
        log_weights(None if weights is None else os.fspath(weights))
        chosen = named_device(device)
        began = time.perf_counter()
        reenactor = Reenactor(*load_weights(name, static), chosen, static)
        reenactor.reload = WeightFiles(name, static).load_again
        first_start = FirstStart(reenactor, precision)
        with first_start.part():
            use_precision(reenactor, precision)
        logger.info("weights: %s, %.1f s to load, on %s", name, time.perf_counter() - began, chosen)
        if name == RULE:
            logger.info(
                "these weights are made from the tensors' names: they check the installation, the picture is noise"
            )
        finder = faces if isinstance(faces, LazyProvider) else LazyProvider(faces)
        return cls(reenactor, name, finder, first_start)

    def prepare(
        self, source: Source, *, face: int | None = None, source_params: str | os.PathLike[str] | None = None,
        track: TrackKind = "quick", person: PersonOrPath | None = None,
    ) -> PreparedSource:  # fmt: skip
        """Read a portrait once, for any number of frames.

        Args:
            source: a path (a picture, a folder whose first picture is taken, or a video), a PIL image, or an array
                uint8 [H, W, 3]. A prepared source is returned as it is.
            face: which face, counted from the left, from 1; the largest by default.
            source_params: the folder with the published files of its face, or with `landmarks/`; for paths alone.
            track: "quick" reads the turn of the head off landmarks; "fit" fits the head model of the weights to them,
                which gives the shape of the face, too.
            person: what `personalize` learned of this very picture, or the file of it: the portrait is shown refined.

        Raises:
            InputError: the picture cannot be read or shows no such face, the network's numbers are not finite, or the
                person's file is damaged, or was made for other weights or from another picture.
        """
        if isinstance(source, PreparedSource):
            if person is not None:
                raise InputError("person: expected a picture beside it, got a prepared source; give it to `prepare`")
            self._check_prepared(source)
            return source
        given = None if person is None else GivenPerson.read(person, self._reenactor, self.weights)
        picture, aligned = self._aligned(source, face, source_params, track)
        reenactor = self._network()
        if given is not None:
            given.check_source(aligned.crop, picture.name)
        with self.times.part("prepare the source"):
            prepared = reenactor.prepare(aligned, None if given is None else given.person)
        return replace(prepared, picture=picture)

    def animate(
        self,
        source: Source,
        driving: Driving,
        *,
        controls: Controls | Callable[[float], Controls] = DEFAULT_CONTROLS,
        yaw_deg: float = 0.0,
        pitch_deg: float = 0.0,
        orbit: bool = False,
        relative: bool = False,
        smooth: bool = True,
        paste_back: bool = False,
        side_by_side: bool = False,
        frames: int | None = None,
        face: int | None = None,
        driving_face: int | None = None,
        source_params: str | os.PathLike[str] | None = None,
        driving_params: str | os.PathLike[str] | None = None,
        fps: float | Fraction | None = None,
        track: TrackKind = "quick",
        person: PersonOrPath | None = None,
    ) -> Animation:
        """Let a portrait follow a driving video.

        Args:
            source, face, source_params, person: as in `prepare`.
            driving: a path (a video, a folder of pictures, a picture), one picture as a PIL image or an array, an
                array uint8 [T, H, W, 3], or an iterable of pictures, which is read as frames are asked for.
            controls: how the portrait follows, or a function from a time in seconds to controls.
            yaw_deg, pitch_deg: turn the camera around the head.
            orbit: let the camera sway around that view.
            relative: take the first driving face as neutral: the portrait begins as it is.
            smooth: take the jitter out of where the driving face is found, at the price of a small lag.
            paste_back: put the result back into the whole portrait; the neck stays as it is there.
            side_by_side: show source, driving face and result beside each other.
            frames: use the first N driving frames only.
            driving_face: which face of the video, counted from the left where it is first seen, from 1; the largest by
                default.
            driving_params: the folder with the files of the driving faces, as `source_params`.
            fps: the rate of an iterable, 25 by default; videos bring their own times.
            track: "quick" reads the turn of the head off each frame; "fit" reads the frames twice, and fits a head
                model to all of them first: jaw, eyes and expression then reach the neck field.

        Returns:
            An iterator of `AnimatedFrame`; it holds a few frames at a time, and can be closed early.

        Raises:
            InputError: an argument or the first frame cannot be used; while iterating, a later frame cannot.
        """
        options = Options(
            yaw_deg, pitch_deg, orbit, relative, smooth, paste_back, side_by_side, frames, driving_face
        )  # fmt: skip
        options.check()
        check_fit(track)
        controls_at = self._controls_at(controls, paste_back)
        if relative and controls_at(0.0).neutral is not None:
            raise InputError("relative: expected no neutral motion in the controls beside it, got one; leave one out")
        clip = (
            driving
            if isinstance(driving, DrivingFrames)
            else open_driving(driving, driving_params, frames, fps, self.device)
        )
        prepared = self.prepare(source, face=face, source_params=source_params, track=track, person=person)
        if track == "fit" and clip.fitted is None:
            self.fit(clip, smooth=smooth, frames=frames, driving_face=driving_face)
        if clip is not driving and clip.needs_finder and isinstance(clip.name, Path):
            provider = self._finder()
            if provider is not None:
                clip.look(provider, frames, need_faces(self.weights))
        animation = Animation(self._network(), prepared, clip, controls_at, options, self._finder, self.times)
        self._animations.add(animation)
        return animation

    def save(
        self,
        frames: Iterable[AnimatedFrame],
        path: str | os.PathLike[str],
        *,
        sound: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        watermark: bool = True,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        encoder: EncoderChoice = "auto",
    ) -> Path:
        """Write frames as a video (.mp4 .mov .mkv .webm), or one as a picture (.png .jpg .webp).

        The file carries a watermark and a signed manifest that names the source and the weights, and appears only when
        it is whole.

        Args:
            frames: those of `animate` or `frame`, read one by one; their pictures may be replaced.
            sound: the video whose sound is taken.
            overwrite: replace an existing file.
            watermark: mark the pictures; the manifest says whether they are marked.
            certificate, key: PEM files to sign with, by default $TRIPORTRAIT_CERTIFICATE, else one made at first use.
            encoder: what makes H.264: "x264", "nvenc", or "auto", which is x264 where the network runs on a CPU, and on
                a GPU NVENC or a faster preset of x264.

        Raises:
            InputError: there is no frame, or the output cannot be written.
        """
        target, sound_video = Path(path), optional_path(sound)
        sources = [] if sound_video is None else [sound_video]
        check_output(target, overwrite, (*VIDEO_ENDINGS, *WRITTEN_PICTURES), sources=sources)

        def stamp(first: AnimatedFrame) -> Stamp:
            return Stamp(
                first.origin.picture.sha256(), self.weights, watermark=watermark,
                certificate=optional_path(certificate), key=optional_path(key), composite=first.origin.composite,
            ).for_person(first.origin.person_sha256)  # fmt: skip

        if isinstance(frames, Animation):
            frames.marks = watermark
        write_frames(
            frames, target, stamp, sound=sound_video, overwrite=overwrite,
            encoder=chosen_encoder(encoder, self.device.type == "cuda"), times=self.times,
        )  # fmt: skip
        return target

    def fit(
        self, driving: DrivingFrames, *, smooth: bool = True, frames: int | None = None,
        driving_face: int | None = None, progress: LookProgress = lambda frames, total: frames,
    ) -> None:  # fmt: skip
        """Follow the face of driving frames and fit its parameters, as `animate` does where `track` is "fit"."""
        tracker = first_tracker(driving, self._finder, smooth, driving_face)
        fit_driving(driving, self.head_model, tracker, frames, self._reenactor, progress)

    def frame(
        self, source: PreparedSource, picture: Picture | AlignedFace, controls: Controls = DEFAULT_CONTROLS, *,
        tracker: FaceTracker | None = None, time_s: float = 0.0,
    ) -> AnimatedFrame:  # fmt: skip
        """Make one frame, for a loop of your own.

        Args:
            source: from `prepare`.
            picture: the driving picture: a path, a PIL image, an array uint8 [H, W, 3], or an aligned face.
            controls: how the portrait follows.
            tracker: from `tracker`, where pictures follow each other; without one each picture is looked at by itself.
            time_s: when the picture was taken, later than the one before.

        Raises:
            InputError: the picture cannot be read, or the network's numbers are not finite.
        """
        head, face, camera = self._follow(source, picture, controls, tracker, time_s)
        image = self._network().views(head, [camera], [controls.show])[0]
        return AnimatedFrame(image, time_s, 0, camera, face.found, Origin.of(source))

    def head(
        self, source: PreparedSource, picture: Picture | AlignedFace, controls: Controls = DEFAULT_CONTROLS, *,
        tracker: FaceTracker | None = None, time_s: float = 0.0,
    ) -> Head:  # fmt: skip
        """Make the head of one frame, which `view` shows from any side; arguments as in `frame`."""
        return self._follow(source, picture, controls, tracker, time_s)[0]

    def view(self, head: Head, camera: Camera | None = None, show: Shown = "picture") -> np.ndarray:
        """Render a head as uint8 [S, S, 3], by default from the front; the transformer does not run again."""
        check_controls(Controls(camera, show=show), self._motion_width)
        return self._network().views(head, [camera or fixed_camera()], [show])[0]

    def turntable(
        self, source: Source, *, show: Shown = "mesh", driving: Picture | None = None,
        arc_deg: float = SWAY_DEG, seconds: float = TURN_S, face: int | None = None,
        source_params: str | os.PathLike[str] | None = None, person: PersonOrPath | None = None,
    ) -> Iterator[AnimatedFrame]:  # fmt: skip
        """Let a camera go around a head that holds still, its picture beside its geometry, for `save`.

        Args:
            source, face, source_params, person: as in `prepare`.
            show: what is beside the picture; "picture" is nothing.
            driving: a picture whose expression the head has; None is its own.
            arc_deg: from the one side to the other and back, up to 180 on either; 360 goes once around instead.
            seconds: how long that takes, 25 frames each.

        Returns:
            An iterator of frames, uint8 [S, 2 S, 3]; they are made as they are asked for.

        Raises: `InputError` where an argument cannot be used, or `driving` shows no face.
        """
        check_turntable(show, arc_deg, seconds)
        prepared = self.prepare(source, face=face, source_params=source_params, person=person)
        return turntable_frames(self._network(), self._still(prepared, driving), prepared, show, arc_deg, seconds)

    def mesh(
        self, source: Source, driving: Picture | AlignedFace | None = None, options: MeshOptions = DEFAULT_MESH, *,
        neck: bool = True, face: int | None = None, watermark: bool = True, progress: Progress | None = None,
        person: PersonOrPath | None = None,
    ) -> HeadMesh:  # fmt: skip
        """Make a mesh of a head, whose `save` writes .glb, .ply or .obj; docs/mesh tells more.

        Args:
            source, face, person: as in `prepare`.
            driving: whose expression and neck pose the head has, as in `frame`; None is its own.
            neck: turn the neck as that face does, where its pose is known.
            watermark: mark the texture.
            progress: called with the nodes of the grid that are done and their number.

        Raises: `InputError` where an argument cannot be used, `driving` shows no face, or no surface is found.
        """
        options.check()
        prepared = self.prepare(source, face=face, person=person)
        head = self._still(prepared, driving, Controls(neck=neck))
        return make_mesh(self._network(), head, options, source_stamp(prepared, self.weights, watermark), progress)

    @staticmethod
    def camera(yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> Camera:
        """Make a camera around the head: positive yaw sees more of the head's right side, positive pitch is higher."""
        return turned(fixed_camera(), math.radians(yaw_deg), math.radians(pitch_deg))

    def motion(self, picture: Picture | AlignedFace) -> Tensor:
        """Read the motion [1, M] off a face, such as the `neutral` one of `Controls`."""
        return self._network().motion(self._face(picture, None, 0.0))

    def _follow(
        self, source: PreparedSource, picture: Picture | AlignedFace, controls: Controls,
        tracker: FaceTracker | None, time_s: float,
    ) -> tuple[Head, AlignedFace, Camera]:  # fmt: skip
        self._check_prepared(source)
        check_controls(controls, self._motion_width)
        face = self._face(picture, tracker, time_s)
        head = self._network().head(source, face, until_seen(face, controls))
        return head, face, turned(base_camera(face, controls), 0.0, 0.0)

    def _still(
        self, source: PreparedSource, driving: Picture | AlignedFace | None, controls: Controls = DEFAULT_CONTROLS
    ) -> Head:  # fmt: skip
        """Make one head; without a driving face it has its own expression."""
        if driving is not None and not isinstance(driving, AlignedFace):
            driving = self._face(driving, None, 0.0)
            if not driving.is_known:
                raise InputError("driving: expected a picture with a face, none was found; give another picture")
        return self.head(source, driving or source.face, controls)

    def _face(self, picture: Picture | AlignedFace, tracker: FaceTracker | None, time_s: float) -> AlignedFace:
        if isinstance(picture, AlignedFace):
            return picture
        tracker = tracker or self.tracker(smooth=False)
        image = to_picture(picture, "driving picture")
        return tracker.follow(image, time_s) if tracker.provider else AlignedFace.middle(image, tracker.size_px)

    def _controls_at(
        self, controls: Controls | Callable[[float], Controls], paste_back: bool
    ) -> Callable[[float], Controls]:
        def checked(time_s: float) -> Controls:
            at_time = controls(time_s) if callable(controls) else controls
            check_controls(at_time, self._motion_width)
            check_show(at_time.show, paste_back)
            return at_time

        if not callable(controls):
            checked(0.0)
        return checked
