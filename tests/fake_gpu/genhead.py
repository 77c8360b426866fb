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
    """Draw pictures at both sides of the ray grid, then follow a gradient back, and write what was launched."""
    from tests.fake_gpu.launches import Programs
    from tests.fake_gpu.runs import running
    from triportrait.core.config import NeckConfig, genhead_ffhq512
    from triportrait.core.genhead.generator import GenHead
    from triportrait.core.genhead.weights import neck_with_parts
    from triportrait.core.render.cameras import fixed_camera
    from triportrait.core.tracking.head_model import load_head_model
    from triportrait.core.types import Camera

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
    Path(sys.argv[1]).write_text(json.dumps(run.rows, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
