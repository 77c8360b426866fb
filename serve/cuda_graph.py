"""Replays the launches of a frame as a CUDA graph, and copies on streams of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

WARM_UP = 3  # runs before the capture: kernels are compiled, libraries choose theirs


class Captured:
    """Captures a function of tensors once, on buffers that stay where they are, and replays it.

    Args:
        function: takes tensors and gives a tuple of tensors; it neither waits for the device nor reads from the host.
        inputs: an example; every later call has its shapes and dtypes.
        pool: memory to share with graphs that never run at the same time.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(x.clone() for x in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Replay the function and copy what it gives, since the next call writes over the buffers."""
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return tuple(x.clone() for x in self._outputs)


class Copies:
    """Arrays to the device and tensors back, beside what the device computes.

    Pinned memory comes from torch's own cache, which reuses a block only once its copy is done: any number of copies
    can be under way, and none overwrites another.
    """

    def __init__(self, device: torch.device) -> None:
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._device = device

    def upload(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the host to the device, ready for the current stream."""
        with torch.cuda.stream(self._up):
            uploaded = tensor.pin_memory().to(self._device, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._up)
        uploaded.record_stream(torch.cuda.current_stream())
        return uploaded

    def download(self, tensor: Tensor) -> Callable[[], np.ndarray]:
        """Begin to copy a tensor to the host; the function that comes back waits for it."""
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        done = torch.cuda.Event()
        self._down.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._down):
            pinned.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._down)
            done.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return pinned.numpy()

        return wait
