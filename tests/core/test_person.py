"""A person's file: what is written is read, and what is damaged, hostile or of others is one sentence."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.core.persons import person_of
from triportrait.core import person as person_module
from triportrait.core.config import portrait4d_v2, tiny
from triportrait.core.errors import InputError
from triportrait.core.person import (
    MOST_RANK,
    REFINED,
    LowRank,
    Person,
    check_person_file,
    file_bytes,
    load_person,
    refinable_weights,
    save_person,
    weights_hash,
    with_own_parts,
)
from triportrait.core.portrait import Portrait4D
from triportrait.core.seeded_weights import rule_portrait


@pytest.fixture(scope="module")
def portrait() -> Portrait4D:
    return rule_portrait(tiny()).eval()


@pytest.fixture(scope="module")
def person(portrait) -> Person:
    return person_of(portrait, torch.arange(256 * 256 * 3).view(256, 256, 3).to(torch.uint8), scale=0.1)


@pytest.fixture
def file(tmp_path, person) -> Path:
    save_person(tmp_path / "ada.safetensors", person)
    return tmp_path / "ada.safetensors"


def rewritten(file: Path, change) -> Path:
    """Write the tensors and the card again as `change(tensors, card)` leaves them."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        card = json.loads(opened.metadata()["person"])
    change(tensors, card)
    save_file(tensors, file, {"person": json.dumps(card)})
    return file


def test_what_is_written_is_read(file, person, portrait):
    check_person_file(file)
    read = load_person(file, portrait)
    assert torch.equal(read.planes, person.planes)
    assert torch.equal(read.thumbnail, person.thumbnail)
    assert read.updates.keys() == person.updates.keys() == dict(refinable_weights(portrait)).keys()
    for name, update in person.updates.items():
        assert torch.equal(read.updates[name].up, update.up)
        assert torch.equal(read.updates[name].down, update.down)
    assert (read.weights, read.card) == (person.weights, person.card)
    save_person(file, read, overwrite=True)
    assert read.sha256() == person.sha256() == load_person(file, portrait).sha256()


def test_updates_that_are_not_rounded_are_read_as_rounded_says(tmp_path, person, portrait):
    fine = replace(person, planes=person.planes + 1e-5)
    save_person(tmp_path / "fine.safetensors", fine)
    read = load_person(tmp_path / "fine.safetensors", portrait)
    assert not torch.equal(fine.planes, read.planes)
    assert torch.equal(fine.rounded().planes, read.planes)
    assert fine.sha256() == fine.rounded().sha256()


def test_the_person_s_networks_are_copies_where_they_differ_and_shared_where_not(person, portrait):
    before = weights_hash(portrait)
    refined = person.refined(portrait)
    for name, update in person.updates.items():
        weight = portrait.get_parameter(name)
        wanted = weight + (update.up @ update.down).view(weight.shape)
        torch.testing.assert_close(refined.get_parameter(name), wanted, rtol=0, atol=1e-6)
    assert weights_hash(portrait) == before != weights_hash(refined)
    own = {id(parameter) for part in REFINED for parameter in refined.get_submodule(part).parameters()}
    shared = {id(parameter) for parameter in portrait.parameters()}
    assert not own & shared
    assert {id(parameter) for parameter in refined.parameters()} <= own | shared
    assert weights_hash(with_own_parts(portrait)) == before


def test_the_hash_is_of_the_numbers_and_of_nothing_else(portrait):
    laid = rule_portrait(tiny()).to(memory_format=torch.channels_last)
    assert weights_hash(laid) == weights_hash(portrait)
    first = next(layer for _, layer in refinable_weights(laid))
    with torch.no_grad():
        first.weight.view(-1)[0] += 1e-6
    assert weights_hash(laid) != weights_hash(portrait)


def test_a_full_size_file_is_small():
    with torch.device("meta"):
        portrait = Portrait4D(portrait4d_v2())
    assert 5e6 < file_bytes(portrait, 8) < 20e6
    assert file_bytes(portrait, 0) < file_bytes(portrait, 4) < file_bytes(portrait, 8)
    assert file_bytes(portrait, 16) < 20e6, "as the help of --rank says"


def test_the_size_that_is_foretold_is_that_of_the_file(file, portrait):
    assert file_bytes(portrait, 2) == pytest.approx(file.stat().st_size, rel=0.1)


@pytest.mark.parametrize("number", [7e4, -7e4, float("nan"), float("inf")])
def test_what_half_precision_cannot_hold_is_not_written(number, tmp_path, person):
    planes, (name, update) = person.planes.clone(), next(iter(person.updates.items()))
    planes[0, 0, 0, 0, 0] = number
    down = update.down.clone()
    down[0, 0] = number
    for spoilt, what in (
        (replace(person, planes=planes), "planes"),
        (replace(person, updates={**person.updates, name: LowRank(update.up, down)}), rf"updates\.{name}\.down"),
    ):
        with pytest.raises(InputError, match=rf"x\.safetensors: {what} is not finite in half precision; "):
            save_person(tmp_path / "x.safetensors", spoilt)
        assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(file, person):
    before = file.read_bytes()
    with pytest.raises(InputError, match="it appeared meanwhile and was kept; pass --overwrite"):
        save_person(file, replace(person, card={}))
    assert file.read_bytes() == before
    with pytest.raises(InputError, match="could not be written"):
        save_person(file / "x.safetensors", person)


def spoil(name: str, change) -> Any:
    """A change of one tensor."""

    def spoilt(tensors, card):
        tensors[name] = change(tensors[name])

    return spoilt


PLANES = "planes"
UP = "updates.reconstructor.plane_decoder.out.weight.up"
DOWN = UP.replace(".up", ".down")
FOREIGN = {  # what is changed -> the sentence
    "larger planes": (spoil(PLANES, lambda t: t.repeat(1, 1, 2, 1, 1)), "planes of shape .* does not fit"),
    "planes of a batch": (spoil(PLANES, lambda t: t.repeat(2, 1, 1, 1, 1)), "planes of shape .* does not fit"),
    "planes in float32": (spoil(PLANES, lambda t: t.float()), "planes of shape .* does not fit"),
    "no planes": (lambda tensors, card: tensors.pop(PLANES), "expected planes in it, which is not there"),
    "no thumbnail": (lambda tensors, card: tensors.pop("thumbnail"), "expected thumbnail in it"),
    "a large thumbnail": (spoil("thumbnail", lambda t: t.repeat(2, 2, 1)), "thumbnail of shape .* does not fit"),
    "a thumbnail of numbers": (spoil("thumbnail", lambda t: t.half()), "thumbnail of shape .* does not fit"),
    "more rows": (spoil(UP, lambda t: t.repeat(2, 1)), r"out\.weight\.(up|down) of shape .* does not fit"),
    "more columns": (spoil(DOWN, lambda t: t.repeat(1, 2)), r"out\.weight\.(up|down) of shape .* does not fit"),
    "another rank": (spoil(DOWN, lambda t: t.repeat(2, 1)), r"out\.weight\.(up|down) of shape .* does not fit"),
    "three dimensions": (spoil(UP, lambda t: t[None]), r"out\.weight\.(up|down) of shape .* does not fit"),
    "no down": (lambda tensors, card: tensors.pop(DOWN), r"out\.weight\.up of shape .* does not fit"),
    "rank 0": (
        lambda tensors, card: tensors.update({UP: tensors[UP][:, :0], DOWN: tensors[DOWN][:0]}),
        r"out\.weight\.(up|down) of shape .* does not fit",
    ),
    "a rank beyond all": (
        lambda tensors, card: tensors.update(
            {UP: tensors[UP][:, :1].repeat(1, MOST_RANK + 1), DOWN: tensors[DOWN][:1].repeat(MOST_RANK + 1, 1)}
        ),
        r"out\.weight\.(up|down) of shape .* does not fit",
    ),
    "a weight that is not refined": (
        lambda tensors, card: tensors.update({"updates.superres.x.up": tensors[UP].clone()}), "superres.x.up of shape",
    ),
    "another tensor": (lambda tensors, card: tensors.update({"x": torch.zeros(1)}), "x of shape .* does not fit"),
    "a bias": (
        lambda tensors, card: tensors.update({UP.replace("weight", "bias"): tensors[UP].clone()}), "bias.up of shape",
    ),
    "not finite": (spoil(PLANES, lambda t: t * float("nan")), "planes holds numbers that are not finite"),
    "infinite": (spoil(UP, lambda t: t + float("inf")), "up holds numbers that are not finite"),
    "another format": (lambda tensors, card: card.update(format=2), "expected format 1, got 2"),
    "no format": (lambda tensors, card: card.pop("format"), "expected format 1, got "),
    "no weights": (lambda tensors, card: card.pop("weights"), "its card is damaged"),
    "a hash that is none": (lambda tensors, card: card.update(weights=[1]), "its card is damaged"),
    "a card that is none": (lambda tensors, card: card.update(card="x"), "its card is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_what_does_not_fit_is_one_sentence(case, file, portrait):
    change, sentence = FOREIGN[case]
    rewritten(file, change)
    with pytest.raises(InputError, match=rf"^{file}: .*{sentence}") as refused:
        load_person(file, portrait)
    assert "triportrait personalize" in str(refused.value)
    assert "\n" not in str(refused.value)


def header_of(file: Path, change) -> bytes:
    """The bytes of a file whose header is changed."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def test_the_hash_is_of_the_bytes_that_were_read(file, person, portrait):
    """Another program lays the same tensors out otherwise; `sha256sum` of its file is what a manifest names."""
    own = load_person(file, portrait)
    assert own.sha256() == person.sha256() == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(header_of(file, lambda header: header.update({PLANES: header.pop(PLANES)})))
    read = load_person(file, portrait)
    assert torch.equal(read.planes, own.planes)
    assert read.sha256() == hashlib.sha256(file.read_bytes()).hexdigest() != own.sha256()
    assert replace(read, card=dict(read.card)).sha256() == own.sha256(), "who is made of another is in no file"


def test_a_file_that_changes_while_it_is_read_is_one_sentence(file, portrait, monkeypatch):
    digests = iter("ab")
    monkeypatch.setattr("triportrait.core.person.sha256", lambda path: next(digests))
    with pytest.raises(InputError) as refused:
        load_person(file, portrait)
    assert str(refused.value) == (
        f"{file}: expected a file that stays as it is while it is read, it was changed meanwhile; try again"
    )


@pytest.mark.parametrize("step", ["_read_header", "safe_open", "sha256", "_check_sizes"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_hash_is_of_what_was_read_when_another_person_is_saved_meanwhile(
    step, call, when, file, person, portrait, monkeypatch
):  # fmt: skip
    """The file is replaced before or after each step: that is refused, or what is returned is one file's, whole."""
    other = replace(person, planes=person.planes + 0.5, card={"is": "another"}).rounded()
    read, calls = getattr(person_module, step), []

    def replacing_read(*given):
        calls.append(step)
        if when == "before" and len(calls) == call:
            save_person(file, other, overwrite=True)
        found = read(*given)
        if when == "after" and len(calls) == call:
            save_person(file, other, overwrite=True)
        return found

    monkeypatch.setattr(person_module, step, replacing_read)
    try:
        got = load_person(file, portrait)
    except InputError as refused:
        assert str(refused).endswith("it was changed meanwhile; try again")
    else:
        wanted = other if got.card == other.card else person
        assert torch.equal(got.planes, wanted.planes)
        assert got.sha256() == wanted.sha256()
    assert len(calls) >= call


def test_a_huge_file_is_refused_before_it_is_read_whole(file, portrait, monkeypatch):
    monkeypatch.setattr(person_module, "sha256", lambda path: pytest.fail("it was read"))
    for name in ("larger planes", "another tensor"):
        rewritten(file, FOREIGN[name][0])
        with pytest.raises(InputError, match="does not fit"):
            load_person(file, portrait)
    save_person(file, person_of(portrait), overwrite=True)
    with file.open("ab") as opened:
        opened.truncate(1 << 40)  # without blocks on the disk
    with pytest.raises(InputError, match="not a whole person's file"):
        load_person(file, portrait)


class Executed:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


DAMAGED = {
    "empty": lambda file: b"",
    "cut off in the header": lambda file: file.read_bytes()[:100],
    "cut off in the tensors": lambda file: file.read_bytes()[:-100],
    "more behind": lambda file: file.read_bytes() + b"x",
    "a picture": lambda file: b"\x89PNG\r\n\x1a\n" + bytes(999),
    "a pickle": lambda file: pickle.dumps(Executed()),
    "a header of all memory": lambda file: struct.pack("<Q", 1 << 60) + file.read_bytes()[8:],
    "a tensor of all memory": lambda file: header_of(file, lambda h: h[PLANES].update(shape=[1 << 40, 1 << 20])),
    "a place beyond the file": lambda file: header_of(file, lambda h: h[PLANES].update(data_offsets=[0, 1 << 50])),
    "a dtype of none": lambda file: header_of(file, lambda h: h[PLANES].update(dtype="PICKLE")),
    "a number for a tensor": lambda file: header_of(file, lambda h: h.update({PLANES: 5})),
    "a tensor without places": lambda file: header_of(file, lambda h: h.update({PLANES: {"shape": [1]}})),
    "no card": lambda file: header_of(file, lambda h: h.pop("__metadata__")),
    "a card that is no JSON": lambda file: header_of(file, lambda h: h["__metadata__"].update(person="{")),
    "a number for a card": lambda file: header_of(file, lambda h: h["__metadata__"].update(person=5)),
    "nothing for a card": lambda file: header_of(file, lambda h: h["__metadata__"].update(person=None)),
    "a list for metadata": lambda file: header_of(file, lambda h: h.update(__metadata__=["person"])),
    "a card that is a list": lambda file: header_of(file, lambda h: h["__metadata__"].update(person="[1]")),
    "a deep card": lambda file: header_of(
        file, lambda h: h["__metadata__"].update(person='{"a":' * 5000 + "1" + "}" * 5000)
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_or_hostile_is_one_sentence(case, file, portrait):
    file.write_bytes(DAMAGED[case](file))
    for read in (lambda: load_person(file, portrait), lambda: check_person_file(file)):
        with pytest.raises(InputError, match=f"^{file}") as refused:
            read()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 600


def test_what_is_no_file_is_one_sentence(tmp_path, portrait):
    with pytest.raises(InputError, match="no such file; make one with `triportrait personalize PICTURE"):
        load_person(tmp_path / "none.safetensors", portrait)
    with pytest.raises(InputError, match=f"^{tmp_path}"):
        load_person(tmp_path, portrait)


def test_escapes_in_a_card_are_not_shown(file, portrait, person):
    rewritten(file, lambda tensors, card: card["card"].update(source="\x1b[2J" + "x" * 9999, weights="\x1b[2J"))
    read = load_person(file, portrait)
    for check in (
        lambda: read.check_weights("0" * 64, file, "these"),
        lambda: read.check_source(torch.zeros(64, 64, 3, dtype=torch.uint8), file, "this one"),
    ):
        with pytest.raises(InputError) as refused:
            check()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 800


def test_a_person_is_of_its_weights_and_its_picture(person, portrait):
    crop = torch.arange(256 * 256 * 3).view(256, 256, 3).to(torch.uint8)
    person.check_weights(weights_hash(portrait), "a", "b")
    person.check_source(crop, "a", "b")
    person.check_source(crop.int().add(2).clamp(0, 255).to(torch.uint8), "a", "saved again")
    with pytest.raises(InputError, match=r"^a: this person was refined for other weights \(demo\) than w; "):
        person.check_weights("0" * 64, "a", "w")
    with pytest.raises(InputError, match=r"^a: expected the picture of this person .* \(photo\.jpg\), got p, which"):
        person.check_source(255 - crop, "a", "p")
