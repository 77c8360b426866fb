"""Reads off frames what the user's metric networks say: identity, coefficients, emotion, Inception's features, LPIPS.

Each face is cropped by its own landmarks, in the result as in the driving frame. Letters: N frames, S side of pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.metrics.arcface import EMBEDDING, arcface_crop
from triportrait.core.metrics.emotion import emotion_crop
from triportrait.core.metrics.full_precision import full_precision
from triportrait.core.metrics.networks import ORIGINS, Kind, Loaded, MissingWeights, file_of, load, make_by_rule
from triportrait.core.metrics.recon3d import Coefficients
from triportrait.core.metrics.recon3d_alignment import align
from triportrait.core.metrics.resnet50 import WIDTH
from triportrait.core.metrics.rule_weights import RULE
from triportrait.serve.faces.alignment import alignment_points
from triportrait.train.evaluation.metrics.perceptual import black_beyond, head_mask
from triportrait.train.evaluation.protocols.features import FOUND, Extractor, Rows
from triportrait.train.evaluation.protocols.sync_features import LipSync

VERSION = "1"  # of what is done here
RESIZES = ("legacy_pytorch", "legacy_tensorflow", "clean")
_NO_FOLDER = "pass --networks FOLDER that holds "


class FaceNetworkExtractor:
    """Reads fields off the aligned crop of each face.

    Args:
        loaded: the network.
        fields: name -> how many numbers.
        crop: a frame and its landmarks [68, 3] -> float32 [1, 3, h, w].
        split: what the network gives, [B, D] -> the fields.
    """

    def __init__(
        self, loaded: Loaded, fields: dict[str, int], crop: Callable[[np.ndarray, np.ndarray], Tensor],
        split: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> None:  # fmt: skip
        self.need, self.identity = f"weights:{loaded.kind}", f"{VERSION} {loaded.identity}"
        self.sizes, self.fields = fields, tuple(fields)
        self.network, self.crop, self.split = loaded.network, crop, split

    def start(self) -> FaceNetworkExtractor:
        """Begin a clip: nothing is remembered of the one before."""
        return self

    @torch.inference_mode()
    @full_precision()
    def add(self, frames: np.ndarray, faces: Rows | None) -> Rows:
        """See `Walk`."""
        assert faces is not None
        rows = {name: np.zeros((len(frames), size), np.float32) for name, size in self.sizes.items()}
        found, crops, places = np.zeros(len(frames), bool), [], []
        for i in np.flatnonzero(faces[FOUND]):
            try:
                crops.append(self.crop(frames[i], faces["landmarks"][i]))
                places.append(i)
            except InputError:  # the landmarks are those of no face
                continue
        if places:
            given = self.split(self.network(torch.cat(crops).to(next(self.network.parameters()).device)))
            for name, values in zip(self.fields, given, strict=True):
                rows[name][places] = values.float().cpu().numpy()
            found[places] = True
        return rows | {FOUND: found}


class InceptionExtractor:
    """Reads Inception's pooled feature off whole frames, resized by each of the rules in use."""

    fields = tuple(f"inception_{resize}" for resize in RESIZES)

    def __init__(self, loaded: Loaded) -> None:
        self.need, self.identity = "weights:inception", f"{VERSION} {loaded.identity}"
        self.network = loaded.network

    def start(self) -> InceptionExtractor:
        """Begin a clip: nothing is remembered of the one before."""
        return self

    @torch.inference_mode()
    @full_precision()
    def add(self, frames: np.ndarray, faces: Rows | None) -> Rows:
        """See `Walk`."""
        pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).to(next(self.network.parameters()).device)
        rows = {f"inception_{r}": self.network(pictures, r).float().cpu().numpy() for r in RESIZES}
        return rows | {FOUND: np.ones(len(frames), bool)}


class LpipsComparison:
    """Compares frames of result and truth by LPIPS; nothing is kept, as maps are as large as pictures.

    Args:
        loaded: LPIPS with AlexNet or VGG-16.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.need, self.identity = f"weights:{loaded.kind}", f"{VERSION} {loaded.identity}"
        self.network: Any = loaded.network
        self.kind: str = loaded.kind
        of_heads = ("lpips_alex_map", "lpips_alex_of_heads") if loaded.kind == "lpips_alex" else ()
        self.fields: tuple[str, ...] = (loaded.kind, *of_heads)

    @torch.inference_mode()
    @full_precision()
    def compare(self, result: np.ndarray, truth: np.ndarray, wanted: set[str], masks: np.ndarray | None) -> Rows:
        """Compare frames uint8 [N, S, S, 3].

        Args:
            wanted: names of fields. masks: bool [N, S, S], the truth's heads, for the fields about them.
        """
        ours, theirs = self._unit(result), self._unit(truth)
        network = self.network
        rows: dict[str, Tensor] = {}
        if self.kind in wanted:
            rows[self.kind] = network(ours, theirs)
        if "lpips_alex_map" in wanted:
            rows["lpips_alex_map"] = network.at_pixels(ours, theirs)
        if "lpips_alex_of_heads" in wanted and masks is not None:
            rows["lpips_alex_of_heads"] = network(
                self._unit(black_beyond(result, masks)), self._unit(black_beyond(truth, masks))
            )
        return {name: values.float().cpu().numpy() for name, values in rows.items()}

    def _unit(self, frames: np.ndarray) -> Tensor:
        device = next(self.network.parameters()).device
        return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1


def head_masks(faces: Rows, size_px: int) -> np.ndarray:
    """Return where the heads are, bool [N, S, S]; nothing where no face was found."""
    masks = np.zeros((len(faces[FOUND]), size_px, size_px), bool)
    for i in np.flatnonzero(faces[FOUND]):
        try:
            masks[i] = head_mask(faces["landmarks"][i][None], size_px, size_px)[0]
        except InputError:  # a head upside down: its mask stays empty, and the frame counts as not found
            continue
    return masks


def network_extractors(
    networks: str | None, device: torch.device
) -> tuple[tuple[Extractor, ...], tuple[LpipsComparison, ...], LipSync | None, dict[str, str]]:
    """Load the networks that lie in a folder.

    Args:
        networks: the folder, `rule` for networks whose weights are made by rule, or None for no network.

    Returns:
        Their extractors, those that compare two pictures, SyncNet, and need -> the sentence that says which file is
        missing.

    Raises:
        InputError: a file is damaged or of another network, or a package is missing.
    """
    extractors: list[Extractor] = []
    comparisons: list[LpipsComparison] = []
    lip_sync: LipSync | None = None
    empty: dict[str, str] = {}
    for kind, origin in ORIGINS.items():
        if networks is None:
            file = f"{' or '.join(origin.files)}, from {origin.source}; licence: {origin.licence}"
            empty[f"weights:{kind}"] = f"{origin.metrics}: {_NO_FOLDER}{origin.network} ({file})"
            continue
        try:
            loaded = make_by_rule(kind, device) if networks == RULE else load(kind, Path(networks), device)
        except MissingWeights as error:
            empty[f"weights:{kind}"] = str(error)
            continue
        if kind in ("lpips_alex", "lpips_vgg"):
            comparisons.append(LpipsComparison(loaded))
        elif kind == "syncnet":
            lip_sync = LipSync(loaded)
        elif kind == "inception":
            extractors.append(InceptionExtractor(loaded))
        else:
            extractors.append(_OF_FACES[kind](loaded))
    return tuple(extractors), tuple(comparisons), lip_sync, empty


def hashes(networks: str) -> dict[str, str]:
    """Return name -> SHA-256 of the networks that lie in a folder, or of those that are made by `rule`.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    if networks == RULE:
        return {kind: make_by_rule(kind).sha256 for kind in ORIGINS}
    found: dict[str, str] = {}
    for kind in ORIGINS:
        try:
            found[kind] = sha256(file_of(kind, Path(networks)))
        except MissingWeights:
            continue
        except OSError as error:
            raise InputError(f"{networks}: {kind} cannot be read ({error.strerror}); make the file readable") from error
    if not found:
        raise InputError(f"{networks}: expected metric networks, found none; write them there by `triportrait convert`")
    return found


def _arcface(loaded: Loaded) -> Extractor:
    return FaceNetworkExtractor(
        loaded, {"identity": EMBEDDING}, lambda image, points: arcface_crop(image, alignment_points(points)),
        lambda given: (given,),
    )  # fmt: skip


def _recon3d(loaded: Loaded) -> Extractor:
    def crop(image: np.ndarray, points: np.ndarray) -> Tensor:
        face = np.array(align(image, alignment_points(points)).face)
        return torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255

    def split(given: Tensor) -> tuple[Tensor, ...]:
        values = Coefficients.of(given)
        return values.expression, values.angles, values.translation

    return FaceNetworkExtractor(loaded, {"expression": 64, "angles": 3, "translation": 3}, crop, split)


def _emotion(loaded: Loaded) -> Extractor:
    return FaceNetworkExtractor(
        loaded, {"emotion": WIDTH},
        lambda image, points: torch.from_numpy(emotion_crop(image, points)).permute(2, 0, 1)[None],
        lambda given: (given,),
    )  # fmt: skip


_OF_FACES: dict[Kind, Callable[[Loaded], Extractor]] = {"arcface": _arcface, "recon3d": _recon3d, "emotion": _emotion}
