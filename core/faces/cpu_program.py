"""Run layers that follow each other by one compiled function of the CPU, without PyTorch's calls between them.

PyTorch takes 20 to 40 microseconds for a convolution of a face network, whose arithmetic takes 1 to 20. llvmlite, a
wheel that needs no compiler, turns the loops of `cpu_code` into machine code; where it is missing, PyTorch convolves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from triportrait.core.faces.convolution import Convolution, Sides
from triportrait.core.faces.cpu_code import Code, Machine, Place
from triportrait.core.faces.cpu_layers import Part, Size, compilable, padded, side_pair, trimmed
from triportrait.core.faces.cpu_loops import Dense, Ending, Windowed, combined, copied, dense, mean, windowed
from triportrait.core.faces.layers import Elementwise, Pool, Select
from triportrait.core.faces.object_cache import object_code

ALIGNED = 16  # numbers
MOST_LAYERS = 256  # of a program; each takes about 15 ms to compile


@dataclass(frozen=True)
class Value:
    """A value of a program.

    Attributes:
        size: of one picture.
        pool: "in", "out", "local" (one place for all pictures) or "kept" (one for each).
        start: place in the pool; which input or output.
        stride: numbers from one pixel to the next; channels beyond those of `size` hold zeros.
        first: channel, of a value that lies in another one.
    """

    size: Size
    pool: str
    start: int
    stride: int
    first: int = 0

    @property
    def numbers(self) -> int:
        """Count the numbers of one picture."""
        return self.size[0] * self.size[1] * self.stride


# What older releases of llvmlite, which import, do not read.
_TRIAL = """
define void @run(ptr %to) {
  store <4 x float> splat (float 1.0), ptr %to, align 4
  ret void
}
"""


@cache
def _llvm() -> Any | None:
    """Load llvmlite for this CPU; None where it is missing, too old, or does not know it."""
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.Target.from_default_triple()
        llvm.get_host_cpu_features()
        llvm.parse_assembly(_TRIAL).verify()
        _ = llvm.create_pass_builder, llvm.create_pipeline_tuning_options, llvm.ObjectFileRef.from_data
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    return llvm


@cache
def machine() -> Machine | None:
    """Describe this CPU; None where nothing can be compiled for it."""
    llvm = _llvm()
    if llvm is None:
        return None
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Machine(16, 32)
    if features.get("avx2") and features.get("fma"):
        return Machine(8, 16)
    return Machine(4, 32) if features.get("neon") else None


@lru_cache(maxsize=64)
def compiled(text: str, arguments: tuple[Any, ...], vectorize: bool = False) -> Callable[..., None]:
    """Compile LLVM's text.

    Args:
        arguments: ctypes' kinds of what its function `run` takes.
        vectorize: let LLVM turn loops over single numbers into loops over vectors.

    Returns:
        The function, which runs without Python's lock.
    """
    llvm = _llvm()
    assert llvm is not None
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3, jit=True)

    def make() -> bytes:
        module = llvm.parse_assembly(text)
        module.verify()
        if vectorize:
            tuning = llvm.create_pipeline_tuning_options(speed_level=3)
            tuning.loop_vectorization = True
            builder = llvm.create_pass_builder(target, tuning)
            builder.getModulePassManager().run(module, builder)
        return bytes(target.emit_object(module))

    parts = (llvm.llvm_version_info, target.triple, cpu, features, vectorize, text)
    code = object_code("\n".join(map(str, parts)), make)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, *arguments)(engine.get_function_address("run"))
    function.engine = engine  # type: ignore[attr-defined] # the machine code lives as long as it does
    return function


class Program:
    """A run of layers, compiled.

    Args:
        parts: all `compilable`.
        sizes: name -> size of one picture, of all images.
        outputs: names of the results that are wanted.
        kind: of CPU.

    Pictures go one by one through the first layers, whose features are larger than their weights; each later layer sees
    all pictures in turn. Nothing is written that two calls share, so that threads may run one program at the same time,
    each on one core, without Python's lock.
    """

    def __init__(self, parts: Sequence[Part], sizes: Mapping[str, Size], outputs: Sequence[str], kind: Machine) -> None:
        self._kind, self._sizes, self.outputs = kind, sizes, tuple(outputs)
        made = {part.output for part in parts}
        self.inputs = tuple(dict.fromkeys(name for part in parts for name in part.inputs if name not in made))
        self._constants: list[Tensor] = []
        self._numbers = self._border = 0
        self._values: dict[str, Value] = {}
        self._functions: list[str] = []
        turn = self._turn(parts)
        self._place(parts, turn)
        for number, part in enumerate(parts):
            self._write(number, part)
        self.constants = torch.cat([one.flatten() for one in self._constants]) if self._constants else torch.zeros(1)
        self._function = compiled(self._text(turn, len(parts)), (ctypes.c_void_p,) * 4 + (ctypes.c_int64,))

    def run(self, *images: Tensor) -> Sequence[Tensor]:
        """Run it on the inputs [B, C, H, W], float32: the outputs, as views [B, C, H, W] with the channels last."""
        batch = len(images[0])
        given = []
        for name, image in zip(self.inputs, images, strict=True):
            value = self._values[name]
            if (*image.shape[2:], image.shape[1]) != value.size or len(image) != batch:
                raise ValueError(f"expected {batch} pictures of {value.size}, got {list(image.shape)}")
            last = image.permute(0, 2, 3, 1)
            more = value.stride - value.size[2]
            given.append(F.pad(last, (0, more)) if more else last.contiguous())
        results = [torch.empty(batch, *v.size[:2], v.stride) for v in (self._values[name] for name in self.outputs)]
        room = torch.empty(self._local + self._border + batch * self._kept)
        pointers = (ctypes.c_void_p * (len(given) + len(results)))(*(t.data_ptr() for t in (*given, *results)))
        start = room.data_ptr()
        if batch:
            kept = start + 4 * (self._local + self._border)
            self._function(self.constants.data_ptr(), start, kept, pointers, batch)
        return [
            result[..., : self._values[name].size[2]].permute(0, 3, 1, 2)
            for name, result in zip(self.outputs, results, strict=True)
        ]

    def _turn(self, parts: Sequence[Part]) -> int:
        """Find from which layer on each layer sees all pictures in turn, so that the fewest numbers leave the cache.

        Before it the weights are read again for each picture, from it on the features.
        """
        features = [sum(prod(self._sizes[name]) for name in (*part.inputs, part.output)) for part in parts]
        weights = [sum(parameter.numel() for parameter in part.layer.parameters()) for part in parts]
        return min(range(len(parts) + 1), key=lambda k: sum(weights[:k]) + sum(features[k:]))

    def _place(self, parts: Sequence[Part], turn: int) -> None:
        """Find a place for each value; places are used again when nothing reads what lies there."""
        last = {name: k for k, part in enumerate(parts) for name in part.inputs}
        for k, name in enumerate(self.inputs):
            size = self._sizes[name]
            stride = size[2] if all(_reads_numbers(part, name) for part in parts) else padded(size[2])
            self._values[name] = Value(size, "in", k, stride)
        used: dict[str, list[tuple[int, int, str]]] = {"local": [], "kept": []}  # begin, end, of what
        most = {"local": 0, "kept": 0}
        for k, part in enumerate(parts):
            name, size = part.output, self._sizes[part.output]
            stride = padded(size[2])
            if name in self.outputs:
                self._values[name] = Value(size, "out", len(self.inputs) + self.outputs.index(name), stride)
            else:
                pool = "local" if last.get(name, k) < turn else "kept"
                blocks = used[pool]
                blocks[:] = [b for b in blocks if last.get(b[2], -1) >= k]
                value = Value(size, pool, 0, stride)
                start = _gap(blocks, value.numbers)
                blocks.append((start, start + value.numbers, name))
                blocks.sort()
                most[pool] = max(most[pool], start + value.numbers)
                self._values[name] = replace(value, start=start)
        self._local, self._kept = (-(-most[pool] // ALIGNED) * ALIGNED for pool in ("local", "kept"))

    def _constant(self, numbers: Tensor) -> int:
        """Keep numbers; give where they begin."""
        start = self._numbers
        filled = F.pad(numbers.detach().float().flatten(), (0, -numbers.numel() % ALIGNED))
        self._constants.append(filled)
        self._numbers += filled.numel()
        return start

    def _at(self, code: Code, value: Value) -> Place:
        """Write where this picture's value is."""
        if value.pool in ("in", "out"):
            slot = code.put(f"getelementptr ptr, ptr %io, i64 {value.start}")
            pointer = code.at(code.put(f"load ptr, ptr {slot}"), ("%b", value.numbers), offset=value.first)
        elif value.pool == "local":
            pointer = code.at("%local", offset=value.start + value.first)
        else:
            pointer = code.at("%kept", ("%b", self._kept), offset=value.start + value.first)
        return Place(pointer, value.stride, value.size[1])

    def _write(self, number: int, part: Part) -> None:
        """Write the function of one layer for one picture."""
        code = Code(self._kind)
        layer = part.layer
        images = [self._values[name] for name in part.inputs]
        result = self._values[part.output]
        match layer:
            case Convolution():
                self._convolution(code, layer, images, result)
            case Pool():
                source, target = self._at(code, images[0]), self._at(code, result)
                if layer.kind == "AVERAGE_POOL_2D":
                    mean(code, (*images[0].size[:2], result.stride), source, target)
                else:
                    sizes = result.size[:2], images[0].size[:2]
                    spec = Windowed(*sizes, layer.window, layer.stride, (0, 0, 0, 0), result.stride)
                    windowed(code, spec, source, "", None, target)
            case Elementwise():
                size = (*result.size[:2], result.stride)
                places = [self._at(code, value) for value in (*images, result)]
                same = images[0].size == images[1].size
                combined(code, layer.kind, layer.activation, size, places[0], places[1], same, places[2])
            case Select():
                self._select(code, layer, images, result)
        head = f"define internal void @layer{number}(ptr %constants, ptr %local, ptr %kept, ptr %io, i64 %b)"
        self._functions.append("\n".join([f"{head} #0 {{", "entry:", *code.lines, "  ret void", "}"]))

    def _convolution(self, code: Code, layer: Convolution, images: list[Value], result: Value) -> None:
        kernel, sides = trimmed(layer)
        out, parts = result.stride // layer.parts, layer.parts
        each = len(kernel) // parts
        bias = torch.zeros(len(kernel)) if layer.bias is None else layer.bias
        slopes = torch.zeros(len(kernel)) if layer.slopes is None else layer.slopes
        per_channel = [F.pad(one.view(parts, -1), (0, out - each)) for one in (bias, slopes)]
        at_bias, at_slopes = (code.at("%constants", offset=self._constant(one)) for one in per_channel)
        added, added_channels = None, 0
        if len(images) > 1:
            added, added_channels = self._at(code, images[1]), images[1].stride // parts
        ending = Ending(layer.activation, at_bias, at_slopes, added, added_channels)
        image, size = images[0], result.size[:2]
        if layer.depthwise:
            lanes = self._kind.lanes
            weights = F.pad(kernel[:, 0].permute(1, 2, 0), (0, result.stride - len(kernel)))
            ordered = weights.unflatten(2, (-1, lanes)).permute(2, 0, 1, 3)
            spec = Windowed(size, image.size[:2], side_pair(kernel), layer.stride, sides, result.stride)
            at = code.at("%constants", offset=self._constant(ordered))
            windowed(code, spec, self._at(code, image), at, replace(ending, added_channels=0), self._at(code, result))
            self._empty_channels(code, layer, result)
            return
        place = self._at(code, image)
        channels = image.size[2] // parts
        if any(sides):
            place = self._bordered(code, image, place, sides)
        spec_ = Dense(size, side_pair(kernel), layer.stride, channels, out, parts)
        contiguous = spec_.kernel == spec_.stride == (1, 1) and place.wide == size[1]
        vectors = spec_.tile(self._kind, contiguous)[1]
        filled = F.pad(kernel.permute(2, 3, 1, 0).unflatten(3, (parts, -1)), (0, out - each))  # [H, W, in, parts, out]
        ordered_parts = []
        for part in filled.permute(3, 0, 1, 2, 4).flatten(1, 3):
            for panel in spec_.panels(self._kind, vectors, added_channels):
                width = panel.vectors * self._kind.lanes
                for k in range(panel.count):
                    first = panel.first + k * width
                    ordered_parts.append(part[:, first : first + width].flatten())
        at = code.at("%constants", offset=self._constant(torch.cat(ordered_parts)))
        dense(code, spec_, place, at, ending, self._at(code, result))
        self._empty_channels(code, layer, result)

    def _empty_channels(self, code: Code, layer: Convolution, result: Value) -> None:
        """Write zeros behind the channels of a gate, which is one pixel: the LOGISTIC of zero is a half."""
        beyond = result.stride - result.size[2]
        if layer.activation == "LOGISTIC" and beyond:
            behind = self._at(code, replace(result, first=result.first + result.size[2])).pointer
            code.do(f"call void @llvm.memset.p0.i64(ptr {behind}, i8 0, i64 {4 * beyond}, i1 false)")

    def _bordered(self, code: Code, image: Value, place: Place, sides: Sides) -> Place:
        """Write the copying of a picture into zeros."""
        top, bottom, left, right = sides
        high, wide = image.size[0] + top + bottom, image.size[1] + left + right
        numbers = high * wide * image.stride
        self._border = max(self._border, numbers)
        start = code.at("%local", offset=self._local)
        code.do(f"call void @llvm.memset.p0.i64(ptr {start}, i8 0, i64 {4 * numbers}, i1 false)")
        inside = Place(code.at(start, offset=(top * wide + left) * image.stride), image.stride, wide)
        copied(code, (image.size[0], image.size[1]), image.stride, place, inside)
        return Place(start, image.stride, wide)

    def _select(self, code: Code, layer: Select, images: list[Value], result: Value) -> None:
        first = 0
        for place, part, count in layer.picks:
            value = images[place]
            each = value.size[2] // count
            source = self._at(code, replace(value, first=value.first + part * each))
            copied(code, value.size[:2], each, source, self._at(code, replace(result, first=first)))
            first += each

    def _text(self, turn: int, count: int) -> str:
        """Put the functions together."""
        lanes = self._kind.lanes
        vector = self._kind.vector
        lines = [
            f"declare {vector} @llvm.fmuladd.v{lanes}f32({vector}, {vector}, {vector})",
            f"declare {vector} @llvm.rint.v{lanes}f32({vector})",
            "declare i64 @llvm.umin.i64(i64, i64)",
            "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
            "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
            *self._functions,
            "define void @run(ptr %constants, ptr %local, ptr %kept, ptr %io, i64 %count) {",
            "entry:",
            "  br label %g0",
        ]
        groups = [list(range(turn))] if turn else []
        groups += [[k] for k in range(turn, count)]
        for g, group in enumerate(groups):
            before = "entry" if g == 0 else f"g{g - 1}"
            lines += [f"g{g}:", f"  %b{g} = phi i64 [ 0, %{before} ], [ %n{g}, %g{g} ]"]
            lines += [
                f"  call void @layer{k}(ptr %constants, ptr %local, ptr %kept, ptr %io, i64 %b{g})" for k in group
            ]
            lines += [
                f"  %n{g} = add i64 %b{g}, 1",
                f"  %m{g} = icmp ult i64 %n{g}, %count",
                f"  br i1 %m{g}, label %g{g}, label %g{g + 1}",
            ]
        lines += [f"g{len(groups)}:", "  ret void", "}", "attributes #0 = { noinline nounwind }"]
        return "\n".join(lines)


def with_programs(parts: Sequence[Part], sizes: Mapping[str, Size], results: Sequence[str]) -> list[Part | Program]:
    """Compile the layers that can be and that follow each other; without llvmlite give them as they are.

    Args:
        parts: of a network, in their order.
        sizes: name -> size of one picture, of all values that are images.
        results: names of the network's results.
    """
    kind = machine()
    if kind is None:
        return list(parts)
    runs: list[list[Part]] = []
    for part in parts:
        if not (runs and compilable(part, sizes) and compilable(runs[-1][-1], sizes)):
            runs.append([])
        runs[-1].append(part)
    done: list[Part | Program] = []
    for run in runs:
        if not compilable(run[0], sizes) or len(run) > MOST_LAYERS:
            done += run
            continue
        inside = {id(part) for part in run}
        wanted = {name for part in parts if id(part) not in inside for name in part.inputs} | {*results}
        done.append(Program(run, sizes, [part.output for part in run if part.output in wanted], kind))
    return done


def _reads_numbers(part: Part, name: str) -> bool:
    """Tell whether a layer reads a value number by number, if at all, and so needs no whole vectors of channels."""
    layer = part.layer
    dense_alone = isinstance(layer, Convolution) and not layer.depthwise and layer.parts == 1
    return name not in part.inputs or (dense_alone and name not in part.inputs[1:])


def _gap(blocks: list[tuple[int, int, str]], numbers: int) -> int:
    """Find where so many numbers fit between blocks."""
    start = 0
    for begin, end, _ in blocks:
        if begin - start >= numbers:
            break
        start = max(start, -(-end // ALIGNED) * ALIGNED)
    return start
