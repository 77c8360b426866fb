"""Attention on CUDA takes what runs: xFormers is asked by its own flag and by a call, and PyTorch's runs elsewhere.

Tensors are made up (no memory, no device), the choice and the calls are the product's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from triportrait.core.reconstruct import attention
from triportrait.core.reconstruct.attention import Attention, attend, has_xformers

SENTENCE = "No operator found for `memory_efficient_attention_forward` with inputs"


class Stub:
    """In the place of xFormers' one function: it counts calls and refuses what it is told to, as the real one does."""

    def __init__(self, refuses: Callable[..., bool]) -> None:
        self.refuses, self.calls = refuses, list[tuple[Tensor, ...]]()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.calls.append((query, key, value))
        if self.refuses(query):
            raise NotImplementedError(SENTENCE)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch) -> Iterator[None]:
    """No answer of another test, nor of another library."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "xformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    attention.has_xformers.cache_clear()
    attention._runs.clear()
    yield
    attention.has_xformers.cache_clear()
    attention._runs.clear()


@pytest.fixture
def xformers(monkeypatch) -> Callable[..., Stub]:
    """Install a stub; `loaded` is the library's own flag, None where a version has none."""

    def install(refuses: Callable[..., bool] = lambda query: False, loaded: bool | None = True) -> Stub:
        package, ops, cpp_lib = (ModuleType(name) for name in ("xformers", "xformers.ops", "xformers._cpp_lib"))
        stub = Stub(refuses)
        package.__path__ = []  # type: ignore[attr-defined]
        package.ops, ops.memory_efficient_attention = ops, stub  # type: ignore[attr-defined]
        named = {"xformers": package, "xformers.ops": ops}
        if loaded is not None:
            cpp_lib._built_with_cuda = loaded  # type: ignore[attr-defined]
            package._cpp_lib = cpp_lib  # type: ignore[attr-defined]
            named["xformers._cpp_lib"] = cpp_lib
        for name, module in named.items():
            monkeypatch.setitem(sys.modules, name, module)
        return stub

    return install


def on_cuda(width: int = 256, dtype: torch.dtype = torch.float32) -> None:
    """`attend` on made-up tensors on a GPU, as a first picture has them."""
    with FakeTensorMode():
        query = torch.empty(2, 4096, 4, width, device="cuda", dtype=dtype)
        key, value = torch.empty(2, 64, 2, 4, width, device="cuda", dtype=dtype).unbind(2)
        result = attend(query, key, value)
        assert result.shape == (2, 4096, 4 * width)
        assert result.device.type == "cuda"
        assert result.dtype == dtype


@pytest.fixture
def computed(monkeypatch) -> Callable[[bool], None]:
    """Attention of a CPU that is taken for a GPU: gradients are computed."""
    monkeypatch.setattr(attention, "backend_for", lambda *_: "xformers")

    def compute(learns: bool) -> None:
        query, key, value = torch.randn(3, 2, 5, 4, 16, requires_grad=learns)
        result = attend(query, key, value)
        expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        torch.testing.assert_close(result, expected.transpose(1, 2).flatten(2))
        if learns:
            torch.autograd.grad(result.sum(), query)

    return compute


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loaded", [False, None, True])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_library_without_operators_is_not_used(width, loaded, dtype, xformers):
    """The wheel of the index beside a torch of another CUDA: it imports, and every call refuses."""
    stub = xformers(lambda query: True, loaded)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            on_cuda(width, dtype)
    assert len(stub.calls) == (0 if loaded is False else 1), "asked once"
    lines = [str(one.message) for one in warned if one.category is RuntimeWarning]
    assert len(lines) == (loaded is False)
    assert all("does not load" in one for one in lines)


@pytest.mark.parametrize(
    "error", [ImportError("libcudart.so.12: cannot open"), OSError("no"), AttributeError("x"), RuntimeError("\n y")]
)
def test_a_library_whose_import_fails_is_not_used(error, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "xformers":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.warns(RuntimeWarning, match=r"^xFormers is installed but does not load \("):
        assert not has_xformers()
    on_cuda()


def test_none_at_all_is_no_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not has_xformers()
    on_cuda()


@pytest.mark.parametrize("loaded", [True, None])
@pytest.mark.parametrize("learns", [False, True])
def test_a_library_that_runs_is_used(loaded, learns, xformers, computed):
    stub = xformers(loaded=loaded)
    computed(learns)
    assert [len(call[0]) for call in stub.calls] == [1, 2], "asked with one image, then used on both"
    computed(learns)
    assert [len(call[0]) for call in stub.calls] == [1, 2, 2], "asked once"


def test_a_library_that_runs_is_used_on_a_gpu(xformers):
    stub = xformers()
    on_cuda()
    assert [len(call[0]) for call in stub.calls] == [1, 2]


def test_each_width_and_dtype_is_asked_by_itself(xformers):
    stub = xformers(lambda query: query.shape[-1] > 128 or query.dtype == torch.float32)
    for width, dtype, used in (
        (128, torch.bfloat16, True), (128, torch.float32, False), (256, torch.bfloat16, False),
        (64, torch.float16, True),
    ):  # fmt: skip
        stub.calls.clear()
        on_cuda(width, dtype)
        assert (2 in [len(call[0]) for call in stub.calls]) == used, (width, dtype)


def test_a_library_without_a_backward_serves_and_does_not_train(xformers, computed):
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, d_out):
            raise NotImplementedError(SENTENCE.replace("forward", "backward"))

    stub = xformers()
    plain = stub.__call__
    sys.modules["xformers.ops"].memory_efficient_attention = lambda q, k, v: OneWay.apply(plain(q, k, v))
    computed(True)
    assert [len(call[0]) for call in stub.calls] == [1]
    computed(False)
    assert [len(call[0]) for call in stub.calls] == [1, 1, 2]


def test_what_it_raises_in_the_work_itself_is_raised(xformers):
    stub = xformers()
    on_cuda()
    stub.refuses = lambda query: True
    with pytest.raises(NotImplementedError):
        on_cuda()


def test_no_memory_is_no_answer(xformers):
    def full(query):
        raise torch.OutOfMemoryError("no memory")

    xformers(full)
    with pytest.raises(torch.OutOfMemoryError):
        on_cuda()
    assert not attention._runs


def test_wide_heads_reach_what_runs(xformers):
    """Beside made-up tensors Triton cannot launch: PyTorch's attention runs."""
    xformers(lambda query: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        on_cuda(512, torch.bfloat16)
        on_cuda(512, torch.float32)


def test_asking_inside_a_checkpoint_leaves_its_books_alone(xformers, monkeypatch):
    """A checkpoint counts what is saved in it; the call that asks is not made when all is computed again."""
    xformers()
    monkeypatch.setattr(attention, "backend_for", lambda *_: "xformers")
    module, tokens = Attention(8, 2), torch.randn(2, 5, 8, requires_grad=True)
    expected = torch.autograd.grad(module(tokens).square().sum(), tokens)[0]
    attention._runs.clear()
    again = checkpoint(module, tokens, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), tokens)[0], expected)
