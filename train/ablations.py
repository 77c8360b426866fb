"""The ablations of the paper's Table 3: what stage 2 learns without one thing.

Row L is stage 2 itself. Row K has equal learning rates and sees five of six images (5 M instead of 6 M); every other
row is K but for what its name says. The paper gives numbers and names of rows, not settings: the letters follow its
order, and what is changed is our reading of the names.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from triportrait.core.errors import InputError
from triportrait.train.config import ReenactConfig, TrainConfig
from triportrait.train.data.clip_store.tracks import FLAME_PARAMETERS
from triportrait.train.data.heads.population import EXPRESSION_AXES

Row = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"]
ROWS: dict[Row, str] = {
    "A": "random initialisation",
    "B": "monocular: neither view is a pseudo view",
    "C": "no p-view: motion is read off the real frame",
    "D": "no q-view: the target is the real frame",
    "E": "parameters as motion",
    "F": "Portrait4D-style teacher: a dynamic synthesizer draws pseudo views",
    "G": "1 K clips",
    "H": "2 K clips",
    "I": "5 K clips",
    "J": "10 K clips",
    "K": "equal learning rates",
    "L": "stage 2 itself",
}
_CLIPS = {"G": 1_000, "H": 2_000, "I": 5_000, "J": 10_000}
_OF_A_SMALL_CAST = 500  # a cast of tens of heads stands for thousands of clips
_CHANGES: dict[str, dict[str, Any]] = {
    "A": {"begins": "random"},
    "B": {"real_driving": 1.0, "real_target": 1.0},
    "C": {"real_driving": 1.0},
    "D": {"real_target": 1.0},
    "E": {"motion": "parameters"},
    "F": {"teacher": "dynamic"},
}


def ablated(config: TrainConfig, row: Row) -> TrainConfig:
    """A training whose stage 2 is a row of Table 3.

    Args:
        config: of a whole stage 2. At the preset tiny a clip of rows G to J stands for 500 of the paper's, and the
            parameters of row E are the procedural heads' own nine.

    Raises:
        InputError: for the published code's numbers, of which no ablation is known.
    """
    if config.preset == "published":
        raise InputError("ablation: expected the preset tiny or paper, as the ablations are the paper's, got published")
    if row == "L":
        return config
    small = config.preset != "paper"
    changes = dict(_CHANGES.get(row, {}))
    if row in _CLIPS:
        changes["clips"] = _CLIPS[row] // (_OF_A_SMALL_CAST if small else 1)
    whole: dict[str, Any] = {"preset": f"{config.preset}, ablation {row}", "stage2": _row_k(config.stage2, changes)}
    if row == "E" and not small:
        transformer = dataclasses.replace(config.model.transformer, motion_width=FLAME_PARAMETERS)
        whole["model"] = dataclasses.replace(config.model, preset="portrait4d_v2_parameters", transformer=transformer)
    assert not small or config.model.transformer.motion_width == len(EXPRESSION_AXES)
    return dataclasses.replace(config, **whole)


def _row_k(stage: ReenactConfig, changes: dict[str, Any]) -> ReenactConfig:
    optimizer = dataclasses.replace(stage.optimizer, motion_factor=1.0)
    return dataclasses.replace(stage, optimizer=optimizer, images=stage.images * 5 // 6, **changes)
