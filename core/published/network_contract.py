"""Check what a published network must hold, and with which options it must have been made."""

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

from triportrait.core.config import genhead_ffhq512, portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.published import manifests
from triportrait.core.safe_text import shown
from triportrait.kernels.fir import TAPS

Kind = Literal[
    "portrait", "motion", "genhead", "discriminator", "arcface", "recon3d", "flame_mapper", "syncnet", "emotion"
]

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
        r"backbone\.fc\.(weight|bias)",  # emotion: the classes of faces that it was first trained to tell
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
    f"{_MESH}eye_idxs": f"{_FLAME}v_template",
    f"{_MESH}face_idxs": f"{_FLAME}v_template",
    f"{_MESH}noinmouth_idxs": f"{_FLAME}v_template",
    f"{_MESH}lips_idxs": f"{_FLAME}v_template",
    f"{_MESH}eyelids_idxs": f"{_FLAME}v_template",
    f"{_MESH}vertices_region_idxs": f"{_FLAME}v_template",
}
FILLED = (f"{_MESH}vertices_region_idxs",)  # a place that is not used names the vertex after the last one


def ignored(name: str) -> bool:
    """Tell whether a published tensor is one that we knowingly do not use."""
    return any(pattern.fullmatch(name) for pattern in IGNORED)


@cache
def manifest(kind: Kind) -> dict[str, tuple[int | None, ...]]:
    """List the shapes of published tensors by name, None where any size will do, without the ignored ones."""
    listed = json.loads(resources.files(manifests).joinpath(f"{kind}.json").read_text(encoding="utf-8"))
    return {name: tuple(shape) for name, shape in listed.items()}


def numbers_of(name: str) -> Numbers:
    """Name the kind of numbers in a published tensor: indices are whole numbers, one mask is truth values."""
    last = name.rpartition(".")[2]
    return "whole" if WHOLE.fullmatch(last) else "truth" if TRUTH.fullmatch(last) else "real"


def left_out(kind: Kind, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """List the names that no published network of the kind has and that one of the patterns (`*`, `?`, `[ab]`) fits."""
    published = manifest(kind)
    return [
        name
        for name in names
        if name not in published and not ignored(name) and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def check_contract(kind: Kind, tensors: Mapping[str, Tensor], file: str) -> None:
    """Check names, shapes and kinds of number of a network that a published file holds, its filters and its indices.

    Raises:
        InputError: names `file`, and counts and shows the tensors that are missing, unknown, of another shape or made
            of another kind of number; or the first filter, or table of indices, that is wrong.
    """
    expected = manifest(kind)
    used = {name: tensor for name, tensor in tensors.items() if not ignored(name)}
    present = {name: shape for name, shape in expected.items() if name in used}
    faults = {
        "missing": [name for name in expected if name not in used],
        "unknown": [shown(name) for name in used if name not in expected],
        "misshapen": [
            f"{name} {list(used[name].shape)} for {['any' if n is None else n for n in shape]}"
            for name, shape in present.items()
            if not _fits(tuple(used[name].shape), shape)
        ],
        "mistyped": [
            f"{name} {str(used[name].dtype).removeprefix('torch.')} for {_WORDS[numbers_of(name)]}"
            for name in present
            if not _made_of(used[name], numbers_of(name))
        ],
    }
    clauses = [f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names]
    if clauses:
        way_out = ", or leave unknown ones out with --ignore NAME" if faults["unknown"] else ""
        raise InputError(
            f"{file}: expected the {len(expected)} tensors of a published {kind}, got {', '.join(clauses)}; "
            f"give the file that was published for it{way_out}"
        )
    check_filters(tensors, file)
    check_indices(tensors, file)


def check_filters(tensors: Mapping[str, Tensor], file: str) -> None:
    """Check that every `resample_filter` is the one that we build in: outer([1, 3, 3, 1]) / 64, shape [4, 4].

    Raises:
        InputError: names `file` and the first filter that is another.
    """
    expected = torch.outer(*[torch.tensor(TAPS, dtype=torch.float64)] * 2)
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "resample_filter" and (
            tensor.shape != expected.shape
            or not tensor.is_floating_point()
            or not torch.allclose(tensor.double(), expected, rtol=0, atol=1e-6)
        ):
            raise InputError(f"{file}: {shown(name)}: expected the filter outer([1, 3, 3, 1]) / 64, got another")


def check_indices(tensors: Mapping[str, Tensor], file: str) -> None:
    """Check that the tables of indices that we use point into the tables that they index, and that joints have parents.

    Raises:
        InputError: names `file` and the first table that does not.
    """
    for name, target in INDICES.items():
        if name in tensors:
            table, rows = tensors[name], len(tensors[target]) + (name in FILLED)
            if table.numel() and (table.min() < 0 or table.max() >= rows):
                got = f"{int(table.min())} to {int(table.max())}"
                raise InputError(f"{file}: {name}: expected numbers from 0 to {rows - 1}, got {got}; fetch it again")
    if PARENTS in tensors:
        root, *others = tensors[PARENTS].tolist()
        if root != -1 or not all(0 <= parent < joint for joint, parent in enumerate(others, start=1)):
            raise InputError(f"{file}: {PARENTS}: expected -1 and parents before their children; fetch it again")


@cache
def portrait_options() -> dict[str, Any]:
    """List the options of the published portrait network, dotted where nested, with the values that ours needs."""
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


@cache
def genhead_options() -> dict[str, Any]:
    """List the options of the published GenHead, dotted where nested, with the values that ours needs."""
    config = genhead_ffhq512()
    return {
        "z_dim": config.latent_width,
        "w_dim": config.render.style_width,
        "c_dim": 25 + config.neck.num_shape,
        "img_resolution": config.image_size,
        "rendering_kwargs.box_warp": config.render.box_side,
        "rendering_kwargs.depth_resolution": config.render.num_coarse,
        "rendering_kwargs.depth_resolution_importance": config.render.num_fine,
    }


def check_options(settings: Mapping[str, Any], file: str, kind: Literal["portrait", "genhead"] = "portrait") -> None:
    """Check the options that a published portrait or GenHead was made with, as far as the file tells them.

    Raises:
        InputError: names `file` and the first option with which our network would show something else.
    """
    expected_options = portrait_options() if kind == "portrait" else genhead_options()
    advice = "the published v2, v1 or static network" if kind == "portrait" else "the published GenHead"
    for name, expected in expected_options.items():
        value: Any = settings
        for key in name.split("."):
            value = value.get(key, expected) if isinstance(value, Mapping) else expected
        if value != expected:
            raise InputError(
                f"{file}: {name}: expected a network made with {expected}, got {shown(str(value))}; "
                f"give a file of {advice}"
            )
    if settings.get("use_ws_ones") not in (None, False, True):
        raise InputError(f"{file}: use_ws_ones: expected a truth value, got another; fetch it again")


_WORDS: dict[Numbers, str] = {"real": "real numbers", "whole": "whole numbers", "truth": "truth values"}


def _made_of(tensor: Tensor, numbers: Numbers) -> bool:
    if tensor.dtype == torch.bool:
        return numbers == "truth"
    return numbers == ("real" if tensor.is_floating_point() else "whole") and not tensor.is_complex()


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(n in (None, m) for n, m in zip(expected, shape, strict=True))


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
