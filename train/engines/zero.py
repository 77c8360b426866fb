"""The engine of many processes: DeepSpeed's ZeRO 0 to 3 under the verbs of `engine.Engine`.

Weights, gradients and moments are float32 at every stage, and networks run in half precision by autocast: so all stages
and `PlainEngine` make the same steps. States are whole tensors by name, gathered one by one: what 2 ranks at stage 3
saved, 4 ranks at stage 1 load. At stage 3 a network's weights are whole during a phase and in parts between phases.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.libraries import install, reason
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.engine import (
    MOMENTS,
    Group,
    State,
    adam,
    clean_gradients,
    counts,
    follow,
    refuse_infinite,
    set_counts,
    set_rates,
    swapped,
)
from triportrait.train.engines.ranks import Ranks


@dataclass(frozen=True)
class ZeroConfig:
    """How DeepSpeed shares the work.

    Attributes:
        stage: 0 all ranks hold all; 1 moments, 2 gradients too, 3 weights too are shared out.
        offload: moments and their step on the CPU.
        bucket: elements that are reduced or gathered together.
    """

    stage: int = 1
    offload: bool = False
    bucket: int = 50_000_000

    def __post_init__(self) -> None:
        if self.stage not in range(4):
            raise InputError(f"zero: expected a stage from 0 to 3, got {self.stage}; choose one")
        if self.offload and not self.stage:
            raise InputError("offload: expected a ZeRO stage from 1 to 3 with it, got 0; choose one")


class ZeroEngine:
    """AdamW over one module on all ranks. See `Engine`.

    Args:
        module: what is trained, with the same weights on every rank.
        groups: its parameters by rate; what is in no group stays as it is.
        config, images, micros, batch: as for `PlainEngine`; micros are those of one rank.
        zero: how the work is shared.

    Raises: `InputError` where DeepSpeed is not installed.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        config: OptimizerConfig,
        images: int,
        micros: int,
        batch: int,
        zero: ZeroConfig,
        ranks: Ranks,
    ) -> None:
        deepspeed = _deepspeed()
        self.module, self.config, self.images, self.micros, self.batch = module, config, images, micros, batch
        self.zero, self.ranks, self.groups = zero, ranks, groups
        trained = [p for g in groups for p in g.parameters]
        inside = {id(p) for p in trained}
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in inside)
        average = {name: p.detach().clone() for name, p in module.named_parameters()}  # before stage 3 takes them apart
        with _no_scalars(module):
            self._engine, self._optimizer, *_ = deepspeed.initialize(
                model=module, model_parameters=trained, optimizer=adam(groups, config), config=self._settings()
            )
        if zero.stage == 3:  # the layers' hooks let weights go that methods of the whole, and R1, still use
            self._optimizer.parameter_offload._remove_module_hooks()
        if config.clean:
            clean_gradients(trained)
        self._named = dict(module.named_parameters())
        self.average = {name: self._own_part(self._named[name], value) for name, value in average.items()}
        self.images_seen, self.steps, self.updates, self._added = 0, 0, 0, 0
        self.rates: dict[str, float] = {}

    def _settings(self) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.zero.stage,
            "reduce_bucket_size": self.zero.bucket,
            "allgather_bucket_size": self.zero.bucket,
            "overlap_comm": self.ranks.device.type == "cuda",
            "contiguous_gradients": True,
        }
        if self.zero.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": self.zero.bucket}
            zero["memory_efficient_linear"] = False  # R1 differentiates twice
        if self.zero.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": self.batch // (self.ranks.size * self.micros),
            "gradient_accumulation_steps": self.micros,
            "gradient_clipping": self.config.clip,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }

    @contextmanager
    def working(self) -> Iterator[None]:
        """See `Engine`."""
        with self._gathered():
            yield

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        refuse_infinite(loss, self)
        if not self._added:
            self._forget_gradients()
        if self._added:
            self._engine.step()  # between two micro-batches it only counts
            if self.zero.stage == 3:  # else, as no forward pass goes through the engine, it would not add them up
                self._optimizer.clear_backward_seen_flag()
        self._added += 1
        self._engine.backward(loss)

    def step(self, images: int) -> float:
        """See `Engine`."""
        self._added = 0
        rate = set_rates(self._optimizer, self.groups, self)
        if not self.zero.stage:
            grads = [p.grad for p in self._named.values() if p.grad is not None]
            if not all(bool(grad.isfinite().all()) for grad in grads):  # reduced: all ranks see the same
                raise FloatingPointError(f"a gradient is not finite after {self.images_seen} images")
        self._engine.step()
        if self.zero.stage and self._optimizer.overflow:  # then it has moved nothing
            raise FloatingPointError(f"a gradient is not finite after {self.images_seen} images")
        if not self.updates:
            self._link_moments()
        self.updates += 1
        if images:
            follow(self.average, self._parts(), self)
            self.images_seen += images
            self.steps += 1
        return rate

    @contextmanager
    def averaged_in_place(self) -> Iterator[None]:
        """See `Engine`."""
        with swapped(self._parts(), self.average), self._gathered():
            yield

    def averaged(self) -> dict[str, Tensor]:
        """See `Engine`."""
        with swapped(self._parts(), self.average):
            return self._state_of_module()

    def save(self) -> State:
        """See `Engine`."""
        state: State = {"module": self._state_of_module(), **{key: {} for key in MOMENTS}, **counts(self)}
        if self.updates:
            for name, parameter in self._named.items():
                if parameter.requires_grad:
                    for key in MOMENTS:
                        state[key][name] = self._moment(parameter, key).cpu()
        averaged = self.averaged()
        state["average"] = {name: averaged[name] for name in self._named}
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        if state["updates"]:
            self._first_moments()
        for name, parameter in self._named.items():
            self._set(parameter, None, state["module"][name])
            if parameter.requires_grad and state["updates"]:
                for key in MOMENTS:
                    self._set(parameter, key, state[key][name])
            self.average[name].copy_(self._own_part(parameter, state["average"][name]))
        for name, buffer in self.module.named_buffers():
            if name in state["module"]:
                buffer.copy_(state["module"][name])
        for values in self._inner().state.values():
            values["step"] = torch.tensor(float(state["updates"]))
        set_counts(self, state)

    def _inner(self) -> torch.optim.Optimizer:
        """The optimizer that holds the moments."""
        return getattr(self._optimizer, "optimizer", self._optimizer)  # type: ignore[no-any-return]

    def _parts(self) -> dict[str, Tensor]:
        """What this rank holds of every weight: a part at stage 3, else the whole."""
        return {name: p.ds_tensor if hasattr(p, "ds_tensor") else p for name, p in self._named.items()}

    def _own_part(self, parameter: Tensor, value: Tensor) -> Tensor:
        """What this rank holds of a whole tensor."""
        value = value.detach().to(self.ranks.device)
        if not hasattr(parameter, "ds_tensor"):
            return value.clone()
        size = parameter.ds_tensor.numel()
        flat = value.new_zeros(size * self.ranks.size)
        flat[: value.numel()] = value.flatten()
        return flat[self.ranks.rank * size : (self.ranks.rank + 1) * size].clone()

    def _gathered(self) -> Any:
        if self.zero.stage < 3:
            return nullcontext()
        return _deepspeed().zero.GatheredParameters(list(self._named.values()))

    def _state_of_module(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, one weight at a time."""
        state = {name: value.detach().cpu().clone() for name, value in self.module.named_buffers()}
        for name, parameter in self._named.items():
            with _deepspeed().zero.GatheredParameters([parameter]) if self.zero.stage == 3 else nullcontext():
                state[name] = parameter.detach().cpu().clone()
        return {name: state[name] for name in self._state_names() if name in state}

    def _state_names(self) -> list[str]:
        return list(self.module.state_dict().keys())

    def _moment(self, parameter: Tensor, key: str) -> Tensor:
        if not self.zero.stage:
            return self._inner().state[parameter][key]
        return _deepspeed().utils.safe_get_full_optimizer_state(parameter, key)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _set(self, parameter: Tensor, key: str | None, value: Tensor) -> None:
        """Put a whole tensor in the place of a weight, or of one of its moments."""
        value = value.to(self.ranks.device, torch.float32)
        part = self._own_part(parameter, value)
        if key is None:
            self._parts_of(parameter).copy_(part)
            if not self.zero.stage or not parameter.requires_grad:
                return
        utils, known = _deepspeed().utils, () if key is None else (key,)
        if not self.zero.stage:
            self._inner().state[parameter][key].copy_(value)
        elif self.zero.stage == 3:  # the whole-tensor form overruns where the size does not divide by the ranks
            put = utils.safe_set_local_optimizer_state if known else utils.safe_set_local_fp32_param
            put(parameter, part, *known)
        else:
            put = utils.safe_set_full_optimizer_state if known else utils.safe_set_full_fp32_param
            put(parameter, value, *known)

    def _parts_of(self, parameter: Tensor) -> Tensor:
        return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter

    def _first_moments(self) -> None:
        """A step that moves nothing, after which there are moments to be set."""
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        for _ in range(self.micros):
            with self._gathered():
                sums = [p.sum() for p in self._named.values() if p.requires_grad]
                self._engine.backward(torch.stack(sums).sum() * 0.0)
            self._engine.step()
        self._link_moments()

    def _forget_gradients(self) -> None:
        """Stage 3, and moments on the CPU, keep the last gradient of a weight that a loss does not reach, and would
        step along it again."""
        if self.zero.stage == 3:
            self._optimizer.grad_partitions_flat_buffer.zero_()
        if self.zero.offload:
            three = self.zero.stage == 3
            parts = "fp32_partitioned_groups_flat" if three else "single_partition_of_fp32_groups"
            for flat in getattr(self._optimizer, parts):
                if flat.grad is not None:
                    flat.grad.zero_()

    def _link_moments(self) -> None:
        """DeepSpeed 0.19.8 links the moments of the first group only, as it does so when that one has moved."""
        if self.zero.stage in (1, 2):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


@contextmanager
def _no_scalars(module: nn.Module) -> Iterator[None]:
    """DeepSpeed 0.19.8 cannot send a weight without dimensions to the other ranks; it has one until it has begun.

    Such a weight can be in no group.
    """
    scalars = [p for p in module.parameters() if p.dim() == 0]
    for parameter in scalars:
        parameter.data = parameter.data.reshape(1)
    yield
    for parameter in scalars:
        if hasattr(parameter, "ds_shape"):
            parameter.ds_shape = torch.Size(())
        else:
            parameter.data = parameter.data.reshape(())


def _deepspeed() -> Any:
    """DeepSpeed, quiet, and without the extension that it would build at its first start.

    Raises: `InputError` where it is missing.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
        import deepspeed
        import deepspeed.ops
    except Exception as error:  # it ends with kinds of its own where it lacks a compiler or a newer torch
        raise InputError(
            f"deepspeed: expected it where training runs on several processes, it {reason(error, 'deepspeed')}; "
            f"{install('train')}"
        ) from error
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    return deepspeed
