"""The watermark of pictures, from `core/provenance/watermark.py`, and of whole files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from triportrait.core.provenance.watermark import Read, Reader, Watermark, message_of, read
from triportrait.serve.pictures import PICTURE_ENDINGS, read_picture
from triportrait.serve.video import open_clip

__all__ = ["Read", "Watermark", "message_of", "read", "read_file"]

LOOKED_AT = 256  # frames of a video, from its beginning


def read_file(path: Path) -> Read:
    """The watermark of a picture or a video, of which the first 256 frames are read.

    Raises:
        InputError: the file is missing, or neither a picture nor a video that can be read.
    """
    reader = Reader()
    if path.suffix.lower() in PICTURE_ENDINGS:
        reader.add(read_picture(path))
    else:
        with closing(open_clip(path).frames(LOOKED_AT)) as frames:
            for frame in frames:
                reader.add(frame.image)
    return reader.result()
