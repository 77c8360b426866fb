"""Train Portrait4D on 4D data of GenHead: `triportrait train portrait4d`, on any number of processes.

The run keeps run/motion_encoder, a copy of the encoder that it uses, and run/flame, the generator's head model: its
weights turn a neck, and stage 2 takes them as the teacher of row G where its motion encoder and head model are these.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triportrait.core.checkpoint import read_card, save_motion_encoder, weights_folder
from triportrait.train.config import STAGES, StageName, TrainConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.generated_data import GeneratedData
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom, check_required_files, dynamic_models
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import FLAME, MOTION_ENCODER
from triportrait.train.runs.weights import save_flame
from triportrait.train.stages.assemble import portrait4d_stage
from triportrait.train.stages.stage import Stage

logger = logging.getLogger(__name__)
