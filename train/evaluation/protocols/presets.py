"""Names the protocols of papers: which pairs, which columns first, and what is done where the papers say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from triportrait.train.evaluation.metrics.definition import Kind
from triportrait.train.evaluation.protocols.records import Choice

PresetName = Literal["p4d-table1", "p4d-table2", "gagavatar-vfhq"]
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
_SELF_AND_CROSS: tuple[Kind, ...] = ("self", "cross")

PRESETS: dict[PresetName, Preset] = {
    "p4d-table1": Preset(
        _SELF_AND_CROSS, 100, 200,
        ("lpips_h_alex_within_mask", "lpips_alex", "fid_legacy_pytorch", "id", "aed_mean_square", "apd_mean_square"),
        {**_COMMON, "cross": _CROSS, "lpips": _LPIPS, "lpips_h": _MASK, "aed": _AED, "fid": _FID},
    ),
    "p4d-table2": Preset(
        ("cross", "sound", "consistency"), 100, 200,
        ("aed_f_mean_absolute", "syncnet_confidence", "cons_pairwise"),
        {
            **_COMMON, "cross": _CROSS,
            "aed_f": Choice("mean absolute", "the paper names EMOCA only; other norms have columns of their own"),
            "sound": Choice(
                "cross", "clips with sound drive the source of the next clip; lips are judged by the driver's sound"
            ),
            "consistency": Choice(
                f"{DRIVERS} drivers",
                f"each source is driven by one frame of up to {DRIVERS} other clips, drawn by the seed, and seen from"
                " the front; the paper states the number and not the pairing",
            ),
        },
    ),
    "gagavatar-vfhq": Preset(
        _SELF_AND_CROSS, 100, 200,
        ("psnr", "ssim", "lpips_alex", "id_to_truth", "id", "aed_mean_absolute", "apd_mean_absolute"),
        {
            **_COMMON, "cross": _CROSS, "lpips": _LPIPS,
            "aed": Choice("mean absolute", "as in the lines that the method's author posted"),
        },
    ),
}  # fmt: skip
