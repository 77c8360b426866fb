"""Measure what refining one person brings: `python -m docs.personal.measure OUT --heads 2 --pictures 1 3 10`.

The people are procedural heads from seeds that no training uses: the truth of every view and expression is known.
Of each some pictures are given; others, with other expressions and cameras near the front and at the sides, are not.
The networks are the package's own, before and after. OUT gets table.md, table.json and sheet.png; what is there already
is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait.core.atomic import write_text
from triportrait.core.checkpoint import load_pair, weights_folder
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.person import Person
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.source_commit import source_commit
from triportrait.core.types import Camera, Driving
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import Pictures, photograph
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.evaluation.contact_sheets import write_sheet
from triportrait.train.evaluation.image_metrics import psnr, sharpness
from triportrait.train.evaluation.motion_response import face_mask, responses, take_probe
from triportrait.train.personal import GivenPictures, RefineConfig, refine
from triportrait.train.stages.motion import motion_of

STRANGER = 900_000  # the first seed of the people
FRONT, SIDE = 4, 4  # pictures of each person that are not given
AXES = ("jaw", "blink")
logger = logging.getLogger(__name__)


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


def row(seed: int, count: int, minutes: float) -> tuple[dict[str, Any], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Refine one person; return the numbers before and after, and the source, truths, pictures before and after."""
    portrait, encoder = load_pair(weights_folder("demo"))
    portrait.fold().eval()
    pictures, others = person_pictures(portrait, seed, count)
    source = photograph_first(pictures)
    with torch.no_grad():
        motion = motion_of(pictures, encoder).clone()
    given = GivenPictures(pictures.image, motion, pictures.camera, pictures.neck, pictures.landmarks)
    before, plain = measured(portrait, encoder, None, source, others, seed)
    began = time.monotonic()
    person: Person = refine(portrait, encoder, given, RefineConfig(minutes=minutes))
    seconds = time.monotonic() - began
    after, refined = measured(person.refined(portrait), encoder, person.planes, source, others, seed)
    numbers = {"seed": seed, "pictures": count, "minutes": minutes, "seconds": round(seconds, 1)}
    numbers |= {"steps": person.card["steps"], "before": before, "after": after}
    return numbers, (source.image, others.image, plain, refined)


def photograph_first(pictures: Pictures) -> Pictures:
    """Return the first of several pictures."""
    neck = None if pictures.neck is None else pictures.neck.take([0])
    return Pictures(
        pictures.image[:1], pictures.opacity[:1], None, pictures.landmarks[:1], pictures.camera.take([0]),
        pictures.motion[:1], neck,
    )  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Write the means over people as a table: a line of each number of pictures and minutes, before → after."""
    names = list(rows[0]["before"])
    lines = ["| pictures | minutes | steps | " + " | ".join(names) + " |", "| ---: " * (3 + len(names)) + "|"]
    for count, minutes in sorted({(each["pictures"], each["minutes"]) for each in rows}):
        group = [each for each in rows if (each["pictures"], each["minutes"]) == (count, minutes)]
        cells = [str(count), f"{minutes:g}", f"{sum(each['steps'] for each in group) / len(group):.0f}"]
        for name in names:
            first, then = (sum(each[when][name] for each in group) / len(group) for when in ("before", "after"))
            digits = 1 if "psnr" in name else 2
            cells.append(f"{first:.{digits}f} → {then:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure every combination; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 2.0])
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    done = options.out / "table.json"
    told: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {"commit": source_commit(), "rows": []}
    known = {(each["seed"], each["pictures"], each["minutes"]) for each in told["rows"]}
    sheet = []
    for seed in range(STRANGER, STRANGER + options.heads):
        for count in options.pictures:
            for minutes in options.minutes:
                if (seed, count, minutes) in known:
                    continue
                numbers, (source, truth, plain, refined) = row(seed, count, minutes)
                told["rows"].append(numbers)
                write_text(done, json.dumps(told, indent=1) + "\n")
                write_text(options.out / "table.md", table(told["rows"]))
                print(json.dumps(numbers), flush=True)
                label = f"{count} given"
                for which in (0, FRONT):
                    views = [truth, plain, refined]
                    sheet.append((label, [source, *(view[which : which + 1] for view in views)]))
    if sheet:
        write_sheet(options.out / "sheet.png", ["source", "truth", "before", "after"], [("", sheet)], 68)
    return 0


if __name__ == "__main__":
    sys.exit(main())
