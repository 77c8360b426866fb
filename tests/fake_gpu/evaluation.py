"""Run every metric network on a fake GPU: python -m tests.fake_gpu.evaluation OUT.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.fake_gpu.device import CUDA, start_again_with_library

SIDE, FRAMES = 64, 8
TF32 = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


def main() -> None:
    """Read frames by each network as scoring does, in a process that chose TF32, and write the counts."""
    from tests.fake_gpu.runs import running
    from tests.train.evaluation_protocols.stand_ins import Faces
    from triportrait.train.evaluation.protocols.face_features import FaceExtractor
    from triportrait.train.evaluation.protocols.network_features import LpipsComparison, head_masks, network_extractors

    frames = np.random.default_rng(0).integers(20, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    frames[:, 30:33, 30:33] = 0  # where the stand-in finds a face
    sound = (np.sin(np.arange(16_000) / 9) * 9000).astype(np.int16)
    faces = FaceExtractor(Faces(), "test").add(frames, None)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    seen: list[list[str]] = []
    rows: dict[str, Any] = {}
    shapes: dict[str, Any] = {}

    def watched(call: Any) -> Any:
        """Note which precision a network's call had."""

        def run(network: Any, *inputs: Any, **options: Any) -> Any:
            seen.append([switch.fp32_precision for switch in TF32])
            return call(network, *inputs, **options)

        return run

    with running("evaluation", {}) as run:
        extractors, comparisons, lip_sync, _ = network_extractors("rule", CUDA)
        assert lip_sync is not None
        run.count("load")
        with mock.patch.object(torch.nn.Conv2d, "forward", watched(torch.nn.Conv2d.forward)):
            for extractor in extractors:
                given = extractor.start().add(frames, faces)
                shapes |= {name: list(array.shape) for name, array in given.items()}
                rows[extractor.need] = run.count(extractor.need).summary()
            for comparison in comparisons:
                given = comparison.compare(frames, frames, {*comparison.fields}, head_masks(faces, SIDE))
                shapes |= {name: list(array.shape) for name, array in given.items()}
                rows[comparison.need] = run.count(comparison.need).summary()
            lips, heard, _ = lip_sync.embed(iter(frames), faces["landmarks"], faces["found"], 25.0, sound)
            shapes |= {"lips": list(lips.shape), "heard": list(heard.shape)}
            rows[lip_sync.need] = run.count(lip_sync.need).summary()
        assert LpipsComparison is type(comparisons[0])
    after = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    precisions = sorted({name for names in seen for name in names})
    found = {"rows": rows, "shapes": shapes, "precisions": precisions, "calls": len(seen), "tf32 after": after}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
