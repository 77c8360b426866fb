"""Measure what docs/faces/README.md says, and draw its picture: `python -m docs.faces.measure`; needs the networks.

Run in the repository's folder; the same seeds give the same figures.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from tests.serve.raw import eyes_off, face, moving_head, photographs, seen
from triportrait.core.motion.motion_crop import anchors_of
from triportrait.core.types import NeckGrid
from triportrait.serve.controls import Controls
from triportrait.serve.faces.alignment import align, alignment_points
from triportrait.serve.faces.face import AlignedFace, Face
from triportrait.serve.faces.head_pose import turn_of, vector_of
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.faces.tracker import FaceTracker, cut_out
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.weight_loading import load_weights
from triportrait.train.data.heads.anatomy import mean_identity
from triportrait.train.data.heads.mesh import head_neck_grid
from triportrait.train.data.heads.population import Expression
from triportrait.train.evaluation.image_metrics import psnr
from triportrait.train.evaluation.methods import Reenactment
from triportrait.train.evaluation.protocol import Sitter, unseen
from triportrait.train.runs.weights import load_trained

HERE = Path(__file__).parent
MM = 1000 / 3  # per scene unit


def eyes(provider: NetworkFaces) -> None:
    """How far the eyes of the photograph are from where a hand marked them, in % of their distance."""
    print("\n| photograph | middles of the eyes | middles of their corners |\n| --- | --- | --- |")
    for name, (image, marks) in photographs().items():
        (found,) = provider.find(image)
        off = [f"{100 * part:.1f}" for part in eyes_off(found, marks)]
        print(f"| {name} | {off[0]}, {off[1]} % | {off[2]}, {off[3]} % |")


def pose(provider: NetworkFaces) -> None:
    """The turn of procedural heads against the generator's necks, about each axis, degrees."""
    found, true = [], []
    for head in range(12):
        shown, _, necks = moving_head(head, 16, 192)
        for image, neck in list(zip(shown, necks, strict=True))[::5]:
            faces = provider.find(image)
            found.append(np.degrees(vector_of(turn_of(faces[0]))))
            true.append(np.degrees(neck))
    read, asked = np.array(found), np.array(true)
    print(
        "\n| turn about | spread of the truth | mean error | spread of the error | correlation |\n" + "| --- " * 5 + "|"
    )
    for axis, name in enumerate(("x, nod", "y, to the side", "z, tilt")):
        error = read[:, axis] - asked[:, axis]
        together = np.corrcoef(read[:, axis], asked[:, axis])[0, 1]
        print(f"| {name} | {asked[:, axis].std():.1f} | {error.mean():+.1f} | {error.std():.1f} | {together:.2f} |")


def jitter(provider: NetworkFaces) -> None:
    """A still face: how far things move from frame to frame, with and without smoothing."""
    reenactor = Reenactor(*load_weights("demo"))
    shown, faces, _ = moving_head(0, 1, 256)
    source = cut_out(shown[0], faces[0], align(faces[0].alignment), 128)
    prepared = reenactor.prepare(source)
    head, faces, _ = moving_head(2, 1, 256)
    large = np.asarray(Image.fromarray(head[0]).resize((512, 512), Image.Resampling.BICUBIC))
    half = np.array([0.5, 0.5, 0.0])
    flat = (faces[0].points + half) * (2, 2, 1) - half
    deep = face((256.0, 256.0), 180).points
    print("\n| a still face | without | with smoothing |\n| --- | --- | --- |")
    for cause in ("landmark noise of 1 px", "sensor noise of 4 levels"):
        rows: dict[str, list[str]] = {}
        for smooth in (False, True):
            rng, tracker = np.random.default_rng(0), FaceTracker(provider, 128, smooth=smooth)
            other = FaceTracker(None, 32, smooth=smooth)
            got: list[tuple[AlignedFace, AlignedFace, np.ndarray]] = []
            for i in range(60):
                if cause.startswith("landmark"):
                    noise = rng.normal(size=(68, 3))
                    points = (flat + noise * (1, 1, 0)).astype(np.float32)
                    one = tracker.follow(large, i / 25, [Face(points, alignment_points(points), np.zeros(3))])
                    points = (deep + noise).astype(np.float32)
                    turned = other.follow(large, i / 25, [Face(points, alignment_points(points))])
                else:
                    noisy = np.clip(large + rng.normal(0, 4, large.shape), 0, 255).astype(np.uint8)
                    turned = one = tracker.follow(noisy, i / 25)
                if i >= 20:
                    view = reenactor.reenact(prepared, one, Controls(neck=False))
                    got.append((one, turned, view.astype(float)))
            anchors = [o.placed.to_picture(anchors_of(o.tracking.landmarks)[0].numpy()) for o, _, _ in got]
            scales = np.array([o.placed.scale for o, _, _ in got])
            necks = [np.degrees(t.tracking.parameters.neck[0]) for _, t, _ in got]
            for what, value in {
                "middle of the square, px a frame": step([o.placed.middle for o, _, _ in got]),
                "size of the square, standard deviation, %": 100 * scales.std() / scales.mean(),
                "anchors of the motion crop, px a frame": step(anchors),
                "turn of the head, degrees a frame": step(necks),
                "result, levels of 255 a frame": step([p for _, _, p in got]),
            }.items():
                rows.setdefault(what, []).append(f"{value:.3f}")
        for what, values in rows.items():
            print(f"| {cause}: {what} | {' | '.join(values)} |")


def step(values: object) -> float:
    """Mean absolute change from one to the next."""
    return float(np.abs(np.diff(np.array(values, dtype=float), axis=0)).mean())


@torch.no_grad()
def neck() -> None:
    """What the neck's field loses when it is made of less than the driving face's true shape and expression."""
    portrait, encoder = load_trained(Path("core/weights/demo"))
    config, method = portrait.config, Reenactment(portrait, encoder)
    rest, who = Expression.neutral(1), mean_identity()
    near: dict[str, list[torch.Tensor]] = {}
    decibels: dict[str, list[float]] = {}
    for number in range(16):
        sitter = Sitter.of(0, number)
        (face_s, camera_s), (face_d, camera) = unseen(0, number, 0), unseen(0, number, 1)
        source = sitter.photograph(face_s, camera_s, config, necks=False)
        truth = sitter.photograph(face_d, camera, config)
        made = lambda identity, does: head_neck_grid(identity, does, config.neck, config.render.box_side)  # noqa: E731
        only = rest.replace(neck=face_d.neck)
        grids: dict[str, NeckGrid | None] = {
            "true shape and expression": truth.neck,
            "true shape, face at rest": made(sitter.identity, only),
            "mean head at rest": made(who, only),
            "no rotation at all": None,
        }
        true = truth.neck
        assert true is not None
        close = true.fine[..., 3] < true.near_squared_distance
        for name, grid in grids.items():
            (shown,) = method(source, replace(truth, neck=grid), [camera])
            decibels.setdefault(name, []).append(psnr(shown.image, truth.image).item())
            offsets = torch.zeros_like(true.fine) if grid is None else grid.fine
            near.setdefault(name, []).append((offsets - true.fine)[..., :3][close].norm(dim=-1) * MM)
    print("\n| the field is made of | offsets near the head: mean, 99 % | picture against the truth |")
    print("| --- " * 3 + "|")
    for name, errors in near.items():
        every = torch.cat(errors)
        print(f"| {name} | {every.mean():.1f}, {every.quantile(0.99):.1f} mm | {np.mean(decibels[name]):.2f} dB |")


def picture(provider: NetworkFaces) -> None:
    """faces.jpg: raw frames with what is found in them, the aligned crops, and what the demo weights make of them."""
    reenactor = Reenactor(*load_weights("demo"))
    shown, _, _ = moving_head(0, 1, 256)
    (found,) = provider.find(shown[0])
    place = align(found.alignment)
    assert place is not None
    source = cut_out(shown[0], found, place, 128)
    prepared = reenactor.prepare(source)
    heads, _, _ = moving_head(2, 49, 192, into=(480, 270))
    phases = np.linspace(0, 2 * np.pi, 49)
    photos = [seen((300 + 50 * np.sin(p), 130), 1 + 0.2 * np.sin(p), 12 * np.sin(p), (480, 270)) for p in phases]
    rows = []
    for frames in (photos, heads):
        tracker, columns = FaceTracker(provider, 128), []
        for i, frame in enumerate(frames):
            one = tracker.follow(frame, i / 25)
            if i % 12 == 0 and i:
                result = reenactor.reenact(prepared, one)
                columns.append(np.concatenate([drawn(frame, one), beside(one.crop, result)], 0))
        rows.append(np.concatenate(columns, 1))
    Image.fromarray(np.concatenate(rows, 0)).save(HERE / "faces.jpg", quality=88, optimize=True)


def drawn(frame: np.ndarray, one: AlignedFace) -> np.ndarray:
    """A frame, 320 px wide, with the square and the landmarks."""
    image = Image.fromarray(frame).resize((320, 180), Image.Resampling.LANCZOS)
    pen, k = ImageDraw.Draw(image), 320 / frame.shape[1]
    place, points = one.placed, one.placed.to_picture(one.tracking.landmarks[0].numpy())
    box = [k * v for v in (place.left, place.top, place.left + place.side, place.top + place.side)]
    pen.rectangle(box, outline=(255, 255, 255))
    for x, y in points[:, :2] * k:
        pen.ellipse((x - 0.7, y - 0.7, x + 0.7, y + 0.7), fill=(60, 255, 60))
    return np.asarray(image)


def beside(crop: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Crop and result, 160 px each."""
    tiles = [Image.fromarray(x).resize((160, 160), Image.Resampling.LANCZOS) for x in (crop, result)]
    return np.concatenate([np.asarray(tile) for tile in tiles], 1)


def main() -> None:
    """All of it, or what the arguments name."""
    provider = NetworkFaces()
    parts = {"eyes": eyes, "pose": pose, "jitter": jitter, "neck": lambda _: neck(), "picture": picture}
    for name in sys.argv[1:] or parts:
        parts[name](provider)


if __name__ == "__main__":
    main()
