"""What a file says of where it comes from, and whether its two witnesses, manifest and watermark, say the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, LONGEST_SENTENCE, bounded, shown
from triportrait.serve.media.provenance.manifest import (
    COMPOSITE,
    GENERATED,
    INSTALL,
    Manifest,
    installed,
    read_manifest,
    why_not,
)
from triportrait.serve.media.provenance.watermark import MESSAGE_BITS, Read, Reader
from triportrait.serve.media.video.clips import Frame, open_clip

LISTED = 8  # networks, or problems, in a line
LOOKED_AT = 256  # frames of a video, from its beginning
CERTAIN_AT = (32, 64, 128)  # after so many it is seen whether more are needed
KINDS = {GENERATED: "made by a trained network", COMPOSITE: "recorded, with parts made by a trained network"}


@dataclass(frozen=True)
class Verified:
    """A file's manifest, if it has one, and its watermark.

    Attributes:
        looked: whether a manifest was looked for, which needs c2pa-python.
        missing: what speaks against the file, a sentence each; none where it is whole and its witnesses agree.
    """

    path: Path
    manifest: Manifest | None
    watermark: Read
    missing: tuple[str, ...]
    looked: bool = True

    def lines(self) -> list[str]:
        """Say what was found, line by line, for people."""
        return [
            shown(str(self.path), LONGEST_SENTENCE),
            *_of_manifest(self.manifest, self.looked),
            _of_watermark(self.watermark),
            _verdict(self.missing),
        ]

    def values(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        found, read = self.manifest, self.watermark
        return {
            "file": str(self.path),
            "intact": not self.missing,
            "missing": list(self.missing),
            "manifest_looked_for": self.looked,
            "manifest": None if found is None else {
                "altered": found.altered, "problems": bounded(list(found.problems)),
                "signer": shown(found.signer), "generator": shown(found.generator),
                "digital_source_type": shown(found.kind), "generation": bounded(found.generation),
            },
            "watermark": {
                "message": None if read.message is None else f"{read.message:07x}", "pictures": read.pictures,
                "signs_turned": read.turned, "false_alarm": read.false_alarm,
            },
        }  # fmt: skip


def read_file(path: Path) -> Read:
    """The watermark of a picture, or of the first frames of a video: 256 at most, 32 where those leave no doubt.

    Raises:
        InputError: the file is missing, or neither a picture nor a video that can be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    reader = Reader()
    clip = open_clip(path)
    total = min(LOOKED_AT, clip.frame_count or LOOKED_AT)
    with closing(clip.frames(LOOKED_AT)) as frames, _bar(frames, total) as bar:
        for count, frame in enumerate(bar, start=1):
            reader.add(frame.image)
            # All 64 signs right by accident: once in 10^10.
            if count in CERTAIN_AT and (found := reader.result()).message is not None and not found.turned:
                return found
    return reader.result()


def _bar(frames: Iterable[Frame], total: int) -> tqdm[Frame]:
    """Progress on a terminal, where it takes long."""
    return tqdm(frames, total=total, unit="frame", desc="verify", file=sys.stderr, disable=None, delay=1.5, leave=False)


def verify(path: Path) -> Verified:
    """Read and compare both.

    Raises:
        InputError: the file is missing, or neither a picture nor a video that can be read.
    """
    watermark = read_file(path)
    if not installed():
        said = [f"no manifest was looked for, {why_not() or 'c2pa-python is not installed'}; {INSTALL}"]
        said += ["there is no watermark"] if watermark.message is None else []
        return Verified(path, None, watermark, tuple(said), looked=False)
    manifest = read_manifest(path)
    return Verified(path, manifest, watermark, tuple(_missing(manifest, watermark)))


def _missing(manifest: Manifest | None, read: Read) -> list[str]:
    if manifest is None:
        return ["there is no manifest", *([] if read.message is not None else ["there is no watermark"])]
    said = []
    if manifest.altered:
        said.append("the file is not what was signed")
    elif manifest.problems:
        said.append(f"the manifest does not hold ({', '.join(map(shown, manifest.problems[:LISTED]))})")
    generation = manifest.generation or {}
    claimed = generation.get("watermark_message")
    if not generation:
        said.append("the manifest does not say how the file was generated")
    elif claimed is not None and str(generation.get("source_sha256"))[: MESSAGE_BITS // 4] != claimed:
        said.append("the manifest's message does not begin its source's SHA-256")
    if read.message is None and (claimed is not None or not generation):
        said.append("there is no watermark, but the manifest names one" if claimed else "there is no watermark")
    if read.message is not None and generation and claimed != f"{read.message:07x}":
        said.append("the watermark's message is not the manifest's")
    return said


def _of_manifest(manifest: Manifest | None, looked: bool) -> list[str]:
    if manifest is None:
        return ["manifest: none" if looked else "manifest: not looked for"]
    state = "ALTERED, the file is not what was signed" if manifest.altered else "intact"
    if manifest.problems:
        state += f" ({', '.join(map(shown, manifest.problems[:LISTED]))})"
    lines = [f"manifest: {state}"]
    if manifest.signer:
        # No list of issuers is asked.
        lines.append(f"  signed by '{shown(manifest.signer)}', an unknown issuer: its certificate proves no name")
    if manifest.kind or manifest.generator:
        kind = KINDS.get(manifest.kind) or shown(manifest.kind) or "not how it was made"
        lines.append(f"  says: {kind}; by {shown(manifest.generator)}")
    if manifest.generation is not None:
        told = manifest.generation
        lines.append(f"  source: SHA-256 {shown(told.get('source_sha256'))}")
        lines.append(f"  weights: {shown(told.get('weights'))}{_checksums(told.get('weights_sha256'))}")
        if "person_sha256" in told:
            lines.append(f"  refined for one person: SHA-256 {shown(told['person_sha256'])}")
        message = told.get("watermark_message")
        lines.append(f"  watermark: {'left out' if message is None else f'message {shown(message)}'}")
    return lines


def _checksums(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    pairs = list(found.items())
    told = "".join(f", {shown(name, LONGEST_NAME)} {shown(value)[:16]}…" for name, value in pairs[:LISTED])
    return told + (f" and {len(pairs) - LISTED:,} more" if len(pairs) > LISTED else "")


def _of_watermark(read: Read) -> str:
    over = f"{read.pictures} picture{'s' * (read.pictures != 1)}"
    odds = f"by accident: {read.false_alarm:.0e}"
    if read.message is None:
        return f"watermark: not found in {over}"
    turned = f", {read.turned} of 64 signs mended" if read.turned else ""
    return (
        f"watermark: found in {over}{turned}, message {read.message:07x}, the first {MESSAGE_BITS} bits of the "
        f"source's SHA-256 ({odds})"
    )


def _verdict(missing: tuple[str, ...]) -> str:
    return f"NOT VERIFIED: {'; '.join(missing)}" if missing else "verified: whole, and its witnesses agree"
