"""`triportrait train motion`: an encoder of any size from sets and clips, and stage 2 with each kind of encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import little, tracked, trained
from tests.train.runs import lines_of, refused, unclocked
from tests.train.spoiling import changed
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_pair, read_card, save_motion_encoder
from triportrait.core.errors import InputError
from triportrait.core.motion.declared_encoder import DeclaredEncoder
from triportrait.core.motion.encoder import MotionEncoder, encoder_fingerprint
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.core.motion.motion_crop import motion_crop
from triportrait.core.motion.parameter_encoder import FLAME_WIDTHS, flame_parameters
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import HEAD_COLUMNS, SmallMotionEncoder
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.motion_targets import targets_of
from triportrait.train.data.split import split_data
from triportrait.train.data.stored_motion import stored_motion_width
from triportrait.train.named_networks import parameter_encoder
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.runs.stopping import Stopper

LAYERS: list[Any] = [
    {"op": "conv", "out": 4, "kernel": 3, "stride": 4},
    {"op": "activation", "kind": "relu"},
    {"op": "pool", "kind": "global"},
    {"op": "flatten"},
    {"op": "linear", "out": 5},
]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Clips of tracked faces of a named head model, one of them held out, and networks to train with."""
    folder = tmp_path_factory.mktemp("motion")
    trained.write_static(folder / "static")
    tracked.write_static(folder / "flame")
    tracked.write_store(folder / "clips", clips=5)
    changed(folder / "clips", folder / "clips", lambda t: {n: v for n, v in t.items() if n != "motion"})
    index = json.loads((folder / "clips/index.json").read_text())
    (folder / "clips/index.json").write_text(json.dumps(index | {"head_model": PUBLISHED_MODEL.to_dict()}))
    split_data(folder / "clips", 0.3)
    return folder


def words(material: Path, out: Path, *more: Any, data: Path | None = None) -> list[str]:
    """Six steps of four faces."""
    data = material / "clips" if data is None else data
    options = ["--data", data, "--out", out, "--images", 24, "--batch", 4, "--save-every", 8, "--sample-every", 24]
    options += ["--widths", 8, 16, "--crop-size", 24, "--evaluate-every", 8, "--lr", 0.01]
    flame = ["--flame", material / "flame"] if data == material / "clips" else []
    return ["train", "motion", *map(str, [*options, *flame, *more])]


def stage2(material: Path, out: Path, *more: Any) -> list[str]:
    options = ["--data", material / "clips", "--out", out, "--static", material / "static", "--batch", 2, "--images", 4]
    options += ["--micro-batches", 1, "--save-every", 100, "--sample-every", 100, "--evaluate-every", 0]
    options += ["--adversarial", 0, "--precision", "fp32", "--flame", material / "flame"]
    return ["train", "stage2", *map(str, [*options, *more])]


@pytest.fixture
def little_preset(monkeypatch):
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)


@pytest.fixture(scope="module")
def read(material, tmp_path_factory) -> Path:
    """The run of an encoder of tracked faces."""
    run = tmp_path_factory.mktemp("run") / "read"
    assert cli.main(words(material, run)) == 0
    return run


def test_an_encoder_of_tracked_faces_says_what_it_reads(read, material):
    card = read_card(read / "weights", "motion")
    entry = card["encoder"]
    assert entry["architecture"] == "small"
    assert entry["name"] == "small, FLAME 2020"
    assert entry["crop"] == {"frame": "published 224", "size": 24}
    assert entry["columns"]["widths"] == dict(FLAME_WIDTHS)
    assert entry["columns"]["head_model"] == PUBLISHED_MODEL.to_dict()
    assert card["provenance"]["images seen"] == {"motion": 24}
    encoder = load_motion_encoder(read / "weights")
    assert (encoder.motion_width, encoder.crop_size, encoder.to_dict()["widths"]) == (109, 24, (8, 16))  # type: ignore[index]
    assert not encoder.of_drawn_heads
    assert encoder.gaze is None
    store = ClipStore(material / "clips")
    split = json.loads((material / "clips/split.json").read_text())
    kept = [i for i, name in enumerate(store.clips) if split["identities"][name] not in split["held_out"]]
    assert 0 < len(kept) < len(store)
    jaw = np.concatenate([store.table(i)["pose"][:, 3:4] for i in kept]).astype(np.float64)
    assert entry["columns"]["scale"][100] == pytest.approx(jaw.std(), rel=1e-5), "of the trained clips alone"


def test_held_out_clips_are_measured_while_it_trains(read):
    measured = [line for line in lines_of(read) if "held_out all error" in line]
    assert [line["images_seen"] for line in measured] == [0, 8, 16, 24]
    names = {f"held_out {name} correlation" for name in FLAME_WIDTHS} | {"held_out all error"}
    assert names <= measured[-1].keys()
    assert measured[0]["held_out all error"] != measured[-1]["held_out all error"]
    assert (read / "held_out_motion.svg").read_text().count("<polyline") == 4
    seen = [line for line in lines_of(read) if "seen jaw correlation" in line]
    assert len(seen) == 1


def test_a_run_that_was_stopped_ends_as_one_that_was_not(read, material, tmp_path, monkeypatch):
    asked = []

    def asked_after_three(self: Stopper) -> bool:
        asked.append(1)
        return len(asked) > 3

    with monkeypatch.context() as patch:
        patch.setattr(Stopper, "asked", property(asked_after_three))
        assert cli.main(words(material, tmp_path / "run")) == 0
    assert not (tmp_path / "run/weights").exists()
    assert cli.main(words(material, tmp_path / "run")) == 0
    ours, theirs = (checkpoints_of(run, "motion")[-1] / "motion.safetensors" for run in (tmp_path / "run", read))
    assert ours.read_bytes() == theirs.read_bytes()
    assert unclocked_terms(tmp_path / "run") == unclocked_terms(read)


def unclocked_terms(run: Path) -> list[dict[str, Any]]:
    return [{n: v for n, v in line.items() if not n.startswith("data_")} for line in unclocked(run)]


def test_clips_of_procedural_heads_and_sets_tell_their_nine_numbers(little_clips, little_folder, material, tmp_path):
    for name, data in (("clips", little_clips), ("set", little_folder)):
        assert cli.main(words(material, tmp_path / name, "--evaluate-every", 0, data=data)) == 0
        encoder = load_motion_encoder(tmp_path / name / "weights")
        assert encoder.columns == HEAD_COLUMNS
        assert encoder.of_drawn_heads
        assert encoder.gaze == slice(7, 9)
        assert encoder.name == "small, procedural heads"


def test_numbers_are_chosen(material):
    store = ClipStore(material / "clips")
    jaw = targets_of(store, None, ("jaw",), None)
    assert (dict(jaw.columns.widths), jaw.places) == ({"jaw": 3}, (100, 101, 102))
    few = targets_of(store, None, ("expression", "eyes"), 10)
    assert (dict(few.columns.widths), few.places) == ({"expression": 4, "eyes": 6}, (*range(4), *range(103, 109)))
    parameters = torch.arange(109.0)[None]
    assert few.of(parameters)[0].tolist() == [0, 1, 2, 3, *range(103, 109)]


def test_coefficients_that_never_move_are_left_out(material, tmp_path):
    def shortened(table: dict[str, Any]) -> dict[str, Any]:
        expression = table["expression"].copy()
        expression[:, 7:] = 0
        expression[:, 2] = 0.5
        return table | {"expression": expression}

    store = ClipStore(changed(material / "clips", tmp_path / "few", shortened))
    targets = targets_of(store, None, tuple(FLAME_WIDTHS), None)
    assert dict(targets.columns.widths) == {"expression": 7, "jaw": 3, "eyes": 6}
    assert targets.columns.scale[2] == 1.0


REFUSED: dict[str, tuple[list[Any], str]] = {
    "widths": (["--widths", 12], "widths: expected 1 to 8 multiples of 8 up to 4096, got 8 16 12; choose others"),
    "no widths": (["--widths", *[8] * 9], "widths: expected 1 to 8 multiples of 8"),
    "crop": (["--crop-size", 30], "crop-size: expected a multiple of 4 up to 1024, as each of 2 widths halves it, "),
    "memory": (["--widths", 4096, "--crop-size", 1024], "widths: expected at most 268,435,456 weights"),
    "width": (["--motion-width", 9], "motion-width: expected 10 to 109 for expression, jaw, eyes, got 9; choose so"),
    "fixed": (["--targets", "jaw", "--motion-width", 4], "motion-width: expected 3 for jaw, got 4; choose so many"),
    "no width": (["--motion-width", 0], "motion-width: expected 1 to 4096, got 0; choose another"),
    "twice": (["--targets", "jaw", "jaw"], "targets: expected some of expression, jaw, eyes, each once, got jaw, jaw"),
    "flame": (["--flame", "demo"], "demo: expected a weights folder with FLAME's tables, got one without"),
    "name": (["--name", "x" * 99], "name: expected up to 80 letters, got"),
}


@pytest.mark.parametrize("more, said", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_encoder_is_refused_before_any_work(more, said, material, tmp_path, capsys):
    assert said in refused(words(material, tmp_path / "run", *more), capsys)
    assert not (tmp_path / "run").exists()


def test_data_that_hold_nobody_out_are_refused_where_they_shall_be_measured(little_folder, material, tmp_path, capsys):
    said = refused(words(material, tmp_path / "run", data=little_folder), capsys)
    assert "expected data that hold somebody out for --evaluate-every, nobody is" in said


def test_a_run_of_other_targets_is_refused(read, material, capsys):
    said = refused(words(material, read, "--targets", "jaw"), capsys)
    assert "this run was begun with run.encoder.columns.scale" in said


def encoders(material: Path, folder: Path, read: Path) -> Path:
    """Weights folders of each kind that reads pictures."""
    own = DeclaredEncoder({"crop_size": 32, "layers": LAYERS}, "mine")
    torch.manual_seed(0)
    state = {name: torch.randn(t.shape) / 4 for name, t in own.state_dict().items()}
    save_motion_encoder(folder / "own", state, own, {"licence": "mine"})
    trained.write(folder / "small")
    shutil.copytree(read / "weights", folder / "read")
    return folder


@pytest.mark.parametrize("kind, width", [("own", 5), ("small", 9), ("read", 109)])
def test_stage_2_reads_pictures_with_each_kind(kind, width, read, material, tmp_path, capsys, little_preset):
    folder = encoders(material, tmp_path, read) / kind
    assert cli.main(stage2(material, tmp_path / "run", "--motion", folder)) == 0
    said = capsys.readouterr().err
    assert "no motion is stored; " in said
    encoder = load_motion_encoder(folder)
    assert f"motion: {width} numbers by {encoder.name}" in said
    assert cli.main(["train", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    portrait, again = load_pair(tmp_path / "out")
    assert portrait.config.transformer.motion_width == width
    assert again.card() == encoder.card()
    crop = motion_crop(torch.rand(2, 3, 64, 64) * 2 - 1, size=encoder.crop_size or 0)
    assert torch.equal(again(crop), encoder(crop))
    if kind == "own":
        assert read_card(tmp_path / "out", "motion")["provenance"]["encoder from"] == {"licence": "mine"}


def test_parameters_move_stage_2_as_they_are_or_in_units(material, tmp_path, capsys, little_preset):
    assert cli.main(stage2(material, tmp_path / "plain", "--motion-kind", "parameters")) == 0
    encoder = load_motion_encoder(tmp_path / "plain/motion_encoder")
    assert encoder.card() == flame_parameters(PUBLISHED_MODEL).card()
    unit = flame_parameters(PUBLISHED_MODEL, (1.0,) * 109)
    halved = flame_parameters(PUBLISHED_MODEL, (0.5,) * 109)
    losses = {"plain": terms(tmp_path / "plain")}
    for name, other in (("unit", unit), ("halved", halved)):
        save_motion_encoder(tmp_path / f"{name} encoder", {}, other, {})
        more = ["--motion-kind", "parameters", "--motion", tmp_path / f"{name} encoder"]
        assert cli.main(stage2(material, tmp_path / name, *more)) == 0
        losses[name] = terms(tmp_path / name)
    assert losses["unit"] == losses["plain"]
    assert losses["halved"] != losses["plain"]
    assert cli.main(["train", "export", str(tmp_path / "halved"), str(tmp_path / "out")]) == 0
    assert load_pair(tmp_path / "out")[1].card() == halved.card()


def terms(run: Path) -> Any:
    generator = checkpoints_of(run, "stage2")[-1] / "generator.safetensors"
    return generator.read_bytes()


def test_parameters_of_another_head_model_are_refused(material, tmp_path, capsys, little_preset):
    other = flame_parameters(ModelIdentity("FLAME 2023", "f" * 16))
    save_motion_encoder(tmp_path / "other", {}, other, {})
    arguments = stage2(material, tmp_path / "run", "--motion", tmp_path / "other")
    assert "which takes parameters; say --motion-kind parameters" in refused(arguments, capsys)
    said = refused([*arguments, "--motion-kind", "parameters"], capsys)
    assert "FLAME 2023" in said
    assert "FLAME 2020" in said


def test_units_that_say_nothing_of_a_head_model_are_those_of_the_published_one(tmp_path):
    save_motion_encoder(tmp_path, {}, flame_parameters(None, (2.0,) * 109), {})
    assert parameter_encoder(str(tmp_path), flame_parameters(PUBLISHED_MODEL).columns).scale[0] == 2
    with pytest.raises(InputError, match=r"expected parameters of FLAME 2020 .* got those of open head"):
        parameter_encoder(str(tmp_path), flame_parameters(ModelIdentity("open head", "0" * 16)).columns)


def test_motion_that_another_encoder_read_is_not_taken(material, tmp_path, capsys, little_preset):
    """Nine stored numbers are those of the encoder where its fingerprint says so, or nobody says anything."""
    trained.write(tmp_path / "small")
    stored = tmp_path / "stored"
    rng = np.random.default_rng(0)
    changed(material / "clips", stored, lambda t: t | {"motion": np.float32(rng.normal(size=(4, 9)))})
    index = json.loads((stored / "index.json").read_text())
    said, mine, namesake = {}, little.encoder(3), little.encoder(4)
    assert mine.name == namesake.name
    for name, encoder in (("unnamed", None), ("own", mine), ("namesake", namesake)):
        entry = {} if encoder is None else entry_of(encoder)
        (stored / "index.json").write_text(json.dumps(index | entry))
        arguments = stage2(material, tmp_path / name, "--motion", tmp_path / "small")
        assert cli.main([*arguments[:3], str(stored), *arguments[4:]]) == 0
        said[name] = capsys.readouterr().err
    assert terms(tmp_path / "unnamed") == terms(tmp_path / "own") != terms(tmp_path / "namesake")
    digits = encoder_fingerprint(namesake)
    assert f"its motion was read by 'small' ({digits}); small reads the pictures" in said["namesake"]
    assert "reads the pictures" not in said["own"]


def entry_of(encoder: MotionEncoder) -> dict[str, Any]:
    """What an index says of the encoder that read its motion."""
    digits = encoder_fingerprint(encoder)
    return {"motion_encoder": encoder.name, "motion": {"width": encoder.motion_width, "fingerprint": digits}}


def test_whose_stored_motion_is(material, tmp_path):
    """A name alone tells nothing; published motion is PD-FGC's, whose width others may have."""
    wide = SmallMotionEncoder(548, 32, (8, 8))
    for width, encoder, entry, expected in (
        (9, little.encoder(3), {"motion_encoder": "small"}, None),
        (9, little.encoder(3), {"motion_encoder": "small", "motion": "damaged"}, None),
        (9, little.encoder(3), entry_of(little.encoder(3).half()), 9),
        (548, wide, {}, None),
        (548, wide, entry_of(wide), 548),
        (548, PDFGC(), {}, 548),
    ):
        stored = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        changed(material / "clips", stored, lambda t, width=width: t | {"motion": np.zeros((4, width), np.float32)})
        index = json.loads((stored / "index.json").read_text())
        (stored / "index.json").write_text(json.dumps(index | entry))
        assert stored_motion_width(ClipStore(stored), encoder) == expected, (width, entry)


def test_a_fingerprint_is_that_of_the_weights_in_any_precision():
    assert encoder_fingerprint(little.encoder(3)) == encoder_fingerprint(little.encoder(3).half())
    assert encoder_fingerprint(little.encoder(3)) != encoder_fingerprint(little.encoder(4))


def test_weights_that_another_head_model_or_encoder_moves_are_refused(material, tmp_path, capsys, little_preset):
    parameters = ["--motion-kind", "parameters"]
    assert cli.main(stage2(material, tmp_path / "first", *parameters)) == 0
    assert cli.main(["train", "export", str(tmp_path / "first"), str(tmp_path / "weights")]) == 0
    more = [*parameters, "--weights", tmp_path / "weights"]
    assert cli.main(stage2(material, tmp_path / "on", *more)) == 0, "the same head model goes on"
    halved = flame_parameters(PUBLISHED_MODEL, (0.5,) * 109)
    save_motion_encoder(tmp_path / "halved", {}, halved, {})
    said = refused(stage2(material, tmp_path / "run", *more, "--motion", tmp_path / "halved"), capsys)
    assert f"say --motion {tmp_path / 'weights'}, or name another network" in said
    card = json.loads((tmp_path / "weights/portrait.json").read_text())
    card["provenance"]["head_model"] = {"name": "FLAME 2023", "fingerprint": "f" * 16}
    (tmp_path / "weights/portrait.json").write_text(json.dumps(card))
    said = refused(stage2(material, tmp_path / "run", *more), capsys)
    assert "data: expected parameters of FLAME 2023 (ffffffffffffffff), the head model of --weights" in said
    for name, seed in (("mine", 3), ("other", 4)):
        trained.write(tmp_path / name, {"network": "reenactment"}, seed)
    words = ["--weights", tmp_path / "mine", "--motion"]
    said = refused(stage2(material, tmp_path / "run", *words, tmp_path / "other"), capsys)
    assert "--weights" in said
    assert "its own encoder is another, small (" in said
    assert not (tmp_path / "run/checkpoints").exists()
    assert cli.main(stage2(material, tmp_path / "again", *words, tmp_path / "mine")) == 0


def test_weights_of_another_width_are_refused(material, read, tmp_path, capsys, little_preset):
    trained.write(tmp_path / "small", {"network": "reenactment"})
    arguments = stage2(material, tmp_path / "run", "--motion", read / "weights", "--weights", tmp_path / "small")
    assert "expected weights of preset test_motion_109, 64 px, motion of 109 numbers, got test" in refused(
        arguments, capsys
    )


def test_faces_are_drawn_by_their_place_alone(material):
    from triportrait.train.data.clip_pictures import ClipPictures
    from triportrait.train.data.clip_store.frames import AvDecoder
    from triportrait.train.data.clip_store.tracks import FlameTracks

    def drawn(skip: int) -> Any:
        clips = ClipPictures(ClipStore(material / "clips"), little.model(), FlameTracks(tracked.field(), None), 0,
                             AvDecoder())  # fmt: skip
        for place in range(skip):
            clips.faces(2, np.random.default_rng(99), place)
        return clips.faces(2, np.random.default_rng(7), 3)

    (one, other), (again, _) = drawn(0), drawn(2)
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.motion, again.motion)
    assert one.features is None
    assert one.neck is None
    assert not torch.equal(one.motion, other.motion), "two frames"
    assert one.origin == other.origin
    with pytest.raises(InputError):
        targets_of(ClipStore(material / "clips"), [], ("jaw",), None)


def test_the_batch_is_what_was_asked_for_when_it_is_odd(material, tmp_path):
    assert cli.main(words(material, tmp_path / "run", "--batch", 3, "--images", 6)) == 0
    assert lines_of(tmp_path / "run")[-1]["images_seen"] == 6
