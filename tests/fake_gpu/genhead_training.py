"""Run the phases of a step of GenHead's own training at the published sizes on a fake GPU.

python -m tests.fake_gpu.genhead_training OUT.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.fake_gpu.device import CUDA, Generator, start_again_with_library

SEEN = 200  # rays that see an eye or look into the mouth: a fake GPU cannot tell


def main() -> None:
    """Compute the terms of each phase and follow their gradients back, and write what was launched."""
    from tests.fake_gpu.launches import Programs
    from tests.fake_gpu.runs import running
    from triportrait.core.config import NeckConfig
    from triportrait.core.genhead.weights import neck_with_parts
    from triportrait.core.render.cameras import fixed_camera
    from triportrait.core.tracking.head_model import load_head_model
    from triportrait.core.types import Camera
    from triportrait.train.data.training_pictures import GenHeadBatch, HeadParameters, RealPictures
    from triportrait.train.engines.ranks import Ranks
    from triportrait.train.genhead_presets import published
    from triportrait.train.stages.genhead import GenHeadModels, MeanStyles, give_dimensions, make_networks, phases
    from triportrait.train.stages.head_geometry import HeadGeometry
    from triportrait.train.stages.stage import MicroBatch

    B, whole = 2, published()
    sizes = replace(whole.generator, neck=NeckConfig(num_shape=12, num_expression=10))
    config = replace(whole, generator=sizes)
    neck = neck_with_parts(sizes, load_head_model().flame)
    numbers = [torch.zeros(B, width) for width in (12, 10, 6, 6)]
    head = HeadParameters(Camera.cat([fixed_camera()] * B), *numbers)
    real = RealPictures(torch.zeros(B, 3, 512, 512), torch.ones(B, 1, 512, 512), head, ())
    programs: Programs = {}
    with running("genhead training", programs) as run:
        generator, discriminator = (network.to(CUDA) for network in make_networks(config))
        give_dimensions(generator)
        models = GenHeadModels(generator, discriminator, HeadGeometry(neck.to(CUDA), sizes))
        run.gpu.number = SEEN
        batch = GenHeadBatch(real, head).to(CUDA)
        micro = MicroBatch(batch, Generator(CUDA), 0)
        run.count("load")
        for phase in phases(models, config, MeanStyles(generator, 1, Ranks(device=CUDA))):
            terms = phase.terms(micro)
            torch.stack(list(terms.values())).sum().backward()
            run.count(phase.name)
    Path(sys.argv[1]).write_text(json.dumps(run.rows, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
