"""Who finds faces here."""

from __future__ import annotations

from importlib.util import find_spec

from triportrait.serve.faces.face import FaceProvider


def default_provider() -> FaceProvider | None:
    """Mediapipe where it is installed, else None."""
    if find_spec("mediapipe") is None:
        return None
    from triportrait.serve.faces.mediapipe_faces import MediapipeFaces

    return MediapipeFaces()
