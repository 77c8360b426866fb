"""Makes what finds faces, by name."""

from __future__ import annotations

import logging
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.core.faces.models import models_state, why_unusable
from triportrait.serve.faces.face import FaceProvider

FaceKind = Literal["auto", "networks", "none"]

logger = logging.getLogger(__name__)


def face_provider(kind: FaceKind = "auto") -> FaceProvider | None:
    """Make the provider of that name; "auto" is the networks where they were fetched, else None.

    Raises:
        InputError: the networks are named, and are missing or damaged; the sentence says how they are fetched.
    """
    if kind == "none":
        return None
    why = why_unusable()
    if why is None:
        from triportrait.serve.faces.network_faces import NetworkFaces

        return NetworkFaces()
    if kind == "networks":
        raise InputError(why)
    is_damaged = models_state().verdict == "damaged"
    logger.log(logging.WARNING if is_damaged else logging.INFO, "%s", why)
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

    @property
    def missing(self) -> bool:
        """Tell whether faces were to be found, and nothing finds them."""
        return self._made and self._provider is None and self.kind == "auto"

    def close(self) -> None:
        """Close the provider, if it was made here; the next call makes another."""
        if self.kind is not None and self._provider is not None:
            self._provider.close()
        if self.kind is not None:
            self._provider, self._made = None, False
