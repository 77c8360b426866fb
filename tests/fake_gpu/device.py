"""This GPU does not exist: CUDA tensors have shapes, strides and dtypes and no memory; the host's tensors are real.

Inside `FakeGpu` PyTorch makes and moves tensors on `cuda` as on a GPU, autocast and backward included, and every
operation on them is counted: launches, copies between host and device, waits for the device. What CUDA refuses inside
a captured graph is refused here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _pop_mode, _push_mode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from tests.fake_gpu.generators import CUDA, Generator, draws_checked

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
BLOCK = 512  # bytes, what PyTorch's allocator gives at least
LIBRARY = "TRIPORTRAIT_FAKE_GPU"  # set in a process that has the library below
UNCOUNTED = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
    "lift_fresh",
    "set_",
    "_unsafe_view",
}


class NotCapturable(RuntimeError):
    """This is raised for what CUDA refuses, or would not repeat, inside a graph that is being captured."""


@dataclass
class Counts:
    """The counts tell what happened on the device since the last look.

    Attributes:
        launches: outside of graphs, by name: a kernel of Triton's, or an operator of PyTorch's, which may need several.
        replays: of graphs.
        copies: by direction, "host to device" and so on: the bytes of each, with whether the host waits for it.
        waits: what made the host wait for the device -> how often.
        dtypes: of the real numbers that were computed.
        peak_bytes: the most memory of the device that tensors held at once; libraries' own workspaces are not in it.
    """

    launches: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    copies: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    waits: Counter[str] = field(default_factory=Counter)
    dtypes: set[str] = field(default_factory=set)
    peak_bytes: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the counts as plain numbers."""
        copies = {
            way: {
                "count": len(each),
                "bytes": sum(size for size, _ in each),
                "waiting": sum(waits for _, waits in each),
            }
            for way, each in self.copies.items()
        }
        return {
            "launches": self.launches.total(), "replays": self.replays, "copies": copies, "waits": dict(self.waits),
            "dtypes": sorted(self.dtypes), "peak_GB": round(self.peak_bytes / 1e9, 3),
            "launched": dict(self.launches.most_common()),
        }  # fmt: skip


def environment() -> dict[str, str]:
    """Return variables of a process that can have a fake GPU: kernels are compiled, and gradients find a device.

    PyTorch's engine asks for a device guard before it follows a gradient, which a build for CPUs has not: one that does
    nothing is compiled, once in a process, and loaded before PyTorch.

    Raises: `subprocess.CalledProcessError` with what the compiler says.
    """
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"LD_PRELOAD": str(_library()), LIBRARY: "1"}


@cache
def _library() -> Path:
    folder = Path(torch.__file__).parent
    built = Path(tempfile.mkdtemp(prefix="fake-gpu-")) / "device.so"
    words = ["-std=c++20", "-shared", "-fPIC", f"-I{folder}/include", str(Path(__file__).with_name("device.cpp"))]
    links = [f"-L{folder}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{folder}/lib"]
    subprocess.run(["c++", *words, "-o", str(built), *links], check=True, capture_output=True, text=True)
    return built


def start_again_with_library() -> None:
    """Run the program's command anew in `environment`, unless this process is in it."""
    if LIBRARY not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment())


class FakeGpu(TorchDispatchMode):
    """This mode makes CUDA tensors fake, and counts what is done with them.

    Args:
        capability: of the device.

    Attributes:
        counts: since the last `take`.
        capturing: whether a graph is being captured.
        number: what the host reads of any number; flags are true.
    """

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.fake, self.capability = _Memoryless(allow_non_fake_inputs=True), capability
        self.counts, self.capturing, self.number = Counts(), False, 0
        self._pinned: dict[int, Any] = {}  # by address, kept, so that no other memory is taken for them
        self._storages, self._bytes = WeakIdKeyDictionary(), 0
        self._patches = contextlib.ExitStack()

    def take(self) -> Counts:
        """Return the counts, and begin anew."""
        counts, self.counts = self.counts, Counts(peak_bytes=self._bytes)
        return counts

    def launched(self, name: str) -> None:
        """Count a launch; those of a graph are its own."""
        if not self.capturing:
            self.counts.launches[name] += 1

    def wait(self, reason: str) -> None:
        """Count that the host waits for the device. Raises: `NotCapturable` inside a graph."""
        if self.capturing:
            raise NotCapturable(f"{reason}: the host waits for the device")
        self.counts.waits[reason] += 1

    def __enter__(self) -> FakeGpu:
        for target, name, value in _cuda(self):
            self._patches.enter_context(mock.patch.object(target, name, value))
        self._patches.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` fills memory of the host, and moves it under a mode
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is traced here, and guarding every operator against it costs as much as it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = _known(func)
        if known.is_prim:
            return func(*args, **(kwargs or {}))
        name = known.name
        if (kwargs and "pin_memory" in kwargs) or known.is_about_pins:
            kwargs = dict(kwargs or {})
            if kwargs.pop("pin_memory", False) or name in ("pin_memory", "_pin_memory"):
                return self._pin(func(*args, **kwargs) if "pin" not in name else _copied_as_it_lies(args[0]))
            if name == "is_pinned":
                return args[0].untyped_storage()._cdata in self._pinned
        kwargs = kwargs or {}
        has_fakes = _any_fake(args) or (bool(kwargs) and _any_fake(kwargs.values()))
        if not has_fakes and not _any_cuda(args) and not (kwargs and _any_cuda(kwargs.values())):
            return func(*args, **kwargs)
        if known.is_composite:  # in inference mode an operator comes before it is taken apart
            _push_mode(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                _pop_mode()
        if name in ("_to_copy", "copy_") and (result := self._copied(func, name, args, kwargs)) is not None:
            return result
        if name in ("_local_scalar_dense", "equal"):
            self.wait(name)
            dtype = torch.bool if name == "equal" else args[0].dtype
            return True if dtype == torch.bool else float(self.number) if dtype.is_floating_point else self.number
        if name == "nonzero":  # as many rows as there can be
            self.wait(name)
            self.launched(name)
            with self.fake:
                return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=CUDA)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            args = (args[0], [self._whole_index(x) for x in args[1]], *args[2:])
        if name in ("lift_fresh", "lift_fresh_copy") and not has_fakes:
            return func(*args, **kwargs)
        if self.capturing:
            _refuse_host_tensors(name, tree_leaves((args, kwargs)))
        result = self.fake.__torch_dispatch__(func, types, args, kwargs)  # as it would be called within the mode
        if known.is_view:
            return result
        made = (result,) if isinstance(result, Tensor) else tree_leaves(result)
        self._hold(made)
        if name not in UNCOUNTED:
            self.launched(name)
            self.counts.dtypes.update(
                _name_of(x.dtype) for x in made if isinstance(x, Tensor) and x.is_floating_point()
            )
        return result

    def _copied(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Copy between the host and the device; return None for a copy on the device, an operation like others."""
        if name == "_to_copy":
            source, there = args[0], torch.device(kwargs.get("device") or args[0].device)
            waits_not = kwargs.get("non_blocking", False)
        else:
            source, there = args[1], args[0].device
            waits_not = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if source.device.type == there.type:
            return None
        host = source if source.device.type == "cpu" else args[0] if name == "copy_" else None
        pinned = host is not None and host.untyped_storage()._cdata in self._pinned
        waits = not (waits_not and pinned)
        way = "host to device" if there.type == "cuda" else "device to host"
        if self.capturing:
            raise NotCapturable(f"{name}: {way}, {list(source.shape)}")
        self.counts.copies.setdefault(way, []).append((source.numel() * source.element_size(), waits))
        if waits:
            self.wait(way)
        if there.type == "cpu":
            result = (
                args[0] if name == "copy_" else torch.empty(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            )
            return result.fill_(True if source.dtype == torch.bool else self.number)
        if name == "copy_":
            return args[0]
        with self.fake:
            result = func(torch.empty_like(source, device="cpu"), **kwargs)
        self._hold([result])
        return result

    def _hold(self, made: Iterable[Any]) -> None:
        """Count the memory of new tensors for as long as it is held."""
        for tensor in made:
            if isinstance(tensor, FakeTensor) and tensor.device.type == "cuda":
                storage = tensor.untyped_storage()
                if storage not in self._storages:
                    size = -(-storage.nbytes() // BLOCK) * BLOCK
                    self._storages[storage] = size
                    weakref.finalize(storage, self._free, size)
                    self._bytes += size
        self.counts.peak_bytes = max(self.counts.peak_bytes, self._bytes)

    def _free(self, size: int) -> None:
        self._bytes -= size

    def _pin(self, tensor: Tensor) -> Tensor:
        if self.capturing:
            raise NotCapturable(f"pinned memory of {list(tensor.shape)} is allocated")
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = storage
        return tensor

    def _whole_index(self, index: Any) -> Any:
        """Return indices as they are; a mask waits for the device, and is true everywhere."""
        if not isinstance(index, Tensor) or index.dtype != torch.bool:
            return index
        self.wait("index by a mask")
        if index.dim() != 1:
            raise NotImplementedError(f"a mask of {index.dim()} dimensions")
        with self.fake:
            return torch.empty(len(index), dtype=torch.int64, device=index.device)


class _Memoryless(FakeTensorMode):
    """PyTorch's mode of tensors without memory, which copies of its tensors share: each would bring one of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Memoryless:
        return self


@dataclass(frozen=True)
class _Known:
    """What is asked of an operator at each call and does not change."""

    name: str
    is_prim: bool
    is_about_pins: bool
    is_composite: bool
    is_view: bool


@cache
def _known(func: Any) -> _Known:
    name, is_prim = func.overloadpacket.__name__, func.namespace == "prim"
    return _Known(
        name, is_prim, name in ("pin_memory", "_pin_memory", "is_pinned"),
        not is_prim and func.has_kernel_for_dispatch_key(COMPOSITE), _is_view(func),
    )  # fmt: skip


@cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _any_fake(values: Iterable[Any]) -> bool:
    """Tell whether a tensor of the device is among arguments, which may be lists of tensors."""
    return any(isinstance(x, FakeTensor) or (isinstance(x, list | tuple) and _any_fake(x)) for x in values)


def _any_cuda(values: Iterable[Any]) -> bool:
    """Tell whether the device is among arguments."""
    return any(isinstance(x, torch.device) and x.type == "cuda" for x in values)


def _refuse_host_tensors(name: str, leaves: list[Any]) -> None:
    for x in leaves:
        if isinstance(x, Tensor) and x.device.type == "cpu" and x.dim():
            raise NotCapturable(f"{name}: reads a tensor of the host, {list(x.shape)}")


def unwatched(work: Callable[..., Any]) -> Callable[..., Any]:
    """Return work of the host alone that no fake GPU looks at, for which every operator of the host would pass through
    Python; a tensor of the device that it takes or returns is refused."""

    def run(*args: Any, **kwargs: Any) -> Any:
        assert not any(isinstance(x, FakeTensor) for x in _leaves((args, kwargs))), "it is given a tensor of the device"
        with _disable_current_modes():
            made = work(*args, **kwargs)
        assert not any(isinstance(x, FakeTensor) for x in _leaves(made)), "it returns a tensor of the device"
        return made

    return run


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what lies in containers and in the fields of dataclasses."""
    for leaf in tree_leaves(value):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _leaves([getattr(leaf, one.name) for one in fields(leaf)])
        else:
            yield leaf


def _copied_as_it_lies(tensor: Tensor) -> Tensor:
    """Copy with the same strides, as pinning does: it refuses what has several elements in one place, as expanded."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def _is_view(func: Any) -> bool:
    """Tell whether an operator only looks at memory of its inputs."""
    returned = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


class _Stream:
    """A stream on which nothing runs: all that can be asked of it is done."""

    device = CUDA

    def __init__(self, *arguments: Any, gpu: FakeGpu, **options: Any) -> None:
        self._gpu = gpu

    def wait_stream(self, stream: _Stream) -> None:
        assert isinstance(stream, _Stream)

    def wait_event(self, event: _Event) -> None:
        assert isinstance(event, _Event)

    def synchronize(self) -> None:
        self._gpu.wait("stream")


class _Event:
    """A mark on a stream."""

    def __init__(self, *arguments: Any, gpu: FakeGpu, **options: Any) -> None:
        self._gpu, self._recorded = gpu, False

    def record(self, stream: _Stream | None = None) -> None:
        self._recorded = True

    def wait(self, stream: _Stream | None = None) -> None:
        assert self._recorded

    def query(self) -> bool:
        return self._recorded

    def synchronize(self) -> None:
        assert self._recorded, "nobody will ever reach it"
        self._gpu.wait("event")

    def elapsed_time(self, end: _Event) -> float:
        return 1.0


class _Graph:
    """A CUDA graph: what is captured is run once, and counted as one launch whenever it is replayed."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu, self.captured = gpu, False

    def replay(self) -> None:
        assert self.captured, "nothing was captured"
        self._gpu.counts.replays += 1


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: PyTorch's own swaps fake ones in place, which weak references forbid."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                module._parameters[name] = nn.Parameter(change(parameter), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


def _cuda(gpu: FakeGpu) -> Iterator[tuple[Any, str, Any]]:
    """Yield what takes the place of torch.cuda's functions, as far as the product and PyTorch call them."""
    now: list[_Stream] = [_Stream(gpu=gpu)]

    @contextlib.contextmanager
    def stream(chosen: _Stream | None) -> Iterator[None]:
        now.append(now[-1] if chosen is None else chosen)
        try:
            yield
        finally:
            now.pop()

    @contextlib.contextmanager
    def graph(captured: _Graph, pool: Any = None, **options: Any) -> Iterator[None]:
        assert not gpu.capturing, "one graph at a time"
        gpu.wait("capture")  # as torch does before it begins
        gpu.capturing = True
        try:
            yield
            captured.captured = True
        finally:
            gpu.capturing = False

    def record_stream(tensor: Tensor, used_by: _Stream) -> None:
        assert isinstance(used_by, _Stream) and tensor.device.type == "cuda"

    properties = SimpleNamespace(
        name="fake", major=gpu.capability[0], minor=gpu.capability[1], multi_processor_count=132, total_memory=80 << 30
    )
    returns: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "current_device": 0, "device_count": 1, "_lazy_init": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "set_device": None, "get_device_name": "fake",
        "get_device_capability": gpu.capability, "get_device_properties": properties, "is_bf16_supported": True,
        "empty_cache": None, "max_memory_allocated": 0, "memory_allocated": 0, "reset_peak_memory_stats": None,
        "graph_pool_handle": (0, 1),
    }  # fmt: skip
    for name, value in returns.items():
        yield torch.cuda, name, lambda *arguments, _value=value, **options: _value
    yield torch, "Generator", Generator
    yield from draws_checked()
    yield torch.cuda, "is_current_stream_capturing", lambda: gpu.capturing
    yield torch.cuda, "synchronize", lambda device=None: gpu.wait("device")
    yield torch.cuda, "Stream", lambda *arguments, **options: _Stream(gpu=gpu)
    yield torch.cuda, "Event", lambda *arguments, **options: _Event(gpu=gpu)
    yield torch.cuda, "CUDAGraph", lambda *arguments, **options: _Graph(gpu)
    yield torch.cuda, "current_stream", lambda device=None: now[-1]
    yield torch.cuda, "stream", stream
    yield torch.cuda, "graph", graph
    yield torch.Tensor, "record_stream", record_stream
    yield torch.nn.Module, "_apply", _apply
    optimizer = import_module("torch.optim.optimizer")
    yield optimizer, "_foreach_supported_types", [*optimizer._foreach_supported_types, FakeTensor]
    yield fake_tensor, "init_gpu_context", lambda device: None


__all__ = [
    "CUDA", "Counts", "FakeGpu", "Generator", "NotCapturable", "environment", "start_again_with_library", "unwatched",
]  # fmt: skip
