"""Make results of methods whose rank is known: `python -m docs.evaluation.sanity.other_methods PROTOCOL OUT`.

Each becomes a folder OUT/METHOD, laid out by the names in the protocol's file. This program reads that file, decodes,
crops and warps by libraries alone: it shares no code with what scores the results. It needs SciPy, which comes with the
extra `train`.

A pair that a method does not make anything of is left out: the truth of a cross pair is known of heads alone whose
numbers lie beside their clip (`docs.evaluation.sanity.clips`), and the landmarks are taken from there, too; of other
clips the networks of `triportrait fetch faces` find them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image, ImageFilter
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

NOISE, JPEG_QUALITY, BLUR, LATE, SEED = 8.0, 20, 1 / 150, 4, 0
ANCHORS = np.array([(x, y) for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)])


@dataclass
class Clips:
    """Holds a protocol's lines and what was read of its clips."""

    folder: Path
    head: dict[str, Any]
    clips: dict[str, dict[str, Any]]
    pairs: list[dict[str, Any]]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Clips:
        """Read the protocol's lines."""
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        clips = {line["clip"]: line for line in lines[1:] if "clip" in line}
        pairs = [line for line in lines[1:] if "pair" in line]
        return cls(path.parent, lines[0], clips, pairs, hashlib.sha256(path.read_bytes()).hexdigest())

    def frames(self, name: str, first: int, count: int) -> list[np.ndarray]:
        """Decode frames of a clip and crop them as the protocol says: uint8 [S, S, 3] each."""
        path, size = self.folder / self.clips[name]["file"], self.head["size_px"]
        if path.is_dir():
            raw = [Image.open(file).convert("RGB") for file in sorted(path.iterdir())[first : first + count]]
        else:
            with av.open(str(path)) as container:
                raw = [_rgb(frame) for frame in container.decode(video=0)][first : first + count]
        squares = self.clips[name].get("squares", [(0, 0, raw[0].width)] * (first + count))[first:]
        return [_square(image, square, size) for image, square in zip(raw, squares, strict=False)]

    def table(self, name: str) -> dict[str, np.ndarray] | None:
        """Return the numbers that lie beside a clip."""
        path = (self.folder / self.clips[name]["file"]).with_suffix(".npz")
        return dict(np.load(path)) if path.is_file() else None


def _rgb(frame: av.VideoFrame) -> Image.Image:
    """Convert a frame by the matrix that it names; libav by itself takes every video for BT.601."""
    named = int(frame.colorspace) if frame.colorspace in (1, 5, 6, 9) else int(Colorspace.ITU601)
    exact = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    exact |= Interpolation.ACCURATE_RND
    return frame.reformat(format="rgb24", src_colorspace=named, interpolation=exact).to_image()


def _square(image: Image.Image, square: tuple[float, float, float], size: int) -> np.ndarray:
    """Cut a square (left, top, side) out of a picture, whose edge is repeated beyond it, and resize it by Lanczos."""
    left, top, side = square
    wide = int(np.ceil(max(0, -left, -top, left + side - image.width, top + side - image.height) + 3 * side / size + 4))
    padded = Image.fromarray(np.pad(np.asarray(image), ((wide, wide), (wide, wide), (0, 0)), "edge"))
    box = (left + wide, top + wide, left + side + wide, top + side + wide)
    return np.asarray(padded.resize((size, size), Image.Resampling.LANCZOS, box=box))


def points_of(clips: Clips, name: str, first: int, frames: list[np.ndarray], finder: Any) -> np.ndarray:
    """Return the 68 points of each frame in the protocol's pictures, [T, 68, 2], the first pixel covers 0 to 1."""
    size, table = clips.head["size_px"], clips.table(name)
    if table is None:
        found: list[np.ndarray] = []
        for frame in frames:
            faces = finder().find(frame)
            found.append(faces[0].points[:, :2] + 0.5 if faces else found[-1])
        return np.stack(found)
    points = table["landmarks"][first : first + len(frames)].astype(float)
    squares = clips.clips[name].get("squares")
    if squares is None:
        with av.open(str(clips.folder / clips.clips[name]["file"])) as container:
            squares = [(0, 0, container.streams.video[0].width)] * (first + len(frames))
    corner_and_side = np.array(squares[first : first + len(frames)])
    return (points - corner_and_side[:, None, :2]) * (size / corner_and_side[:, None, 2:])


def _eyes(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))


def warped(source: np.ndarray, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Bend a picture by the thin plate that takes points `at` to `to` and leaves the border where it is."""
    size = len(source)
    at, to = (np.concatenate([points / size, ANCHORS]) for points in (at, to))
    # without smoothing, lids that meet would have to come from two places at once
    plate = RBFInterpolator(to, at, kernel="thin_plate_spline", smoothing=1e-4)
    y, x = np.mgrid[:size, :size]
    back = plate((np.stack([x.ravel(), y.ravel()], 1) + 0.5) / size).T.reshape(2, size, size) * size - 0.5
    bent = [map_coordinates(source[..., c].astype(float), back[::-1], order=3, mode="nearest") for c in range(3)]
    return np.rint(np.stack(bent, 2)).clip(0, 255).astype(np.uint8)


def _jpeg(frame: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("RGB"))


def _rendered(clips: Clips, pair: dict[str, Any]) -> list[np.ndarray] | None:
    """Render the head of the source's clip, in its light, doing what the driver does before the driver's camera."""
    who, acts = clips.table(pair["source"]["clip"]), clips.table(pair["driving"]["clip"])
    if who is None or acts is None or "squares" in clips.clips[pair["source"]["clip"]]:
        return None
    import torch

    from triportrait.core.types import Camera
    from triportrait.train.data.heads.population import Expression, Identity, Light
    from triportrait.train.data.heads.render import HeadRenderer
    from triportrait.train.data.scene_sampling import take_pictures, to_uint8

    def one(kind: Any, prefix: str) -> Any:
        return kind(**{k[len(prefix) :]: torch.as_tensor(v)[None] for k, v in who.items() if k.startswith(prefix)})

    count, first = pair["driving"]["frames"], pair["driving"]["first"]
    rows = torch.zeros(count, dtype=torch.long)
    face = Expression.from_vector(*(torch.from_numpy(acts[k][first : first + count]) for k in ("expression", "neck")))
    camera = Camera(*(torch.from_numpy(acts[k])[None] for k in ("world_from_camera", "intrinsics"))).take(rows)
    identity, light = one(Identity, "identity.").take(rows), one(Light, "light.").take(rows)
    view = take_pictures(HeadRenderer(), identity, face, light, camera, clips.head["size_px"])
    return list(to_uint8(view.image).numpy())


def methods_of(clips: Clips, pair: dict[str, Any], finder: Any) -> dict[str, Callable[[], list[np.ndarray] | None]]:
    """Return what makes the frames of a pair, by the method's name; None where the method makes nothing of it."""
    kind, driver, first = pair["kind"], pair["driving"]["clip"], pair["driving"]["first"]
    driving = clips.frames(driver, first, pair["driving"]["frames"])
    (source,) = clips.frames(pair["source"]["clip"], pair["source"]["frame"], 1)
    truth = driving if kind == "self" else _rendered(clips, pair) if kind in ("cross", "sound") else None
    random = np.random.default_rng([SEED, *pair["pair"].encode()])

    def from_truth(change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Callable[[], list[np.ndarray] | None]:
        return lambda: None if truth is None else change(truth)

    def noisy(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [np.rint(f + random.normal(0, NOISE, f.shape)).clip(0, 255).astype(np.uint8) for f in frames]

    def blurred(frames: list[np.ndarray]) -> list[np.ndarray]:
        radius = ImageFilter.GaussianBlur(BLUR * len(frames[0]))
        return [np.asarray(Image.fromarray(frame).filter(radius)) for frame in frames]

    def shuffled(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [frames[i] for i in random.permutation(len(frames))]

    def warp() -> list[np.ndarray] | None:
        if pair["camera"] != "driving":
            return None
        (at,) = points_of(clips, pair["source"]["clip"], pair["source"]["frame"], [source], finder)
        moves = points_of(clips, driver, first, driving, finder)
        to = moves if kind == "self" else at + (moves - moves[0]) * (_eyes(at) / _eyes(moves[0]))
        return [warped(source, at, points) for points in to]

    def other() -> list[np.ndarray] | None:
        names = list(clips.clips)
        name = names[(names.index(driver) + 1) % len(names)]
        enough = clips.clips[name]["frames"] >= first + len(driving)
        return clips.frames(name, first, len(driving)) if kind == "self" and enough else None

    return {
        "truth": from_truth(lambda frames: frames),
        "noise": from_truth(noisy),
        "jpeg": from_truth(lambda frames: [_jpeg(frame) for frame in frames]),
        "blur": from_truth(blurred),
        "late": from_truth(lambda frames: [frames[max(0, i - LATE)] for i in range(len(frames))]),
        "warp": warp,
        "copy": lambda: [source] * len(driving),
        "shuffled": from_truth(shuffled),
        "other": other,
        "driver": lambda: driving if kind != "self" else None,
    }


METHODS = ("truth", "noise", "jpeg", "blur", "late", "warp", "copy", "shuffled", "other", "driver")


def make(protocol: Path, out: Path, methods: tuple[str, ...] = METHODS) -> None:
    """Write OUT/METHOD/PAIR/000000.png and on."""
    clips, provider = Clips.read(protocol), []

    def finder() -> Any:
        from triportrait.serve.faces.providers import face_provider

        provider.extend([] if provider else [face_provider("networks")])
        return provider[0]

    for name in methods:
        (out / name).mkdir(parents=True)
        card = {"kind": "triportrait results", "version": 1, "protocol": clips.sha256, "method": name}
        (out / name / "results.json").write_text(json.dumps(card))
    for pair in clips.pairs:
        made_by = methods_of(clips, pair, finder)
        for name in methods:
            frames = made_by[name]()
            if frames is not None:
                (out / name / pair["pair"]).mkdir()
                for number, frame in enumerate(frames):
                    Image.fromarray(frame).save(out / name / pair["pair"] / f"{number:06d}.png", compress_level=1)


def main() -> None:
    """Make the results that the command line names."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("protocol", type=Path)
    words.add_argument("out", type=Path, help="a folder that does not hold these methods yet")
    words.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    given = words.parse_args()
    make(given.protocol, given.out, tuple(given.methods))


if __name__ == "__main__":
    main()
