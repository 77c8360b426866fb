"""Reads the 68 landmarks and the turn of the largest face off frames: what the default metrics compare."""

from __future__ import annotations

import numpy as np

from triportrait.core.faces.models import MODELS
from triportrait.serve.faces.face import Face, FaceProvider
from triportrait.serve.faces.head_pose import turn_of
from triportrait.train.evaluation.protocols.features import FOUND, Rows

VERSION = "1"  # of what is done here


class FaceExtractor:
    """Finds the largest face of each frame by itself.

    No frame helps another, so that the score of a frame does not depend on those before it.

    Args:
        provider: what finds faces.
        identity: names the networks behind it; None takes those of `triportrait fetch faces`.
    """

    need = "faces"
    fields: tuple[str, ...] = ("landmarks", "turn")

    def __init__(self, provider: FaceProvider, identity: str | None = None) -> None:
        self.provider = provider
        models = "-".join(model.sha256[:8] for model in MODELS.values())
        self.identity = f"{VERSION} {identity or models}"

    def start(self) -> FaceExtractor:
        """Begin a clip: nothing is remembered of the one before."""
        return self

    def add(self, frames: np.ndarray, faces: Rows | None) -> Rows:
        """See `Walk`."""
        landmarks, turns = np.zeros((len(frames), 68, 3)), np.zeros((len(frames), 3, 3))
        found = np.zeros(len(frames), bool)
        for i, frame in enumerate(frames):
            face = self._largest(frame)
            if face is not None:
                landmarks[i], turns[i], found[i] = face.points, turn_of(face), True
        return {"landmarks": landmarks, "turn": turns, FOUND: found}

    def _largest(self, frame: np.ndarray) -> Face | None:
        faces = self.provider.find(frame, quick=True)
        return faces[0] if faces and np.isfinite(faces[0].points).all() else None
