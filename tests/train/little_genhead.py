"""The smallest GenHead of the open head, whose renderer is the smallest network's, and tables from which it draws."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from tests.train import little
from triportrait.core.config import GenHeadConfig, NeckConfig, genhead_tiny
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import neck_with_parts, save_genhead
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.render.cameras import camera_label, sample_look_at
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.folders import whole_folder
from triportrait.train.data.parameter_tables import KIND

ROWS = 6


def config() -> GenHeadConfig:
    """Pictures of 64 px from rays of 16 x 16."""
    return dataclasses.replace(
        genhead_tiny(), preset="test", latent_width=8, plane_widths=(8, 8, 8, 8), background_widths=(8, 8),
        ray_size=16, mask_size=64, render=little.model().render,
        neck=NeckConfig(fine_size=6, coarse_size=4, num_shape=12, num_expression=10),
    )  # fmt: skip


def generator() -> GenHead:
    """Rule-made weights, dense enough for the head to be seen."""
    made = rule_genhead(config())
    head = load_head_model()
    made.set_head_model(neck_with_parts(made.config, head.flame, identity=head.identity))
    return made


def write(folder: Path) -> Path:
    """A weights folder of it."""
    made = generator()
    save_genhead(folder, made, {"made by": "a test", "head_model": made.head_model.to_dict()})
    return folder


def write_tables(folder: Path, seed: int = 0, head_model: ModelIdentity | None = None) -> Path:
    """Published tables of stills, with an index that names the open head."""
    rng = np.random.default_rng(seed)
    camera = camera_label(sample_look_at(ROWS, torch.Generator().manual_seed(seed))).numpy()
    shape, motion = np.zeros((ROWS, 300), np.float32), np.zeros((ROWS, 112), np.float32)
    shape[:, :12], motion[:, :10] = rng.normal(size=(ROWS, 12)) * 0.5, rng.normal(size=(ROWS, 10)) * 0.5
    motion[:, 103] = 0.2  # the jaw
    settings = {"head_model": (head_model or load_head_model().identity).to_dict()}
    with whole_folder(folder, False, KIND, settings) as out:
        np.save(out / "ffhq_all_shape_n_c_params.npy", np.concatenate([camera, shape], 1).astype(np.float32))
        np.save(out / "ffhq_all_motion_params.npy", motion)
    return folder
