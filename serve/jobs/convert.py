"""`triportrait convert FILE FOLDER`: published weights, read without running a byte of theirs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.published.convert import LICENCES, convert
from triportrait.core.safe_text import LONGEST_SENTENCE, shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Convert:
    """Write the networks of a published file (Portrait4D v2, v1, static or GenHead pickle, PD-FGC motion_model.pth,
    ArcFace backbone.pth, FLAME generic_model.pkl, Portrait4D's mapper model-iter200000.pth, and for metrics
    Deep3DFaceRecon epoch_20.pth, SyncNet syncnet_v2.model, EMOCA's emotion ResNet50 .ckpt) as safetensors + JSON.
    Nothing in the file is run or imported.
    """

    file: tyro.conf.Positional[Path]
    """The published file."""
    folder: tyro.conf.Positional[Path]
    """The weights folder; several files go into the same one."""
    overwrite: bool = False
    """Replace weights of the same kind that are there already."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Leave out unknown tensors of this name or pattern, such as 'deformer.renderer.*'; may be given again."""

    def run(self) -> None:
        """Convert, and say what was written and what was not."""
        conversion = convert(self.file, self.folder, self.overwrite, self.ignore)
        for part in conversion.parts:
            line = f"{part.path}: {part.kind}, {part.num_tensors} tensors, {part.num_values:,} numbers"
            print(shown(line, LONGEST_SENTENCE))
            print(f"  {LICENCES[part.kind]}")
        for warning in conversion.warnings:
            logger.warning("%s", warning)
