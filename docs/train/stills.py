"""Take stills out of films: `python -m docs.train.stills FILMS OUT --every 25` writes every 25th frame as a picture.

What is no film is named and left out. `whole.sh` makes the pictures for GenHead's training so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.media.video.clips import open_clip


def main(arguments: list[str] | None = None) -> int:
    """Write the stills, a folder for each film; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("films", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=25)
    options = parser.parse_args(arguments)
    written = 0
    for film in sorted(path for path in options.films.rglob("*") if path.is_file()):
        try:
            clip = open_clip(film)
        except InputError as error:
            print(error, file=sys.stderr)
            continue
        folder = options.out / film.relative_to(options.films).with_suffix("")
        for frame in clip.frames():
            if frame.index % options.every == 0:
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame.image).save(folder / f"{frame.index:06d}.png")
                written += 1
    print(f"{options.out}: {written} stills")
    return 0


if __name__ == "__main__":
    sys.exit(main())
