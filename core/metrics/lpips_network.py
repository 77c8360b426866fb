"""LPIPS 0.1 (Zhang 2018) comes from the `lpips` package, the weights of its trunk from a file of the user's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file
from triportrait.core.metrics.torchvision_ops import beside_torchvision

Trunk = Literal["alex", "vgg"]
_LAYERS: dict[Trunk, str] = {"alex": "AlexNet", "vgg": "VGG-16"}
_LAST: dict[Trunk, int] = {"alex": 10, "vgg": 28}


def lpips_network(trunk: Trunk, weights: Path | None) -> nn.Module:
    """Make LPIPS, frozen in evaluation mode; its linear layers come from the package.

    It is called with two pictures [B, 3, H, W] in [-1, 1] and returns their distance at every pixel, [B, 1, H, W].

    Args:
        trunk: `alex` is what evaluations use, `vgg` what training uses.
        weights: torchvision's AlexNet or VGG-16 (.pth or .safetensors), with or without its classifier; None: random
            ones, for tests.

    Raises:
        InputError: the package is missing, or the file is not of the trunk.
    """
    with beside_torchvision("lpips", "choose a stand-in"):
        import lpips
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision", category=UserWarning)  # of how the package calls it
        torch.manual_seed(0)
        network = lpips.LPIPS(net=trunk, pnet_rand=True, spatial=True, verbose=False)
    if weights is not None:
        _load(network.net, weights, trunk)
    return network.eval().requires_grad_(False)  # type: ignore[no-any-return]


class LpipsDistance(nn.Module):
    """LPIPS as evaluations use it, by one number or at every pixel; see `lpips_network` for arguments and errors."""

    def __init__(self, trunk: Trunk, weights: Path | None) -> None:
        super().__init__()
        self.network: Any = lpips_network(trunk, weights)

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """Return the distances [B] of pictures [B, 3, H, W] in [-1, 1]: the mean over each layer, then the sum."""
        return self._measure(picture, target, spatial=False).flatten()

    def at_pixels(self, picture: Tensor, target: Tensor) -> Tensor:
        """Return the distances [B, H, W] at every pixel, each layer's resampled to the size of the pictures.

        Their mean differs a little from what `forward` returns, as resampling weights the borders of a layer anew.
        """
        return self._measure(picture, target, spatial=True)[:, 0]

    def _measure(self, picture: Tensor, target: Tensor, spatial: bool) -> Tensor:
        self.network.spatial = spatial
        with torch.autocast(picture.device.type, enabled=False):
            return self.network(picture.float(), target.float())  # type: ignore[no-any-return]


def _expected(trunk: Trunk) -> str:
    tensors = f"features.0.weight ... features.{_LAST[trunk]}.bias"
    return f"expected torchvision's {_LAYERS[trunk]} (.pth or .safetensors, tensors {tensors})"


def _load(network: nn.Module, path: Path, trunk: Trunk) -> None:
    """Put a file's tensors into the slices of the package's network, whose layers keep the trunk's numbers."""
    expected = _expected(trunk)
    tensors = trunk_tensors(path, trunk)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            _, number, kind = name.split(".")
            value = tensors.get(f"features.{number}.{kind}")
            if value is None or value.shape != parameter.shape:
                got = "none" if value is None else f"shape {list(value.shape)}"
                raise InputError(f"{path}: {expected}, got {got} as features.{number}.{kind}; name another file")
            if not bool(value.isfinite().all()):
                raise InputError(f"{path}: {expected}, features.{number}.{kind} is not finite; name another file")
            parameter.copy_(value)


def trunk_tensors(path: Path, trunk: Trunk = "vgg") -> dict[str, Any]:
    """Read the tensors of a trunk's file.

    Raises:
        InputError: it is missing, or no file of tensors.
    """
    expected = _expected(trunk)
    if not path.is_file():
        raise InputError(f"{path}: {expected}, there is no such file; name it")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_tensor_file(path)
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler asserts, unpacks and looks up whatever a damaged file says
        raise InputError(f"{path}: {expected}, it cannot be read; name another file") from error
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: {expected}, got {type(tensors).__name__}; name another file")
    return tensors
