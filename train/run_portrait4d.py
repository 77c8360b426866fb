"""Train Portrait4D on 4D data of GenHead: `triportrait train portrait4d`, on any number of processes.

The run keeps run/motion_encoder, a copy of the encoder that it uses, and run/flame, the generator's head model: its
weights turn a neck, and stage 2 takes them as the teacher of row G where its motion encoder and head model are these.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from triportrait.core.checkpoint import read_card, save_motion_encoder, weights_folder
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.networks import dynamic_models
from triportrait.train.run_generated_heads import OnGenerated
from triportrait.train.runs.run_config import MOTION_ENCODER
from triportrait.train.stages.assemble import portrait4d_stage
from triportrait.train.stages.stage import Stage

logger = logging.getLogger(__name__)


class DynamicOnGenerated(OnGenerated):
    """The inputs of Portrait4D's training. See `OnGenerated`."""

    name: StageName = "portrait4d"
    motion = True

    def _begun_from(self) -> tuple[str, str] | None:
        static = self._init_from.static
        return super()._begun_from() or (None if static is None else ("--static", static))

    def _static_share(self, config: TrainConfig) -> float:
        assert config.portrait4d is not None, "a config of this training"
        return config.portrait4d.static_share

    def _assembled(self, folder: Path) -> Stage[Any]:
        ranks, named = self.engines.ranks, self._init_from.motion
        models = dynamic_models(self.config, self._init_from, ranks.device, self._heads.head_model)
        encoder = models.motion_encoder
        if ranks.first:
            logger.info("motion: %d numbers by %s", encoder.motion_width, encoder.name)
            origin = read_card(weights_folder(named), "motion").get("provenance", {})
            save_motion_encoder(folder / MOTION_ENCODER, encoder.state_dict(), encoder, origin)
        return portrait4d_stage(self.config, self._heads, models, self.engines)
