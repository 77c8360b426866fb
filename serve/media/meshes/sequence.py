"""A folder of meshes, one for each frame of a driving video, which goes on where it stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from triportrait.core.atomic import write_text
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.serve.media.output_file import check_output, writing

RECORD = "sequence.json"  # what made the meshes beside it
MOST_FRAMES = 1_000_000
ENDINGS = {"glb": (".glb",), "ply": (".ply",), "obj": (".obj", ".mtl", ".png")}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshSequence:
    """The meshes of a video: FOLDER/000000.glb and on.

    Attributes:
        folder: where they lie, beside a record of what made them.
        kind: glb, ply or obj.
        made_by: a digest of what decides how they look.
    """

    folder: Path
    kind: str
    made_by: str

    def file(self, index: int) -> Path:
        """Name the mesh of a frame, counted from 0."""
        return self.folder / f"{index:06d}.{self.kind}"

    def check(self, overwrite: bool, sources: Iterable[Path] = ()) -> None:
        """Check before any work that the meshes can be written; nothing is changed.

        Args:
            overwrite: meshes that were made otherwise may go.
            sources: input files, of which none may go.

        Raises:
            InputError: the folder holds other files, or cannot be made.
        """
        if self.folder.suffix:
            ending = self.folder.suffix
            raise InputError(f"{self.folder}: expected a folder, got a name that ends in {ending}; leave it out")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: expected a folder, this is a file; choose another")
        there = self.folder.is_dir()
        check_output(self.folder / RECORD if there else self.folder.with_name(f".{RECORD}"), True, (".json",))
        numbered, record = sorted(self.folder.glob("[0-9]" * 6 + ".*")), self._record()
        ours = self._files(record)
        if others := [file for file in numbered if file not in ours]:
            raise InputError(f"{self.folder}: it holds {others[0].name}, no mesh of a sequence; choose another folder")
        inputs = {source.resolve() for source in sources}
        if taken := [file for file in ours if file.resolve() in inputs]:
            raise InputError(f"{taken[0]}: this is an input; choose another folder")
        if ours and not overwrite and record.get("made_by") != self.made_by:
            raise InputError(
                f"{self.folder}: it holds meshes that were made otherwise; pass --overwrite, or choose another folder"
            )

    def begin(self, overwrite: bool) -> int:
        """Make the folder, or find how far it has come; with `overwrite` the meshes in it go.

        Returns:
            the first frame whose mesh is not there.
        """
        record = self._record()
        if record.get("made_by") == self.made_by and not overwrite:
            first = next(i for i in range(MOST_FRAMES + 1) if not self.file(i).exists())
            if first:
                logger.info("%s: %d meshes are there; it goes on with the next", self.folder, first)
            return first
        with writing(self.folder / RECORD):
            self.folder.mkdir(exist_ok=True)
            for file in self._files(record):
                file.unlink()
            write_text(self.folder / RECORD, json.dumps({"made_by": self.made_by, "kind": self.kind}) + "\n")
        return 0

    def _record(self) -> dict[str, str]:
        """Read what made the meshes that are there; empty where nothing tells."""
        try:
            value = read_json(self.folder / RECORD)
        except (OSError, ValueError):
            return {}
        known = isinstance(value, dict) and isinstance(value.get("kind"), str)
        return value if known else {}

    def _files(self, record: dict[str, str]) -> list[Path]:
        """List the files of the meshes that a record tells of."""
        endings = ENDINGS.get(record.get("kind", ""), ())
        return sorted(file for ending in endings for file in self.folder.glob("[0-9]" * 6 + ending))
