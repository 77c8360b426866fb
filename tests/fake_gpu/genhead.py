"""Draw heads with GenHead at its published sizes on a fake GPU: python -m tests.fake_gpu.genhead OUT.json"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.fake_gpu.device import CUDA, start_again_with_library

SEEN = 200  # rays that see an eye or look into the mouth: a fake GPU cannot tell


def main() -> None:
    """Draw at both sides of the ray grid, follow a gradient back, make stage 1's heads; write what was launched."""
    from tests.fake_gpu.launches import Programs
    from tests.fake_gpu.runs import running
    from triportrait.core.config import NeckConfig, genhead_ffhq512
    from triportrait.core.genhead.generator import GenHead
    from triportrait.core.genhead.weights import neck_with_parts
    from triportrait.core.render.cameras import camera_label, fixed_camera
    from triportrait.core.tracking.head_model import load_head_model
    from triportrait.core.types import Camera
    from triportrait.train.data.generated.draws import GeneratedConfig, HeadDraws
    from triportrait.train.data.generated.generate import HeadMaker
    from triportrait.train.data.generated.online import BatchClock

    config = replace(genhead_ffhq512(), neck=NeckConfig(num_shape=12, num_expression=10))
    neck = neck_with_parts(config, load_head_model().flame)
    B = 2
    camera = Camera.cat([fixed_camera()] * B)
    programs: Programs = {}
    with running("genhead", programs) as run:
        with torch.device(CUDA):
            generator = GenHead(config)
        generator.set_head_model(neck.to(CUDA))
        generator.to(CUDA)
        run.gpu.number = SEEN
        arguments = [torch.zeros(B, width).to(CUDA) for width in (512, 12, 10, 6, 6)]
        run.count("load")
        with torch.no_grad():
            for size in (64, 80):
                view = generator(*arguments, camera.to(CUDA), size=size)
                assert view.rendering.image.shape == (B, 3, 512, 512) and view.rendering.image.device == CUDA
                run.count(f"view {size}")
        view = generator(*arguments, camera.to(CUDA), noise="random")
        view.rendering.image.mean().backward()
        assert generator.plane_synthesis.start.grad is not None
        run.count("gradient")
        V, points = 3, GeneratedConfig().points
        widths = {"latent": (512,), "shape": (300,), "mapping_camera": (25,), "expression": (V, 100), "pose": (V, 6),
                  "eyes": (V, 6), "jitter": (V, config.render.num_coarse), "picks": (V, points)}  # fmt: skip
        heads = HeadDraws(
            number=torch.arange(B), is_static=torch.ones(B, dtype=torch.bool),
            camera=camera_label(fixed_camera()).expand(B, V, -1),
            **{name: torch.zeros(B, *width) for name, width in widths.items()},
        )  # fmt: skip
        maker, clock = HeadMaker(generator, positions=True, features=True), BatchClock(CUDA)
        run.count("maker")
        with clock:
            batch = maker.batch(heads, motion=True)
        assert batch.target.truth is not None and batch.target.truth.points.device == CUDA
        run.count("batch")
        assert "generator_s" in clock.log_numbers()
    Path(sys.argv[1]).write_text(json.dumps(run.rows, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
