"""Makes what finds faces, by name."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.serve.faces.face import FaceProvider

FaceKind = Literal["auto", "mediapipe", "none"]

logger = logging.getLogger(__name__)


def is_installed() -> bool:
    """Tell whether mediapipe is installed; whether it loads is seen when a provider is made."""
    return find_spec("mediapipe") is not None


def face_provider(kind: FaceKind = "auto") -> FaceProvider | None:
    """Make the provider of that name; "auto" is mediapipe where it is installed and loads, else None.

    Raises:
        InputError: mediapipe is named and is not installed, or does not load.
    """
    if kind == "none" or (kind == "auto" and not is_installed()):
        return None
    from triportrait.serve.faces.mediapipe_faces import MediapipeFaces

    try:
        return MediapipeFaces()
    except InputError as error:
        if kind != "auto":
            raise
        logger.warning("no faces are looked for: %s", error)
        return None


class LazyProvider:
    """Makes a provider when it is first asked for.

    Args:
        faces: the name of a provider, or a provider that somebody else made, and closes.
    """

    def __init__(self, faces: FaceKind | FaceProvider = "auto") -> None:
        self.kind: FaceKind | None = faces if isinstance(faces, str) else None
        self._provider: FaceProvider | None = None if isinstance(faces, str) else faces
        self._made = not isinstance(faces, str)

    def __call__(self) -> FaceProvider | None:
        """Give the provider; None where nothing finds faces."""
        if not self._made:
            assert self.kind is not None
            self._provider, self._made = face_provider(self.kind), True
        return self._provider

    def close(self) -> None:
        """Close the provider, if it was made here; the next call makes another."""
        if self.kind is not None and self._provider is not None:
            self._provider.close()
        if self.kind is not None:
            self._provider, self._made = None, False
