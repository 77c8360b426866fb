"""Measure a network on held-out people while it trains: which pictures, what of them, and how it is summed up.

The pictures are the same at every step and in every run on the same set: no random number is drawn. The metrics are the
definitions of `evaluation.metrics`, on 8-bit pictures. Letters: S side of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.types import Camera
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import Pictures, photograph
from triportrait.train.data.scene_sampling import population, to_uint8
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation import image_metrics
from triportrait.train.evaluation.metrics import face_geometry, pictures
from triportrait.train.evaluation.motion_response import face_mask
from triportrait.train.evaluation.protocol import renderer
from triportrait.train.evaluation.protocols.face_features import FaceExtractor
from triportrait.train.evaluation.protocols.features import FOUND
from triportrait.train.objectives.perceptual import Perceptual

PAIRS = 16  # of each case
SELF, CROSS, VIEWS = "self", "cross", "views"
PREFIX = "held_out"
_DIGITS = 4
_GEOMETRY = (
    ("landmark distance", face_geometry.landmark_distance),
    ("mouth distance", face_geometry.mouth_opening_distance),
    ("lid distance", face_geometry.lid_distance),
)


@dataclass(frozen=True)
class Pair:
    """A source that is driven, and what it should look like.

    Attributes:
        case: `self`, driven by another picture of the same person; `cross`, by another person; `views`, another view
            of the same moment, for a static network.
        source, driving: a picture each; `driving` carries the neck pose and the camera of the truth.
        truth: a picture.
        mask: [1, 1, S, S], 1.0 inside the `region`: the face, or of tracked faces the head.
    """

    case: str
    source: Pictures
    driving: Pictures
    truth: Pictures
    mask: Tensor
    region: str


@dataclass(frozen=True)
class _Frame:
    """A picture of a procedural head: its number, expression and camera."""

    head: int
    face: Expression
    camera: Camera


def static_pairs(heads: MultiviewSet, held_out: Sequence[int], model: ModelConfig) -> list[Pair]:
    """Return pairs of stage 1: the first view of a pose of a held-out head, and what its other views show."""
    poses, views = heads.index["expressions"], heads.index["views"]
    frames = _Photographer(heads.index, model)
    pairs = []
    for head, turn in _turns(held_out, poses * max(views - 1, 1)):
        pose, view = turn % poses, 1 + turn // poses if views > 1 else 0
        source, target = (frames.take(_frame_of_set(heads, head, pose, v)) for v in (0, view))
        pairs.append(Pair(VIEWS, source, target, target, face_mask(target), "face"))
    return pairs


def reenact_pairs(data: MultiviewSet | ClipStore, held_out: Sequence[int], model: ModelConfig) -> list[Pair]:
    """Return pairs of stage 2 on procedural heads, each driven by itself and by the next held-out one.

    A source is the first frame of a clip, or the first view of a head's first pose; driving frames are spread evenly
    over the others. The truth of either case is drawn, so that it is known for another person's expression, too.
    """
    count = data.index["expressions"] if isinstance(data, MultiviewSet) else min(data.frames_of[i] for i in held_out)
    if count < 2:
        return []
    photographer = _Photographer(data.index, model)

    def frame(number: int, at: int) -> _Frame:
        return _frame_of_set(data, number, at, 0) if isinstance(data, MultiviewSet) else _frame_of(data, number, at)

    pairs = []
    turns = _turns(held_out, count - 1)
    for place, (number, _) in enumerate(turns):
        at = 1 + place * (count - 1) // len(turns)
        source = photographer.take(frame(number, 0))
        own = photographer.take(frame(number, at))
        pairs.append(Pair(SELF, source, own, own, face_mask(own), "face"))
        if len(held_out) > 1:
            other = frame(held_out[(held_out.index(number) + 1) % len(held_out)], at)
            truth = photographer.take(replace(other, head=frame(number, 0).head))
            driving = replace(photographer.take(other), neck=truth.neck)
            pairs.append(Pair(CROSS, source, driving, truth, face_mask(truth), "face"))
    return pairs


def tracked_pairs(clips: ClipPictures) -> list[Pair]:
    """Return pairs of stage 2 on clips of tracked faces, each driven by itself: their own frames are the truth.

    Raises: `InputError` where no held-out clip can be used.
    """
    pairs: list[Pair] = []
    reason = ""
    turns = _turns(clips.chosen, max(clips.store.frames_of[clip] for clip in clips.chosen))
    for place, (clip, _) in enumerate(turns):
        at = 1 + place * (clips.store.frames_of[clip] - 1) // len(turns)
        try:
            source, driving = clips.pair(clip, 0, at)
        except ValueError as error:
            reason = f" ({clips.store.clips[clip]}: {error})"
            continue
        mask = torch.from_numpy(clips.store.masks(clip, np.array([at]))).float()[:, None]
        pairs.append(Pair(SELF, source, driving, driving, mask, "head"))
    if not pairs:
        raise InputError(
            f"{clips.store.folder}: none of its held-out clips can be used{reason}; make the store again, or go on "
            "without by --evaluate-every 0"
        )
    return pairs


def generated_pairs(store: HeadStore, held_out: Sequence[int]) -> list[Pair]:
    """Return pairs of stage 1 on heads of GenHead: the first view of a held-out head, and what its others show."""
    pairs = []
    for head, turn in _turns(held_out, store.views - 1):
        source, target = (store.pictures([head], [view]) for view in (0, 1 + turn))
        side = (target.image.shape[-1],) * 2
        mask = F.interpolate(target.opacity, size=side, mode="bilinear", align_corners=False) > 0.5
        pairs.append(Pair(VIEWS, source, target, target, mask.float(), "head"))
    return pairs


class Evaluation:
    """Measures a network on pairs; the ranks share them, and all have the same numbers.

    Args:
        pairs: what is measured.
        render: makes a picture [1, 3, S, S] of a source as the driving picture has it; both on the device.
        device: where the network is.
        perceptual: LPIPS, where the training has it.
        faces: finds landmarks, where its networks were fetched.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        render: Callable[[Pictures, Pictures], Tensor],
        device: torch.device,
        perceptual: Perceptual | None = None,
        faces: FaceExtractor | None = None,
    ) -> None:
        self.pairs, self._render, self._device = pairs, render, device
        self._perceptual, self._faces = perceptual, faces
        self._landmarks: dict[int, tuple[np.ndarray, bool]] = {}  # of the truth, by pair

    @torch.no_grad()
    def __call__(self, ranks: Ranks) -> dict[str, float]:
        """Return the means over all pairs; every rank calls it, as at ZeRO stage 3 none can look alone."""
        count = len(self.pairs)
        mine: dict[int, dict[str, float]] = {}
        for start in range(0, count, ranks.size):
            number = min(start + ranks.rank, count - 1)  # one that is left over repeats the last
            mine[number] = self._measure(number)
        measured = {number: values for part in ranks.all_gather(mine) for number, values in part.items()}
        series: dict[str, list[float]] = {}
        for number in range(count):
            for name, value in measured[number].items():
                series.setdefault(f"{PREFIX} {self.pairs[number].case} {name}", []).append(value)
        means = {name: _mean(values) for name, values in series.items()}
        return {name: mean for name, mean in means.items() if mean is not None}

    def _measure(self, number: int) -> dict[str, float]:
        """Return the metrics of a pair, NaN where one is not defined."""
        pair = self.pairs[number]
        image = self._render(pair.source.to(self._device), pair.driving.to(self._device)).float().cpu()
        if not bool(image.isfinite().all()):
            return {"psnr": math.nan}
        result, truth = (to_uint8(x.clamp(-1, 1)).numpy() for x in (image, pair.truth.image))
        seen, true = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (result, truth))
        values = {
            "psnr": pictures.psnr(result, truth).item(),
            "ssim": pictures.ssim(result, truth).item(),
            f"psnr {pair.region}": image_metrics.psnr(seen, true, pair.mask).item(),
            f"ssim {pair.region}": image_metrics.ssim(seen, true, pair.mask).item(),
        }
        if self._perceptual is not None:
            values["lpips_vgg"] = self._perceptual(seen.to(self._device), true.to(self._device)).item()
        return values | self._geometry(number, result, truth)

    def _geometry(self, number: int, result: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        if self._faces is None:
            return {}
        if number not in self._landmarks:
            self._landmarks[number] = self._points(truth)
        (points, found), (true_points, truly_found) = self._points(result), self._landmarks[number]
        if not truly_found:
            return {}
        if not found:
            return {"faces found": 0.0}
        return {"faces found": 1.0} | {name: measure(points, true_points).item() for name, measure in _GEOMETRY}

    def _points(self, frames: np.ndarray) -> tuple[np.ndarray, bool]:
        assert self._faces is not None
        rows = self._faces.add(frames, None)
        return rows["landmarks"], bool(rows[FOUND][0])


class _Photographer:
    """Takes pictures of the heads of a set, in their light, with their samples along a pixel's side."""

    def __init__(self, index: dict[str, int], model: ModelConfig) -> None:
        self._identities, self._lights = population(index["seed"], index["count"])
        self._antialias, self._model = index["antialias"], model

    def take(self, frame: _Frame) -> Pictures:
        identity, light = self._identities.take([frame.head]), self._lights.take([frame.head])
        return photograph(renderer(), identity, frame.face, light, frame.camera, self._model, self._antialias)


def _frame_of_set(heads: MultiviewSet, head: int, pose: int, view: int) -> _Frame:
    arrays = heads.head(head)
    numbers = (torch.from_numpy(arrays[name][pose]) for name in ("expression", "neck"))
    camera = (torch.from_numpy(arrays[name][pose, view]) for name in ("world_from_camera", "intrinsics"))
    return _Frame(head, Expression.from_vector(*(x[None] for x in numbers)), Camera(*(x[None] for x in camera)))


def _frame_of(store: ClipStore, clip: int, row: int) -> _Frame:
    table = store.table(clip)
    vector, neck, label = (torch.from_numpy(table[name][[row]]) for name in ("expression", "neck", "camera"))
    number = int(store.clips[clip].rpartition("_")[2])
    return _Frame(number, Expression.from_vector(vector, neck), camera_from_label(label))


def _turns(held_out: Sequence[int], each: int) -> list[tuple[int, int]]:
    """Return PAIRS times whom to take, in turn, and which of one's `each` choices; fewer where there are no more."""
    count = min(PAIRS, len(held_out) * each)
    return [(held_out[i % len(held_out)], i // len(held_out)) for i in range(count)]


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not math.isnan(value)]
    return round(sum(defined) / len(defined), _DIGITS) if defined else None
