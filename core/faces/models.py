"""Know which face networks there are, where they are kept, and whether they are there.

Nothing is downloaded here, and torch is loaded only where a network is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from triportrait.core.checksum import fingerprint, sha256
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.safe_text import shown

if TYPE_CHECKING:
    from triportrait.core.faces.graph import Graph

VARIABLE = "TRIPORTRAIT_CACHE"
FOLDER, BLENDSHAPES_FOLDER = "face-models", "face-blendshapes"  # in the cache
INDEX, NOTICE = "index.json", "LICENCE.txt"
LICENCE = "Apache-2.0"
COMMAND = "triportrait fetch faces"


class Wheel(NamedTuple):
    """One file of a package index.

    Attributes:
        platform, python, abi: as pip names them, so that every machine asks for the same file.
    """

    package: str
    version: str
    platform: str
    python: str
    abi: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """Return its file name."""
        return f"{self.package}-{self.version}-{self.abi}-{self.abi}-{self.platform}.whl"

    @property
    def requirement(self) -> str:
        """Return what pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def choice(self) -> list[str]:
        """Return the options that make pip choose this file on any machine."""
        fixed = {"platform": self.platform, "python-version": self.python, "implementation": "cp", "abi": self.abi}
        options = [word for name, value in fixed.items() for word in (f"--{name}", value)]
        return ["--no-deps", "--only-binary=:all:", *options]


class Model(NamedTuple):
    """One network as TFLite.

    Attributes:
        path: where it lies in the wheel; every platform's wheel of this version has the same bytes there.
    """

    path: str
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """Return the file name in the wheel."""
        return self.path.rpartition("/")[2]

    @property
    def kept(self) -> str:
        """Return the file name in the cache."""
        return self.file.removesuffix(".tflite") + ".safetensors"


WHEEL = Wheel(
    "mediapipe", "0.10.21", "manylinux_2_28_x86_64", "3.12", "cp312", 35_627_340,
    "956eb1ebc275c629e61b085b2cab89c3a5b9e93bad1bb107348d98dafb5a4bb5",
)  # fmt: skip
MODELS = {
    "short_range_detector": Model(
        "mediapipe/modules/face_detection/face_detection_short_range.tflite", 229_714,
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "full_range_detector": Model(
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite", 676_746,
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
    "mesh": Model(
        "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite", 2_495_106,
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
    ),
    "iris": Model(
        "mediapipe/modules/iris_landmark/iris_landmark.tflite", 2_640_568,
        "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
    ),
    "segmentation": Model(
        "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite", 249_505,
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    ),
}  # fmt: skip


class State(NamedTuple):
    """Says how the networks in the cache are.

    Attributes:
        folder: where they are, or would be.
        detail: what is damaged, for a sentence; else empty.
    """

    folder: Path
    verdict: Literal["whole", "missing", "damaged"]
    detail: str = ""


def models_folder(name: str = FOLDER) -> Path:
    """Return where networks are kept: the folder of that name in $TRIPORTRAIT_CACHE, else in the user's cache.

    That is $XDG_CACHE_HOME/triportrait, or ~/.cache/triportrait. A link is followed, so that what it points
    to is replaced.

    Raises:
        InputError: the user has no home folder.
    """
    ours, caches = os.environ.get(VARIABLE, ""), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if ours:
            cache = Path(ours).expanduser()
        else:
            cache = (Path(caches) if os.path.isabs(caches) else Path.home() / ".cache") / "triportrait"
    except RuntimeError as error:  # a user without a home
        raise InputError(f"face models: expected a home folder, this user has none; set {VARIABLE}") from error
    return Path(os.path.realpath(cache / name))


def models_state() -> State:
    """Tell whether all networks are in the cache, each with the bytes that were written.

    Raises:
        InputError: the user has no home folder.
    """
    folder = models_folder()
    try:
        if not folder.exists():
            return State(folder, "missing")
        index = _index(folder)
        for model in MODELS.values():
            _check_kept(folder, model, index)
    except (OSError, ValueError) as error:
        return State(folder, "damaged", _words(error))
    return State(folder, "whole")


def why_unusable() -> str | None:
    """Say in a sentence why the networks in the cache find no face, and what to do; None where they are whole.

    Who is asked to find faces in raw pictures says it; nothing is downloaded unasked.

    Raises:
        InputError: the user has no home folder.
    """
    state = models_state()
    if state.verdict == "whole":
        return None
    size = f"{WHEEL.bytes / 1e6:.0f} MB"
    how = "are missing" if state.verdict == "missing" else f"are damaged ({state.detail})"
    return f"face models: those in {state.folder} {how}; run `{COMMAND}` once ({size}), or give landmarks"


def load_model(name: str) -> Graph:
    """Load one network from the cache.

    Args:
        name: a key of `MODELS`.

    Raises:
        InputError: it is missing, or is not what was written; the sentence says what to do.
    """
    model, folder = MODELS[name], models_folder()
    try:
        _check_kept(folder, model, _index(folder))
    except (OSError, ValueError) as error:
        raise InputError(why_unusable() or f"face models: {_words(error)}; run `{COMMAND} --overwrite`") from error
    from triportrait.core.faces.store import load_graph

    return load_graph(folder / model.kept)


def index_entry(model: Model, kept: Path) -> dict[str, Any]:
    """Describe a network that was written, for the index: the file it was made of, and its own size and SHA-256.

    Raises:
        OSError: the file cannot be read.
    """
    return {"path": model.path, "made_from": model.sha256, **fingerprint(kept)}


def _index(folder: Path) -> dict[str, Any]:
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or not all(isinstance(entry, dict) for entry in index.values()):
        raise ValueError(f"{INDEX} is no index")
    return index


def _check_kept(folder: Path, model: Model, index: dict[str, Any]) -> None:
    """Check that a file is the one that was written. Raises OSError, or ValueError in words."""
    entry = index.get(model.kept)
    if entry is None:
        raise ValueError(f"{INDEX} lacks {model.kept}")
    if entry.get("made_from") != model.sha256:
        raise ValueError(f"{model.kept} was made of another file than this version of triportrait wants")
    path = folder / model.kept
    if entry.get("bytes") != path.stat().st_size or entry.get("sha256") != sha256(path):
        raise ValueError(f"{model.kept} is not what was written")


def _words(error: OSError | ValueError) -> str:
    """Word why something cannot be read."""
    if isinstance(error, OSError):
        name = Path(os.fsdecode(error.filename)).name if error.filename is not None else "a file"
        return f"{shown(name)}: {(error.strerror or type(error).__name__).lower()}"
    return str(error)
