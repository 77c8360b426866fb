"""What a frame does that is followed on the device, on a fake GPU: python -m tests.fake_gpu.following OUT.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fake_gpu.device import start_again_with_library
from tests.fake_gpu.runs import Run, face, reenactor, running
from triportrait.core.config import tiny
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.following import FOLLOW, TAKE, Packed
from triportrait.serve.followed_frames import FollowedFrames, RawFrame, can_follow
from triportrait.serve.media.provenance.watermark import BITS
from triportrait.serve.reenactor import Controls

HEIGHT, WIDTH = 700, 1200  # of the film


def frames_followed(run: Run) -> dict[str, Any]:
    """Take a face and follow it, alone and two at once, with and without a neck that turns and a watermark."""
    run.gpu.number = 1  # of a report: the numbers are finite, the face was found
    engine = reenactor(tiny())
    assert can_follow(engine)
    engine.capture(1, marked=[False])
    source = engine.prepare(face(engine.image_size))
    follows = FollowedFrames(engine, FaceMesh(load_model("mesh")))
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    points = np.random.default_rng(0).random((68, 3), np.float32) * 100 + 200
    first = Face(points, points[:5, :2])

    def shown(states: list[Packed], does: int, controls: Controls, marked: bool) -> list[Packed]:
        staged = [follows.stage(image) for _ in states]
        run.gpu.take()
        given = first if does == TAKE else None
        frames = [
            RawFrame(source, x, 0.04, controls, torch.eye(4), state, does, given)
            for x, state in zip(staged, states, strict=True)
        ]
        done = follows.show(frames, torch.zeros(len(states), BITS) if marked else None, plain=not marked)()
        for each in done:
            picture = each.marked if marked else each.plain
            assert picture is not None and picture.shape == (engine.image_size, engine.image_size, 3)
            assert each.found and each.face.points.shape == (68, 3) and each.camera.world_from_camera.shape == (1, 4, 4)
        return [each.state for each in done]

    for name, controls, marked in (("still", Controls(neck=False), False), ("turned, marked", Controls(), True)):
        states = shown([follows.begin()], TAKE, controls, marked)
        run.count(f"{name}: first")
        states = shown(states, FOLLOW, controls, marked)
        run.count(name)
        pair = shown([*states, follows.begin()], FOLLOW, controls, marked)
        shown(pair, FOLLOW, controls, marked)
        run.count(f"{name}: two")
    return run.rows


def main() -> None:
    """Write what was seen."""
    with running("following", {}) as run:
        Path(sys.argv[1]).write_text(json.dumps(frames_followed(run), indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
