"""Which backend runs, and sentences for what cannot."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels import dispatch, trial_launch
from triportrait.kernels.dispatch import BackendUnavailable, backend, runs_triton, same_dtype, use_backend

X = torch.zeros(2)


def test_auto_takes_the_definition_on_a_cpu(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    assert backend() == "auto"
    assert not runs_triton(x=X)


def test_a_name_wins_over_the_environment_and_ends_with_its_block(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    with use_backend("triton"):
        assert backend() == "triton"
        assert runs_triton(x=X)
        with use_backend("reference"):
            assert not runs_triton(x=X)
        assert runs_triton(x=X)
    assert backend() == "reference"


@pytest.mark.parametrize("name", ["cuda", "", "Triton"])
def test_unknown_names_are_refused(name, monkeypatch):
    sentence = f"expected one of auto, triton, reference, got {name!r}; choose one"
    with pytest.raises(ValueError, match=f"^backend: {sentence}"), use_backend(name):
        pass
    monkeypatch.setenv(dispatch.VARIABLE, name)
    with pytest.raises(ValueError, match=rf"^\$TRIPORTRAIT_BACKEND: {sentence}"):
        runs_triton(x=X)


class OnGpu:
    """A tensor as far as dispatch looks."""

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)


@pytest.fixture
def capability(monkeypatch):
    def set_to(major: int, minor: int) -> None:
        monkeypatch.setattr(dispatch, "_capability", lambda device: (major, minor))
        monkeypatch.setattr(dispatch, "can_launch", lambda device: True)

    return set_to


@pytest.mark.parametrize("major, minor, runs", [(7, 5, False), (8, 0, True), (8, 9, True), (9, 0, True), (12, 0, True)])
def test_gpus_from_8_0_run_kernels(major, minor, runs, capability):
    capability(major, minor)
    assert runs_triton(x=OnGpu()) == runs  # type: ignore[arg-type]
    with use_backend("triton"):
        if runs:
            assert runs_triton(x=OnGpu())  # type: ignore[arg-type]
        else:
            with pytest.raises(
                BackendUnavailable, match=r"expected compute capability 8\.0 or more, x is on one of 7\.5"
            ):
                runs_triton(x=OnGpu())  # type: ignore[arg-type]


def test_auto_asks_whether_a_kernel_launches(capability, monkeypatch):
    """Triton is found on many a machine that has no C compiler for its first launch."""
    capability(9, 0)
    monkeypatch.setattr(dispatch, "can_launch", trial_launch.can_launch)
    trial_launch.can_launch.cache_clear()
    monkeypatch.setattr(trial_launch.torch, "empty", lambda *_, **__: X)

    class Kernel:
        def __getitem__(self, grid):
            raise RuntimeError("\nFailed to find C compiler. Please specify via CC environment variable.\n")

    monkeypatch.setattr(trial_launch, "write_one", Kernel())
    with pytest.warns(RuntimeWarning, match="launches nothing on cuda:0 .Failed to find C compiler"):
        assert not runs_triton(x=OnGpu())  # type: ignore[arg-type]
    assert not runs_triton(x=OnGpu())  # type: ignore[arg-type]
    with use_backend("triton"):
        assert runs_triton(x=OnGpu())  # type: ignore[arg-type]
    trial_launch.can_launch.cache_clear()


def test_the_launch_that_asks_is_a_kernel():
    """Interpreted here; on a GPU it is compiled."""
    out = torch.zeros(1)
    trial_launch.write_one[(1,)](out)
    assert out == 1


def test_two_devices_are_refused(capability):
    capability(9, 0)
    with pytest.raises(ValueError, match=r"^b: expected on cuda:0 as a is, got cuda:1; move it there"):
        runs_triton(a=OnGpu(0), b=OnGpu(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^b: expected on cuda:0 as a is, got cpu; move it there"):
        runs_triton(a=OnGpu(0), c=None, b=X)  # type: ignore[arg-type]


def test_dtypes_are_compared_by_name():
    assert same_dtype(a=X, b=None, c=X) == torch.float32
    with pytest.raises(ValueError, match=r"^c: expected torch\.float32 as a has, got torch\.float16; convert it"):
        same_dtype(a=X, c=X.half())
