"""The rows of Table 3: each is what the paper prints, each trains, and each column changes what it names alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train import little, trained
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.train import ablations
from triportrait.train.ablations import TABLE, Columns, RowName, ablated, with_columns
from triportrait.train.config import TrainConfig
from triportrait.train.data.pictures import PictureSet, open_set
from triportrait.train.networks import InitFrom, check_required_files
from triportrait.train.presets import STAGE_PRESETS, paper, tiny_stages
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages.initialize import reads_motion

COPY = Path(__file__).parents[1] / "data/paper/tables.json"  # the paper's tables as they were transcribed
PRINTED: dict[str, dict[str, Any]] = json.loads(COPY.read_text())["table3_ablation"]
ROWS = get_args(RowName)


@pytest.fixture(autouse=True)
def little_preset(monkeypatch):
    """`tiny` is the smallest training here, and a clip stands for many others."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.setattr(ablations, "_OF_A_SMALL_CAST", 1_000)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A set of ten heads, a static synthesizer, a dynamic one, and a motion encoder."""
    folder = tmp_path_factory.mktemp("material")
    open_set(folder / "cast", dataclasses.replace(little.CAST, count=10, expressions=2, views=1), little.model())
    trained.write(folder / "trained", {"network": "reenactment"})
    trained.write_static(folder / "static", noted={"network": "static synthesizer"})
    return folder


def words(material: Path, row: str | None, out: Path, *more: Any) -> list[str]:
    given = ["--data", material / "cast", "--out", out, "--static", material / "static", "--motion"]
    given += [material / "trained", "--batch", 4, "--micro-batches", 1]
    given += [] if row is None else ["--ablation", row]
    given += ["--teacher", material / "trained"] if row == "G" else []
    return ["train", "stage2", *map(str, [*given, *more])]


def test_the_table_is_the_paper_s():
    """Every column that says how a row is trained, as it was transcribed; the figures have a home of their own."""
    assert list(TABLE) == list(PRINTED) == list(ROWS)
    for row, columns in TABLE.items():
        kept = dataclasses.asdict(columns)
        assert kept.items() <= PRINTED[row].items(), row
        assert len(kept) == 8 and len(PRINTED[row]) == 8 + 9, row


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_its_columns(row):
    """Preset paper: each field against the printed column, in the words of this table and not of the code's."""
    printed, found = PRINTED[row], ablated(paper(), row)
    own = found.stage2
    assert own.init == {"random": "random", "static synthesizer": "static"}[printed["initialisation"]]
    assert own.real_driving == (0.1 if printed["pseudo_p"] else 1.0), "90 % pseudo views where p is on"
    assert own.real_target == (0.8 if printed["pseudo_q"] else 1.0), "20 % pseudo views where q is on"
    assert own.motion == {"E_mot": "pictures", "3DMM": "parameters"}[printed["motion"]]
    assert found.model.transformer.motion_width == {"E_mot": 548, "3DMM": 109}[printed["motion"]]
    assert own.teacher == {"static synthesizer": "static", "Portrait4D": "dynamic"}[printed["teacher"]]
    assert own.clips == {10_000: 0}.get(printed["clips"], printed["clips"]), "10 K are all that there are"
    assert own.images == printed["images"]
    assert own.optimizer.motion_lr_factor == printed["motion_rate_factor"]
    assert own.optimizer.lr * own.optimizer.motion_lr_factor == pytest.approx({1.0: 1e-4, 2.5: 2.5e-4}[
        printed["motion_rate_factor"]
    ])  # fmt: skip


def test_the_whole_row_is_stage_2_itself():
    assert ablated(paper(), "L") == paper()


@pytest.mark.parametrize("row", ROWS)
def test_at_the_preset_tiny_on_and_off_are_the_paper_s(row, monkeypatch):
    monkeypatch.setattr(ablations, "_OF_A_SMALL_CAST", 500)
    printed, own, whole = PRINTED[row], ablated(tiny_stages(), row).stage2, tiny_stages().stage2
    assert (own.real_driving, own.real_target) == (
        0.1 if printed["pseudo_p"] else 1.0, 0.8 if printed["pseudo_q"] else 1.0,
    )  # fmt: skip
    assert own.images == {5_000_000: 40_000, 6_000_000: 48_000}[printed["images"]]
    assert own.clips == {10_000: 0, 1_000: 2, 2_000: 4, 5_000: 10}[printed["clips"]]
    assert whole.real_driving == 0.9, "tiny's own, a named field"
    assert own.camera_p == whole.camera_p, "no column of the table"


COLUMNS = {  # a column of row K and another value -> what of the config changes
    "initialisation": ("random", {"init": "random"}),
    "pseudo_p": (False, {"real_driving": 1.0}),
    "pseudo_q": (False, {"real_target": 1.0}),
    "motion": ("3DMM", {"motion": "parameters", "motion_width": 109}),
    "teacher": ("Portrait4D", {"teacher": "dynamic"}),
    "clips": (2_000, {"clips": 2_000}),
    "images": (6_000_000, {"images": 6_000_000}),
    "motion_rate_factor": (2.5, {"motion_lr_factor": 2.5}),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_changes_what_it_names_alone(column):
    value, wanted = COLUMNS[column]
    before, after = (with_columns(paper(), c) for c in (TABLE["K"], dataclasses.replace(TABLE["K"], **{column: value})))
    assert _changes(before, after) == wanted
    assert set(COLUMNS) == {field.name for field in dataclasses.fields(Columns)} - {"figures"}


OPTIONS = {  # an option of its own -> what of the preset paper changes
    "init": (["--init", "random"], {"init": "random"}),
    "real-driving": (["--real-driving", "0.5"], {"real_driving": 0.5}),
    "real-target": (["--real-target", "1"], {"real_target": 1.0}),
    "motion-kind": (["--motion-kind", "parameters"], {"motion": "parameters", "motion_width": 109}),
    "teacher": (["--teacher", "some"], {"teacher": "dynamic"}),
    "clips": (["--clips", "70"], {"clips": 70}),
    "images": (["--images", "640"], {"images": 640}),
    "motion-rate-factor": (["--motion-lr-factor", "3"], {"motion_lr_factor": 3.0}),
    "front-sources": (["--front-sources", "0"], {}),
    "theta-p": (["--theta-p", "near-front"], {"yaw": (-0.5, 0.5), "pitch": (-0.15, 0.35)}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_column_is_an_option_of_its_own(option, monkeypatch, capsys):
    given, wanted = OPTIONS[option]
    seen: list[TrainConfig] = []
    monkeypatch.setattr(
        "triportrait.train.jobs.train.shown_columns", lambda config, *_: seen.append(config) or "columns"
    )
    assert cli.main(["train", "stage2", "--preset", "paper", "--show-schedule", *given]) == 0
    assert _changes(paper(), seen[0]) == wanted
    assert capsys.readouterr().out.startswith("columns\nstage2: ")


def _changes(one: Any, other: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(one):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(before):
            found |= _changes(before, after)
        elif before != after and field.name != "preset":
            found[field.name] = after
    return found


REFUSED = {
    "init of a row that begins as the static synthesizer": (
        "K", ["--init", "random"], "--init random: row K of the paper's Table 3 has initialisation static synthesizer",
    ),
    "init of a row that begins at random": ("A", ["--init", "some"], "row A of the paper's Table 3 has initialisation"),
    "weights": ("C", ["--weights", "some"], "--weights some: row C of the paper's Table 3 has initialisation static"),
    "p, which is off": ("B", ["--real-driving", "0.5"], "--real-driving 0.5: row B of the paper's Table 3 has pseudo "
                        "views p off; leave this option out, or --ablation and give each column as an option"),
    "p, which is on": ("C", ["--real-driving", "1"], "row C of the paper's Table 3 has pseudo views p on"),
    "q, which is on": ("D", ["--real-target", "1"], "row D of the paper's Table 3 has pseudo views q on"),
    "motion": ("F", ["--motion-kind", "pictures"], "row F of the paper's Table 3 has motion parameters"),
    "a teacher": ("K", ["--teacher", "some"], "--teacher some: row K of the paper's Table 3 has teacher static synth"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_row_is_cannot_be_contradicted(case, capsys):
    row, options, said = REFUSED[case]
    assert cli.main(["train", "stage2", "--ablation", row, "--show-schedule", *options]) == 2
    assert said in capsys.readouterr().err


def test_numbers_beside_a_row_win_and_are_said(capsys):
    more = ["--images", "480", "--clips", "3", "--real-driving", "0.3", "--motion-lr-factor", "2"]
    more += ["--theta-p", "near-front", "--lr", "0.002", "--batch", "16"]
    assert cli.main(["train", "stage2", "--ablation", "K", "--preset", "paper", "--show-schedule", *more]) == 0
    said = capsys.readouterr().out
    assert (
        "options that won over the row: --images 480, --clips 3, --batch 16, --real-driving 0.3, --lr 0.002, "
        "--motion-lr-factor 2, --theta-p near-front\n" in said
    )
    assert "70% of the motions are read off them" in said
    assert "stage2: 480 images" in said


def shown(row: str, capsys, *more: str) -> dict[str, str]:
    """What `--show-schedule` says, by the beginnings of its lines."""
    assert cli.main(["train", "stage2", "--ablation", row, "--show-schedule", "--preset", "paper", *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split("  ")[0].strip(): " ".join(line.split()) for line in lines}


@pytest.mark.parametrize("row", ROWS)
def test_the_schedule_shows_the_row_without_data(row, capsys):
    printed, found = PRINTED[row], shown(row, capsys)
    assert found[f"row {row} of Table 3"]
    for label, name in (("initialisation", "initialisation"), ("motion", "motion"), ("teacher", "teacher")):
        assert found[label].startswith(f"{label} {printed[name]} {printed[name]}"), label
    assert found["images"] == f"images {printed['images']:,} {printed['images']:,}"
    here = "all of the data" if printed["clips"] == 10_000 else f"{printed['clips']:,}"
    assert found["clips"] == f"clips {printed['clips']:,} {here}"
    for which, share in (("p", "90% of the motions"), ("q", "20% of the targets")):
        on = printed[f"pseudo_{which}"]
        said = found[f"pseudo views {which}"]
        assert said.startswith(f"pseudo views {which} {'on' if on else 'off'} ")
        assert row == "F" or ((share in said) == on)
    factor = printed["motion_rate_factor"]
    assert found["motion's rate"] == (
        f"motion's rate factor {factor:g} {factor * 1e-4:.3g}, {factor:g} times the others' 0.0001"
    )


def test_the_schedule_says_nothing_false_of_parameters(capsys):
    """Row F reads no pseudo view for its motion, whatever the coin's share is."""
    found = shown("F", capsys)
    assert found["pseudo views p"].endswith("none is read: see motion")
    assert "90%" not in found["motion off pseudo views"]
    assert "█" not in found["motion off pseudo views"]
    assert "none is read: motion is the parameters of the data" in found["motion off pseudo views"]
    assert [line for line in found if line.startswith("θ_p")] == ["θ_p: not used"]
    assert found["motion"].endswith("109 numbers of the data")


def test_without_a_row_data_and_out_are_missing(capsys):
    assert cli.main(["train", "stage2"]) == 2
    assert "train: --data and --out are missing; `triportrait train --help` lists" in capsys.readouterr().err
    assert cli.main(["train", "stage1", "--data", "some"]) == 2
    assert "train: --out is missing; " in capsys.readouterr().err


def test_rows_without_pseudo_views_need_a_static_synthesizer_only_to_begin_as(material, tmp_path, capsys):
    for row in ROWS:
        with pytest.raises(InputError) as refused:
            check_required_files("stage2", ablated(paper(), row), InitFrom())
        assert ("--static" in str(refused.value)) == (row != "A")
    more = ["--images", 4, "--precision", "fp32", "--adversarial", 0]
    without = words(material, None, tmp_path / "run", *more)
    at = without.index("--static")
    del without[at : at + 2]
    assert cli.main([*without, "--ablation", "B"]) == 2
    assert "static: expected the weights of the static synthesizer for stage 2" in capsys.readouterr().err
    assert cli.main([*without, "--ablation", "A"]) == 0
    without[without.index("--out") + 1] = str(tmp_path / "begun")
    assert cli.main([*without, "--ablation", "B", "--init", str(material / "static")]) == 0


@pytest.mark.parametrize("row", ROWS)
def test_every_row_takes_five_steps_and_shows_itself(row, material, tmp_path, capsys):
    run = tmp_path / "run"
    more = ["--images", 20, "--precision", "fp32", "--save-every", 20, "--sample-every", 20, "--adversarial-from", 4]
    assert cli.main(words(material, row, run, *more)) == 0
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert any(line.startswith(f"row {row} of Table 3  the paper") for line in lines), "a table has lines"
    assert any(line.startswith("options that won over the row: --images 20") for line in lines)
    assert cli.main(["train", "export", str(run), str(tmp_path / "out")]) == 0
    moved, before = load_file(tmp_path / "out/portrait.safetensors"), load_portrait(material / "static").state_dict()
    assert all(value.isfinite().all() for value in moved.values())
    assert any(not torch.equal(moved[name], before[name]) for name in before)
    encoder = load_motion_encoder(tmp_path / "out")
    assert encoder.architecture == ("parameters" if row == "F" else "small")
    assert load_motion_encoder(run / "motion_encoder").card() == encoder.card()
    told = json.loads((run / "config.json").read_text())
    assert told["preset"] == f"test, ablation {row}"
    moved = json.loads((tmp_path / "out/portrait.json").read_text())["provenance"]["motion"]
    assert moved == {"E_mot": "pictures", "3DMM": "parameters"}[PRINTED[row]["motion"]]


@pytest.fixture(scope="module")
def cast(material) -> PictureSet:
    return PictureSet(material / "cast", little.model())


def models(**changes: Any) -> stage2.ReenactModels:
    portrait, static = little.portrait(motion=True), little.portrait(1, motion=True)
    return stage2.ReenactModels(
        portrait, static.eval(), **({"motion_encoder": little.encoder()} | changes), **_DISTANCE
    )


_DISTANCE: dict[str, Any] = {"perceptual": lambda one, other, weight=None: (one - other).abs().mean((1, 2, 3))}


def batch_of(cast: PictureSet, **changes: Any) -> stage2.ReenactBatch:
    return stage2.draw(cast, dataclasses.replace(little.config().stage2, **changes), np.random.default_rng(5))


def test_clips_are_the_first_ones(cast):
    drawn = [batch_of(cast, batch=64, clips=2), batch_of(cast, batch=64)]
    rows = cast.take(cast.pose(np.arange(2).repeat(2), np.tile(np.arange(2), 2)), torch.zeros(4, dtype=torch.long))
    inside = [(batch.source.motion[:, None] == rows.motion).all(-1).any(-1) for batch in drawn]
    assert inside[0].all()
    assert not inside[1].all()


def test_parameters_are_what_the_data_tells(cast):
    batch = batch_of(cast, real_driving=0.0, real_target=0.0)
    motion, targets = stage2.pseudo_views(batch, models(motion_encoder=None))
    assert torch.equal(motion, batch.driving.motion)
    assert len(targets) == len(motion)


def test_a_dynamic_teacher_reads_the_frame_s_own_motion(cast):
    batch, still = batch_of(cast, real_driving=1.0, real_target=0.0), models()
    _, seen = stage2.pseudo_views(batch, dataclasses.replace(still, dynamic=True))
    seen_again = []
    for motion_scale in (1.0, 2.0):
        encoder = little.encoder()
        with torch.no_grad():
            encoder.out.weight.mul_(motion_scale)
        asked = dataclasses.replace(still, motion_encoder=encoder)
        seen_again.append([stage2.pseudo_views(batch, dataclasses.replace(asked, dynamic=d))[1] for d in (True, False)])
    assert torch.equal(seen, seen_again[0][0])
    assert not torch.equal(seen, seen_again[1][0])
    assert torch.equal(seen_again[0][1], seen_again[1][1])  # a static one knows no motion


def begun(arguments: list[str], monkeypatch) -> stage2.ReenactModels:
    """The networks of a stage 2 as it begins."""
    made: list[stage2.ReenactModels] = []

    def take(config, chosen, models, *more):
        made.append(models)
        raise InputError("enough")

    monkeypatch.setattr("triportrait.train.run_one_stage.reenact_stage", take)
    assert cli.main(arguments) == 2
    return made[0]


def equal(one: Any, other: Any, motion: bool) -> list[bool]:
    """Of each tensor that reads motion, or of each other one, whether it is the same in two networks."""
    first, second = one.state_dict(), other.state_dict()
    return [torch.equal(first[name], second[name]) for name in first if reads_motion(name) == motion]


@pytest.mark.parametrize("row, more", [("A", []), ("E", []), ("K", []), (None, ["--init", "random"])])
def test_a_portrait_begins_as_it_is_told(row, more, material, tmp_path, monkeypatch):
    portrait = begun(words(material, row, tmp_path / "run", "--seed", 7, *more), monkeypatch).portrait
    static = load_portrait(material / "static")
    at_random = row in ("A", "E", None)
    assert all(equal(portrait, static, motion=False)) != at_random
    fresh = little.portrait(7, motion=True)
    assert all(equal(portrait, fresh, motion=True))
    assert all(equal(portrait, fresh, motion=False)) == at_random


def test_row_g_begins_as_the_static_synthesizer_while_the_dynamic_one_draws(material, tmp_path, monkeypatch):
    for name, more in (("static", []), ("init", ["--init", trained.write_static(tmp_path / "other", seed=9)])):
        found = begun(words(material, "G", tmp_path / name, *more), monkeypatch)
        wanted = load_portrait(tmp_path / "other" if more else material / "static")
        teacher = load_portrait(material / "trained")
        alike = equal(found.portrait, wanted, motion=False)
        assert all(alike) and len(alike) > 50, "all that reads no motion is Ψ_3d's"
        assert not any(
            torch.equal(value, teacher.state_dict()[key])
            for key, value in found.portrait.state_dict().items()
            if value.dim() > 1
        ), "and nothing is the teacher's"
        assert all(equal(found.static, teacher, motion=True))
        assert all(equal(found.static, teacher, motion=False))
        assert found.dynamic


def test_a_dynamic_teacher_of_another_encoder_is_refused(material, tmp_path, capsys):
    arguments = words(material, "G", tmp_path / "run")
    arguments[arguments.index("--teacher") + 1] = str(trained.write(tmp_path / "other", seed=4))
    assert cli.main(arguments) == 2
    assert "--teacher" in (said := capsys.readouterr().err)
    assert "its own encoder is another" in said


def test_row_g_needs_no_static_synthesizer_beside_init(material, tmp_path, monkeypatch):
    arguments = words(material, "G", tmp_path / "run")
    place = arguments.index("--static")
    arguments[place] = "--init"
    found = begun(arguments, monkeypatch)
    assert all(equal(found.portrait, load_portrait(material / "static"), motion=False))


@pytest.mark.parametrize(
    "row, more, said",
    [
        ("J", ["--data", "few"], "data: expected 5 clips or more for this training, got 2; name a larger set or fewer"),
        ("K", ["--preset", "published"], "expected the preset tiny or paper, as the ablations are the paper's"),
        (None, ["--weights", "a", "--init", "b"], "--init b: expected none beside --weights, which says it"),
    ],
)
def test_what_cannot_be_ablated_is_refused(row, more, said, material, little_folder, tmp_path, capsys):
    more = [str(little_folder) if word == "few" else word for word in more]
    assert cli.main(words(material, row, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


def test_a_network_takes_as_many_numbers_as_its_encoder_gives(material, tmp_path, monkeypatch):
    transformer = dataclasses.replace(little.model().transformer, motion_width=11)
    wide = dataclasses.replace(little.adversarial(), model=dataclasses.replace(little.model(), transformer=transformer))
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: wide)
    portrait = begun(words(material, None, tmp_path / "run"), monkeypatch).portrait
    assert portrait.config.transformer.motion_width == 9
    assert portrait.config.preset == f"{little.model().preset}_motion_9"


def test_a_motion_encoder_of_other_numbers_is_refused(material, tmp_path, capsys, monkeypatch):
    transformer = dataclasses.replace(little.model().transformer, motion_width=11)
    wide = dataclasses.replace(little.adversarial(), model=dataclasses.replace(little.model(), transformer=transformer))
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: wide)
    arguments = words(material, None, tmp_path / "run")
    arguments[arguments.index("--motion") + 1] = "demo"
    assert cli.main(arguments) == 2
    assert "expected a motion encoder of 11 numbers, got 9; name another folder" in capsys.readouterr().err
