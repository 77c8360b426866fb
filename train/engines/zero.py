"""The engine of many processes: DeepSpeed's ZeRO 0 to 3 under the verbs of `training_engine.Engine`.

Weights, gradients and moments are float32 at every stage, and networks run in half precision by autocast: so all stages
and `PlainEngine` make the same steps. States are whole tensors by name, gathered one by one: what 2 ranks at stage 3
saved, 4 ranks at stage 1 load. At stage 3 a network's weights are whole during a phase and in parts between phases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines import deepspeed_private as private
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import MOMENTS, Engine, Group, State, adam, swapped


@dataclass(frozen=True)
class ZeroConfig:
    """How DeepSpeed shares the work.

    Attributes:
        stage: 0 all ranks hold all; 1 moments, 2 gradients too, 3 weights too are shared out.
        offload: moments and their step on the CPU.
        bucket: elements that are reduced or gathered together.
        overlap: communicate beside the backward pass, on streams of its own. Off until a GPU has shown that it changes
            nothing.
    """

    stage: int = 1
    offload: bool = False
    bucket: int = 50_000_000
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.stage not in range(4):
            raise InputError(f"zero: expected a stage from 0 to 3, got {self.stage}; choose one")
        if self.offload and not self.stage:
            raise InputError("offload: expected a ZeRO stage from 1 to 3 with it, got 0; choose one")


class ZeroEngine(Engine):
    """AdamW over one module on all ranks. See `Engine`.

    Args:
        module: what is trained, with the same weights on every rank.
        zero: how the work is shared.

    Raises: `InputError` where DeepSpeed is not installed.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        config: OptimizerConfig,
        images: int,
        micro_batches: int,
        batch: int,
        zero: ZeroConfig,
        ranks: Ranks,
    ) -> None:
        self._deepspeed = private.load_deepspeed()
        self.zero, self.ranks = zero, ranks
        super().__init__(module, groups, config, images, micro_batches, batch)
        self._named = dict(module.named_parameters())
        self.ema = {name: self._part_of(self._named[name], value) for name, value in self.ema.items()}

    def _make_optimizer(self) -> None:
        trained_ids = {id(p) for p in self._parameters}
        for parameter in self.module.parameters():
            parameter.requires_grad_(id(parameter) in trained_ids)
        optimizer = adam(self.groups, self.config)
        with private.without_scalars(self.module):
            self._engine, self._optimizer, *_ = self._deepspeed.initialize(
                model=self.module, model_parameters=self._parameters, optimizer=optimizer, config=self._settings()
            )
        if self.zero.stage == 3:
            private.remove_module_hooks(self._optimizer)

    def _settings(self) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.zero.stage,
            "reduce_bucket_size": self.zero.bucket,
            "allgather_bucket_size": self.zero.bucket,
            "overlap_comm": self.zero.overlap,
            "contiguous_gradients": True,
        }
        if self.zero.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": self.zero.bucket}
            zero["memory_efficient_linear"] = False  # R1 differentiates twice
        if self.zero.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": self.batch // (self.ranks.size * self.micro_batches),
            "gradient_accumulation_steps": self.micro_batches,
            "gradient_clipping": self.config.max_grad_norm,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }

    def full_params(self) -> AbstractContextManager[None]:
        """See `Engine`."""
        if self.zero.stage < 3:
            return nullcontext()
        return self._deepspeed.zero.GatheredParameters(list(self._named.values()))  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self._check_finite_loss(loss)
        if not self._added:
            private.forget_gradients(self._optimizer, self.zero.stage, self.zero.offload)
        if self._added:
            self._engine.step()  # between two micro-batches it only counts
            if self.zero.stage == 3:
                private.keep_adding_gradients(self._optimizer)
        self._added += 1
        self._engine.backward(loss)

    def step(self, images: int) -> float:
        """See `Engine`."""
        self._added = 0
        lr = self._set_lrs(self._optimizer)
        if not self.zero.stage:
            grads = [p.grad for p in self._named.values() if p.grad is not None]
            if not all(bool(grad.isfinite().all()) for grad in grads):  # reduced: all ranks see the same
                raise FloatingPointError(f"a gradient is not finite after {self.images_seen} images")
        self._engine.step()
        if self.zero.stage and self._optimizer.overflow:  # then it has moved nothing
            raise FloatingPointError(f"a gradient is not finite after {self.images_seen} images")
        if not self.updates:
            self._link_moments()
        self._count_step(self._parts(), images)
        return lr

    @contextmanager
    def ema_in_place(self) -> Iterator[None]:
        """See `Engine`."""
        with swapped(self._parts(), self.ema), self.full_params():
            yield

    def ema_state_dict(self) -> dict[str, Tensor]:
        """See `Engine`."""
        with swapped(self._parts(), self.ema):
            return self._state_of_module()

    def save(self) -> State:
        """See `Engine`."""
        state: State = {"module": self._state_of_module(), **{key: {} for key in MOMENTS}, **self._progress()}
        if self.updates:
            for name, parameter in self._named.items():
                if parameter.requires_grad:
                    for key in MOMENTS:
                        state[key][name] = self._moment(parameter, key).cpu()
        averaged = self.ema_state_dict()
        state["ema"] = {name: averaged[name] for name in self._named}
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
            self.ema[name].copy_(self._part_of(parameter, state["ema"][name]))
        for name, buffer in self.module.named_buffers():
            if name in state["module"]:
                buffer.copy_(state["module"][name])
        for values in self._inner().state.values():
            values["step"] = torch.tensor(float(state["updates"]))
        self._set_progress(state)

    def _inner(self) -> torch.optim.Optimizer:
        """Return the optimizer that holds the moments."""
        return getattr(self._optimizer, "optimizer", self._optimizer)  # type: ignore[no-any-return]

    def _parts(self) -> dict[str, Tensor]:
        """Return what this rank holds of every weight: a part at stage 3, else the whole."""
        return {name: private.partition_of(p) for name, p in self._named.items()}

    def _part_of(self, parameter: Tensor, value: Tensor) -> Tensor:
        """Return what this rank holds of a whole tensor."""
        value = value.detach().to(self.ranks.device)
        if not private.is_partitioned(parameter):
            return value.clone()
        size = private.partition_of(parameter).numel()
        flat = value.new_zeros(size * self.ranks.size)
        flat[: value.numel()] = value.flatten()
        return flat[self.ranks.rank * size : (self.ranks.rank + 1) * size].clone()

    def _state_of_module(self) -> dict[str, Tensor]:
        """Return whole tensors on the CPU, one weight at a time."""
        state = {name: value.detach().cpu().clone() for name, value in self.module.named_buffers()}
        for name, parameter in self._named.items():
            with self._deepspeed.zero.GatheredParameters([parameter]) if self.zero.stage == 3 else nullcontext():
                state[name] = parameter.detach().cpu().clone()
        return {name: state[name] for name in self.module.state_dict() if name in state}

    def _moment(self, parameter: Tensor, key: str) -> Tensor:
        if not self.zero.stage:
            return self._inner().state[parameter][key]
        return self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _set(self, parameter: Tensor, key: str | None, value: Tensor) -> None:
        """Put a whole tensor in the place of a weight, or of one of its moments."""
        value = value.to(self.ranks.device, torch.float32)
        part = self._part_of(parameter, value)
        if key is None:
            private.partition_of(parameter).copy_(part)
            if not self.zero.stage or not parameter.requires_grad:
                return
        utils, keys = self._deepspeed.utils, () if key is None else (key,)
        if not self.zero.stage:
            self._inner().state[parameter][key].copy_(value)
        elif self.zero.stage == 3:  # the whole-tensor form overruns where the size does not divide by the ranks
            put = utils.safe_set_local_optimizer_state if keys else utils.safe_set_local_fp32_param
            put(parameter, part, *keys)
        else:
            put = utils.safe_set_full_optimizer_state if keys else utils.safe_set_full_fp32_param
            put(parameter, value, *keys)

    def _first_moments(self) -> None:
        """Make a step that moves nothing, after which there are moments to be set."""
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        for _ in range(self.micro_batches):
            with self.full_params():
                sums = [p.sum() for p in self._named.values() if p.requires_grad]
                self._engine.backward(torch.stack(sums).sum() * 0.0)
            self._engine.step()
        self._link_moments()

    def _link_moments(self) -> None:
        if self.zero.stage in (1, 2):
            private.link_moments(self._optimizer)
