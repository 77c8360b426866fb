"""Makes what scores are measured with: the finder of faces, the metric networks that the user brought, the cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.faces.models import models_folder, why_unusable
from triportrait.serve.faces.face import FaceProvider
from triportrait.train.evaluation.protocols.face_features import FaceExtractor
from triportrait.train.evaluation.protocols.features import Extractor, FeatureCache
from triportrait.train.evaluation.protocols.network_features import LpipsComparison
from triportrait.train.evaluation.protocols.scoring import Instruments
from triportrait.train.evaluation.protocols.sync_features import LipSync

logger = logging.getLogger(__name__)

FOLDER = "evaluation-features"  # in the cache, beside the networks that find faces
NO_FACES = "faces were switched off (--faces none)"


def feature_cache(folder: Path | None) -> FeatureCache:
    """Return the cache in a folder; None takes the user's, beside the networks that find faces."""
    return FeatureCache(models_folder().parent / FOLDER if folder is None else folder)


def make_instruments(
    provider: FaceProvider | None,
    extractors: tuple[Extractor, ...],
    comparisons: tuple[LpipsComparison, ...],
    lip_sync: LipSync | None,
    cache: FeatureCache,
    faces_identity: str | None = None,
) -> tuple[Instruments, dict[str, str]]:
    """Put instruments together.

    Args:
        provider: what finds faces; without it nothing of a face is measured.
        extractors, comparisons, lip_sync: of metric networks.
        faces_identity: names another provider than the fetched networks.

    Returns:
        The instruments, and need -> why nothing stands for it.
    """
    empty = {}
    if provider is None:
        empty["faces"] = why_unusable() or NO_FACES
        dropped = [extractor.need for extractor in extractors]
        empty |= {need: f"it needs faces: {empty['faces']}" for need in dropped if need != "weights:inception"}
        extractors = tuple(extractor for extractor in extractors if extractor.need == "weights:inception")
        return Instruments(extractors, cache, comparisons), empty
    return Instruments((FaceExtractor(provider, faces_identity), *extractors), cache, comparisons, lip_sync), empty


def check_networks(instruments: Instruments, pinned: Mapping[str, str]) -> None:
    """Check that the networks are those that a protocol names.

    Raises:
        InputError: one has another hash.
    """
    have = {need.removeprefix("weights:"): identity for need, identity in instruments.networks().items()}
    for name, wanted in pinned.items():
        got = have.get(name)
        if got is not None and wanted not in got:
            raise InputError(
                f"{name}: expected the network {wanted[:12]} that the protocol names, got {got[:24]}; give the file"
                " that it was made with, or make another protocol"
            )
