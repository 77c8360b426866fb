"""Names the protocols of papers: which pairs, which columns first, and what is done where the papers say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from triportrait.train.evaluation.metrics.definition import Kind
from triportrait.train.evaluation.paper.readings import kinds_of_table, metrics_of_table
from triportrait.train.evaluation.protocols.records import Choice

PresetName = Literal["p4d-table1", "p4d-table2", "p4d-table3", "gagavatar-vfhq"]
CLIPS, FRAMES = 100, 200  # of the paper's test set, and about how many of each clip
DRIVERS = 50  # of one source in consistency


@dataclass(frozen=True)
class Preset:
    """Describes the protocol of a paper.

    Attributes:
        kinds: which pairs are made of each clip.
        clips, frames: how many clips the paper takes, and about how many frames of each.
        metrics: definitions that tables print first, in the order of the paper's columns.
        choices: what the paper leaves open -> what is done.
    """

    kinds: tuple[Kind, ...]
    clips: int
    frames: int
    metrics: tuple[str, ...]
    choices: Mapping[str, Choice]


_SOURCE = Choice("first", "the source is the first frame of its clip; the paper does not say which it takes")
_ALL = Choice("all", "every frame of the clip drives, the first included, up to the number in this head")
_CROSS = Choice(
    "seeded cycle",
    "the clips are shuffled by the seed and each drives the next, so that every clip is source once and driver once",
)
_CLIPS = Choice("seeded", "where the folder holds more clips than are wanted, the seed chooses; their order is by name")
_PEOPLE = Choice("clips", "each clip counts as a person of its own")
_LPIPS = Choice("alex", "LPIPS 0.1 with AlexNet, the default of its package; the paper does not state the network")
_MASK = Choice(
    "landmark ellipse",
    "LPIPS_h looks at an ellipse around the truth's landmarks, in two readings: the mean of the map inside, and both"
    " pictures black beyond; the paper does not state its mask",
)
_AED = Choice(
    "mean square",
    "AED and APD are the mean square difference, the reading that fits the size of the paper's figures; every other"
    " norm in use has a column of its own name",
)
_FID = Choice(
    "legacy_pytorch and clean",
    "FID between all results and all driving frames, in three resizing rules, each with its own name; the paper does"
    " not state its tool",
)
_FACES = Choice(
    "mesh of 478 points",
    "faces are found in each picture by itself by the networks of `triportrait fetch faces`; frames without one are"
    " counted and left out",
)
_COMMON = {
    "source_frame": _SOURCE, "driving_frames": _ALL, "clips": _CLIPS, "identities": _PEOPLE, "faces": _FACES,
}  # fmt: skip
_AED_F = Choice("mean absolute", "the paper names EMOCA only; other norms have columns of their own")
_CONSISTENCY = Choice(
    f"{DRIVERS} drivers",
    f"each source is driven by one frame of up to {DRIVERS} other clips, drawn by the seed, and seen from the front;"
    " the paper states the number and not the pairing",
)

PRESETS: dict[PresetName, Preset] = {
    "p4d-table1": Preset(
        kinds_of_table("1"), CLIPS, FRAMES, metrics_of_table("1"),
        {**_COMMON, "cross": _CROSS, "lpips": _LPIPS, "lpips_h": _MASK, "aed": _AED, "fid": _FID},
    ),
    "p4d-table2": Preset(
        kinds_of_table("2a"), CLIPS, FRAMES, metrics_of_table("2a"),
        {
            **_COMMON, "cross": _CROSS, "aed_f": _AED_F,
            "sound": Choice(
                "cross", "clips with sound drive the source of the next clip; lips are judged by the driver's sound"
            ),
        },
    ),
    "p4d-table3": Preset(
        kinds_of_table("3"), CLIPS, FRAMES, metrics_of_table("3"),
        {
            **_COMMON, "cross": _CROSS, "lpips": _LPIPS, "aed": _AED, "aed_f": _AED_F, "consistency": _CONSISTENCY,
        },
    ),
    "gagavatar-vfhq": Preset(
        ("self", "cross"), CLIPS, FRAMES,
        ("psnr", "ssim", "lpips_alex", "id_to_truth", "id", "aed_mean_absolute", "apd_mean_absolute"),
        {
            **_COMMON, "cross": _CROSS, "lpips": _LPIPS,
            "aed": Choice("mean absolute", "as in the lines that the method's author posted"),
        },
    ),
}  # fmt: skip
