"""LPIPS (Zhang 2018) is taken from the `lpips` package, with VGG's weights from a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file
from triportrait.core.optional_packages import install, reason
from triportrait.train.objectives.torchvision_ops import declare

EXPECTED = "expected torchvision's VGG-16 (.pth or .safetensors, tensors features.0.weight ... features.28.bias)"


class Lpips(nn.Module):
    """LPIPS 0.1 with VGG, a `perceptual.Perceptual` distance whose linear layers come from the package.

    Args:
        weights: torchvision's VGG-16 without its classifier; None: random ones, for tests.

    Raises: `InputError` where the package is missing or the file is no VGG-16.
    """

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        try:
            declare()
            import lpips
        except Exception as error:  # torchvision beside a torch it was not built for raises RuntimeError
            why = reason(error, "lpips")
            raise InputError(f"lpips: it {why}; {install('train')}, or choose a stand-in") from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = lpips.LPIPS(net="vgg", pnet_rand=True, spatial=True, verbose=False)
        if weights is not None:
            _load(self.network.net, weights)
        self.network.eval().requires_grad_(False)

    def forward(self, picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Perceptual`."""
        with torch.autocast(picture.device.type, enabled=False):
            distance = self.network(picture.float(), target.float())  # [B, 1, S, S]
        return (distance if weight is None else weight * distance).mean((1, 2, 3))


def _load(network: nn.Module, path: Path) -> None:
    """Put a file's tensors into the slices of the package's network, whose layers keep VGG's numbers."""
    vgg = _tensors(path)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            _, number, kind = name.split(".")
            value = vgg.get(f"features.{number}.{kind}")
            if value is None or value.shape != parameter.shape:
                got = "none" if value is None else f"shape {list(value.shape)}"
                raise InputError(f"{path}: {EXPECTED}, got {got} as features.{number}.{kind}; name another file")
            if not bool(value.isfinite().all()):
                raise InputError(f"{path}: {EXPECTED}, features.{number}.{kind} is not finite; name another file")
            parameter.copy_(value)


def _tensors(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: {EXPECTED}, there is no such file; name it")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_tensor_file(path)
            return load_file(path)
        vgg = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler asserts, unpacks and looks up whatever a damaged file says
        raise InputError(f"{path}: {EXPECTED}, it cannot be read; name another file") from error
    if not isinstance(vgg, dict):
        raise InputError(f"{path}: {EXPECTED}, got {type(vgg).__name__}; name another file")
    return vgg
