"""A frame that is followed on the device shows what the tracker and the network show of it one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.face_models import needs_face_models
from tests.serve.following import MEAN_LEVELS, MOST_LEVELS, Found, apart, films, finder, mesh
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera
from triportrait.serve import animation
from triportrait.serve.animation import base_camera, until_seen
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.following import FOLLOW, TAKE
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.followed_clip import FollowedClip
from triportrait.serve.followed_frames import CANVASES, FollowedFrames, RawFrame, ShownFrame, can_follow, canvas_of
from triportrait.serve.media.provenance.watermark import Watermark, message_of
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import sample_picture
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.weight_loading import load_weights

pytestmark = needs_face_models
YAW, PITCH = 0.3, -0.1
TURN = turned(Camera(torch.eye(4)[None], torch.eye(3)[None]), YAW, PITCH).world_from_camera[0]


@pytest.fixture(scope="module")
def engine() -> Reenactor:
    return Reenactor(*load_weights("demo"))


@pytest.fixture(scope="module")
def source(engine) -> PreparedSource:
    return engine.prepare(AlignedFace.whole(sample_picture(engine.image_size)))


@pytest.fixture(scope="module")
def follows(engine) -> FollowedFrames:
    return FollowedFrames(engine, mesh())


def by_the_host(
    engine: Reenactor, source: PreparedSource, face: AlignedFace, controls: Controls
) -> tuple[np.ndarray, Camera]:
    """What `Animation` shows of a face."""
    controls = until_seen(face, controls)
    camera = turned(base_camera(face, controls), YAW, PITCH)
    return engine.reenact(source, face, replace(controls, camera=camera)), camera


def check_shown(shown: ShownFrame, wanted: tuple[np.ndarray, Camera]) -> None:
    picture, camera = wanted
    assert shown.plain is not None
    mean, most = apart(shown.plain, picture)
    assert mean < MEAN_LEVELS and most <= MOST_LEVELS, (mean, most)
    assert (shown.camera.world_from_camera - camera.world_from_camera).abs().max() < 1e-3
    assert torch.equal(shown.camera.intrinsics, camera.intrinsics)


def test_what_controls_ask_for_is_shown(engine, source, follows):
    neutral = source.motion * 0.9
    for controls in (
        Controls(), Controls(neck=False), Controls(motion_strength=1.4, gaze=(0.3, -0.2), neutral=neutral),
        Controls(camera=turned(fixed_camera(), 0.2, 0.1), neck=False),
    ):  # fmt: skip
        (frames, first), _ = films()
        track, state = FaceTracker(finder(), engine.image_size), follows.begin()
        for i in range(3):
            wanted = track.follow(frames[i], 0.04 * i, None if i else [first])
            does, given = (FOLLOW, None) if i else (TAKE, first)
            (shown,) = follows.show([RawFrame(source, frames[i], 0.04 * i, controls, TURN, state, does, given)])()
            state = shown.state
            assert shown.found and shown.marked is None
            check_shown(shown, by_the_host(engine, source, wanted, controls))


def test_several_faces_share_a_batch_and_have_their_own_watermarks(engine, source, follows):
    other = engine.prepare(AlignedFace.whole(np.ascontiguousarray(sample_picture(engine.image_size)[:, ::-1])))
    signs = torch.stack([Watermark(message_of(sha)).signs for sha in ("0" * 64, "f" * 64)])
    both: list[ShownFrame] = []
    for i in (0, 1):
        asked = [
            RawFrame(
                (source, other)[k], frames[i], 0.04 * i, Controls(neck=k == 0), TURN,
                both[k].state if both else follows.begin(), FOLLOW if both else TAKE, None if both else first,
            )
            for k, (frames, first) in enumerate(films())
        ]  # fmt: skip
        both = follows.show(asked, signs)()
        for k, frame in enumerate(asked):
            (alone,) = follows.show([frame], signs[k : k + 1])()
            for one, batched in ((alone.plain, both[k].plain), (alone.marked, both[k].marked)):
                assert apart(one, batched)[1] <= 2, "as of `reenact_many`"
            assert apart(alone.plain, alone.marked)[0] > 0.3
            assert both[k].found and np.abs(alone.face.points - both[k].face.points).max() < 0.01


def test_a_clip_is_searched_where_the_face_is_lost_and_after_cuts(engine, source, follows):
    """Frame by frame as `FaceTracker` does it, counts included: before the face, cuts, losses, another size."""
    (frames, _), (mirrored, _) = films()
    nothing, away = np.full_like(frames[0], 60), np.full_like(frames[0], 200)
    film = [nothing, frames[0], frames[1], away, away, frames[3], frames[4], mirrored[5], mirrored[6]]
    providers = Found(), Found()
    tracker, host = (FaceTracker(provider, engine.image_size) for provider in providers)
    clip = FollowedClip(follows, tracker, source)
    for i, image in enumerate(film):
        for provider in providers:
            provider.away = i in (0, 3, 4)
        wanted = host.follow(image, 0.5 * i)
        shown = clip.show(clip.stage(image), 0.5 * i, Controls(), TURN)
        assert shown.found == wanted.found == (i not in (0, 3, 4)), i
        if i == 0:
            assert isinstance(shown, AlignedFace) and np.array_equal(shown.crop, wanted.crop)
        else:
            assert isinstance(shown, ShownFrame)
            check_shown(shown, by_the_host(engine, source, wanted, Controls()))
        counts = [(t.seen, t.lost, t.before, t.cuts, t.most_faces) for t in (tracker, host)]
        assert counts[0] == counts[1], i
    assert providers[0].searched == 6 < providers[1].searched == len(film), "of a face that is followed none"
    assert tracker.cuts >= 2 and tracker.lost == 3


def test_a_frame_that_no_canvas_holds_is_the_host_s(engine, source, follows):
    frames, _ = films()[0]
    provider = Found()
    clip = FollowedClip(follows, FaceTracker(provider, engine.image_size), source)
    assert isinstance(clip.show(clip.stage(frames[0]), 0.0, Controls(), TURN), ShownFrame)
    wide = np.full((frames[1].shape[0], CANVASES[-2][1] + 1, 3), frames[1][0, 0])  # its background
    wide[:, : frames[1].shape[1]] = frames[1]
    followed = clip.show(clip.stage(wide), 0.04, Controls(), TURN)
    assert isinstance(followed, AlignedFace) and followed.found
    assert isinstance(clip.show(clip.stage(frames[2]), 0.08, Controls(), TURN), ShownFrame)
    assert provider.searched == 3, "from the host's face on it is followed anew"
    assert isinstance(clip.show(clip.stage(frames[3]), 0.12, Controls(), TURN), ShownFrame)
    assert provider.searched == 3


@pytest.mark.parametrize("options", [{}, {"orbit": True, "yaw_deg": 10.0, "smooth": False}])
def test_a_film_is_animated_alike_on_the_host_and_on_the_device(options, monkeypatch):
    (frames, _), (mirrored, _) = films()
    film = [np.full_like(frames[0], 60), *frames[:4], np.full_like(frames[0], 200), *frames[5:7], *mirrored[8:10]]
    with Pipeline.from_pretrained("demo", device="cpu", faces=finder()) as pipeline:
        source = sample_picture(pipeline.image_size)
        on_host = list(pipeline.animate(source, iter(film), **options))
        monkeypatch.setattr(animation, "can_follow", lambda reenactor: True)
        made = pipeline.animate(source, iter(film), **options)
        on_device = list(made)
        assert len(on_device) == len(on_host) == len(film) and made.tracker.lost == 2
        for i, (ours, wanted) in enumerate(zip(on_device, on_host, strict=True)):
            assert apart(ours.image, wanted.image)[0] < MEAN_LEVELS, i
            assert (ours.camera.world_from_camera - wanted.camera.world_from_camera).abs().max() < 1e-3
            assert (ours.face_found, ours.time_s, ours.index) == (wanted.face_found, wanted.time_s, wanted.index)
        asked = pipeline.animate(source, iter(film), side_by_side=True)
        assert asked._followed is None, "crops are shown, too"
        asked.close()


@pytest.mark.gpu
def test_graphs_of_a_gpu_show_what_its_host_shows(monkeypatch):
    """Step for step on a card, by captured graphs, with watermarks; the host's face is the networks' on the CPU."""
    (frames, _), _ = films()
    with Pipeline.from_pretrained("demo", device="cuda", precision="fp32", faces=finder()) as pipeline:
        source = sample_picture(pipeline.image_size)
        made = pipeline.animate(source, iter(frames))
        assert made._followed is not None
        made.marks = True
        on_device = list(made)
        monkeypatch.setattr(animation, "can_follow", lambda reenactor: False)
        on_host = list(pipeline.animate(source, iter(frames)))
    for i, (ours, wanted) in enumerate(zip(on_device, on_host, strict=True)):
        assert ours.face_found and ours.marked is not None
        assert apart(ours.image, wanted.image)[0] < 0.5, i
        assert np.array_equal(ours.image, ours.marked[0]) and apart(*ours.marked)[0] > 0.3


def test_canvases_hold_frames_with_little_to_spare():
    assert canvas_of(480, 640) == (480, 640) and canvas_of(481, 640) == (720, 1280)
    assert canvas_of(1920, 1080) == (1920, 1080) and canvas_of(2161, 3840) is None
    assert [h * w for h, w in CANVASES] == sorted(h * w for h, w in CANVASES)


def test_a_cpu_follows_on_the_host(engine):
    assert not can_follow(engine)
