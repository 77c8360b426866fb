"""Make a photograph and a film of it moved, to try faces with: `python -m docs.faces.moved_photograph FOLDER`.

The film is no film of a person: one photograph (scikit-image's `astronaut`, NASA, public domain) is shifted, enlarged
and tilted in a frame, and each frame says so. Its face neither speaks nor turns in space.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.serve.raw import PHOTO, seen
from triportrait.serve.media.video.writer import VideoWriter

SIZE_PX, FPS, SECONDS = (640, 360), 25, 4
LABEL = "one photograph, moved by a script"


def frames() -> list[np.ndarray]:
    """Draw the film's frames, uint8 [H, W, 3]; the last one leads back to the first."""
    made = []
    for phase in np.linspace(0, 2 * np.pi, FPS * SECONDS, endpoint=False):
        at = 340 + 70 * np.sin(phase), 165 + 12 * np.sin(2 * phase)
        image = Image.fromarray(seen(at, 1.3 + 0.25 * np.sin(phase), 9 * np.sin(phase), SIZE_PX))
        ImageDraw.Draw(image).text((8, 340), LABEL, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))
        made.append(np.asarray(image))
    return made


def main() -> None:
    """Write `photograph.jpg` and `moved-photograph.mp4` into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PHOTO, folder / "photograph.jpg")
    with VideoWriter(folder / "moved-photograph.mp4", size_px=SIZE_PX, fps=FPS, overwrite=True) as video:
        for number, frame in enumerate(frames()):
            video.write(frame, number / FPS)


if __name__ == "__main__":
    main()
