"""What every test of a kernel sees: memory that was forgotten, and products rounded as a GPU rounds them.

Triton's interpreter is spared what it does again and again.
"""

from __future__ import annotations

import dataclasses
import importlib
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch

with torch.device("cpu"):  # PyTorch lists its constructors when it is first asked to; later it would list those below
    torch.empty(0)


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan(monkeypatch):
    """An element that a kernel forgets to write is seen."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        constructor = getattr(owner, name)

        def filled(*args, constructor=constructor, **kwargs):
            x = constructor(*args, **kwargs)
            return x.fill_(float("nan")) if x.is_floating_point() else x.fill_(-(2**31))

        monkeypatch.setattr(owner, name, filled)


@pytest.fixture(autouse=True)
def tf32_products_are_rounded(monkeypatch):
    """Triton's interpreter multiplies TF32 operands as float32; tensor cores see 10 bits of them.

    Returns a function that ends it.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    exact = builder.create_dot

    def rounded(x):
        if x.data.dtype != np.float32:
            return x
        bits = np.ascontiguousarray(x.data).view(np.uint32)
        bits = np.where(np.isfinite(x.data), bits + np.uint32(0x1000), bits) & np.uint32(0xFFFFE000)
        return handle(bits.view(np.float32), x.dtype)

    def dot(self, a, b, d, precision, *others):
        if "TF32" in str(precision):
            a, b = rounded(a), rounded(b)
        return exact(self, a, b, d, precision, *others)

    monkeypatch.setattr(builder, "create_dot", dot)
    return lambda: monkeypatch.setattr(builder, "create_dot", exact)


def _interpreter() -> ModuleType | None:
    """Triton's interpreter; None where there is no Triton: tests that need none run all the same."""
    return importlib.import_module("triton.runtime.interpreter") if find_spec("triton") else None


@pytest.fixture(autouse=True)
def no_overflow_is_sought_that_nobody_is_told(monkeypatch):
    """A third of the interpreter's time: it widens every sum of integers, and asserts what it ignores but for debug."""
    if (interpreter := _interpreter()) is None:
        return
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))


@pytest.fixture(autouse=True)
def the_language_is_patched_once_a_launch(monkeypatch):
    """Triton's interpreter replaces its language's functions at each call of a device function, a fifth of the time."""
    if (interpreter := _interpreter()) is None:
        return
    launch, patched = interpreter.GridExecutor.__call__, set()

    def launched(self, *args, **kwargs):
        patched.clear()  # what a launch replaced is put back at its end
        return launch(self, *args, **kwargs)

    def called(self, *args, **kwargs):
        module = id(self.fn.__globals__)
        if module not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(module)
        return self.rewrite()(*args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", called)


@pytest.fixture
def rows_are_multiplied_alike(monkeypatch):
    """NumPy's products round a row by where it stands in its tile; those of tensor cores do not."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def dot(self, a, b, d, precision, *others):
        product = np.einsum("ij,jk->ik", a.data, b.data, dtype=d.data.dtype)
        return handle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(builder, "create_dot", dot)
