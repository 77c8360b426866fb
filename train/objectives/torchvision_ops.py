"""Lets torchvision be imported beside a torch without CUDA, see `core.metrics.torchvision_ops`."""

from triportrait.core.metrics.torchvision_ops import declare

__all__ = ["declare"]
