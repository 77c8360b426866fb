"""Load the networks that metrics are taken with, or say which file is missing, its licence and where it is from.

Networks that were filled by rule, to check an installation, are told from trained ones by their tensors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from triportrait.core.checkpoint import filled, read_card, read_tensors
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.metrics.arcface import FaceIdentity
from triportrait.core.metrics.emotion import EmotionNetwork
from triportrait.core.metrics.inception import Inception
from triportrait.core.metrics.lpips_network import LpipsDistance
from triportrait.core.metrics.recon3d import FaceReconstructor
from triportrait.core.metrics.rule_weights import RULE, fill_by_rule, is_made_by_rule
from triportrait.core.metrics.syncnet import SyncNet

Kind = Literal["arcface", "recon3d", "syncnet", "emotion", "inception", "lpips_alex", "lpips_vgg"]


@dataclass(frozen=True)
class Origin:
    """Where a network's weights come from.

    Attributes:
        network: its name, for sentences.
        metrics: what cannot be measured without it.
        files: names under which the file is published; the first is the usual one.
        licence: of the weights.
        source: who publishes it.
        converted: whether `triportrait convert` writes it; otherwise the file itself lies in the weights folder.
    """

    network: str
    metrics: str
    files: tuple[str, ...]
    licence: str
    source: str
    converted: bool = True


_BSD = "BSD-3-Clause; its training pictures, ImageNet's, are for research"
_TORCHVISION = "https://download.pytorch.org/models/"
ORIGINS: dict[Kind, Origin] = {
    "arcface": Origin(
        "ArcFace r18", "ID and Cons.", ("backbone.pth",), "non-commercial research",
        "github.com/deepinsight/insightface (ms1mv3_arcface_r18_fp16)",
    ),
    "recon3d": Origin(
        "Deep3DFaceRecon", "AED and APD", ("epoch_20.pth",),
        "MIT; the Basel Face Model that it was trained with is for non-commercial research",
        "github.com/sicxu/Deep3DFaceRecon_pytorch",
    ),
    "syncnet": Origin(
        "SyncNet", "Sync-C and Sync-D", ("syncnet_v2.model",), "MIT", "github.com/joonson/syncnet_python"
    ),
    "emotion": Origin(
        "EMOCA's emotion network", "AED_f", ("the checkpoint in ResNet50.zip",),
        "non-commercial research (Max Planck Society)", "github.com/radekd91/emoca",
    ),
    "inception": Origin(
        "Inception-v3", "FID and KID",
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"), "Apache-2.0",
        "github.com/toshas/torch-fidelity/releases/tag/v0.2.0", converted=False,
    ),
    "lpips_alex": Origin(
        "AlexNet", "LPIPS (alex)", ("alexnet-owt-7be5be79.pth",), _BSD, f"{_TORCHVISION}alexnet-owt-7be5be79.pth",
        converted=False,
    ),
    "lpips_vgg": Origin(
        "VGG-16", "LPIPS (vgg)", ("vgg16-397923af.pth",), _BSD, f"{_TORCHVISION}vgg16-397923af.pth", converted=False
    ),
}  # fmt: skip


_CONVERTED: dict[Kind, type[nn.Module]] = {
    "arcface": FaceIdentity, "recon3d": FaceReconstructor, "syncnet": SyncNet, "emotion": EmotionNetwork,
}  # fmt: skip


class MissingWeights(InputError):
    """The user has not brought the file of a network: its metrics have no numbers, and the message says why."""


@dataclass(frozen=True)
class Loaded:
    """A network that is ready.

    Attributes:
        kind: which one.
        network: on the device, in evaluation mode, frozen.
        sha256: of the file that it was read from, so that a table can say which weights it was measured with; of its
            tensors where there is no file.
        published_sha256: of the published file that it was converted from, where the card notes it.
        by_rule: whether its weights are the rule's, which say nothing about pictures.
    """

    kind: Kind
    network: nn.Module
    sha256: str
    published_sha256: str | None = None
    by_rule: bool = False

    @property
    def identity(self) -> str:
        """Return what changes when the network does, and begins with `rule` where the rule made it."""
        return f"{RULE} {self.sha256}" if self.by_rule else self.sha256


def file_of(kind: Kind, weights: Path) -> Path:
    """Return the file that a network is read from.

    Args:
        kind: which network.
        weights: the weights folder; for Inception and LPIPS the published file, too.

    Raises:
        MissingWeights: it is not there.
    """
    origin = ORIGINS[kind]
    if origin.converted:
        names = [f"{kind}.safetensors"]
        found = [weights / name for name in (*names, f"{kind}.json") if os.path.lexists(weights / name)]
    else:
        names = list(origin.files)
        found = [weights] if weights.is_file() else [weights / n for n in names if os.path.lexists(weights / n)]
    if found:
        return weights / names[0] if origin.converted else found[0]
    where = f"{weights / names[0]}: no such file"
    file = " or ".join(origin.files)
    action = f"write it there by `triportrait convert FILE {weights}`" if origin.converted else "put it there"
    raise MissingWeights(
        f"{where}; {origin.metrics}: expected {origin.network}'s weights ({file}, from {origin.source}; licence: "
        f"{origin.licence}), {action}"
    )


def load(kind: Kind, weights: Path, device: torch.device | str = "cpu") -> Loaded:
    """Load a network, frozen, in evaluation mode.

    Args:
        kind: which network.
        weights: the weights folder; for Inception and LPIPS the published file, too.
        device: where it shall run.

    Raises:
        MissingWeights: its file is not there.
        InputError: the file is damaged or of another network, or a package that runs it is missing.
    """
    path = file_of(kind, weights)
    published = None
    with torch.random.fork_rng(devices=[]):  # what draws first weights shall move no seed of the caller's
        if kind in _CONVERTED:
            note = read_card(weights, kind).get("provenance", {}).get("sha256")
            published = note if isinstance(note, str) else None
            network = filled(_CONVERTED[kind](), read_tensors(weights, kind), str(path), ORIGINS[kind].network)
        else:
            network = _published(kind, path)
    try:
        digest = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); make the file readable") from error
    return Loaded(kind, network.to(device), digest, published, is_made_by_rule(network))


def make_by_rule(kind: Kind, device: torch.device | str = "cpu") -> Loaded:
    """Make a network of rule-made weights, frozen, in evaluation mode, without any file.

    Raises:
        InputError: a package that runs it is missing.
    """
    with torch.random.fork_rng(devices=[]):
        network = _CONVERTED[kind]() if kind in _CONVERTED else _published(kind, None)
    digest = fill_by_rule(network.eval().requires_grad_(False))
    return Loaded(kind, network.to(device), digest, by_rule=True)


def _published(kind: Kind, path: Path | None) -> nn.Module:
    """Make a network whose file is read as it was published; None: with random weights."""
    if kind == "inception":
        return Inception(path)
    return LpipsDistance("alex" if kind == "lpips_alex" else "vgg", path)
