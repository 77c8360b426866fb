"""A weights folder of the tiny preset with a made-up FLAME, and a clip in the published folder layout.

What more than torch is needed for is imported where it is used: beside a GPU little may be installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.core.synthetic import flame_tables, mesh_tables
from triportrait.core.checkpoint import save_weights
from triportrait.core.config import ModelConfig, tiny
from triportrait.core.seeded_weights import rule_motion_encoder, rule_portrait

if TYPE_CHECKING:
    from tests.serve.live_in_process import Running


def published_motion() -> ModelConfig:
    """The tiny network for the motion of the published encoder, 548 numbers."""
    config = tiny()
    transformer = dataclasses.replace(config.transformer, motion_width=548)
    return dataclasses.replace(config, preset="tiny with published motion", transformer=transformer)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    flame = flame_tables()
    tensors = dict(rule_portrait(published_motion()).state_dict())
    tensors |= {f"neck.flame.{n}": t for n, t in flame.items()}
    tensors |= {f"neck.mesh.{n}": t for n, t in mesh_tables(flame).items()}
    save_weights(folder, "portrait", tensors, published_motion(), {})
    motion = {n: t for n, t in rule_motion_encoder().state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(folder, "motion", motion, None, {})
    return folder


@pytest.fixture
def real_faces() -> None:
    """The networks in the cache may be used."""


@pytest.fixture(autouse=True)
def made_up_pictures_count_as_aligned(request, monkeypatch) -> None:
    """Most pictures here show nothing: the cache must not decide what a test sees. `real_faces` undoes it."""
    if "real_faces" not in request.fixturenames:
        from triportrait.serve.faces import providers

        monkeypatch.setattr(providers, "why_unusable", lambda: "face models: none in this test")


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    """One server for the tests of a file."""
    from tests.serve.live_in_process import running

    with running() as server:
        yield server


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The one wheel that is known, in a folder of its own; the cache is empty."""
    from tests.serve.face_wheels import know, make_wheel
    from triportrait.core.faces.models import WHEEL

    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "home" / "cache"))
    (tmp_path / "index").mkdir()
    path = make_wheel(tmp_path / "index" / WHEEL.name)
    know(monkeypatch, path)
    return path


@pytest.fixture
def clip_folder(tmp_path) -> Path:
    """A clip in the published layout: 3 pictures with parameters and landmarks; the neck turns."""
    from PIL import Image

    from tests.serve.faces import landmarks, parameters, picture

    root = tmp_path / "clip"
    for name in ("align_images", "3dldmks_align", "flame_optim_params"):
        (root / name).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(i)).save(root / "align_images" / f"{i:05d}.png")
        np.save(root / "3dldmks_align" / f"{i:05d}.npy", landmarks(4.0 * i))
        np.save(root / "flame_optim_params" / f"{i:05d}.npy", parameters(neck=(0.0, 0.25 * i, 0.0)))
    return root


@pytest.fixture
def portrait_file(tmp_path) -> Path:
    from PIL import Image

    from tests.serve.faces import picture

    Image.fromarray(picture(9, (300, 260))).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


@pytest.fixture
def driving(tmp_path) -> Path:
    """A driving video: 4 frames with sound."""
    from tests.serve.faces import picture
    from tests.serve.making import make

    return make(tmp_path / "driving.mp4", [picture(i, (96, 160)) for i in range(4)], sound="aac")


@pytest.fixture
def run(tiny_weights, capsys) -> Callable[..., tuple[int, str]]:
    """Run `triportrait reenact`; gives the exit code and the standard error."""
    return _reenact(capsys, "--weights", str(tiny_weights))


@pytest.fixture
def demo(capsys) -> Callable[..., tuple[int, str]]:
    """Run `triportrait reenact` with the package's weights; gives the exit code and the standard error."""
    return _reenact(capsys, "--weights", "demo", "--device", "cpu")


def _reenact(capsys: pytest.CaptureFixture[str], *options: str) -> Callable[..., tuple[int, str]]:
    from triportrait.cli import main

    def call(*arguments: object) -> tuple[int, str]:
        code = main(["reenact", *map(str, arguments), *options])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def trainer(monkeypatch):
    """What stands where the trainer of `personalize` does."""
    from tests.serve.trainer_stand_in import StandIn
    from triportrait.serve import personalizing

    stand_in = StandIn()
    monkeypatch.setattr(personalizing, "trainer", lambda: stand_in.module)
    return stand_in


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture of a drawn head, 128 px."""
    from PIL import Image

    from triportrait.serve.precision import sample_picture

    Image.fromarray(sample_picture(128)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str]]:
    """Run `triportrait personalize` by the package's weights; gives the exit code and the standard error."""
    from triportrait.cli import main

    def run(*words: object) -> tuple[int, str]:
        code = main(["personalize", *map(str, words), "--weights", "demo", "--device", "cpu", "--faces", "none"])
        return code, capsys.readouterr().err

    return run
