"""The engine against AdamW run by hand; what it saves, what it refuses."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from tests.train.little import copied, same
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.schedule import ema_decay_at, learning_rate
from triportrait.train.engines.training_engine import Group, PlainEngine

CONFIG = OptimizerConfig(lr=0.05, warmup=8, weight_decay=0.1, max_grad_norm=0.5, ema_decay=0.6, betas=(0.8, 0.95))
IMAGES, BATCH = 40, 4


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def two_groups(module: nn.Sequential, config: OptimizerConfig = CONFIG) -> PlainEngine:
    groups = [Group(list(module[0].parameters())), Group(list(module[2].parameters()), 2.5)]
    return PlainEngine(module, groups, config, IMAGES)


def loss_of(module: nn.Module, step: int, scale: float = 1.0) -> Tensor:
    x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))
    return scale * (module(x) - x[:, :1].sin()).square().mean()


def run(engine: PlainEngine, first: int, last: int) -> list[float]:
    rates = []
    for step in range(first, last):
        engine.backward(loss_of(engine.module, step))
        rates.append(engine.step(BATCH))
    return rates


def test_steps_are_those_of_adamw_and_each_group_has_its_factor():
    module, other = network(), network()
    engine, rates = two_groups(module), []
    optimizer = torch.optim.AdamW(
        [{"params": other[0].parameters()}, {"params": other[2].parameters()}], betas=(0.8, 0.95), weight_decay=0.1
    )
    for step in range(6):
        rates.append(learning_rate(CONFIG, BATCH * step, IMAGES))
        for group, factor in zip(optimizer.param_groups, (1.0, 2.5), strict=True):
            group["lr"] = rates[-1] * factor
        optimizer.zero_grad()
        loss_of(other, step).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    assert run(engine, 0, 6) == rates
    assert len(set(rates)) == 6
    assert same(module.state_dict(), other.state_dict())
    assert not same(module.state_dict(), network().state_dict())
    assert (engine.steps, engine.images_seen) == (6, 24)


def test_the_first_step_by_hand():
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    engine = PlainEngine(module, [Group([module.weight], 2.0)], OptimizerConfig(lr=0.1, warmup=0, weight_decay=0.5), 10)
    engine.backward((module.weight * torch.tensor([[0.3, -0.2]])).sum())
    assert engine.step(1) == 0.1
    # the rate is 0.2: a tenth is lost to the decay, and Adam's first step is the sign of the gradient
    torch.testing.assert_close(module.weight.detach(), torch.tensor([[0.9 - 0.2, 0.9 + 0.2]]))


@pytest.mark.parametrize("scale, clipped", [(1000.0, True), (1e-3, False)])
def test_the_gradient_of_all_groups_together_is_clipped(scale, clipped):
    module, other = network(), network()
    engine = two_groups(module)
    engine.backward(loss_of(module, 0, scale))
    engine.step(BATCH)
    loss_of(other, 0, scale).backward()
    whole = torch.cat([p.grad.flatten() for p in other.parameters()])
    wanted = whole * (0.5 / whole.norm()) if clipped else whole
    found = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_gradients_do_not_add_up_over_steps():
    module = network()
    engine = two_groups(module)
    engine.backward(loss_of(module, 0))
    first = module[0].weight.grad.clone()
    engine.backward(loss_of(module, 0))
    assert torch.equal(module[0].weight.grad, first)


def test_the_average_by_hand():
    module = network()
    engine, average = two_groups(module), copied(module)
    for step in range(8):
        run(engine, step, step + 1)
        old = ema_decay_at(CONFIG, step)
        average = {name: old * average[name] + (1 - old) * p.detach() for name, p in module.named_parameters()}
    averaged = engine.ema_state_dict()
    assert averaged.keys() == average.keys()
    for name, value in averaged.items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, module.state_dict()[name])


def test_what_is_in_no_group_stays():
    module = network()
    before = copied(module)
    module.register_buffer("mean", torch.tensor(3.0))
    engine = PlainEngine(module, [Group(list(module[2].parameters()))], CONFIG, IMAGES)
    run(engine, 0, 3)
    after = engine.ema_state_dict()
    for name, value in before.items():
        moved = name.startswith("2.")
        assert torch.equal(module.state_dict()[name], value) != moved
        assert torch.equal(after[name], value) != moved
    assert after["mean"] == 3, "what is no parameter is not averaged"


def test_a_saved_engine_goes_on_bit_by_bit():
    engine = two_groups(network())
    run(engine, 0, 3)
    file = io.BytesIO()
    torch.save(engine.save(), file)
    rates = run(engine, 3, 7)
    other = two_groups(network(seed=1))
    run(other, 20, 22)  # other weights, moments and counts
    file.seek(0)
    other.load(torch.load(file, weights_only=True))
    assert (other.steps, other.images_seen) == (3, 12)
    assert run(other, 3, 7) == rates
    assert same(other.module.state_dict(), engine.module.state_dict())
    assert same(other.ema_state_dict(), engine.ema_state_dict())


def test_a_state_does_not_follow_the_engine_that_loaded_it():
    engine, other = two_groups(network()), two_groups(network(seed=1))
    run(engine, 0, 2)
    wanted = copied(engine.module), {name: value.clone() for name, value in engine.ema_state_dict().items()}
    other.load(engine.save())
    run(other, 2, 4)
    assert same(engine.module.state_dict(), wanted[0])
    assert same(engine.ema_state_dict(), wanted[1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused_and_nothing_moves(value):
    engine, other = two_groups(network()), two_groups(network())
    run(engine, 0, 2)
    run(other, 0, 2)
    with pytest.raises(FloatingPointError, match="after 8 images"):
        engine.backward(loss_of(engine.module, 2) + value)
    assert (engine.steps, engine.images_seen) == (2, 8)
    assert same(engine.module.state_dict(), other.module.state_dict())
    assert same(engine.ema_state_dict(), other.ema_state_dict())
    assert run(engine, 2, 4) == run(other, 2, 4)
    assert same(engine.module.state_dict(), other.module.state_dict())


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves():
    """A root at nought: the loss is 0, its slope is not."""
    engine = two_groups(network())
    run(engine, 0, 2)
    module, average = copied(engine.module), {name: value.clone() for name, value in engine.ema_state_dict().items()}
    with pytest.raises(FloatingPointError):
        engine.backward((engine.module(torch.ones(1, 4)) * 0).sum().sqrt())
        engine.step(BATCH)
    assert same(engine.module.state_dict(), module)
    assert same(engine.ema_state_dict(), average)
    assert (engine.steps, engine.images_seen) == (2, 8)
