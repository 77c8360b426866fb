"""What every generated file gets: a watermark in its pictures, a manifest in its container."""

from __future__ import annotations

import logging
import os
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checkpoint import weights_folder
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.serve.media.provenance.certificate import VARIABLE, find_identity
from triportrait.serve.media.provenance.manifest import INSTALL, Claim, check_identity, installed, sign, why_not
from triportrait.serve.media.provenance.watermark import BITS, Watermark, message_of

logger = logging.getLogger(__name__)

_UNSUPPORTED = (".mkv", ".webm")


class Stamp:
    """Marks pictures and signs files; made before any work, so that a key that is of no use is refused then.

    Args:
        source_sha256: of the portrait's file.
        weights: what the user calls them: a folder, `demo` or `rule`.
        watermark: whether pictures are marked; what they are not is said in the manifest.
        certificate, key: PEM files, see `find_identity`.
        composite: generated pictures are put into recorded ones.

    Attributes:
        unsigned: why no file is signed, empty where files are.

    Raises:
        InputError: the user's own certificate or key cannot be used.
    """

    def __init__(
        self, source_sha256: str, weights: str, *, watermark: bool = True, certificate: Path | None = None,
        key: Path | None = None, composite: bool = False,
    ) -> None:  # fmt: skip
        message = message_of(source_sha256)
        self._watermark = Watermark(message) if watermark else None
        name = Path(weights).name or Path(weights).resolve().name  # where it lies is nobody's business
        self.claim = Claim(source_sha256, name, _checksums(weights), message if watermark else None, composite)
        self._identity = None
        self.unsigned = ""
        if installed():
            try:
                self._identity = find_identity(certificate, key)
                check_identity(self._identity)
            except InputError as error:
                if certificate is not None or key is not None or os.environ.get(VARIABLE):
                    raise
                self._identity = None
                self.unsigned = str(error)
                logger.warning("no manifest is written: %s", error)
        elif certificate is not None or key is not None:
            raise InputError(f"--certificate: expected c2pa-python to sign with, {why_not()}; {INSTALL}")
        else:
            self.unsigned = f"{why_not() or 'c2pa-python is not installed'}; {INSTALL}"
            logger.info("no manifest is written: %s", self.unsigned)

    def for_person(self, person_sha256: str | None) -> Stamp:
        """Return a stamp that names the file of a person's refinement, or None, and is like this one otherwise."""
        stamp = copy(self)
        stamp.claim = replace(self.claim, person_sha256=person_sha256)
        return stamp

    def for_source(self, source_sha256: str) -> Stamp:
        """Return a stamp for another portrait that is like this one otherwise."""
        stamp = copy(self)
        message = None if self._watermark is None else message_of(source_sha256)
        stamp._watermark = None if message is None else Watermark(message)
        stamp.claim = replace(self.claim, source_sha256=source_sha256, message=message)
        return stamp

    @property
    def signs(self) -> bool:
        """Whether there is somebody to sign."""
        return self._identity is not None

    @property
    def marks(self) -> bool:
        """Whether pictures are marked."""
        return self._watermark is not None

    @property
    def watermark_signs(self) -> Tensor:
        """The watermark for `watermark.mark`, [64]; zeros, which leave a picture as it is, where there is none."""
        return torch.zeros(BITS) if self._watermark is None else self._watermark.signs

    def mark(self, image: np.ndarray) -> np.ndarray:
        """A picture, uint8 [H, W, 3], with the watermark if there is to be one."""
        return image if self._watermark is None else self._watermark.mark(image)

    def sign(self, path: Path) -> None:
        """Write the manifest into a finished file; what cannot be signed is said, and stays as it is."""
        if self._identity is None:
            return
        if path.suffix.lower() in _UNSUPPORTED:
            logger.info("no manifest is written: C2PA knows no %s files; .mp4 and .mov carry one", path.suffix)
            return
        try:
            sign(path, self.claim, self._identity)
        except InputError as error:
            logger.warning("no manifest is written: %s", error)


def _checksums(weights: str) -> dict[str, str]:
    """SHA-256 of the networks in a weights folder; of none for weights made by a rule."""
    try:
        return {path.name: sha256(path) for path in sorted(weights_folder(weights).glob("[!.]*.safetensors"))}
    except OSError:  # refused with a better sentence where it is loaded
        return {}
