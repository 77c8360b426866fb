"""What live sessions do whose faces a GPU follows, on a fake GPU: python -m tests.fake_gpu.live_faces OUT.json"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np

from tests.fake_gpu.device import NotCapturable, start_again_with_library
from tests.fake_gpu.runs import Run, running
from tests.fake_gpu.serving import logged
from triportrait.core.render.geometry_pictures import Shown
from triportrait.serve import followed_frames
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.followed_frames import FollowedFrames
from triportrait.serve.jobs import live
from triportrait.serve.live.inference import Engine, Portrait, example_picture
from triportrait.serve.live.raw_faces import DeviceFaces, RawFace, SessionFace
from triportrait.serve.live.settings import Settings
from triportrait.serve.shown_geometry import RENDERED

COUNTS = 1, 2, 3, 8  # sessions in a batch


class Sessions:
    """Sessions that show two portraits by the same driving picture, frame by frame."""

    def __init__(self, engine: Engine, run: Run, count: int) -> None:
        self.engine, self.run, self.image, self.time_s = engine, run, example_picture("head-2"), 0.0
        self.followers = [engine.follower() for _ in range(count)]
        crops = [engine.crop_portrait(example_picture(name))[0] for name in ("head-1", "head-3")]
        self.portraits = [Portrait(engine.reenactor.prepare(crop), engine.stamp) for crop in crops]
        self.raws: list[RawFace] = []

    def stage(self, image: np.ndarray | None = None) -> list[str]:
        """Do what threads of faces do; returns what each face does."""
        self.time_s += 1 / 30
        faces = [follower.follow(self.image if image is None else image, self.time_s) for follower in self.followers]
        self.raws = [face for face in faces if isinstance(face, RawFace)]
        return [("follow", "take", "hold")[f.does] if isinstance(f, RawFace) else "host" for f in faces]

    def show(
        self, necks: tuple[bool, ...] = (True,), neutral: Any = None, shows: tuple[Shown, ...] = ("picture",)
    ) -> None:
        """Do what the network's thread does."""
        requests = []
        for i, raw in enumerate(self.raws):
            assert isinstance(raw.of, SessionFace) and raw.of.takes(raw)
            settings = Settings(neck=necks[i % len(necks)], orbit=bool(i % 2), show=shows[i % len(shows)])
            requests.append((self.portraits[i % 2].source, raw, settings.controls(self.time_s, raw, neutral)))
        pictures = self.engine.reenact_many(requests, [self.engine.stamp] * len(requests))
        assert [picture.shape[2] for picture in pictures] == [3] * len(requests)


def sessions_served(run: Run, engine: Engine) -> dict[str, Any]:
    """Serve two sessions whose faces come, go on, are cut, are lost, and are asked for by the host."""
    pair = Sessions(engine, run, 2)
    does: dict[str, Any] = {"first": pair.stage()}
    pair.show()
    does["then"] = pair.stage()
    run.gpu.take()
    pair.stage()
    run.count("staged")
    pair.show()
    run.count("two sessions")
    does["cut"] = pair.stage(255 - pair.image)
    pair.stage()
    pair.show()
    given = FollowedFrames._shown
    with mock.patch.object(FollowedFrames, "_shown", lambda *a: [replace(x, found=False) for x in given(*a)]):
        pair.stage()
        pair.show()
    does["lost"] = pair.stage()
    pair.show()
    does["found"] = pair.stage()
    pair.show()
    run.gpu.take()
    raw = pair.raws[0]
    neutral = engine.motion(raw)
    run.count("neutral")
    request = pair.portraits[0].source, raw, Settings(yaw_deg=10).controls(0.0, raw, neutral)
    head = engine.view(request, engine.stamp, None)[1]
    run.gpu.take()
    engine.view(request, engine.stamp, head)
    run.count("view again")
    pair.stage()
    pair.show(neutral=neutral)
    return {"does": does, "raw": pair.image.nbytes}


def everything_served(run: Run, engine: Engine) -> dict[str, Any]:
    """Serve batches of every size, whole or not, necks turned or still; returns what was captured and said."""
    run.gpu.take()
    with logged() as said:
        for count, necks in product(COUNTS, ((True, False), (False,))):
            sessions = Sessions(engine, run, count)
            for shows in (("picture",), RENDERED[::-1]):
                sessions.stage()
                sessions.show(necks, shows=shows)
    return {"captures": run.gpu.take().waits["capture"], "said": said}


def load(run: Run) -> tuple[Engine, int]:
    """Start what `triportrait live` starts before it listens; returns how much was captured."""
    run.gpu.take()
    server = live.Live(device="cuda", precision="fp32")._load_and_measure()
    return server.engine, run.gpu.take().waits["capture"]


def fault_planted(engine: Engine) -> str:
    """Plant what a graph cannot hold into what follows; returns how its capture ends."""
    given, picture = followed_frames.crop_map, example_picture()
    engine.reenactor.beside.clear()
    source = engine.reenactor.prepare(engine.crop_portrait(picture)[0])
    with mock.patch.object(followed_frames, "crop_map", lambda landmarks, side, targets: given(landmarks, side)):
        try:
            DeviceFaces(engine.reenactor, NetworkFaces()).capture(source, picture, [1], True)
        except NotCapturable as error:
            return str(error)
    return ""


def main() -> None:
    """Write what was seen."""
    with TemporaryDirectory() as folder, mock.patch.object(live, "face_provider", NetworkFaces):
        os.environ |= {"XDG_CONFIG_HOME": folder, "TRITON_CACHE_DIR": folder}
        with running("live faces", {}) as run:
            run.gpu.number = 1  # what comes back is all ones: faces are found, numbers finite
            engine, captures = load(run)
            seen = sessions_served(run, engine) | {"captures": captures, "rows": run.rows}
            seen["everything"] = everything_served(run, engine)
            seen["fault"] = fault_planted(engine)
    Path(sys.argv[1]).write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
