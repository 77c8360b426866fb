"""Measure what refining one person brings: `python -m docs.personal.measure OUT --heads 2 --pictures 1 3 10`.

The people are procedural heads from seeds that no training uses: the truth of every view and expression is known.
Of each some pictures are given; others, with other expressions and cameras near the front and at the sides, are not.
The given pictures come with their true cameras and landmarks. `triportrait personalize` reads both off photographs,
with errors of its own: the table says what a refinement brings at best, not what the command brings.

The networks are the package's own, before and after. OUT gets table.md, table.json, sheet.png, and a picture of each
row of the sheet in rows/. What is there already of the same networks and the same RefineConfig is not measured again,
and stays in the table and on the sheet.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triportrait.core.atomic import replacing, write_text
from triportrait.core.checkpoint import load_pair, weights_folder
from triportrait.core.motion.encoder import MotionEncoder, encoder_fingerprint
from triportrait.core.person import Person, weights_hash
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Camera, Driving
from triportrait.profiling.measurement import describe
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import Pictures, photograph
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population, to_uint8
from triportrait.train.evaluation.contact_sheets import write_sheet
from triportrait.train.evaluation.image_metrics import psnr, sharpness
from triportrait.train.evaluation.motion_response import face_mask, responses, take_probe
from triportrait.train.personal import GivenPictures, RefineConfig, refine
from triportrait.train.stages.motion import motion_of

STRANGER = 900_000  # the first seed of the people
FRONT, SIDE = 4, 4  # pictures of each person that are not given
AXES = ("jaw", "blink")
COLUMNS = ["source", "truth", "before", "after"]
NUMBERS = (
    *(f"{where} {what}" for where in ("front", "side") for what in ("psnr", "psnr face", "sharpness")),
    *(f"{axis} {what}" for axis in AXES for what in ("correlation", "gain")),
)
KEY = ("weights", "encoder", "seed", "pictures", "learned", "config")  # what tells a row from all others
TOLD = ("seconds", "steps", "updates", "residual")  # of its refinement
PLACE = ("commit", "torch", "machine", "cores", "threads")
LENGTH = ("minutes", "steps")  # the fields of a RefineConfig that "learned" says


def person_pictures(portrait: Portrait4D, seed: int, count: int) -> tuple[Pictures, Pictures]:
    """Photograph a stranger: `count` pictures to give, and others: first those near the front, then the sides."""
    total = count + FRONT + SIDE
    identity, light = population(seed, 1)
    rows = torch.zeros(total, dtype=torch.long)
    camera = filming_cameras(seed, total)
    aside = sample_look_at(SIDE, torch.Generator().manual_seed(seed))
    camera.world_from_camera[-SIDE:] = aside.world_from_camera
    face = expressions(seed, 1, total)
    renderer = HeadRenderer()

    def photo(chosen: Tensor) -> Pictures:
        zeros = rows[: len(chosen)]
        return photograph(
            renderer, identity.take(zeros), face.take(chosen), light.take(zeros), camera.take(chosen), portrait.config
        )

    return photo(torch.arange(count)), photo(torch.arange(count, total))


def shown(
    network: Portrait4D, encoder: MotionEncoder, planes: Tensor | None, source: Pictures, driving: Pictures,
    camera: Camera,
) -> Tensor:  # fmt: skip
    """Show the source as each of the driving pictures is, before B cameras: [B, 3, S, S] in [-1, 1]."""
    with torch.no_grad():
        prepared = network.prepare(source.image, motion_of(source, encoder))
        images = []
        for row in range(len(driving.image)):
            one = driving.image[row : row + 1]
            motion = motion_of(
                dataclasses.replace(driving, image=one, landmarks=driving.landmarks[row : row + 1]), encoder
            )
            neck = None if driving.neck is None else driving.neck.take([row])
            head = network.reenact(prepared, Driving(motion, neck))
            if planes is not None:
                head = dataclasses.replace(head, planes=head.planes + planes)
            images.append(network.render(head, camera.take([row])).image.clamp(-1, 1))
        return torch.cat(images)


def measured(
    network: Portrait4D, encoder: MotionEncoder, planes: Tensor | None, source: Pictures, others: Pictures, seed: int
) -> tuple[dict[str, float], Tensor]:
    """Compare what was not given with the truth; return the numbers and the pictures."""
    images = shown(network, encoder, planes, source, others, others.camera)
    inside = face_mask(others)
    numbers = {}
    for name, rows in (("front", slice(0, FRONT)), ("side", slice(FRONT, None))):
        truth = others.image[rows]
        numbers[f"{name} psnr"] = psnr(images[rows], truth).mean().item()
        numbers[f"{name} psnr face"] = psnr(images[rows], truth, inside[rows]).mean().item()
        numbers[f"{name} sharpness"] = sharpness(images[rows], truth, inside[rows]).mean().item()
    identity, light = population(seed, 1)
    probe = take_probe(
        HeadRenderer(), identity, light, expressions(seed, 1, 1), filming_cameras(seed + 1, 1), network.config, AXES
    )
    answers = responses(
        dataclasses.replace(probe, source=source),
        lambda given, driving: shown(network, encoder, planes, given, driving, driving.camera),
    )
    for axis, answer in answers.items():
        numbers |= {f"{axis} correlation": answer.correlation, f"{axis} gain": answer.gain}
    return numbers, images


def measured_row(
    portrait: Portrait4D, encoder: MotionEncoder, seed: int, count: int, config: RefineConfig
) -> tuple[dict[str, Any], list[list[Tensor]]]:
    """Refine one person.

    Returns:
        The numbers before and after, and rows of pictures [1, 3, S, S] by COLUMNS: from the front and from a side.
    """
    pictures, others = person_pictures(portrait, seed, count)
    source = photograph_first(pictures)
    with torch.no_grad():
        motion = motion_of(pictures, encoder).clone()
    given = GivenPictures(pictures.image, motion, pictures.camera, pictures.neck, pictures.landmarks)
    before, plain = measured(portrait, encoder, None, source, others, seed)
    began = time.monotonic()
    person: Person = refine(portrait, encoder, given, config)
    seconds = time.monotonic() - began
    after, refined = measured(person.refined(portrait), encoder, person.planes, source, others, seed)
    numbers = {
        "seconds": round(seconds, 1), "steps": person.card["steps"], **sizes(person, portrait), "before": before,
        "after": after,
    }  # fmt: skip
    views = (others.image, plain, refined)
    return numbers, [[source.image, *(view[which : which + 1] for view in views)] for which in (0, FRONT)]


def sizes(person: Person, portrait: Portrait4D) -> dict[str, float]:
    """Return how large what was learned is: what `small_updates` and `small` of a RefineConfig keep small, as roots.

    Returns:
        updates: |up down| / |W|, the root of the mean of its squares over the updated weights W; 0 without any.
        residual: of the planes, the root of the mean square.
    """
    shares = []
    for name, update in person.updates.items():
        weight = portrait.get_parameter(name).detach()
        shares.append(update.delta(weight).square().sum().item() / (weight.square().sum().item() or 1.0))
    mean = sum(shares) / len(shares) if shares else 0.0
    return {"updates": mean**0.5, "residual": person.planes.square().mean().item() ** 0.5}


def photograph_first(pictures: Pictures) -> Pictures:
    """Return the first of several pictures."""
    neck = None if pictures.neck is None else pictures.neck.take([0])
    return Pictures(
        pictures.image[:1], pictures.opacity[:1], None, pictures.landmarks[:1], pictures.camera.take([0]),
        pictures.motion[:1], neck,
    )  # fmt: skip


def write_rows(path: Path, rows: list[list[Tensor]]) -> None:
    """Write rows of pictures as one PNG, from which a later run draws the sheet again."""
    pixels = torch.cat([torch.cat(list(row), 3) for row in rows], 2)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, overwrite=True) as part:
        Image.fromarray(to_uint8(pixels)[0].numpy()).save(part, "PNG")


def read_rows(path: Path) -> list[list[Tensor]]:
    """Read what `write_rows` wrote."""
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 127.5 - 1
    side = pixels.shape[3] // len(COLUMNS)
    return [list(row.split(side, 3)) for row in pixels.split(side, 2)]


def is_whole(row: dict[str, Any]) -> bool:
    """Tell whether a row has all that the table shows; those of earlier versions of this script may not."""
    return (
        row.keys() >= {*KEY, *TOLD, "before", "after", "where"}
        and row["where"].keys() >= set(PLACE)
        and all(row[when].keys() >= set(NUMBERS) for when in ("before", "after"))
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Write the means over people as tables, one for each networks, config, machine and commit.

    A line is of a number of pictures and a length of learning, before → after.
    """
    told = [
        "Means over people. Cameras and landmarks of the given pictures are the true ones. Updates: |up down| over the",
        "|W| of their weights, residual: of the planes; both root mean squares.",
    ]
    for where in sorted({_place(each) for each in rows}):
        told += ["", where, "", *_lines([each for each in rows if _place(each) == where])]
    return "\n".join(told) + "\n"


def _place(row: dict[str, Any]) -> str:
    where = row["where"]
    config = ", ".join(f"{name} {value}" for name, value in row["config"].items() if name not in LENGTH)
    return (
        f"Weights {row['weights'][:12]}, motion encoder {row['encoder']}, {where['machine']}, {where['cores']} "
        f"cores, {where['threads']} threads, torch {where['torch']}, commit {where['commit'] or 'unknown'}; {config}:"
    )


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    names = ["pictures", "learned", "people", "s", "steps", "updates", "residual", *NUMBERS]
    lines = ["| " + " | ".join(names) + " |", "| ---: " * len(names) + "|"]
    for count, learned in sorted({(each["pictures"], each["learned"]) for each in rows}):
        group = [each for each in rows if (each["pictures"], each["learned"]) == (count, learned)]
        seconds, steps, updates, residual = (sum(each[name] for each in group) / len(group) for name in TOLD)
        cells = [str(count), learned, str(len(group)), f"{seconds:.0f}", f"{steps:.0f}"]
        cells += [f"{100 * updates:.2f} %", f"{residual:.4f}"]
        for name in NUMBERS:
            first, then = (sum(each[when][name] for each in group) / len(group) for when in ("before", "after"))
            digits = 1 if "psnr" in name else 2
            cells.append(f"{first:.{digits}f} → {then:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def place_here() -> dict[str, Any]:
    """Return the commit, the versions, the machine and its cores, which stand beside every row."""
    here = describe("python -m docs.personal.measure")
    return {
        **{name: here[name] for name in ("commit", "date", "torch", "machine")},
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def configs(minutes: list[float], steps: list[int]) -> dict[str, RefineConfig]:
    """Name the lengths of learning: numbers of steps if there are any, else minutes."""
    if steps:
        return {f"{count} step{'s' * (count != 1)}": RefineConfig(minutes=None, steps=count) for count in steps}
    return {f"{each:g} min": RefineConfig(minutes=each) for each in minutes}


def main(arguments: list[str] | None = None) -> int:
    """Measure every combination; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 2.0, 10.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="learn so many steps instead")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    done = options.out / "table.json"
    known: list[dict[str, Any]] = json.loads(done.read_text())["rows"] if done.exists() else []
    rows = [each for each in known if is_whole(each)]
    lacking = [each for each in known if not is_whole(each)]
    if lacking:
        print(f"{done}: {len(lacking)} of {len(known)} rows lack what the table shows now; they stay there alone")
    portrait, encoder = load_pair(weights_folder("demo"))
    portrait.fold().eval()
    networks = {"weights": weights_hash(portrait), "encoder": encoder_fingerprint(encoder)}
    for seed in range(STRANGER, STRANGER + options.heads):
        for count in options.pictures:
            for learned, config in configs(options.minutes, options.steps).items():
                key = {
                    **networks, "seed": seed, "pictures": count, "learned": learned, "config": config.to_dict()
                }  # fmt: skip
                if any(key.items() <= each.items() for each in rows):
                    continue
                numbers, pictures = measured_row(portrait, encoder, seed, count, config)
                write_rows(options.out / "rows" / name_of(key), pictures)
                rows.append({**key, **numbers, "where": place_here()})
                write_text(done, json.dumps({"rows": [*lacking, *rows]}, indent=1) + "\n")
                write_text(options.out / "table.md", table(rows))
                print(json.dumps(rows[-1]), flush=True)
    write_text(options.out / "table.md", table(rows))
    write_sheets(options.out, rows)
    return 0


def name_of(row: dict[str, Any]) -> str:
    """Name the file with the pictures of a row."""
    digest = hashlib.sha256(json.dumps([row[name] for name in KEY], sort_keys=True).encode()).hexdigest()
    return f"{row['seed']}-{row['pictures']}-{row['learned'].replace(' ', '')}-{digest[:12]}.png"


def write_sheets(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the sheet of all rows, those of earlier runs too."""
    drawn = [row for row in rows if (out / "rows" / name_of(row)).exists()]
    blocks: list[tuple[str, list[Any]]] = []
    for title, row in zip(titles(drawn), drawn, strict=True):
        blocks.append((title, list(zip(("front", "side"), read_rows(out / "rows" / name_of(row)), strict=True))))
    if blocks:
        write_sheet(out / "sheet.png", COLUMNS, blocks, 68)


def titles(rows: list[dict[str, Any]]) -> list[str]:
    """Name each row by its weights, person, pictures and length; by what else differs, too, where rows differ in it."""
    short = [
        f"weights {row['weights'][:12]}, head {row['seed']}, {row['pictures']} given, {row['learned']}" for row in rows
    ]
    told = []
    for title, row in zip(short, rows, strict=True):
        alike = [other for other, its_title in zip(rows, short, strict=True) if its_title == title]
        if any(other["encoder"] != row["encoder"] for other in alike):
            title += f", motion encoder {row['encoder']}"
        for name, value in row["config"].items():
            if any(other["config"].get(name) != value for other in alike):
                title += f", {name} {value}"
        told.append(title)
    return told


if __name__ == "__main__":
    sys.exit(main())
