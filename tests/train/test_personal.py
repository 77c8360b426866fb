"""One person is learned from a few pictures, and all else stays as it was."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from contextlib import suppress

import pytest
import torch

from tests.train import little
from triportrait.core.checkpoint import load_pair, weights_folder
from triportrait.core.errors import InputError
from triportrait.core.person import weights_hash
from triportrait.core.psnr import psnr
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Driving
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import photograph
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.personal import GivenPictures, RefineConfig, forget, motion_bank, refine, refinement
from triportrait.train.personal.refinement import TIMED, change_of, lr_factor
from triportrait.train.personal.updates import LearnedPerson
from triportrait.train.stages.motion import motion_of

STRANGER = 900_000  # a seed that no training uses
STEPS = RefineConfig(minutes=None, steps=6, rank=2)


def given_of(portrait, encoder, count, seed=STRANGER):
    """Pictures of a stranger with other expressions before other cameras, and what is known of them."""
    identity, light = population(seed, 1)
    rows = torch.zeros(count, dtype=torch.long)
    pictures = photograph(
        HeadRenderer(), identity.take(rows), expressions(seed, 1, count), light.take(rows),
        filming_cameras(seed, count), portrait.config, antialias=1,
    )  # fmt: skip
    with torch.no_grad():
        motion = motion_of(pictures, encoder).clone()
    return GivenPictures(pictures.image, motion, pictures.camera, pictures.neck, pictures.landmarks)


@pytest.fixture(scope="module")
def networks():
    return little.portrait(motion=True).fold().eval(), little.encoder().eval()


@pytest.fixture(scope="module")
def given(networks):
    return given_of(*networks, 4)


def same_person(one, other):
    """Whether two people have the same numbers bit by bit."""
    assert one.updates.keys() == other.updates.keys()
    pairs = [(one.planes, other.planes)]
    for name, update in one.updates.items():
        pairs += [(update.up, other.updates[name].up), (update.down, other.updates[name].down)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_given_pictures_come_nearer_and_the_frozen_networks_stay(networks, given):
    portrait, encoder = networks
    before = {name: value.clone() for name, value in portrait.state_dict().items()}
    told = []
    two = given.take(torch.tensor([0, 1]))
    person = refine(portrait, encoder, two, dataclasses.replace(STEPS, steps=20), told.append)
    assert person.card["psnr"]["after"] > person.card["psnr"]["before"] + 0.5
    assert little.same(before, portrait.state_dict())
    assert person.weights == weights_hash(portrait)
    assert [step.step for step in told] == list(range(1, 21))
    assert all(step.steps == 20 and math.isfinite(step.loss) and step.preview is None for step in told)
    assert person.updates and all(bool(update.up.any()) for update in person.updates.values())
    assert person.card["steps"] == 20 and person.card["pictures"] == 2


def test_what_is_returned_makes_the_pictures_that_were_compared(networks, given):
    portrait, encoder = networks
    person = refine(portrait, encoder, given.take(torch.tensor([0])), STEPS)
    mine = person.refined(portrait)
    with torch.no_grad():
        source = mine.prepare(given.image[:1], given.motion[:1])
        head = mine.reenact(source, Driving(given.motion[:1], given.neck.take([0])))
        image = mine.render(dataclasses.replace(head, planes=head.planes + person.planes), given.camera.take([0])).image
    assert psnr(image, given.image[:1]) == pytest.approx(person.card["psnr"]["after"], abs=2e-3)


def test_a_number_of_steps_decides_the_result_and_the_seed_counts(networks, given):
    first, second = (refine(*networks, given, STEPS) for _ in range(2))
    assert same_person(first, second)
    assert not same_person(first, refine(*networks, given, dataclasses.replace(STEPS, seed=1)))


def note(seen):
    """Note the numbers of steps."""
    return lambda step: seen.append(step.step)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [2, 5])
def test_a_killed_refinement_goes_on_to_the_same_end(networks, given, tmp_path, monkeypatch, at):
    monkeypatch.setattr(refinement, "SAVE_S", -1.0)
    state, seen = tmp_path / "anna.part", []

    def kill(step):
        seen.append(step.step)
        if step.step == at + 1:
            raise Killed

    with pytest.raises(Killed):
        refine(*networks, given, STEPS, kill, state=state)
    person = refine(*networks, given, STEPS, lambda step: seen.append(step.step), state=state)
    assert seen == [*range(1, at + 2), *range(at + 1, 7)]
    assert same_person(person, refine(*networks, given, STEPS))
    kept = refine(*networks, given, STEPS, lambda step: pytest.fail("all was learned"), state=state)
    assert same_person(person, kept)  # until whoever wrote the person's file forgets the state
    forget(state)
    assert not state.exists()


def test_minutes_become_steps_after_a_kill_before_that(networks, given, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "SAVE_S", -1.0)
    state, seen, clock = tmp_path / "anna.part", [], iter(range(0, 100_000, 3))
    monkeypatch.setattr(refinement.time, "monotonic", lambda: float(next(clock)))

    def kill(step):
        if step.step == 3:
            raise Killed

    for _ in range(2):
        with suppress(Killed):
            refine(*networks, given.take(torch.tensor([0])), RefineConfig(minutes=1.0, rank=0), kill, state=state)
    person = refine(
        *networks, given.take(torch.tensor([0])), RefineConfig(minutes=1.0, rank=0),
        lambda step: seen.append((step.step, step.steps)), state=state,
    )  # fmt: skip
    assert seen[0][0] == 3 and seen[-1][0] == seen[-1][1] == person.card["steps"]
    assert TIMED < person.card["steps"] < 60 / 3 * 1.5


def test_a_loss_that_is_not_finite_ends_it_in_a_sentence(networks, given):
    broken = dataclasses.replace(given, motion=given.motion * float("inf"))
    with pytest.raises(InputError, match="the loss of step 1 is not finite"):
        refine(*networks, broken, STEPS)


def test_a_state_of_other_pictures_or_a_damaged_one_is_not_gone_on_from(networks, given, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "SAVE_S", -1.0)
    state = tmp_path / "anna.part"

    def kill(step):
        if step.step == 3:
            raise Killed

    other = given.take(torch.tensor([1, 2, 3]))
    anew = refine(*networks, other, STEPS)
    for begun, damage in ((given, lambda: None), (other, lambda: state.write_bytes(state.read_bytes()[:-100]))):
        with pytest.raises(Killed):
            refine(*networks, begun, STEPS, kill, state=state)
        damage()
        seen = []
        assert same_person(refine(*networks, other, STEPS, note(seen), state=state), anew)
        assert seen[0] == 1
        forget(state)


@pytest.mark.parametrize("metadata", [{"state": 5}, {"state": None}, ["state"], "state"])
def test_a_state_whose_header_is_damaged_is_begun_anew(metadata, networks, given, tmp_path):
    state, seen = tmp_path / "anna.part", []
    header = json.dumps({"__metadata__": metadata}).encode()
    state.write_bytes(struct.pack("<Q", len(header)) + header)
    refine(
        *networks, given.take(torch.tensor([0])), RefineConfig(minutes=None, steps=1, rank=0), note(seen), state=state
    )
    assert seen == [1]


def test_a_state_that_cannot_be_removed_is_told_of(tmp_path, caplog):
    forget(tmp_path)
    assert "it could not be removed (" in caplog.text


def test_minutes_become_steps_by_the_time_of_the_first_ones(networks, given, monkeypatch):
    clock = iter(range(0, 10_000, 3))  # three seconds between any two looks at the clock
    monkeypatch.setattr(refinement.time, "monotonic", lambda: float(next(clock)))
    person = refine(*networks, given.take(torch.tensor([0])), RefineConfig(minutes=2.0, rank=0))
    told = person.card["config"]
    assert told["minutes"] is None and told["steps"] == person.card["steps"]
    assert TIMED < told["steps"] < 2.0 * 60 / 3 * 1.2


def test_it_stops_when_it_is_told_to_and_returns_what_was_reached(networks, given):
    seen = []
    person = refine(*networks, given, STEPS, lambda step: seen.append(step.step), lambda: len(seen) == 3)
    assert seen == [1, 2, 3] and person.card["steps"] == 3


def test_the_best_on_the_picture_kept_aside_is_returned(networks, given, monkeypatch):
    aside = given.split()[1].tolist()
    assert aside == [3]

    def tell(psnrs):
        found = iter(psnrs)
        monkeypatch.setattr(
            refinement._Refinement, "_psnr", lambda self, rows: next(found) if rows.tolist() == aside else 20.0
        )

    tell([5.0, 10.0, *[30.0 - n for n in range(100)]])
    kept = {}

    def keep(step):
        kept[step.step] = step.aside_psnr

    person = refine(*networks, given, dataclasses.replace(STEPS, steps=36), keep)
    best = next(step for step, psnr in kept.items() if psnr == 30.0)
    assert person.card["psnr"]["kept aside"] == 30.0
    assert max(kept) < 36, "three comparisons in a row brought nothing"
    tell(range(1, 100))
    again = refine(*networks, given, dataclasses.replace(STEPS, steps=36), should_stop=iter_true_at(best))
    assert torch.equal(person.planes, again.planes)


def test_what_makes_a_picture_kept_aside_worse_is_not_returned(networks, given, monkeypatch):
    psnrs = iter([30.0, *[20.0] * 100])
    aside = given.split()[1].tolist()
    monkeypatch.setattr(
        refinement._Refinement, "_psnr", lambda self, rows: next(psnrs) if rows.tolist() == aside else 20.0
    )
    person = refine(*networks, given, STEPS)
    assert not person.planes.any() and person.card["psnr"]["kept aside before"] == 30.0


def iter_true_at(step):
    """Answer yes at the call of this number."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) == step


@pytest.mark.parametrize("count, aside", [(1, []), (2, []), (3, [2]), (5, [4]), (6, [4, 5]), (11, [4, 9, 10])])
def test_the_source_is_never_kept_aside(networks, given, count, aside):
    rows, kept = given.take(torch.zeros(count, dtype=torch.long)).split()
    assert kept.tolist() == aside
    assert sorted([*rows.tolist(), *aside]) == list(range(count)) and 0 in rows


def test_updates_stay_small_beside_their_weights(networks, given):
    portrait, _ = networks
    learned = LearnedPerson(portrait, 2, torch.Generator().manual_seed(1))
    assert learned.update_size() == 0
    weights, values = dict(portrait.named_parameters()), learned.learned()
    shares = []
    for name in [name.removesuffix(".up") for name in values if name.endswith(".up")]:
        torch.nn.init.normal_(values[f"{name}.up"])
        update = values[f"{name}.up"] @ values[f"{name}.down"]
        shares.append((update.square().sum() / weights[name].square().sum()).item())
    assert learned.update_size().item() == pytest.approx(sum(shares) / len(shares), rel=1e-4)

    def size_with(weight):
        person = refine(*networks, given, dataclasses.replace(STEPS, small_updates=weight))
        return sum(update.delta(weights[name]).square().sum().item() for name, update in person.updates.items())

    assert size_with(1e4) < 0.5 * size_with(0.0)


def test_without_rank_the_planes_alone_are_learned(networks, given):
    person = refine(*networks, given, dataclasses.replace(STEPS, rank=0))
    assert not person.updates and bool(person.planes.any())


def test_necks_landmarks_and_masks_may_be_unknown(networks, given):
    bare = GivenPictures(given.image[:1], given.motion[:1], given.camera.take([0]))
    person = refine(*networks, bare, STEPS)
    assert bool(person.planes.isfinite().all())
    masked = dataclasses.replace(bare, opacity=torch.zeros(1, 1, 64, 64))
    assert not same_person(person, refine(*networks, masked, STEPS))


def test_a_preview_shows_the_source_and_three_of_it_made(networks, given, monkeypatch):
    monkeypatch.setattr(refinement, "PREVIEW_S", -1.0)
    told = []
    refine(*networks, given, STEPS, told.append, previews=True)
    assert all(step.preview.shape == (64, 256, 3) and step.preview.dtype == torch.uint8 for step in told)
    truth = ((given.image[0].permute(1, 2, 0) + 1) * 127.5).round()
    assert (told[0].preview[:, :64].float() - truth).abs().max() <= 1


def test_a_change_is_compared_with_the_frozen_one():
    base, moved = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    frozen = torch.cat([moved, base])
    assert change_of(torch.cat([moved, base]) + 7, frozen) == 0  # another person who moves alike
    assert change_of(torch.cat([base, base]), frozen) == 0.5  # one who does not move


def test_the_bank_holds_motions_of_many_expressions(networks):
    bank = motion_bank(networks[1])
    assert bank.shape == (16, 9) and bool((bank.std(0) > 0).all())


def test_the_learning_rate_does_not_know_the_number_of_steps_before_it_is_found():
    assert [lr_factor(step, 10**9) for step in range(TIMED)] == [lr_factor(step, 20) for step in range(TIMED)]
    assert lr_factor(20, 20) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"minutes": 2.0}, "either minutes or steps"),
        ({"steps": None}, "either minutes or steps"),
        ({"steps": 0}, "steps: expected 1"),
        ({"steps": None, "minutes": 1e9}, "minutes: expected 0.05 to 240"),
        ({"rank": 65}, "rank: expected 0 to 64"),
        ({"seed": -1}, "seed"),
        ({"lr_planes": float("nan")}, "lr_planes"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(STEPS, **changes)


def test_too_many_pictures_or_another_size_are_refused(networks, given):
    with pytest.raises(InputError, match="1 to 40 pictures"):
        refine(*networks, given.take(torch.zeros(41, dtype=torch.long)), STEPS)
    with pytest.raises(InputError, match="aligned pictures of 64 px"):
        refine(*networks, dataclasses.replace(given, image=given.image[:, :, :32, :32]), STEPS)


def test_a_stranger_is_better_where_no_picture_was_given():
    """One picture, 16 steps with the package's own weights: frames with other expressions and from the side."""
    portrait, encoder = load_pair(weights_folder("demo"))
    portrait.fold().eval()
    all_pictures = given_of(portrait, encoder, 4)
    wide = sample_look_at(2, torch.Generator().manual_seed(3))
    identity, light = population(STRANGER, 1)
    rows = torch.zeros(2, dtype=torch.long)
    side = photograph(
        HeadRenderer(), identity.take(rows), expressions(STRANGER + 1, 1, 2), light.take(rows), wide, portrait.config
    )
    person = refine(portrait, encoder, all_pictures.take(torch.tensor([0])), dataclasses.replace(STEPS, steps=16))

    def shown(network, planes):
        psnrs = []
        with torch.no_grad():
            source = network.prepare(all_pictures.image[:1], all_pictures.motion[:1])
            for image, motion, neck, camera in [
                *((all_pictures.image[n], all_pictures.motion[n], all_pictures.neck.take([n]),
                   all_pictures.camera.take([n])) for n in (1, 2, 3)),
                *((side.image[n], motion_of(side, encoder)[n], side.neck.take([n]), wide.take([n])) for n in (0, 1)),
            ]:  # fmt: skip
                head = network.reenact(source, Driving(motion[None], neck))
                head = dataclasses.replace(head, planes=head.planes + planes)
                psnrs.append(psnr(network.render(head, camera).image, image[None]))
        return psnrs

    before, after = shown(portrait, 0), shown(person.refined(portrait), person.planes)
    gains = [b - a for a, b in zip(before, after, strict=True)]
    assert min(gains) > 0.5 and sum(gains) / 5 > 1.2, gains
