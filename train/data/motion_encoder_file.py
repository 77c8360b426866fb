"""By whom the motion of exported records was read: `motion_encoder.json` beside them, and the index of a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.safe_text import LONGEST_NAME
from triportrait.train.data.clip_store.records import MOTION_WIDTH

MOTION_ENCODER = "motion_encoder.json"


def read_motion_encoder(folder: Path) -> dict[str, Any]:
    """Read by whom the motion in an exported LMDB was read.

    Returns: `motion_encoder` and `motion` as an index has them; nothing where the folder does not say.
    Raises: `InputError` for a damaged file, or one of motion that the records cannot hold.
    """
    path = folder / MOTION_ENCODER
    if not path.exists():
        return {}
    try:
        said = read_json(path)
        name, width, digits = said["name"], said["width"], said["fingerprint"]
        if type(name) is not str or not 0 < len(name) <= LONGEST_NAME or not re.fullmatch("[0-9a-f]{16}", digits):
            raise ValueError("no name or fingerprint")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the name, the width and the fingerprint of the encoder that read this motion, it is "
            "damaged; export again"
        ) from error
    if type(width) is not int or width != MOTION_WIDTH:
        raise InputError(
            f"{path}: expected motion of {MOTION_WIDTH} numbers, which these records hold, got {width!r}; export again"
        )
    return {"motion_encoder": name, "motion": {"width": width, "fingerprint": digits}}
