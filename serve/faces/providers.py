"""Who finds faces here, by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.serve.faces.face import FaceProvider

FaceKind = Literal["auto", "mediapipe", "none"]


def is_installed() -> bool:
    """Whether what finds faces is there; that it loads is seen when it is made."""
    return find_spec("mediapipe") is not None


def _unheard(line: str) -> None:
    pass


def default_provider(say: Callable[[str], None] = _unheard) -> FaceProvider | None:
    """Mediapipe where it is installed and loads, else None."""
    return face_provider("auto", say)


def face_provider(kind: FaceKind, say: Callable[[str], None] = _unheard) -> FaceProvider | None:
    """The provider of that name; of "auto" what is installed and loads; None where there is none.

    Args:
        say: told in a line that what is installed does not load.

    Raises:
        InputError: mediapipe is asked for and is not installed, or does not load.
    """
    if kind == "none" or (kind == "auto" and not is_installed()):
        return None
    from triportrait.serve.faces.mediapipe_faces import MediapipeFaces

    try:
        return MediapipeFaces()
    except InputError as error:
        if kind != "auto":
            raise
        say(f"warning: no faces are looked for: {error}")
        return None
