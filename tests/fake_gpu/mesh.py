"""Make a mesh on a fake GPU: python -m tests.fake_gpu.mesh OUT.json"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from tests.fake_gpu.device import start_again_with_library
from triportrait.core.geometry.surface import Surface

CORNERS = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]])
TETRAHEDRON = Surface(CORNERS, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


def main() -> None:
    """Run the command, and write what it launched; numbers of a fake GPU have no surface, a tetrahedron is theirs."""
    from tests.fake_gpu.runs import running
    from triportrait.serve import head_meshes
    from triportrait.serve.jobs.mesh import Mesh

    out = Path(tempfile.mkdtemp(prefix="fake-gpu-mesh-")) / "head.glb"
    command = Mesh(
        Path("docs/demo/portrait.jpg"), out, resolution=16, level="25", texture_size=64, faces="none", weights="demo",
        precision="fp32", device="cuda",
    )  # fmt: skip
    with mock.patch.object(head_meshes, "extract", lambda grid, level: TETRAHEDRON), running("mesh", {}) as run:
        run.gpu.number = 1  # a mean of flags is 1, too
        command.run()
        run.count("mesh")
    Path(sys.argv[1]).write_text(json.dumps(run.rows["mesh"] | {"bytes": out.stat().st_size}, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
