"""What a frame does that is followed on the device, on a fake GPU: python -m tests.fake_gpu.following OUT.json"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.core.persons import person_of
from tests.fake_gpu.device import NotCapturable, start_again_with_library
from tests.fake_gpu.runs import Run, face, reenactor, running
from tests.serve.raw import photo
from triportrait.core.config import tiny
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.core.motion.motion_crop import crop_map
from triportrait.serve import followed_frames
from triportrait.serve.controls import Controls
from triportrait.serve.faces import following
from triportrait.serve.faces.device_views import kept, views_around
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.following import FOLLOW, TAKE, Packed
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.followed_frames import FollowedFrames, RawFrame, can_follow
from triportrait.serve.media.provenance.watermark import BITS
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.reenactor import PreparedSource

HEIGHT, WIDTH = 700, 1200  # of the film


def frames_followed(run: Run) -> dict[str, Any]:
    """Take a face and follow it, alone and two at once, with and without a neck that turns and a watermark."""
    run.gpu.number = 1  # of a report: the numbers are finite, the face was found
    engine = reenactor(tiny())
    assert can_follow(engine)
    engine.capture(1, marked=[False])
    grey = face(engine.image_size)
    source = engine.prepare(grey)
    follows = FollowedFrames(engine, FaceMesh(load_model("mesh")))
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    points = np.random.default_rng(0).random((68, 3), np.float32) * 100 + 200
    first = Face(points, points[:5, :2])

    def shown(
        states: list[Packed], does: int, controls: Controls, marked: bool, sources: tuple[PreparedSource, ...] = ()
    ) -> list[Packed]:  # fmt: skip
        staged = [follows.stage(image) for _ in states]
        run.gpu.take()
        given = first if does == TAKE else None
        frames = [
            RawFrame(portrait, x, 0.04, controls, torch.eye(4), state, does, given)
            for x, state, portrait in zip(staged, states, sources or (source,) * len(states), strict=True)
        ]
        done = follows.show(frames, torch.zeros(len(states), BITS) if marked else None, plain=not marked)()
        for each in done:
            picture = each.marked if marked else each.plain
            assert picture is not None and picture.shape == (engine.image_size, engine.image_size, 3)
            assert each.found and each.face.points.shape == (68, 3) and each.camera.world_from_camera.shape == (1, 4, 4)
        return [each.state for each in done]

    for name, controls, marked in (
        ("still", Controls(neck=False), False), ("turned, marked", Controls(), True),
        ("normals", Controls(neck=False, show="normals"), False),
    ):  # fmt: skip
        states = shown([follows.begin()], TAKE, controls, marked)
        run.count(f"{name}: first")
        states = shown(states, FOLLOW, controls, marked)
        run.count(name)
        pair = shown([*states, follows.begin()], FOLLOW, controls, marked)
        shown(pair, FOLLOW, controls, marked)
        run.count(f"{name}: two")
    person = replace(person_of(engine.portrait, torch.from_numpy(grey.crop)), weights=engine.weights_hash)
    refined = engine.prepare(grey, person)
    for name, sources in (("refined", (refined,)), ("refined beside another", (refined, source, refined))):
        states = shown([follows.begin()] * len(sources), FOLLOW, Controls(), False, sources)
        shown(states, FOLLOW, Controls(), False, sources)
        run.count(name)
    return run.rows


def faults_planted(run: Run) -> list[str]:
    """Plant what a graph cannot hold into following; returns how each capture ends."""
    ended = []
    for owner, name, value in (
        (following, "views_around", lambda points: views_around(points * points.sum().item())),  # asks for a number
        (followed_frames, "crop_map", lambda landmarks, side, targets: crop_map(landmarks, side)),  # takes its own
        (following, "kept", lambda last, wanted: kept(last.cpu().cuda(), wanted)),  # looks at the last square
    ):
        with mock.patch.object(owner, name, value):
            try:
                frames_followed(run)
            except NotCapturable as error:
                ended.append(str(error))
    return ended


def film_animated(run: Run) -> dict[str, Any]:
    """Animate a portrait by a film through `Pipeline`; returns counts of its frames, and how often faces were sought.

    What comes back from a device without memory is all ones: each followed face is found.
    """
    finder, sought = NetworkFaces(), []
    finder.find = lambda *words, **names: sought.append(None) or NetworkFaces.find(finder, *words, **names)
    frames, done = [photo() for _ in range(4)], []
    with Pipeline.from_pretrained("demo", device="cuda", precision="fp32", faces=finder) as pipeline:
        for turn in ("first film", "second film"):
            animation = pipeline.animate(photo(), iter(frames))
            sought.clear()
            for index in range(len(frames)):
                run.gpu.take()
                next(animation)
                run.count(f"{turn}: frame {index}")
            animation.close()
            done.append(len(sought))
    return {"rows": run.rows, "sought": done, "raw": photo().nbytes}


def main() -> None:
    """Write what was seen."""
    with running("following", {}) as run:
        rows = frames_followed(run)
    with running("faults", {}) as run:
        faults = faults_planted(run)
    with running("film", {}) as run:
        run.gpu.number = 1
        film = film_animated(run)
    Path(sys.argv[1]).write_text(json.dumps({"rows": rows, "faults": faults, "film": film}, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
