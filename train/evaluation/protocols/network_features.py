"""Reads off frames what the user's metric networks say: identity, 3DMM coefficients, emotion, Inception's features."""

from __future__ import annotations

from pathlib import Path

import torch

from triportrait.train.evaluation.protocols.features import Extractor


def network_extractors(folder: Path | None, device: torch.device) -> tuple[tuple[Extractor, ...], dict[str, str]]:
    """Load the networks that lie in a folder.

    Returns:
        Their extractors, and need -> the sentence that says which file is missing.

    Raises:
        InputError: a file is damaged or of another network.
    """
    return (), {}


def hashes(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the networks that lie in a folder. Raises: `InputError` for a damaged one."""
    return {}
