"""A generator and tables so small that hundreds of heads take seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from triportrait.core.config import GenHeadConfig, NeckConfig, RenderConfig
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import neck_with_parts, save_genhead
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.render.cameras import LookAtRange, camera_label, sample_look_at
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.folders import whole_folder
from triportrait.train.data.parameter_tables import KIND

SHAPES, EXPRESSIONS = 12, 10  # directions of the open head
STILLS, CLIPS, FRAMES = 24, 3, 5


def little_config() -> GenHeadConfig:
    return GenHeadConfig(
        preset="little",
        latent_width=8,
        mapping_layers=1,
        background_mapping_layers=1,
        plane_widths=(8, 8, 8),
        background_widths=(8, 8),
        ray_size=8,
        mask_size=64,
        render=RenderConfig(
            plane_size=16, plane_width=4, field_hidden=8, num_coarse=6, num_fine=6, neural_size=16,
            superres_widths=(8, 8), style_width=8,
        ),
        neck=NeckConfig(fine_size=4, coarse_size=3, num_shape=SHAPES, num_expression=EXPRESSIONS),
    )  # fmt: skip


def little_genhead() -> GenHead:
    generator, head = rule_genhead(little_config()), load_head_model()
    generator.set_head_model(neck_with_parts(generator.config, head.flame, head.mesh, head.identity))
    return generator


def save_little(folder: Path) -> Path:
    generator = little_genhead()
    save_genhead(folder, generator, {"head_model": generator.head_model.to_dict()})
    return folder


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cameras and shapes [count, 325], and motions [count, 112], in which the directions beyond the open head's are 0.

    The neck is turned, and the eyes of a row are its number, in thousandths, so that they tell where they come from.
    """
    rng = np.random.default_rng(seed)
    cameras = sample_look_at(count, torch.Generator().manual_seed(seed), LookAtRange(yaw=(-0.2, 0.2)))
    camera_shape, motion = np.zeros((count, 325), np.float32), np.zeros((count, 112), np.float32)
    camera_shape[:, :25] = camera_label(cameras).numpy()
    camera_shape[:, 25 : 25 + SHAPES] = rng.normal(size=(count, SHAPES)) * 0.5
    motion[:, :EXPRESSIONS] = rng.normal(size=(count, EXPRESSIONS)) * 0.5
    motion[:, 100:103] = 0.3
    motion[:, 103:106] = (0.4, 0.01, 0.02)
    motion[:, 106:] = (np.arange(count) + 1)[:, None] / 1000
    return camera_shape, motion


def write_tables(
    folder: Path, clips: bool = True, head_model: ModelIdentity | None = None, beyond: float = 0.0
) -> Path:
    """Tables of 24 stills and, with `clips`, of three clips of five frames; `beyond` is of a direction too many."""
    settings = {"head_model": (head_model or load_head_model().identity).to_dict()}
    with whole_folder(folder, False, KIND, settings) as part:
        camera_shape, motion = rows(1, STILLS)
        camera_shape[-1, 25 + SHAPES] = beyond
        np.save(part / "ffhq_all_shape_n_c_params.npy", camera_shape)
        np.save(part / "ffhq_all_motion_params.npy", motion)
        if clips:
            camera_shape, motion = rows(2, CLIPS * FRAMES)
            np.save(part / "vfhq_all_shape_n_c_params.npy", camera_shape)
            np.save(part / "vfhq_all_motion_params.npy", motion.reshape(CLIPS, FRAMES, 112))
    return folder
