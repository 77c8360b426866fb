"""Write the open head model that the package brings: `python -m docs.tracking.open_head`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from triportrait.core.checkpoint import save_weights
from triportrait.core.weights import OPEN_HEAD_FOLDER
from triportrait.train.data.heads.linear_model import NUM_EXPRESSION, NUM_SHAPE, linear_head_model

PRECISE = ("joint_regressor",)  # its weights are large and cancel, so that half precision moves joints
LEFT_OUT = ("pose_directions",)  # zeros: procedural skin has no corrections of its joints' turns


def stored(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tables small: half precision, of which vertices lose 0.05 mm at most; whole numbers of 16 bits; no zeros."""
    small = {}
    for name, table in tables.items():
        if name in LEFT_OUT:
            assert not table.any()
        elif table.is_floating_point():
            small[name] = table.float() if name in PRECISE else table.half()
        else:
            small[name] = table.to(torch.int16)
    return small


def main() -> None:
    """Make the model and write its tables and its card."""
    provenance = {
        "made_from": "procedural heads of this package; no data of FLAME have a part in it",
        "licence": "Apache-2.0",
        "num_shape": NUM_SHAPE,
        "num_expression": NUM_EXPRESSION,
    }
    print(save_weights(OPEN_HEAD_FOLDER, "head", stored(linear_head_model()), None, provenance))


if __name__ == "__main__":
    main()
