"""Plain values, arrays and tensors come back from every format bit for bit."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.core import pickles
from triportrait.core.errors import InputError
from triportrait.core.published.unpickle import Global, Record, read_pickle

SHARED = torch.arange(24.0).reshape(4, 6)
TENSORS: dict[str, Tensor] = {
    "float32": torch.randn(3, 4),
    "float64": torch.randn(2, 2, dtype=torch.float64),
    "float16": torch.randn(5).half(),
    "bfloat16": torch.randn(5).to(torch.bfloat16),
    "int64": torch.tensor([2**62, -1]),
    "int32": torch.arange(4, dtype=torch.int32),
    "int16": torch.arange(4, dtype=torch.int16),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([[True], [False]]),
    "complex64": torch.randn(2, dtype=torch.complex64),
    "complex128": torch.randn(2, dtype=torch.complex128),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 7),
    "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    "shared whole": SHARED,
    "shared again": SHARED.view(24),
    "shared column": SHARED[:, 2],
    "shared part": SHARED[1:3, 2:5],
    "turned": SHARED.t(),
    "expanded": torch.full((1,), 2.5).expand(5),
    "expanded rows": SHARED[1].expand(3, 2, 6),
    "overlapping": SHARED.as_strided((5, 4), (2, 1)),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}
PLAIN: dict[str, Any] = {
    "numbers": [0, -1, 255, 65536, -(2**31), 2**63, -(2**80), 1.5, -0.0, True, False, None],
    "texts": ["", "a", "naïve ☃ 🎭", "x" * 300, "line\nbreak", "\x80\xff"],
    "bytes": [b"", b"\x00\xff", b"y" * 300],
    "nested": ({"a": [1, (2, (3,))]}, (), [], {}),
    "sets": [set(), {1, 2}, frozenset({"a", "b"})],
    "complex": 1 + 2j,
    "ordered": OrderedDict(b=1, a=2),
    "size": torch.Size([2, 3]),
    "buffer": bytearray(b"abc"),
}
ARRAYS = {
    "float64": np.arange(6.0).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "uint32": np.array([2**32 - 1], np.uint32),
    "bool": np.array([[True, False]]),
    "scalar array": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "view": np.arange(20.0).reshape(4, 5)[::2, 1::2],
}


def read(path: Path, data: bytes) -> Any:
    path.write_bytes(data)
    return read_pickle(path)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def check_tensors(result: dict[str, Any], expected: dict[str, Tensor]) -> None:
    assert list(result) == list(expected)
    for name, tensor in expected.items():
        value = result[name]
        if tensor.dtype == torch.bfloat16:  # numpy has no such numbers
            assert value.dtype == tensor.dtype
            value, tensor = value.view(torch.int16), tensor.view(torch.int16)
        assert same_bits(value, tensor.contiguous()), name
        assert value.is_contiguous()
        assert value.device.type == "cpu"
        assert not value.requires_grad
    pointers = [value.data_ptr() for value in result.values() if value.numel()]
    assert len(set(pointers)) == len(pointers), "two tensors share memory"


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_in_a_pickle(tmp_path: Path, protocol: int) -> None:
    check_tensors(read(tmp_path / "x.pkl", pickle.dumps(TENSORS, protocol)), TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_in_a_checkpoint(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path = tmp_path / "x.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    check_tensors(read_pickle(path), TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_with_its_metadata(tmp_path: Path, zipped: bool) -> None:
    path, module = tmp_path / "x.pth", nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped)
    check_tensors(read_pickle(path), module.state_dict())


def test_a_parameter_is_a_tensor(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(3))
    check_tensors(read(tmp_path / "x.pkl", pickle.dumps({"w": weight})), {"w": weight.detach()})


@pytest.mark.parametrize("stored", [torch.randn(2, dtype=torch.complex64).conj(), torch._neg_view(torch.ones(2))])
def test_a_tensor_to_be_conjugated_or_negated_is_refused(tmp_path: Path, stored: Tensor) -> None:
    with pytest.raises(InputError, match="a tensor that is stored conjugated or negated; save it resolved"):
        read(tmp_path / "x.pkl", pickle.dumps({"w": stored}))
    assert read(tmp_path / "x.pkl", pickle.dumps(stored.resolve_conj().resolve_neg())).shape == (2,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values(tmp_path: Path, name: str, protocol: int) -> None:
    value = read(tmp_path / "x.pkl", pickle.dumps([PLAIN[name]], protocol))[0]
    assert value == PLAIN[name]
    assert repr(value)[:3] != "Rec"
    if name == "ordered":
        assert list(value) == ["b", "a"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path: Path, name: str, protocol: int) -> None:
    array = ARRAYS[name]
    value = read(tmp_path / "x.pkl", pickle.dumps([array], protocol))[0]
    assert type(value) is np.ndarray
    assert value.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_numpy_numbers_are_plain(tmp_path: Path, protocol: int) -> None:
    value = read(tmp_path / "x.pkl", pickle.dumps([np.float32(0.5), np.int64(-3), np.bool_(True)], protocol))
    assert value == [0.5, -3, True]
    assert [type(item) for item in value] == [float, int, bool]


@pytest.mark.parametrize("protocol", range(6))
def test_values_that_contain_themselves(tmp_path: Path, protocol: int) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    value = read(tmp_path / "x.pkl", pickle.dumps(loop, protocol))
    assert value[0] == 1
    assert value[1] is value


@pytest.mark.parametrize("protocol", range(6))
def test_foreign_objects_are_records(tmp_path: Path, protocol: int) -> None:
    thing = pickles.named("models.FLAME", "Config")()
    thing.__dict__.update(scale=3, kind=pickles.named("models.FLAME", "Kind"))
    value = read(tmp_path / "x.pkl", pickles.dump([thing, torch.float16, nn.ReLU], protocol))
    assert type(value[0]) is Record
    assert value[0].kind == "models.FLAME.Config"
    assert value[0].state == {"scale": 3, "kind": Global("models.FLAME.Kind")}
    assert value[1] is torch.float16
    assert value[2] == Global("torch.nn.modules.activation.ReLU")


@pytest.mark.parametrize("protocol", range(6))
def test_dicts_and_lists_of_foreign_classes(tmp_path: Path, protocol: int) -> None:
    items = pickles.named("models.FLAME", "Items", list)([1, 2])
    value = read(tmp_path / "x.pkl", pickles.dump([pickles.EasyDict(a=1), items], protocol))
    assert value[0].entries == {"a": 1}
    assert value[1].elements == [1, 2]


def test_python_2_text_is_latin_1(tmp_path: Path) -> None:
    assert read(tmp_path / "x.pkl", b"(lp0\nS'\\xff\\'q'\np1\naU\x02\xe9aa.") == ["\xff'q", "éa"]


def test_old_opcodes(tmp_path: Path) -> None:
    body = b"(" + pickles.integer(1) + b"0" + b"(NN1" + b"(" + pickles.name("models.a", "B") + b"K\x02o2t"
    value = read(tmp_path / "x.pkl", pickles.finish(body))
    assert [(part.kind, part.args) for part in value] == [("models.a.B", (2,))] * 2
    assert value[0] is value[1]
    instance = read(tmp_path / "x.pkl", b"(K\x05imodels.a\nB\n.")
    assert (instance.kind, instance.args) == ("models.a.B", (5,))


def test_a_new_object_with_keywords(tmp_path: Path) -> None:
    body = pickles.name("models.a", "B") + b"(K\x01t}" + pickles.text("k") + b"K\x02s\x92"
    value = read(tmp_path / "x.pkl", pickles.finish(body))
    assert (value.kind, value.args, value.keywords) == ("models.a.B", (1,), {"k": 2})


def test_old_archives_of_torch_inside_of_a_pickle(tmp_path: Path) -> None:
    data = torch.arange(4.0).numpy().tobytes()
    body = pickles.tensor((2, 2), (2, 1), 0, pickles.storage_archive(data=data))
    value = read(tmp_path / "x.pkl", pickles.finish(body))
    assert same_bits(value, torch.arange(4.0).reshape(2, 2))


def test_an_object_with_a_module_in_an_old_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save(nn.Linear(2, 3), file, _use_new_zipfile_serialization=False)
    value = read(tmp_path / "x.pth", file.getvalue())
    assert value.kind == "torch.nn.modules.linear.Linear"
    assert value.state["_parameters"]["weight"].shape == (3, 2)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl: expected a weights file, cannot read it \(No such file"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(InputError, match="Is a directory"):
        read_pickle(tmp_path)
