"""Layers compiled for a CPU give what PyTorch gives, for each width of vectors, unless they do not fit."""

from __future__ import annotations

import copy
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.core.faces.networks import NAMES, face_graph
from tests.core.faces.tflite_files import branches
from triportrait.core.faces import cpu_program, cpu_sampling
from triportrait.core.faces.convolution import Convolution
from triportrait.core.faces.cpu_code import Machine
from triportrait.core.faces.cpu_layers import MOST_SIDE, Part, compilable
from triportrait.core.faces.cpu_program import Program, machine, with_programs
from triportrait.core.faces.layers import Elementwise, Pool, Rearrange, Select
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.regions import sampled
from triportrait.core.faces.tflite import parse_tflite

pytest.importorskip("llvmlite")
MACHINES = [Machine(16, 32), Machine(8, 16), Machine(4, 32)]


def convolution(out, channels, kernel, stride, padding, activation, parts=1, depthwise=False):
    slopes = torch.rand(out) if activation == "PRELU" else None
    weights = torch.randn(out, 1 if depthwise else channels, *kernel) / 4
    groups = out if depthwise else parts
    return Convolution(weights, torch.randn(out), groups, stride, padding, activation, slopes, parts)


def layers() -> tuple[list[Part], dict[str, Tensor]]:
    """Layers of all kinds, and what PyTorch computes of a batch of three."""
    torch.manual_seed(0)
    even, odd, none = (1, 1, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0)
    one, two = (1, 1), (2, 2)
    average = Pool("AVERAGE_POOL_2D", (17, 10), one, none, "NONE")
    gate = convolution(24, 24, one, one, none, "LOGISTIC")
    made = [
        Part(convolution(20, 3, (3, 3), two, odd, "RELU6"), ("image",), "first"),
        Part(convolution(20, 1, (3, 3), one, even, "NONE", depthwise=True), ("first",), "deep"),
        Part(convolution(20, 20, one, one, none, "PRELU"), ("deep", "first"), "block"),
        Part(convolution(20, 1, (5, 5), two, (2, 2, 1, 2), "HARD_SWISH", depthwise=True), ("block",), "half"),
        Part(Pool("MAX_POOL_2D", two, two, none, "NONE"), ("block",), "largest"),
        Part(convolution(24, 20, one, one, none, "RELU"), ("half", "largest"), "wider"),
        Part(average, ("wider",), "mean"),
        Part(gate, ("mean",), "gate"),
        Part(Elementwise("MUL", "NONE", None), ("wider", "gate"), "gated"),
        Part(Elementwise("ADD", "RELU", None), ("gated", "wider"), "both"),
        Part(convolution(96, 24, (2, 3), (1, 2), even, "PRELU"), ("both",), "many"),
        Part(convolution(192, 32, one, one, none, "PRELU", parts=3), ("many", "many"), "parts"),
        Part(convolution(192, 1, (3, 3), one, even, "NONE", depthwise=True, parts=3), ("parts",), "each"),
        Part(Select([(0, 2, 3), (1, 0, 3), (0, 2, 3)]), ("parts", "each"), "chosen"),
        Part(convolution(96, 64, one, one, none, "NONE", parts=3), ("chosen", "many"), "narrow"),
        Part(convolution(1404, 96, (18, 5), one, none, "NONE"), ("narrow",), "points"),
        Part(convolution(1, 96, (18, 5), one, none, "NONE"), ("narrow",), "flag"),
    ]  # fmt: skip
    values = {"image": torch.randn(3, 3, 68, 40).contiguous(memory_format=torch.channels_last)}
    for part in made:
        (values[part.output],) = part.run(*(values[name] for name in part.inputs))
    return made, values


def sizes_of(values: dict[str, Tensor]) -> dict[str, tuple[int, int, int]]:
    return {name: (value.shape[2], value.shape[3], value.shape[1]) for name, value in values.items()}


def close(found: Tensor, wanted: Tensor) -> None:
    """Alike but for rounding: within a hundred thousandth of the largest number."""
    torch.testing.assert_close(found, wanted, atol=1e-6 + 1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", MACHINES, ids=str)
def test_every_layer_is_pytorch_s(kind):
    """Each value of three pictures, wanted all and wanted at the end alone."""
    parts, values = layers()
    sizes = sizes_of(values)
    assert all(compilable(part, sizes) for part in parts)
    for wanted in ([part.output for part in parts], ["points", "flag", "gate"]):
        program = Program(parts, sizes, wanted, kind)
        for batch in (3, 1):
            for name, found in zip(wanted, program.run(values["image"][:batch]), strict=True):
                close(found, values[name][:batch])


@pytest.mark.parametrize("turn", [0, 5, 17])
def test_the_order_of_pictures_changes_nothing(monkeypatch, turn):
    """Pictures go one by one through the first layers, all through each of the others; wherever that changes."""
    parts, values = layers()
    monkeypatch.setattr(Program, "_turn", lambda *_: turn)
    program = Program(parts, sizes_of(values), ["points", "many"], MACHINES[0] if machine() is None else machine())
    points, many = program.run(values["image"])
    close(points, values["points"])
    close(many, values["many"])


@pytest.mark.parametrize("kind", MACHINES, ids=str)
@pytest.mark.parametrize("depthwise", [False, True])
def test_behind_the_channels_of_a_gate_are_zeros(kind, depthwise):
    """The half that is the LOGISTIC of nothing does not reach a wider result that the gate is added to."""
    torch.manual_seed(0)
    one, none = (1, 1), (0, 0, 0, 0)
    gate = convolution(24, 24, one, one, none, "LOGISTIC", depthwise=depthwise)
    both = Elementwise("ADD", "NONE", None)
    parts = [
        Part(gate, ("image",), "gate"),
        Part(both, ("gate", "gate"), "twice"),
        Part(convolution(48, 24, one, one, none, "NONE"), ("image", "gate"), "wide"),
        Part(convolution(48, 24, one, one, none, "NONE"), ("image", "twice"), "wider"),
    ]
    values = {"image": torch.randn(2, 24, 1, 1)}
    for part in parts:
        (values[part.output],) = part.run(*(values[name] for name in part.inputs))
    sizes = sizes_of(values)
    assert all(compilable(part, sizes) for part in parts)
    names = ["gate", "wide", "wider"]
    for name, found in zip(names, Program(parts, sizes, names, kind).run(values["image"]), strict=True):
        close(found, values[name])


def test_no_picture():
    parts, values = layers()
    sizes = sizes_of(values)
    (found,) = Program(parts, sizes, ["points"], MACHINES[2]).run(values["image"][:0])
    assert found.shape == (0, 1404, 1, 1)


def test_pictures_of_another_size_are_refused():
    parts, values = layers()
    program = Program(parts, sizes_of(values), ["points"], MACHINES[2])
    for wrong in (values["image"][:, :, 1:], values["image"][:, :2]):
        with pytest.raises(ValueError, match=r"expected 3 pictures of \(68, 40, 3\)"):
            program.run(wrong)


def unfit() -> dict[str, tuple[nn.Module, list[tuple[int, int, int]], tuple[int, int, int]]]:
    """Layers, the sizes of what they read and of what they are said to give: none may be compiled."""
    one, none = (1, 1), (0, 0, 0, 0)
    wide = MOST_SIDE + 1
    point = convolution(20, 20, one, one, none, "NONE")
    deep = convolution(20, 1, (3, 3), one, none, "NONE", depthwise=True)
    large = convolution(20, 1, (wide, wide), one, none, "NONE", depthwise=True)
    parts = convolution(40, 20, one, one, none, "NONE", parts=2)
    pair = convolution(64, 16, one, one, none, "NONE", parts=2)
    return {
        "other channels": (point, [(8, 8, 24)], (8, 8, 20)),
        "more results": (point, [(8, 8, 20)], (8, 8, 24)),
        "more rows": (point, [(8, 8, 20)], (9, 8, 20)),
        "another size is added": (point, [(8, 8, 20), (7, 8, 20)], (8, 8, 20)),
        "more channels are added": (point, [(8, 8, 20), (8, 8, 21)], (8, 8, 20)),
        "three inputs": (point, [(8, 8, 20)] * 3, (8, 8, 20)),
        "a larger picture": (deep, [(8, 8, 20)], (8, 8, 20)),
        "a large window": (large, [(wide, wide, 20)], (1, 1, 20)),
        "a large picture": (point, [(4096, 1024, 20)], (4096, 1024, 20)),
        "a large border": (convolution(8, 8, one, (999, 999), (999, 0, 0, 999), "NONE"), [(8, 8, 8)], (2, 2, 8)),
        "parts of no whole vectors": (parts, [(8, 8, 40)], (8, 8, 40)),
        "one channel is added to two parts": (pair, [(8, 8, 32), (8, 8, 1)], (8, 8, 64)),
        "an odd channel is added to two parts": (pair, [(8, 8, 32), (8, 8, 33)], (8, 8, 64)),
        "a large pool": (Pool("MAX_POOL_2D", (wide, 1), one, none, "NONE"), [(wide, 1, 8)], (1, 1, 8)),
        "a padded pool": (Pool("MAX_POOL_2D", (2, 2), (2, 2), (0, 1, 0, 1), "NONE"), [(3, 3, 8)], (2, 2, 8)),
        "a mean of parts": (Pool("AVERAGE_POOL_2D", (2, 2), (2, 2), none, "NONE"), [(4, 4, 8)], (2, 2, 8)),
        "repeated rows": (Elementwise("ADD", "NONE", None), [(4, 4, 8), (1, 4, 8)], (4, 4, 8)),
        "a constant": (Elementwise("MUL", "NONE", torch.ones(8, 1, 1)), [(4, 4, 8)], (4, 4, 8)),
        "a part that is not there": (Select([(0, 2, 2)]), [(4, 4, 32)], (4, 4, 16)),
        "another kind": (Rearrange("PAD", {}, (1, 4, 4, 8)), [(4, 4, 8)], (4, 4, 8)),
    }


@pytest.mark.parametrize("what", unfit())
def test_what_does_not_fit_is_not_compiled(what):
    layer, read, given = unfit()[what]
    names = tuple(f"read {k}" for k in range(len(read)))
    part = Part(layer, names, "given")
    assert not compilable(part, dict(zip(names, read, strict=True)) | {"given": given})
    assert not compilable(part, {})
    assert with_programs([part], {}, ["given"]) == [part]


def test_long_runs_are_not_compiled(monkeypatch):
    parts, values = layers()
    monkeypatch.setattr(cpu_program, "MOST_LAYERS", len(parts) - 1)
    assert with_programs(parts, sizes_of(values), ["points"]) == parts


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_those_of_pytorch(name, monkeypatch):
    """The real networks, two pictures; no convolution but the gates' is left to PyTorch."""
    compiled, plain = (GraphNetwork(face_graph(name)) for _ in range(2))
    images = torch.rand(2, 3, *compiled.input_size)
    found = compiled(images)
    left = [part for part, _ in compiled._on_a_cpu() if isinstance(part, Part) and isinstance(part.layer, Convolution)]
    assert machine() is None or not left
    monkeypatch.setattr(cpu_program, "machine", lambda: None)
    for key, wanted in plain(images).items():
        close(found[key], wanted)


def test_small_channels_beside_compiled_ones(monkeypatch):
    """Branches of 4 and 6 channels: some layers are compiled, others are not."""
    graph = parse_tflite(branches().file(), "net.tflite")
    images = torch.randn(2, 4, 16, 16)
    found = GraphNetwork(graph)(images)
    monkeypatch.setattr(cpu_program, "machine", lambda: None)
    for key, wanted in GraphNetwork(graph)(images).items():
        close(found[key], wanted)


@pytest.mark.parametrize("border", ["border", "zeros"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_samples_are_pytorch_s(monkeypatch, border, layout):
    """Within one level on the few places where PyTorch's own rounding differs; also far outside of the picture."""
    torch.manual_seed(0)
    stored = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8).contiguous(memory_format=layout)
    images = stored[:, :, 3:, 5:]
    x, y = (torch.rand(2, 3, 31, 17) * 80 - 15).unbind(0)
    pictures = torch.tensor([1, 0, -1])
    found = sampled(images, x, y, border, pictures)
    monkeypatch.setattr(cpu_sampling, "machine", lambda: None)
    wanted = sampled(images, x, y, border, pictures)
    assert found.stride() == wanted.stride()
    assert (found - wanted).abs().max() <= 1
    assert (found != wanted).float().mean() < 0.01


def test_threads_share_a_program():
    """Each of four threads gets what it gets alone."""
    parts, values = layers()
    program = Program(parts, sizes_of(values), ["points"], MACHINES[2])
    images = [values["image"].roll(k, 3).contiguous(memory_format=torch.channels_last) for k in range(4)] * 25
    wanted = [program.run(image)[0] for image in images[:4]] * 25
    with ThreadPoolExecutor(4) as pool:
        for one, known in zip(pool.map(lambda image: program.run(image)[0], images), wanted, strict=True):
            assert torch.equal(one, known)


def test_threads_begin_together():
    """A network is compiled once, whichever thread comes first."""
    network = GraphNetwork(parse_tflite(branches().file(), "net.tflite"))
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: network._on_a_cpu(), range(4))
    assert all(other is first for other in others)


def test_a_network_that_ran_can_be_copied_and_moved(monkeypatch):
    graph = parse_tflite(branches().file(), "net.tflite")
    images = torch.randn(2, 4, 16, 16)
    network = GraphNetwork(graph)
    wanted = network(images)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for key, value in again(images).items():
            torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    moved = network.float()(images)  # its weights are compiled again
    assert all(value.device.type == "meta" for value in copy.deepcopy(network).to("meta")(images.to("meta")).values())
    monkeypatch.setattr(cpu_program, "machine", lambda: None)
    for key, value in copy.deepcopy(network)(images).items():
        assert not torch.equal(value, wanted[key])
        close(moved[key], value)


@pytest.mark.parametrize("compiles", [True, False])
def test_values_are_freed_after_their_last_use(monkeypatch, compiles):
    """While a layer runs, there is only the memory of its inputs, of what is read later, and of results."""
    if not compiles:
        monkeypatch.setattr(cpu_program, "machine", lambda: None)
    network = GraphNetwork(parse_tflite(branches().file(), "net.tflite"))
    plan = [part for part, _ in network._on_a_cpu()]
    alive: dict[str, weakref.ref[Tensor]] = {}
    turns = iter(range(len(plan)))

    def needless(wanted):
        values = {name: value for name, reference in alive.items() if (value := reference()) is not None}
        used = {value.untyped_storage().data_ptr() for name, value in values.items() if name in wanted}
        return [name for name, value in values.items() if value.untyped_storage().data_ptr() not in used]

    def run_of(kind):
        original = kind.run

        def run(part, *images):
            k = next(turns)
            assert not needless({*network.output_names}.union(*(later.inputs for later in plan[k:])))
            found = original(part, *images)
            alive.update({name: weakref.ref(value) for name, value in zip(part.outputs, found, strict=True)})
            return found

        return run

    for kind in (Part, Program):
        monkeypatch.setattr(kind, "run", run_of(kind))
    found = network(torch.randn(2, 4, 16, 16))
    assert set(found) == set(network.output_names) and next(turns, None) is None
    assert len(alive) > len(network.output_names) and not needless({*network.output_names})


def test_places_and_pictures_that_do_not_fit_are_refused():
    """On a CPU as `grid_sample` refuses them; nothing is read beyond the pictures, nothing is given unwritten."""
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    three, two, one = (torch.ones(count, 4, 4) for count in (3, 2, 1))
    for x, y, pictures, wrong in (
        (one, one, None, "places in each of 2 pictures, got 1"),
        (three, three, None, "places in each of 2 pictures, got 3"),
        (three, three, torch.tensor([0, 1]), r"numbers of 3 pictures, got \[2\]"),
        (one, one, torch.tensor([0, 1]), r"numbers of 1 pictures, got \[2\]"),
        (one, one, torch.tensor([[0]]), r"got \[1, 1\]"),
        (two, two, torch.tensor([True, False]), "got .* of torch.bool"),
        (one, one, torch.tensor([2]), "numbers of 2 pictures, got 2"),
        (two, two, torch.tensor([0, -3]), "numbers of 2 pictures, got -3"),
        (two, two[:, :3], None, r"x and y \[N, rows, columns\]"),
        (two, two.to("meta"), None, "on cpu, got"),
    ):
        with pytest.raises(ValueError, match=wrong):
            sampled(images, x, y, "border", pictures)


class OldLlvm:
    """An llvmlite that imports, and cannot do one thing."""

    def __init__(self, whole: ModuleType, broken: str) -> None:
        self.whole, self.broken = whole, broken

    def __getattr__(self, name: str):
        if name != self.broken:
            return getattr(self.whole, name)
        if name.startswith("create"):
            raise AttributeError(name)

        def refuse(*arguments):
            raise RuntimeError("LLVM IR parsing error")

        return refuse


@pytest.mark.parametrize("broken", ["parse_assembly", "get_host_cpu_features", "create_pass_builder"])
def test_an_older_llvmlite_leaves_the_networks_to_pytorch(broken, monkeypatch):
    import llvmlite.binding

    old = OldLlvm(llvmlite.binding, broken)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", old)
    monkeypatch.setattr(llvmlite, "binding", old)
    for function in (cpu_program._llvm, cpu_program.machine):
        function.cache_clear()
    try:
        assert machine() is None
    finally:
        monkeypatch.undo()
        for function in (cpu_program._llvm, cpu_program.machine):
            function.cache_clear()
