"""The smallest GenHead that still trains, and a store of pictures that it can learn: the open head's uv maps.

`python -m tests.train.little_gan train genhead ...` is the command with this training in the place of the preset
`tiny`, every step in the log; torchrun starts it on several ranks.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from triportrait import cli
from triportrait.core.config import GenHeadConfig, genhead_tiny
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import camera_label, sample_look_at
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.torch_threads import one_thread
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train import loop
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.writing import PictureWriter, StoredPicture, encoded_picture
from triportrait.train.genhead_config import GenHeadSchedule, GenHeadTraining
from triportrait.train.genhead_presets import GENHEAD_PRESETS, tiny

SIDE = 64  # px of stored pictures, of which training makes 32


def generator() -> GenHeadConfig:
    """About 40,000 parameters: pictures of 32 px, a ray grid of 16."""
    whole = genhead_tiny()
    render = dataclasses.replace(
        whole.render, plane_size=16, plane_width=8, field_hidden=16, num_coarse=6, num_fine=6, neural_size=16,
        superres_widths=(8,), style_width=16,
    )  # fmt: skip
    return dataclasses.replace(
        whole, preset="little", latent_width=8, plane_widths=(16, 16, 8), background_widths=(8, 8), ray_size=16,
        mask_size=64, render=render,
    )  # fmt: skip


def training() -> GenHeadTraining:
    """Five steps of four heads, in two micro-batches; each regularisation comes twice."""
    return dataclasses.replace(
        tiny(), preset="little", generator=generator(), images=20, batch=4, micro_batches=2, discriminator_base=256,
        discriminator_widest=16, discriminator_mapping=1,
        schedule=GenHeadSchedule(r1_every=4, blur_sigma=1.5, blur_until=12, swapping_until=16), save_every=1_000,
        sample_every=1_000,
    )  # fmt: skip


def write_store(folder: Path, pictures: int = 6, side: int = SIDE) -> PictureStore:
    """Write pictures of open heads in all poses: where a point lies on the face at rest is its colour."""
    model = load_head_model()
    rng = torch.Generator().manual_seed(5)

    def drawn(width: int, moved: int, spread: float) -> torch.Tensor:
        return torch.cat(
            [torch.randn(pictures, moved, generator=rng) * spread, torch.zeros(pictures, width - moved)], 1
        )

    shape, expression = drawn(300, model.num_shape, 0.6), drawn(100, model.num_expression, 0.6)
    pose, eyes, camera = torch.zeros(pictures, 6), torch.zeros(pictures, 6), sample_look_at(pictures, rng)
    pose[:, :3] = 0.3  # which training leaves out: the camera has the head's whole pose
    pose[:, 3] = torch.rand(pictures, generator=rng) * 0.3
    field: NeckField = model.neck_field()
    vertices, _ = field.flame(torch.cat([shape, expression], 1), torch.zeros_like(pose[:, :3]), pose[:, 3:], eyes)
    maps = FaceMaps(field).positions(vertices, camera, side)  # [N, 3, S, S]
    seen = (maps != 0).any(1).numpy().astype(np.uint8)
    image = ((maps.clamp(-1, 1) * 0.9 + 0.05) * 127.5 + 127.5).permute(0, 2, 3, 1).numpy().astype(np.uint8)
    writer = PictureWriter(folder, {"source": "test", "listed": pictures, "head_model": model.identity.to_dict()})
    half = pictures // 2
    for number, rows in enumerate((range(half), range(half, pictures))):
        with writer.shard(number) as files:
            for row in rows:
                columns = {"camera": camera_label(camera)[row], "shape": shape[row], "expression": expression[row],
                           "pose": pose[row], "eyes": eyes[row]}  # fmt: skip
                numbers = {name: value.numpy() for name, value in columns.items()} | {"error_px": np.float32(0)}
                mask = encoded_picture(seen[row] * np.uint8(255), "png")
                picture = encoded_picture(image[row], "png")
                files.add(StoredPicture(row, f"{row}.png", picture, mask, "png", numbers))
    writer.finish(2, side)
    return PictureStore(folder, contents=True)


if __name__ == "__main__":
    GENHEAD_PRESETS["tiny"] = training
    loop.LOG_EVERY = 1
    with one_thread():
        sys.exit(cli.main())
