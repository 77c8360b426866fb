"""`triportrait fetch faces`: the networks that find and follow faces, out of one wheel, into the user's cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.core.faces.model_files import keep_models, making, read_models
from triportrait.core.faces.models import LICENCE, MODELS, WHEEL, State, load_model, models_state
from triportrait.core.faces.task_file import keep_blendshapes
from triportrait.core.safe_text import LONGEST_SENTENCE, shown
from triportrait.serve.wheel_download import MOST_BYTES, download_wheel

MOST_KEPT = 32 << 20  # bytes of the networks while they are written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetch:
    """Fetch the networks that find and follow faces into the cache. They are mediapipe's, under Apache-2.0.

    pip downloads one wheel of mediapipe, 36 MB, from the package index that it is configured for; nothing in it is run
    or installed, and each file is checked by its SHA-256. $TRIPORTRAIT_CACHE names another cache. Networks that are
    there already are left as they are; damaged ones are fetched again.
    """

    what: tyro.conf.Positional[Literal["faces"]]
    """What to fetch: `faces`."""
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="WHEEL|FOLDER", help_behavior_hint="")] = None
    """Take them out of this wheel of mediapipe 0.10.21, or out of a folder with its .tflite files or with what was in
    it, unpacked or installed; nothing is downloaded."""
    task: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Keep the network of blendshapes in this face_landmarker.task of mediapipe instead; nothing is downloaded. With
    it Python programs read expressions off faces as mediapipe's 52 blendshapes, without it by geometry."""
    overwrite: bool = False
    """Fetch them again, even if they are there and whole."""

    def run(self) -> None:
        """Fetch them, if they are not there, and say where they are."""
        if self.task is not None:
            if self.source is not None:
                raise InputError("fetch faces: expected --from or --task, got both; take one after the other")
            kept = keep_blendshapes(self.task)
            _say(f"face blendshapes: the network of {self.task} ({LICENCE}) is in {kept} now")
            return
        state = _loaded(models_state())
        if state.verdict == "whole" and not self.overwrite:
            _say(f"face models: {len(MODELS)} networks are in {state.folder}, checked; nothing was fetched")
            return
        if state.verdict == "damaged":
            logger.warning("face models: those in %s are damaged (%s); fetching them again", state.folder, state.detail)
        files = None if self.source is None else read_models(self.source)
        with making(state.folder, MOST_KEPT + (MOST_BYTES if files is None else 0)) as work:
            if files is None:
                files = read_models(download_wheel(work))
            keep_models(files, work, state.folder)
        _say(
            f"face models: {len(MODELS)} networks of {WHEEL.package} {WHEEL.version} ({LICENCE}) are in {state.folder} "
            "now"
        )


def _loaded(state: State) -> State:
    """Load what is whole: another version of triportrait may have written it in another form."""
    if state.verdict == "whole":
        try:
            for name in MODELS:
                load_model(name)
        except InputError as error:
            return State(state.folder, "damaged", str(error))
    return state


def _say(sentence: str) -> None:
    print(shown(sentence, LONGEST_SENTENCE))
