"""Write the open head model that the package brings: `python -m docs.tracking.open_head`."""

from __future__ import annotations

from triportrait.core.checkpoint import save_weights
from triportrait.core.weights import OPEN_HEAD_FOLDER
from triportrait.train.data.heads.linear_model import NUM_EXPRESSION, NUM_SHAPE, linear_head_model


def main() -> None:
    """Make the model and write its tables and its card."""
    provenance = {
        "made_from": "procedural heads of this package; no data of FLAME have a part in it",
        "licence": "Apache-2.0",
        "num_shape": NUM_SHAPE,
        "num_expression": NUM_EXPRESSION,
    }
    print(save_weights(OPEN_HEAD_FOLDER, "head", linear_head_model(), None, provenance))


if __name__ == "__main__":
    main()
