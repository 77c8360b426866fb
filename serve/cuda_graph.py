"""Replays the launches of a frame as a CUDA graph, and copies on streams of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARM_UP = 3  # runs before the capture: kernels are compiled, libraries choose theirs
BATCHES = (1, 2, 4, 8)  # sizes that are captured; a batch of another size is padded to the next one


class Captured:
    """Captures a function of tensors once, on buffers that stay where they are, and replays it.

    An input that is the very tensor of the call before is not copied again: nobody writes into tensors that were given.

    Args:
        function: takes tensors and gives a tuple of tensors; it neither waits for the device nor reads from the host.
        inputs: an example; every later call has its shapes and dtypes.
        pool: memory to share with graphs that never run at the same time.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(x.clone() for x in inputs)
        self._last_inputs: tuple[Tensor, ...] = inputs
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # other threads may wait for downloads and pin memory meanwhile
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function gives, in memory of the caller: the next call writes over the buffers."""
        for buffer, tensor, last in zip(self._inputs, inputs, self._last_inputs, strict=True):
            if tensor is not last:
                buffer.copy_(tensor, non_blocking=True)
        self._last_inputs = inputs
        self._graph.replay()
        return tuple(x.clone() for x in self._outputs)


class Graphs:
    """The graphs of a few functions, one for each size of a batch; they are captured when they are first called.

    After `seal` nothing is captured any more: a capture holds every other frame up, and work of other threads on the
    device may spoil it. What was not captured then runs launch by launch, several times slower.

    Args:
        beside: others that never run at the same time, whose memory these share.
    """

    def __init__(self, beside: Graphs | None = None) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle() if beside is None else beside._pool
        self._captured: dict[tuple[str, int], Captured] = {}
        self._sealed = False
        self._named: set[tuple[str, int]] = set()  # what the log has named

    def seal(self) -> None:
        """Capture nothing from now on."""
        self._sealed = True

    def __call__(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Call a function of batches, by a graph; what has none runs launch by launch.

        Batches beyond the largest of BATCHES have none.

        Args:
            name: of the function, and of all that it closes over.
            function: maps tensors [B, ...] to tensors [B, ...], each row by itself.
            inputs: all of one B.
        """
        count = len(inputs[0])
        size = next((size for size in BATCHES if size >= count), None)
        if size is None:
            return function(*inputs)
        if self._sealed and (name, size) not in self._captured:
            if (name, size) not in self._named:
                self._named.add((name, size))
                logger.warning("no graph holds '%s' for a batch of %d: it runs launch by launch, slower", name, size)
            return function(*inputs)
        if size != count:
            inputs = tuple(torch.cat([x, x[-1:].expand(size - count, *x.shape[1:])]) for x in inputs)
        if (name, size) not in self._captured:
            self._captured[name, size] = Captured(function, inputs, self._pool)
        return tuple(x[:count] for x in self._captured[name, size](*inputs))


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

    def stage(self, array: np.ndarray) -> Tensor:
        """Copy an array to pinned memory; `upload` then copies nothing more on the host."""
        pinned = torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype, pin_memory=True)
        np.copyto(pinned.numpy(), array)
        return pinned

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
