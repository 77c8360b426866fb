"""Make a frame of the network, and name its parts and when each of them runs; they are counted and timed.

A part is a handful of modules; whatever runs inside their forward belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from triportrait.core.config import ModelConfig, NeckConfig
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.pdfgc import CROP_SIZE, PDFGC
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera, Driving, Head, NeckGrid, Source

When = Literal["source", "frame", "view"]
SEED = 0
PARTS: dict[str, When] = {  # name -> whether it runs once per source, per driving frame, or per view of a frame
    "global encoder": "source",
    "detail encoder": "source",
    "background U-Net": "source",
    "neutral blocks": "source",
    "motion encoder": "frame",
    "neck field": "frame",
    "motion maps": "frame",
    "motion blocks": "frame",
    "canonical convs": "frame",
    "tri-plane decoder": "frame",
    "render": "view",
    "super-resolution": "view",
}


@dataclass
class Frame:
    """A network and the inputs of one frame.

    Attributes:
        portrait: the network, at its published sizes or smaller.
        encoder: the motion encoder; None where the network takes another motion than PD-FGC's, which is then given.
        field: the neck field on a mesh of FLAME's size; None where the neck is given.
        image: [1, 3, S, S].
        crop: [1, 3, 224, 224].
        motion: [1, M].
        neck: the neck pose where there is no field.
        camera: one camera.
    """

    portrait: Portrait4D
    encoder: PDFGC | None
    field: NeckField | None
    image: Tensor
    crop: Tensor
    motion: Tensor
    neck: NeckGrid
    camera: Camera

    def modules(self) -> dict[str, list[nn.Module]]:
        """List the modules of each part."""
        reconstructor = self.portrait.reconstructor
        return {
            "global encoder": [reconstructor.global_encoder],
            "detail encoder": [reconstructor.detail_encoder],
            "background U-Net": [reconstructor.background_encoder],
            "neutral blocks": [reconstructor.neutralizer],
            "motion encoder": [] if self.encoder is None else [self.encoder],
            "neck field": [] if self.field is None else [self.field],
            "motion maps": [reconstructor.transfer.tokens],
            "motion blocks": list(reconstructor.transfer.blocks),
            "canonical convs": list(reconstructor.transfer.tail),
            "tri-plane decoder": [reconstructor.plane_decoder],
            "render": [self.portrait.volume],
            "super-resolution": [self.portrait.superres],
        }

    def prepare(self) -> Source:
        """Compute what depends on the source alone."""
        return self.portrait.prepare(self.image, self.motion)

    def reenact(self, source: Source) -> Head:
        """Compute what depends on the driving frame."""
        motion = self.motion if self.encoder is None else self.encoder(self.crop)
        neck = self.neck
        if self.field is not None:
            sizes = self.portrait.config.neck.num_shape, self.portrait.config.neck.num_expression, 3, 3, 6
            neck = self.field(*(self.image.new_full((1, size), 0.05) for size in sizes))
        return self.portrait.reenact(source, Driving(motion, neck))

    def render(self, head: Head) -> Tensor:
        """Compute what depends on the view: [1, 3, S, S]."""
        return self.portrait.render(head, self.camera).image


def make_frame(config: ModelConfig, device: torch.device | str = "cpu", served: bool = True) -> Frame:
    """Make a network with its first weights and random inputs, always the same.

    Args:
        config: the network's sizes.
        device: where it runs.
        served: the network is folded and has a neck field, as where frames are served; without, it can be counted on
            tensors without memory.
    """
    rng = torch.Generator().manual_seed(SEED)
    width = config.transformer.motion_width
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(SEED)
        portrait = Portrait4D(config).eval().requires_grad_(False)
        nn.init.normal_(portrait.volume.field.density.weight, std=4.0)  # it starts at 0: all densities would be alike
        if served:
            portrait.fold()
        encoder = PDFGC().eval().requires_grad_(False) if PDFGC.motion_width == width else None

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng).to(device)

    fine, coarse = config.neck.fine_size, config.neck.coarse_size
    neck = NeckGrid(
        0.02 * random(1, fine, fine, fine, 4), 0.02 * random(1, coarse, coarse, coarse, 3), config.render.box_side,
        config.neck.near_squared_distance,
    )  # fmt: skip
    field = NeckField(config.neck, config.render.box_side, *sphere_tables(config.neck)).to(device) if served else None
    return Frame(
        portrait, encoder, field, 2 * random(1, 3, config.image_size, config.image_size) - 1,
        2 * random(1, 3, CROP_SIZE, CROP_SIZE) - 1, random(1, width), neck, fixed_camera().to(device),
    )  # fmt: skip


def sphere_tables(config: NeckConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Make tables of FLAME's sizes whose coarse mesh, of 714 vertices and 1394 faces, is a sphere."""
    rows, columns, vertices, joints = 42, 17, 5023, 5
    up = torch.linspace(0.02, 3.12, rows)[:, None].expand(rows, columns)
    around = (torch.arange(columns) * (6.2832 / columns)).expand(rows, columns)
    shell = 0.4 * torch.stack([up.sin() * around.cos(), up.cos(), up.sin() * around.sin()], -1).reshape(-1, 3)
    template = shell.repeat(vertices // len(shell) + 1, 1)[:vertices].contiguous()
    corner = torch.arange((rows - 1) * columns)
    right = corner // columns * columns + (corner + 1) % columns
    faces = torch.cat(
        [torch.stack(x, 1) for x in ((corner, right, corner + columns), (right, right + columns, corner + columns))]
    )
    flame = {
        "template": template, "faces": faces,
        "shape_directions": torch.full((vertices, 3, config.num_shape + config.num_expression), 1e-4),
        "pose_directions": torch.full(((joints - 1) * 9, 3 * vertices), 1e-5),
        "joint_regressor": torch.full((joints, vertices), 1 / vertices),
        "parents": torch.tensor([-1, 0, 1, 1, 1]), "skinning_weights": torch.full((vertices, joints), 1 / joints),
    }  # fmt: skip
    mesh = {
        "coarse_vertices": torch.arange(len(shell))[:, None].expand(-1, 3).contiguous(),
        "coarse_barycentrics": torch.tensor([1.0, 0.0, 0.0]).expand(len(shell), 3).contiguous(), "coarse_faces": faces,
    }  # fmt: skip
    return flame, mesh


@contextmanager
def part_hooks(frame: Frame, enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    """Call `enter` and `leave` with a part's name around each of its modules inside a `with` block."""
    hooks = []
    for name, modules in frame.modules().items():
        for module in modules:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
