"""`triportrait convert FILE FOLDER`: published weights, read without running a byte of theirs."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from triportrait.core.errors import InputError
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.published.convert import LICENCES, FlameOptions, convert
from triportrait.core.safe_text import LONGEST_SENTENCE, shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Convert:
    """Write the networks of a published file (Portrait4D v2, v1, static or GenHead pickle, PD-FGC motion_model.pth,
    ArcFace backbone.pth, a FLAME file, pickle or npz, Portrait4D's mapper model-iter200000.pth, and for metrics
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
    flame_version: Annotated[str | None, tyro.conf.arg(metavar="VERSION", help_behavior_hint="")] = None
    """Version of a FLAME file: 2017, 2019, 2020, 2023, 2023-no-jaw or 2023-open; by default what its name tells.
    Parameters of one version are never mixed with those of another."""
    flame_directions: Annotated[str | None, tyro.conf.arg(metavar="N+N", help_behavior_hint="")] = None
    """Directions of shape and expression of a FLAME file that has not 300+100, as 100+50."""
    assets: tuple[Path, ...] = ()
    """What a FLAME file lacks: landmark_embedding*.npy, simplify_baricentric2.npy, FLAME_masks.pkl, l_eyelid.npy and
    r_eyelid.npy, or folders of them."""
    tables_from: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None
    """Head model of the same topology that lends a FLAME file what it lacks, as a converted published checkpoint."""

    def run(self) -> None:
        """Convert, and say what was written and what was not."""
        options = FlameOptions(self.flame_version, _directions(self.flame_directions), self.assets, self.tables_from)
        conversion = convert(self.file, self.folder, self.overwrite, self.ignore, options)
        for part in conversion.parts:
            kind = f"motion ({PDFGC.name})" if part.kind == "motion" else part.kind
            line = f"{part.path}: {kind}, {part.num_tensors} tensors, {part.num_values:,} numbers"
            print(shown(line, LONGEST_SENTENCE))
            print(f"  {LICENCES[part.kind]}")
        for note in conversion.notes:
            logger.info("%s", note)
        for warning in conversion.warnings:
            logger.warning("%s", warning)


def _directions(text: str | None) -> tuple[int, int] | None:
    """Read 100+50. Raises: `InputError` for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,4}\+\d{1,4}", text):
        raise InputError(f"flame-directions: expected directions of shape and expression as 100+50, got {shown(text)}")
    shape, _, expression = text.partition("+")
    return int(shape), int(expression)
