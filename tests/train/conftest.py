"""Procedural heads for the tests: few, small, and each mesh built once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.train import little, trained
from triportrait.core.torch_threads import one_thread
from triportrait.core.types import Camera
from triportrait.train import loop
from triportrait.train.data.clip_store.filming import film_heads
from triportrait.train.data.contact_sheets import around
from triportrait.train.data.heads.population import Expression, Identity, Light
from triportrait.train.data.heads.render import HeadRenderer, HeadView
from triportrait.train.data.pictures import PictureSet, open_set
from triportrait.train.data.scene_sampling import population
from triportrait.train.presets import STAGE_PRESETS

SEED = 1


@dataclass(frozen=True)
class Studio:
    """A renderer and the first heads of a seed, from the front unless said otherwise."""

    renderer: HeadRenderer
    identity: Identity
    light: Light

    def shoot(
        self,
        expression: Expression,
        heads: list[int],
        size: int = 96,
        antialias: int = 1,
        camera: Camera | None = None,
    ) -> HeadView:
        flat = torch.zeros(len(heads))
        return self.renderer.render(
            self.identity.take(heads),
            expression,
            self.light.take(heads),
            camera or around(flat, flat),
            size,
            antialias,
        )


@pytest.fixture(scope="module")
def little_preset() -> Iterator[None]:
    """`tiny` is the smallest training in a module that uses this, and every step is logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
        patch.setattr(loop, "LOG_EVERY", 1)
        yield


@pytest.fixture(autouse=True, scope="module")
def kept_pictures() -> Iterator[None]:
    """Trainings share the pictures by which they look at themselves."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ModuleNotFoundError):  # beside a GPU little may be installed, and no training runs
            from tests.train.kept_pictures import keep

            keep(patch)
        yield


@pytest.fixture(autouse=True, scope="module")
def small_operations() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose everything where other work shares the cores."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A folder of weights that count as trained, with those of a static synthesizer in `static` beside it."""
    folder = trained.write(tmp_path_factory.mktemp("run") / "weights")
    trained.write_static(folder.with_name("static"), seed=1)
    return folder


@pytest.fixture(scope="session")
def studio() -> Studio:
    identity, light = population(SEED, 8)
    return Studio(HeadRenderer(), identity, light)


@pytest.fixture(scope="session")
def little_folder(tmp_path_factory) -> Path:
    """A multi-view set of two heads, drawn once; copy it to change it."""
    folder = tmp_path_factory.mktemp("little") / "cast"
    open_set(folder, little.CAST, little.model())
    return folder


@pytest.fixture(scope="session")
def little_cast(little_folder) -> PictureSet:
    """Its pictures in memory."""
    return PictureSet(little_folder, little.model())


@pytest.fixture(scope="session")
def little_strangers(tmp_path_factory) -> PictureSet:
    """Three other people with one expression each, seen from two sides."""
    return open_set(tmp_path_factory.mktemp("little") / "strangers", little.STRANGERS, little.model())


@pytest.fixture(scope="session")
def little_clips(tmp_path_factory) -> Path:
    """A store of five clips of procedural heads, filmed once; copy it to change it."""
    folder = tmp_path_factory.mktemp("little") / "clips"
    film_heads(folder, **little.CLIPS)
    return folder


@pytest.fixture(scope="session")
def material(little_folder, tmp_path_factory) -> Path:
    """A set `cast`, a static synthesizer `static` and a portrait with its motion encoder `trained`."""
    folder = tmp_path_factory.mktemp("material")
    shutil.copytree(little_folder, folder / "cast")
    trained.write(folder / "trained")
    trained.write_static(folder / "static")
    return folder
