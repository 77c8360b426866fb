"""Aligns the faces of pictures for the networks that a pipeline holds."""

from __future__ import annotations

import logging
import os

from triportrait.core.tracking.head_model import HeadModel
from triportrait.serve.animation import check_face_number, why_no_landmarks
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.open_networks import OpenNetworks
from triportrait.serve.picture_inputs import Picture
from triportrait.serve.pipeline_inputs import read_source
from triportrait.serve.source_and_driving import SourcePicture
from triportrait.serve.tracked.fitted_inputs import TrackKind, check_fit, fitted_source, head_model_of
from triportrait.serve.weight_loading import need_faces

logger = logging.getLogger(__name__)


class AligningNetworks(OpenNetworks):
    """Holds networks, and aligns portraits and driving faces as they take them."""

    def _aligned(
        self, source: Picture | SourcePicture, face: int | None, source_params: str | os.PathLike[str] | None,
        track: TrackKind = "quick", is_first: bool = True,
    ) -> tuple[SourcePicture, AlignedFace]:  # fmt: skip
        """Read a portrait and align its face; the log says what it is taken for.

        `is_first` is False for the further pictures of a person, of which a user chooses no face, and which need not
        show any.
        """
        check_face_number("face", face)
        check_fit(track)
        picture = source
        if not isinstance(picture, SourcePicture):
            picture = read_source(picture, face, source_params, self._finder, is_first and need_faces(self.weights))
        reenactor = self._reenactor
        aligned = picture.aligned(reenactor.image_size, reenactor.has_flame_neck)
        if track == "fit":
            aligned = fitted_source(picture, aligned, self.head_model, self._finder)
        if (picture.faces or 0) > 1 and face is None:
            another = "--face N takes another" if is_first else "cut out another to take it"
            logger.info("%s: %d faces, the largest is taken; %s", picture.name, picture.faces, another)
        if aligned.tracking.landmarks is None and (is_first or picture.faces is None):
            why = why_no_landmarks(self._finder) if picture.faces is None else "no face"
            logger.info("%s: %s; its middle square is taken as aligned, the motion crop as centred", picture.name, why)
        elif picture.face is not None and aligned.placed.side < reenactor.image_size / 2:
            logger.info(
                "%s: the face and its surroundings have %.0f px, the network takes %d; the result will be soft",
                picture.name, aligned.placed.side, reenactor.image_size,
            )  # fmt: skip
        return picture, aligned

    def head_model(self) -> HeadModel:
        """Load the head model whose parameters the weights take; the package's open head where they bring none."""
        if self._head_model is None:
            self._head_model = head_model_of(self._reenactor, self.weights)
        return self._head_model

    def tracker(self, *, smooth: bool = True, driving_face: int | None = None) -> FaceTracker:
        """Follow a face from picture to picture in a loop of your own, as `animate` does."""
        check_face_number("driving_face", driving_face)
        reenactor = self._reenactor
        return FaceTracker(
            self._finder(), reenactor.image_size, smooth=smooth, face=driving_face, flame=reenactor.has_flame_neck
        )
