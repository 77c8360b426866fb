"""Rates and ema_decay_at, by hand."""

from __future__ import annotations

import pytest

from triportrait.train.config import LossConfig, OptimizerConfig, ScheduleConfig
from triportrait.train.engines.schedule import ActiveTerms, active_terms, ema_decay_at, lazy_corrected, learning_rate
from triportrait.train.jobs.show_schedule import shown_schedule
from triportrait.train.presets import PRESETS, STAGE_PRESETS

CONFIG = OptimizerConfig(lr=2.0, final_lr_ratio=0.1, warmup=9, ema_decay=0.75)


@pytest.mark.parametrize(
    "seen, rate",
    [(0, 0.2), (4, 1.0), (8, 1.8), (9, 2.0), (34, 1.736396), (59, 1.1), (84, 0.463604), (109, 0.2), (500, 0.2)],
)
def test_a_straight_warm_up_and_half_a_cosine(seen, rate):
    assert learning_rate(CONFIG, seen, 109) == pytest.approx(rate, rel=1e-6)


def test_without_a_warm_up_it_starts_at_the_rate():
    config = OptimizerConfig(lr=3.0, final_lr_ratio=0.0, warmup=0)
    assert learning_rate(config, 0, 10) == 3.0
    assert learning_rate(config, 10, 10) == pytest.approx(0)


def test_a_training_that_is_all_warm_up_keeps_within_the_rate():
    rates = [learning_rate(CONFIG, seen, 5) for seen in range(12)]
    assert rates[:9] == pytest.approx([0.2 * (seen + 1) for seen in range(9)])
    assert rates[10:] == [0.2, 0.2]
    assert max(rates) <= 2.0


@pytest.mark.parametrize("steps, share", [(0, 0.1), (1, 2 / 11), (8, 0.5), (26, 0.75), (10_000, 0.75)])
def test_the_average_forgets_its_start(steps, share):
    assert ema_decay_at(CONFIG, steps) == pytest.approx(share)


def test_the_average_by_its_half_life():
    """Half of the old weights is left after so many images; at first no more than a share of those seen."""
    config = OptimizerConfig(ema_half_life=10_000.0, ema_rampup=0.05)
    assert ema_decay_at(config, 0, 10**6, 10_000) == pytest.approx(0.5)
    assert ema_decay_at(config, 0, 10**6, 32) ** (10_000 / 32) == pytest.approx(0.5)
    assert ema_decay_at(config, 9, 40_000, 2_000) == pytest.approx(0.5)
    assert ema_decay_at(config, 0, 0, 32) == 0
    assert ema_decay_at(OptimizerConfig(ema_half_life=10_000.0), 0, 0, 10_000) == pytest.approx(0.5), (
        "no share, no ramp"
    )


def test_lazy_regularisation_is_corrected_for():
    config = OptimizerConfig(lr=1e-4, betas=(0.9, 0.999), reg_interval=4)
    rate, betas = lazy_corrected(config)
    assert rate == pytest.approx(0.8e-4)
    assert betas == pytest.approx((0.9**0.8, 0.999**0.8))
    assert (round(betas[0], 3), round(betas[1], 4)) == (0.919, 0.9992), "the published numbers"
    assert lazy_corrected(OptimizerConfig(lr=1e-4)) == (1e-4, (0.9, 0.98))
    assert learning_rate(
        OptimizerConfig(lr=1e-4, reg_interval=16, warmup=0, final_lr_ratio=1.0), 5, 10
    ) == pytest.approx(1e-4 * 16 / 17)


ON = LossConfig(adversarial=0.01, identity=1.0)


@pytest.mark.parametrize(
    "seen, wanted",
    [
        (0, ActiveTerms(64, False, False, True)),
        (399_999, ActiveTerms(64, False, False, True)),
        (400_000, ActiveTerms(64, False, True, True)),
        (999_999, ActiveTerms(64, False, True, True)),
        (1_000_000, ActiveTerms(64, True, True, False)),
        (1_203_125, ActiveTerms(77, True, True, False)),
        (2_000_000, ActiveTerms(128, True, True, False)),
        (10_000_000, ActiveTerms(128, True, True, False)),
    ],
)
def test_the_papers_schedule(seen, wanted):
    assert active_terms(STAGE_PRESETS["paper"]().stage1.schedule, ON, seen, 128) == wanted


def test_what_has_no_weight_is_never_on():
    schedule = ScheduleConfig()
    assert active_terms(schedule, LossConfig(), 10**9, 128) == ActiveTerms(None, False, False, True)
    assert active_terms(schedule, ON, 0, 128) == ActiveTerms(None, True, True, True)


def test_the_papers_numbers_and_where_the_published_code_differs():
    paper, published = STAGE_PRESETS["paper"](), STAGE_PRESETS["published"]()
    assert (paper.stage1.images, paper.stage2.images) == (10_000_000, 6_000_000)
    assert (published.stage1.images, published.stage2.images) == (15_000_000, 8_000_000)
    for one in (paper, published):
        assert one.stage1.batch == one.stage2.batch == 32
        assert one.stage2.optimizer.motion_lr_factor == 2.5
        assert one.stage2.real_driving == 0.1
        assert one.stage1.losses.adversarial == 0.01
        for own in (one.stage1.losses, one.stage2.losses):
            pairs = (own.l1, own.raw, own.perceptual, own.raw_perceptual, own.foreground, own.background)
            assert pairs == (1.0,) * 6, "LPIPS and L1 of four pairs"
    assert (paper.stage2.real_target, paper.stage2.schedule.pseudo_every) == (0.8, 0)
    assert (published.stage2.real_target, published.stage2.schedule.pseudo_every) == (1.0, 4)
    assert paper.stage1.schedule.renderer_frozen_until == 1_000_000
    assert published.stage1.schedule.renderer_frozen_until == 0, "its freeze never fires"
    assert lazy_corrected(paper.stage2.optimizer)[0] * 2.5 == pytest.approx(2.5e-4)
    assert lazy_corrected(published.stage2.optimizer)[0] * 2.5 == pytest.approx(2.0e-4)


def test_the_demos_presets_have_the_pairs_that_their_weights_were_trained_with():
    for config in (PRESETS["tiny"](), PRESETS["overfit"](), STAGE_PRESETS["tiny"]()):
        for own in (config.stage1.losses, config.stage2.losses):
            assert (own.raw_perceptual, own.foreground, own.background) == (0.0, 0.0, 0.0)


def test_the_schedule_says_what_is_on_when():
    def lines_of(preset: str, stage: str, factor: float = 1.0) -> dict[str, str]:
        text = shown_schedule(stage, getattr(STAGE_PRESETS[preset](), stage), 128, factor)
        pairs = (line.strip().partition("  ") for line in text.splitlines()[1:])
        return {label: value.strip() for label, _, value in pairs}

    said, published = lines_of("paper", "stage1"), lines_of("published", "stage1")
    assert said["ray grid"] == "64 to 128 px, between 1,000,000 and 2,000,000"
    assert said["renderer moves"] == "from 1,000,000"
    assert said["adversary"] == "0.01 from 1,000,000"
    assert said["R1"] == "every 16 steps from 1,000,000"
    assert said["GenHead's planes"] == "0.1 until 1,000,000"
    assert "GenHead's feature images" not in said, "no weight, no line"
    assert [value for label, value in published.items() if "GenHead" in label] == [
        "0.1 until 400,000",
        "1 until 400,000",
    ]
    second = lines_of("paper", "stage2", 2.5)
    assert second["of what reads motion"] == "up to 0.00025"
    assert "density smoothness" not in second
