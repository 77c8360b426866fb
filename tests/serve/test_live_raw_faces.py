"""Faces of live sessions that are followed where they are shown, with graphs off: what they show is the host's."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from tests.face_models import needs_face_models
from tests.serve.following import MEAN_LEVELS, MOST_LEVELS, Found, apart, films, finder
from tests.serve.live_in_process import Visitor, driving, eventually, pixels, reenactor, running
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.following import FOLLOW, HOLD, TAKE
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.followed_frames import FollowedFrames
from triportrait.serve.live import raw_faces
from triportrait.serve.live.inference import Engine, Portrait, example_picture
from triportrait.serve.live.neutral import SETTLED_S
from triportrait.serve.live.raw_faces import CANVAS, RawFace, SessionFace, device_faces
from triportrait.serve.live.settings import Settings
from triportrait.serve.media.provenance.stamp import Stamp

pytestmark = needs_face_models
NO_FACE = "no face in the driving picture: the last pose is held; come back into the picture"


@pytest.fixture(scope="module")
def device() -> Engine:
    """What a GPU runs, on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_faces, "can_follow", lambda reenactor: True)
        return Engine(reenactor(), finder(), Stamp("0" * 64, "demo"))


@pytest.fixture(scope="module")
def host() -> Engine:
    return Engine(reenactor(), finder(), Stamp("0" * 64, "demo"))


@pytest.fixture(scope="module")
def portraits(host) -> list[Portrait]:
    return [
        Portrait(host.reenactor.prepare(host.crop_portrait(example_picture(name))[0]), host.stamp)
        for name in ("head-1", "head-3")
    ]


def search_by(engine: Engine, provider: Found) -> SessionFace:
    """Make a follower that searches by a provider."""
    follower = engine.follower()
    tracker = follower._tracker if isinstance(follower, SessionFace) else follower
    tracker.provider = provider
    return follower


def shown(engine: Engine, faces: list[AlignedFace | RawFace], portraits: list[Portrait], **more) -> list[np.ndarray]:
    """Show a batch."""
    asked = [(p.source, f, Settings(**more).controls(0.0, f)) for p, f in zip(portraits, faces, strict=True)]
    return engine.reenact_many(asked, [portrait.stamp for portrait in portraits])


def check_alike(ours: np.ndarray, wanted: np.ndarray, where: object) -> None:
    mean, most = apart(ours, wanted)
    assert mean < MEAN_LEVELS and most <= MOST_LEVELS, (where, mean, most)


def test_two_sessions_in_a_batch_show_what_the_host_shows(device, host, portraits):
    """Before the face, when it comes, goes and comes again, jumps, in a frame that is too large; the other goes on."""
    (frames, _), (mirrored, _) = films()
    away, large = np.full_like(frames[0], 200), np.full((CANVAS[0] + 1, 480, 3), frames[7][0, 0])
    large[: frames[7].shape[0]] = frames[7]
    film = [np.full_like(frames[0], 60), *frames[:3], away, away, *frames[3:5], *[mirrored[5]] * 3, large, frames[7]]
    without, jumped = {0, 4, 5}, 8
    providers = Found(), Found()
    followers = [search_by(engine, provider) for engine, provider in zip((device, host), providers, strict=True)]
    beside, beside_on_host = device.follower(), host.follower()
    does = []
    for i, image in enumerate(film):
        for provider in providers:
            provider.away = i in without
        ours = [followers[0].follow(image, 0.5 * i), beside.follow(frames[i], 0.5 * i)]
        wanted = [followers[1].follow(image, 0.5 * i), beside_on_host.follow(frames[i], 0.5 * i)]
        does.append(ours[0].does if isinstance(ours[0], RawFace) else None)
        pictures, on_host = (
            shown(engine, faces, portraits, yaw_deg=20, neck=bool(i % 2))
            for engine, faces in ((device, ours), (host, wanted))
        )
        for k in range(2):
            assert ours[k].is_known == wanted[k].is_known, (i, k)
            if (i, k) == (jumped, 0):  # a live frame is shown once: the face is found in the next one
                assert wanted[k].found and not ours[k].found
                continue
            assert ours[k].found == wanted[k].found, (i, k)
            check_alike(pictures[k], on_host[k], (i, k))
    assert does == [None, TAKE, FOLLOW, FOLLOW, HOLD, HOLD, TAKE, FOLLOW, FOLLOW, TAKE, FOLLOW, None, TAKE]
    assert providers[0].searched < providers[1].searched


def test_the_crop_and_the_tracking_come_back_when_they_are_asked_for(device, host, portraits):
    frames, _ = films()[0]
    ours, wanted = device.follower(), host.follower()
    for i, image in enumerate(frames[:3]):
        raw, face = ours.follow(image, 0.04 * i), wanted.follow(image, 0.04 * i)
        shown(device, [raw], portraits[:1])
    fetched = raw.aligned()
    assert fetched is raw.aligned() and fetched.found
    assert np.abs(fetched.crop.astype(int) - face.crop).mean() < 1
    assert (fetched.tracking.landmarks - face.tracking.landmarks).abs().max() < 0.5
    for name in ("neck", "expression", "shape"):
        near = getattr(fetched.tracking.parameters, name), getattr(face.tracking.parameters, name)
        assert near[0].shape == near[1].shape and (near[0] - near[1]).abs().max() < 0.01
    cameras = fetched.tracking.parameters.camera, face.tracking.parameters.camera
    assert (cameras[0].world_from_camera - cameras[1].world_from_camera).abs().max() < 0.05
    assert (device.motion(raw) - host.motion(face)).abs().max() < 0.1
    request = portraits[0].source, raw, Settings(yaw_deg=30).controls(0.0, raw)
    view, head = device.view(request, portraits[0].stamp, None)
    on_host = host.view((request[0], face, request[2]), portraits[0].stamp, None)[0]
    check_alike(view, on_host, "view")
    assert device.view(request, portraits[0].stamp, head)[1] is head


class Away:
    """Loses faces in what `FollowedFrames` shows, while it is switched on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.on, given = False, FollowedFrames._shown
        patch.setattr(
            FollowedFrames, "_shown",
            lambda *words: [replace(each, found=each.found and not self.on) for each in given(*words)],
        )  # fmt: skip


def test_a_face_that_is_lost_while_the_next_frame_is_ready_is_searched_in_that_frame(device, portraits, monkeypatch):
    frames, _ = films()[0]
    follower, away = device.follower(), Away(monkeypatch)
    first, second = (follower.follow(frames[i], 0.04 * i) for i in range(2))
    assert (first.does, second.does) == (TAKE, FOLLOW), "no frame waits for the one before"
    shown(device, [first], portraits[:1])
    away.on = True
    third = follower.follow(frames[2], 0.08)
    assert follower.takes(second)
    shown(device, [second], portraits[:1])
    away.on = False
    assert not second.found and third.does == FOLLOW and not follower.takes(third)
    again = follower.follow(frames[2], 0.08)
    assert again.does == TAKE and follower.takes(again)
    shown(device, [again], portraits[:1])
    assert again.found and follower.follow(frames[3], 0.12).does == FOLLOW


def test_after_a_failure_the_face_is_taken_anew(device, portraits, monkeypatch):
    frames, _ = films()[0]
    follower = device.follower()
    shown(device, [follower.follow(frames[0], 0.0)], portraits[:1])
    bad, ready = follower.follow(frames[1], 0.04), follower.follow(frames[2], 0.08)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(FollowedFrames, "show", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("planted")))
        shown(device, [bad], portraits[:1])
    assert not follower.takes(ready)
    again = follower.follow(frames[2], 0.08)
    assert again.does == TAKE and again.begins
    shown(device, [again], portraits[:1])
    assert again.found


def test_a_server_follows_loses_and_finds_again(device, monkeypatch):
    """With all that asks for a face on the host: neutral faces, views of a head that holds still, another portrait."""
    monkeypatch.setattr(raw_faces, "can_follow", lambda reenactor: True)
    away = Away(monkeypatch)
    with running() as live, Visitor(live) as page:
        session = live.server.sessions[page.hello["session"]].session
        assert isinstance(session.follower, SessionFace)
        for number in (1, 2):
            page.frame(number)
            assert page.result().found
        front = pixels(page.results[-1].jpeg)
        page.say(do="settings", yaw_deg=40)
        turned = page.result(view=True)
        assert turned.view and np.abs(pixels(turned.jpeg) - front).mean() > 3
        page.say(do="neutral", on=True)
        assert page.hear("neutral")["on"]
        page.say(do="neutral", on=True, when="first")
        assert page.hear("neutral")["waits"] == "first"
        time.sleep(SETTLED_S)
        page.frame(3)
        assert page.result().found
        assert eventually(lambda: session.neutral is not None)
        away.on = True
        page.frame(4)
        assert not page.result().found
        assert eventually(lambda: not session.found)
        away.on = False
        page.frame(5)
        assert page.result().found
        page.say(do="example", name="head-3")
        page.hear("portrait")
        about_face = [each["sentence"] for each in page.events if each.get("about") == "face"]
        assert about_face == [NO_FACE, ""]
        page.frame(6, driving("head-2"))
        assert page.result().found


def test_a_cpu_and_what_finds_no_faces_by_networks_keep_the_host(host):
    assert device_faces(reenactor(), NetworkFaces()) is None
    assert isinstance(host.follower().follow(driving(), 0.0), AlignedFace)


def test_the_canvas_holds_what_the_page_sends():
    from triportrait.serve.live.server import PAGE

    line = next(line for line in (PAGE / "frames.js").read_text().splitlines() if line.startswith("const LONGEST_SIDE"))
    longest = int(line.split("=")[1].split(";")[0])
    assert longest <= min(CANVAS)
