"""Where training starts: signal and motion reach the end of a fresh network, and the seed alone decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.train import little
from tests.train.little import copied
from triportrait.core.config import ModelConfig, tiny
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera, Driving
from triportrait.train.data.heads.population import sample_expression, stream
from triportrait.train.data.scene_sampling import filming_cameras, population
from triportrait.train.stages.initialize import initialize, initialize_motion, motion_parameters, reads_motion

HEADS = 4
MODELS = {"tiny": tiny, "test": little.model}


def spread(values: Tensor) -> float:
    """How much the rows of a batch differ, on average over everything else."""
    return values.std(0).mean().item()


def fresh(model: ModelConfig, seed: int) -> Portrait4D:
    portrait = Portrait4D(model)
    initialize(portrait, seed)
    initialize_motion(portrait, seed)
    return portrait.requires_grad_(False)


def look(portrait: Portrait4D, image: Tensor, v_s: Tensor | None, v_d: Tensor | None) -> tuple[Tensor, Tensor]:
    """Planes and pictures, all from the front."""
    front = fixed_camera()
    camera = Camera(*(x.expand(len(image), -1, -1) for x in (front.world_from_camera, front.intrinsics)))
    head = portrait.reenact(portrait.prepare(image, v_s), Driving(v_d))
    return head.planes, portrait.render(head, camera).image


@pytest.mark.parametrize("name, seeds", [("tiny", (0, 1, 2)), ("test", (0, 1, 2, 3, 4))])
def test_motion_and_source_reach_the_end_of_a_fresh_network(name, seeds, studio, record_row):
    model, motion = MODELS[name](), sample_expression(HEADS, stream(0, 1)).vector
    who, light = population(0, HEADS)
    still = sample_expression(HEADS, stream(0, 2), neutral_share=1.0)
    image = studio.renderer.render(who, still, light, filming_cameras(0, HEADS), model.image_size, 1).image
    one, rest = image[:1].expand_as(image), motion[:1].expand_as(motion)
    answers = []
    for seed in seeds:
        portrait = fresh(model, seed)
        parts = portrait.reconstructor.neutralizer, portrait.reconstructor.transfer
        tokens = [spread(part.tokens(motion)) for part in parts]
        looks = [look(portrait, *given) for given in ((image, None, None), (one, rest, motion), (one, motion, rest))]
        planes, pictures = ([spread(pair[which]) for pair in looks] for which in (0, 1))
        answers.append(pictures[1])
        record_row(
            "std at the start: tokens of v_s, v_d; planes over sources, v_d, v_s; pictures over the same",
            (name, f"seed {seed}", *(f"{value:.4f}" for value in (*tokens, *planes, *pictures))),
        )
        assert min(tokens) > 0.1, "motion tokens are all alike"
        assert planes[0] > 0.1
        assert min(planes[1:]) > 0.01
        assert pictures[0] > 5e-3
        assert 0.05 < looks[0][1].std().item() < 2 and looks[0][1].abs().max() < 10, "nothing is saturated"
    assert sorted(answers)[len(answers) // 2] > 1e-3, "a driving motion is not seen in the picture"


def test_a_fresh_head_is_neither_air_nor_stone():
    """Else half of the seeds begin with pictures that show nothing of the planes, or nothing behind their face."""
    image, front = torch.rand(2, 3, 8, 8) * 2 - 1, fixed_camera()
    image = torch.nn.functional.interpolate(image, size=64, mode="bilinear")
    camera = Camera(*(x.expand(2, -1, -1) for x in (front.world_from_camera, front.intrinsics)))
    for seed in range(12):
        portrait = little.portrait(seed).requires_grad_(False)
        head = portrait.reenact(portrait.prepare(image, None), Driving(None))
        assert 0.02 < portrait.render(head, camera).opacity.mean() < 0.8, seed


def test_the_seed_alone_decides():
    made = []
    for noise, seed in ((1, 0), (2, 0), (1, 3)):
        torch.manual_seed(noise)  # what was drawn before
        made.append(fresh(little.model(), seed).state_dict())
    differing = [name for name in made[0] if not torch.equal(made[0][name], made[1][name])]
    assert differing == [], "these follow the random numbers drawn before"
    alike = [name for name, value in made[0].items() if value.dim() > 1 and torch.equal(value, made[2][name])]
    assert alike == [], "another seed gives them the same numbers"


def test_no_random_numbers_of_others_are_used_up():
    portrait = Portrait4D(little.model())
    before = torch.random.get_rng_state()
    initialize(portrait, 5)
    initialize_motion(portrait, 5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_starting_motion_leaves_the_static_synthesizer_as_it_is():
    portrait, image = little.portrait(), torch.rand(2, 3, 64, 64) * 2 - 1
    portrait.requires_grad_(False)
    before, planes = copied(portrait), look(portrait, image, None, None)[0]
    initialize_motion(portrait, 9)
    after = portrait.state_dict()
    for name, value in before.items():
        changed = reads_motion(name) and value.dim() > 1
        assert torch.equal(after[name], value) != changed, name
    assert torch.equal(look(portrait, image, None, None)[0], planes)


def test_what_reads_motion_is_what_the_static_synthesizer_never_asks():
    portrait = little.portrait(motion=True)
    image, motion = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 9)
    look(portrait, image, None, None)[1].square().mean().backward()
    unasked = {name for name, p in portrait.named_parameters() if p.grad is None and "noise_strength" not in name}
    assert unasked == {name for name, _ in portrait.named_parameters() if reads_motion(name)} != set()
    assert {id(p) for p in motion_parameters(portrait)} == {id(portrait.get_parameter(name)) for name in unasked}
    look(portrait, image, motion, motion)[1].square().mean().backward()
    assert all(bool((p.grad != 0).any()) for p in motion_parameters(portrait))
