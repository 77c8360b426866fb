"""What serving does beside its first frame, on a fake GPU: python -m tests.fake_gpu.serving OUT.json FOLDER"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.core.persons import person_of
from tests.fake_gpu.device import start_again_with_library
from tests.fake_gpu.runs import Run, face, reenactor, running
from triportrait import cli
from triportrait.core.config import tiny
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.serve.controls import Controls
from triportrait.serve.faces import providers
from triportrait.serve.jobs.live import Live
from triportrait.serve.live.inference import EXAMPLES, Engine
from triportrait.serve.live.settings import Settings
from triportrait.serve.precision import DTYPES

COUNTS = 1, 2, 3, 4, 5, 8  # heads in a batch
STILL = Controls(neck=False)  # a neck that turns has tensors of five dimensions, too


class _PlanesMade(TorchDispatchMode):
    """Names the operators that write planes, five-dimensional tensors, anew."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for made in (x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.dim() == 5):
            if made.untyped_storage()._cdata not in given or func.overloadpacket.__name__ == "copy_":
                self.names.append(func.overloadpacket.__name__)
        return result


class _Convolutions(TorchDispatchMode):
    """Names the pictures that cuDNN copies because they lie otherwise than it computes.

    It computes with channels last where the picture or the weight has them last, and so lies its result; a build of
    PyTorch for CPUs does not know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.copied = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in ("conv2d", "conv_transpose2d") or result.device.type != "cuda":
            return result
        self.count += 1
        picture, weight = args[:2]
        wanted = [suggest_memory_format(x) for x in (picture, weight)]
        last = torch.channels_last if torch.channels_last in wanted else torch.contiguous_format
        if not picture.is_contiguous(memory_format=last):
            self.copied.append(list(picture.shape))
        return torch.empty_like(result, memory_format=last)


def pictures_copied(precision: str) -> tuple[int, list[list[int]]]:
    """Return how many convolutions a frame has on a small network, and which pictures are copied for them."""
    engine = reenactor(tiny())
    engine.dtype = DTYPES.get(precision)
    if engine.dtype is not None:
        engine.keep_half()
    driving = face(engine.image_size)
    with _Convolutions() as made:
        source = engine.prepare(driving)
        made.count, made.copied = 0, []
        engine.reenact(source, driving, STILL)
    return made.count, made.copied


def planes_made(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return what work returns, and what made planes meanwhile."""
    with _PlanesMade() as made:
        return work(), made.names


def views_of_a_head(captured: bool) -> dict[str, list[str]]:
    """Show a head from two sides, twice, and a static source in two frames."""
    cameras, made = [fixed_camera(), turned(fixed_camera(), 0.3, 0.0)], {}
    moving, static = reenactor(tiny()), reenactor(tiny(), static=True)
    driving = face(moving.image_size)
    if captured:
        moving.capture()
        static.capture()
    source, still = moving.prepare(driving), static.prepare(driving)
    head, made["head"] = planes_made(lambda: moving.head(source, driving, STILL))
    for name in ("first views", "second views"):
        _, made[name] = planes_made(lambda: moving.views(head, cameras))
    for name in ("first static frame", "second static frame"):
        _, made[name] = planes_made(lambda: static.reenact(still, driving, STILL))
    return made


def captured_twice(run: Run) -> list[int]:
    """Capture, twice, what a frame with a neck replays; returns how many graphs each time."""
    engine, counts = reenactor(tiny()), []
    for _ in range(2):
        run.gpu.take()
        engine.capture(marked=[False])
        counts.append(run.gpu.take().waits["capture"])
    return counts


def batch_without_graph(run: Run) -> dict[str, Any]:
    """Ask for a batch, twice, that is larger than what was captured."""
    engine = reenactor(tiny())
    engine.capture(2, marked=[False])
    source, driving = engine.prepare(face(engine.image_size)), face(engine.image_size)
    run.gpu.take()
    with logged() as said:
        for _ in range(2):
            assert len(engine.reenact_many([(source, driving, STILL)] * 3)) == 3
    counts = run.gpu.take()
    return {"said": said, "captures": counts.waits["capture"], "replays": counts.replays}


def geometry_when_it_is_asked_for(run: Run) -> list[list[int]]:
    """Show pictures, then geometry, through graphs; returns captures and replays of each frame."""
    engine = reenactor(tiny())
    engine.capture(marked=[False])
    source, driving = engine.prepare(face(engine.image_size)), face(engine.image_size)
    counted = []
    for show in ("picture", "depth", "normals", "picture"):
        run.gpu.take()
        engine.reenact(source, driving, replace(STILL, show=show))
        counts = run.gpu.take()
        counted.append([counts.waits["capture"], counts.replays])
    return counted


def refined_beside_others(run: Run, precision: str) -> dict[str, Any]:
    """Show a refined source beside others through graphs; returns what was captured, replayed and said."""
    engine = reenactor(tiny())
    engine.dtype = DTYPES.get(precision)
    if engine.dtype is not None:
        engine.keep_half()
    driving = face(engine.image_size)
    person = replace(person_of(engine.as_loaded(), torch.from_numpy(driving.crop)), weights=engine.weights_hash)
    engine.capture(4, marked=[False])
    source, refined = engine.prepare(driving), engine.prepare(driving, person)
    run.gpu.take()
    with logged() as said:
        pictures = engine.reenact_many([(each, driving, STILL) for each in (source, refined, source, refined)])
    assert [picture.shape for picture in pictures] == [(engine.image_size, engine.image_size, 3)] * 4
    mixed = run.gpu.take()
    engine.reenact(refined, driving, STILL)
    alone = run.gpu.take()
    return {
        "said": said, "captures": [mixed.waits["capture"], alone.waits["capture"]],
        "replays": [mixed.replays, alone.replays], "residual": str(refined.refined.residual.dtype),
    }  # fmt: skip


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the messages of the product."""
    handler, logger = _Lines(), logging.getLogger("triportrait")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def starts_of_reenact(folder: Path) -> dict[str, list[str]]:
    """Run `triportrait reenact`: with an empty cache of Triton's and again, in float32, with the times of parts."""
    picture, out, lines = str(EXAMPLES / "head-1.jpg"), str(folder / "out.png"), {}
    words = ["reenact", picture, picture, out, "--faces", "none", "--device", "cuda", "--overwrite"]
    for name, cache, more in (
        ("first", "a", []), ("second", "a", []), ("float32", "a", ["--precision", "fp32"]), ("timed", "b", ["-v"]),
    ):  # fmt: skip
        os.environ["TRITON_CACHE_DIR"] = str(folder / cache)
        with logged() as said:
            assert cli.main([*words, *more]) == 0, said
        lines[name] = said
    return lines


def live_serving(run: Run, folder: Path) -> dict[str, Any]:
    """Start what `triportrait live` starts before it listens, twice, and serve batches of every size and kind."""
    os.environ["TRITON_CACHE_DIR"] = str(folder / "live")
    seen: dict[str, Any] = {}
    captures = {}
    for name, geometry in (("first", False), ("second", True)):
        run.gpu.take()
        with logged() as said:
            server = Live(device="cuda", geometry=geometry)._load_and_measure()
        seen[name], captures["with" if geometry else "without"] = said, run.gpu.take().waits["capture"]
    seen["captures before it listens"] = captures
    with logged() as said:
        _serve_sessions(server.engine)
    return seen | {"captures while it serves": run.gpu.take().waits["capture"], "said while it serves": said}


def _serve_sessions(engine: Engine) -> None:
    """Serve batches that fill each graph and that are padded to it, with necks that turn and that are still, heads that
    hold still, two portraits."""
    side, turns = engine.side_px, iter(0.01 * np.arange(1, 10_000))
    for source in [engine.reenactor.prepare(face(side, turn)) for turn in (0.0, 0.2)]:
        neutral = engine.motion(face(side))
        for count, necks in product(COUNTS, ((True,), (False,), (True, False))):
            requests = []
            for i in range(count):
                driving = face(side, next(turns))
                settings = Settings(
                    neck=necks[i % len(necks)], motion_strength=0.5 * (i % 3), orbit=bool(i % 2),
                    show=("picture", "depth", "normals")[i % 3 * (count % 2)],
                )  # fmt: skip
                requests.append((source, driving, settings.controls(0.1 * i, driving, neutral if i % 2 else None)))
            engine.reenact_many(requests, [engine.stamp] * count)
        for neck, show in product((True, False), ("picture", "depth")):
            driving = face(side, next(turns))
            request = source, driving, Settings(neck=neck, show=show).controls(0.0, driving)
            _, head = engine.view(request, engine.stamp, None)
            engine.view(request, engine.stamp, head)


def main() -> None:
    """Write what was seen."""
    out, folder = map(Path, sys.argv[1:])
    os.environ["XDG_CONFIG_HOME"] = str(folder / "settings")
    with mock.patch.object(providers, "why_unusable", lambda: "none here"), running("serving", {}) as run:
        seen = {
            "planes made": {way: views_of_a_head(way == "graphs") for way in ("launches", "graphs")},
            "pictures copied": {precision: pictures_copied(precision) for precision in ("fp32", "bf16")},
            "batch without graph": batch_without_graph(run),
            "refined beside others": {name: refined_beside_others(run, name) for name in ("fp32", "bf16")},
            "captured twice": captured_twice(run),
            "geometry when it is asked for": geometry_when_it_is_asked_for(run),
            "reenact": starts_of_reenact(folder),
            "live": live_serving(run, folder),
        }
    out.write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
