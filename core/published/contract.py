"""What a published network must hold, and how it must have been made, before anything is converted from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Literal

import torch
from torch import Tensor

from triportrait.core.config import portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.published import manifests
from triportrait.core.sentences import shown
from triportrait.kernels.fir import TAPS

Kind = Literal["portrait", "motion", "genhead", "discriminator", "arcface"]

# Tensors that a published file may hold and that we knowingly do not use.
IGNORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"dataset_label_std",  # a scalar 0 that the training loop registers
        r"superresolution\..*\.noise_const",  # super-resolution always runs without noise
        r"(.*\.)?resample_filter",  # we make our own, and check that this one is the same: `check_filters`
        r"(.*\.)?num_batches_tracked",  # a counter of batch normalisation in training
        r"mouth_embed\..*",  # PD-FGC: a head whose output nothing reads
        r"model\.(bl|al)\d+\..*",  # PD-FGC: what the face alignment network has for more than one hourglass
        r"deformer\.flame_deform\.flame_model\.(eye|neck)_pose",  # FLAME: nine numbers, always zero
    )
)
SHOWN = 3

Numbers = Literal["real", "whole", "truth"]
WHOLE = re.compile(r"(.*_)?(idxs?|faces|faces_tensor|parents|neck_kin_chain)")
TRUTH = re.compile(r"if_eye_face_simplify")
STORED: dict[Numbers, torch.dtype] = {"real": torch.float32, "whole": torch.int64, "truth": torch.bool}

_MESH, _FLAME = "deformer.flame_deform.", "deformer.flame_deform.flame_model."
PARENTS = f"{_FLAME}parents"
# a table of indices that we use, and the table whose rows they count
INDICES = {
    f"{_FLAME}faces_tensor": f"{_FLAME}v_template",
    f"{_FLAME}full_lmk_faces_idx": f"{_FLAME}faces_tensor",
    f"{_MESH}simplify_idxs": f"{_FLAME}v_template",
    f"{_MESH}simplify_faces": f"{_MESH}simplify_idxs",
}


def ignored(name: str) -> bool:
    """Whether a published tensor is one that we knowingly do not use."""
    return any(pattern.fullmatch(name) for pattern in IGNORED)


@cache
def manifest(kind: Kind) -> dict[str, tuple[int | None, ...]]:
    """Published tensor name -> shape, None where any size will do, without the ignored tensors."""
    listed = json.loads(resources.files(manifests).joinpath(f"{kind}.json").read_text(encoding="utf-8"))
    return {name: tuple(shape) for name, shape in listed.items()}


def numbers_of(name: str) -> Numbers:
    """What a published tensor of this name is made of: indices are whole numbers, one mask is truth values."""
    last = name.rpartition(".")[2]
    return "whole" if WHOLE.fullmatch(last) else "truth" if TRUTH.fullmatch(last) else "real"


def left_out(kind: Kind, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that no published network of the kind has and that one of the patterns (`*`, `?`, `[ab]`) fits."""
    known = manifest(kind)
    return [
        name
        for name in names
        if name not in known and not ignored(name) and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def check_contract(kind: Kind, tensors: Mapping[str, Tensor], file: str) -> None:
    """Check names, shapes and kinds of number of a network that a published file holds, its filters and its indices.

    Raises:
        InputError: names `file`, and counts and shows the tensors that are missing, unknown, of another shape or made
            of another kind of number; or the first filter, or table of indices, that is wrong.
    """
    wanted = manifest(kind)
    found = {name: tensor for name, tensor in tensors.items() if not ignored(name)}
    here = {name: shape for name, shape in wanted.items() if name in found}
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [shown(name) for name in found if name not in wanted],
        "misshapen": [
            f"{name} {list(found[name].shape)} for {['any' if n is None else n for n in shape]}"
            for name, shape in here.items()
            if not _fits(tuple(found[name].shape), shape)
        ],
        "mistyped": [
            f"{name} {str(found[name].dtype).removeprefix('torch.')} for {_WORDS[numbers_of(name)]}"
            for name in here
            if not _made_of(found[name], numbers_of(name))
        ],
    }
    clauses = [f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names]
    if clauses:
        way_out = ", or leave unknown ones out with --ignore NAME" if faults["unknown"] else ""
        raise InputError(
            f"{file}: expected the {len(wanted)} tensors of a published {kind}, got {', '.join(clauses)}; "
            f"give the file that was published for it{way_out}"
        )
    check_filters(tensors, file)
    check_indices(tensors, file)


def check_filters(tensors: Mapping[str, Tensor], file: str) -> None:
    """Check that every `resample_filter` is the one that we build in: outer([1, 3, 3, 1]) / 64, shape [4, 4].

    Raises:
        InputError: names `file` and the first filter that is another.
    """
    wanted = torch.outer(*[torch.tensor(TAPS, dtype=torch.float64)] * 2)
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "resample_filter" and (
            tensor.shape != wanted.shape
            or not tensor.is_floating_point()
            or not torch.allclose(tensor.double(), wanted, rtol=0, atol=1e-6)
        ):
            raise InputError(f"{file}: {shown(name)}: expected the filter outer([1, 3, 3, 1]) / 64, got another")


def check_indices(tensors: Mapping[str, Tensor], file: str) -> None:
    """Check that the tables of indices that we use point into the tables that they index, and that joints have parents.

    Raises:
        InputError: names `file` and the first table that does not.
    """
    for name, target in INDICES.items():
        if name in tensors:
            table, rows = tensors[name], len(tensors[target])
            if table.numel() and (table.min() < 0 or table.max() >= rows):
                got = f"{int(table.min())} to {int(table.max())}"
                raise InputError(f"{file}: {name}: expected numbers from 0 to {rows - 1}, got {got}; fetch it again")
    if PARENTS in tensors:
        root, *others = tensors[PARENTS].tolist()
        if root != -1 or not all(0 <= parent < joint for joint, parent in enumerate(others, start=1)):
            raise InputError(f"{file}: {PARENTS}: expected -1 and parents before their children; fetch it again")


@cache
def portrait_options() -> dict[str, Any]:
    """Option of the published portrait network, dotted where it is nested -> the value that our network is made for."""
    config = portrait4d_v2()
    return {
        "img_resolution": config.image_size,
        "mot_dims": config.transformer.motion_width,
        "num_blocks_neutral": config.transformer.num_neutral_blocks,
        "num_blocks_motion": config.transformer.num_motion_blocks,
        "motion_map_layers": 2,
        "has_background": True,
        "has_superresolution": True,
        "flame_full": True,
        "rendering_kwargs.box_warp": config.render.box_side,
        "rendering_kwargs.depth_resolution": config.render.num_coarse,
        "rendering_kwargs.depth_resolution_importance": config.render.num_fine,
    }


def check_options(settings: Mapping[str, Any], file: str) -> None:
    """Check the options that a published portrait was made with, as far as the file tells them.

    Raises:
        InputError: names `file` and the first option with which our network would show something else.
    """
    for name, wanted in portrait_options().items():
        value: Any = settings
        for key in name.split("."):
            value = value.get(key, wanted) if isinstance(value, Mapping) else wanted
        if value != wanted:
            raise InputError(
                f"{file}: {name}: expected a network made with {wanted}, got {shown(str(value))}; "
                "give a file of the published v2, v1 or static network"
            )
    if settings.get("use_ws_ones") not in (None, False, True):
        raise InputError(f"{file}: use_ws_ones: expected a truth value, got another; fetch it again")


_WORDS: dict[Numbers, str] = {"real": "real numbers", "whole": "whole numbers", "truth": "truth values"}


def _made_of(tensor: Tensor, numbers: Numbers) -> bool:
    if tensor.dtype == torch.bool:
        return numbers == "truth"
    return numbers == ("real" if tensor.is_floating_point() else "whole") and not tensor.is_complex()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(n in (None, m) for n, m in zip(wanted, shape, strict=True))


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
