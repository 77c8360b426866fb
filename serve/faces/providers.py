"""Who finds faces here, by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from triportrait.serve.faces.face import FaceProvider

FaceKind = Literal["auto", "mediapipe", "none"]


def is_installed() -> bool:
    """Whether faces can be found here."""
    return find_spec("mediapipe") is not None


def default_provider() -> FaceProvider | None:
    """Mediapipe where it is installed, else None."""
    return face_provider("auto")


def face_provider(kind: FaceKind) -> FaceProvider | None:
    """The provider of that name; of "auto" what is installed; None where there is none.

    Raises:
        InputError: mediapipe is asked for and not installed.
    """
    if kind == "none" or (kind == "auto" and not is_installed()):
        return None
    from triportrait.serve.faces.mediapipe_faces import MediapipeFaces

    return MediapipeFaces()
