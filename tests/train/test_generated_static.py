"""`triportrait train stage1 --data genhead:FOLDER`: from a generator and tables to weights that stage 2 begins from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train import little, little_genhead
from tests.train.runs import lines_of, refused, unclocked
from triportrait import cli
from triportrait.core.checkpoint import load_portrait, read_card
from triportrait.core.config import genhead_tiny
from triportrait.core.errors import InputError
from triportrait.core.genhead.weights import load_genhead, save_genhead
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train import loop
from triportrait.train.networks import InitFrom, static_models
from triportrait.train.presets import STAGE_PRESETS, paper
from triportrait.train.run_generated_heads import on_generated
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.stages import static as stage1


@pytest.fixture(autouse=True, scope="module")
def little_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGE_PRESETS, "tiny", little.generated)
        patch.setattr(loop, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """A generator `genhead` and `tables`."""
    folder = tmp_path_factory.mktemp("heads")
    little_genhead.write(folder / "genhead")
    little_genhead.write_tables(folder / "tables")
    return folder


def words(heads: Path, out: Path, *more: Any) -> list[str]:
    options = ["--data", f"genhead:{heads / 'genhead'}", "--parameters", heads / "tables", "--out", out]
    options += ["--precision", "fp32", "--micro-batches", 2]
    return ["train", "stage1", *map(str, [*options, *more])]


@pytest.fixture(scope="module")
def run(heads, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "run"
    assert cli.main(words(heads, folder)) == 0
    return folder


def test_every_term_is_there_and_the_generator_s_time_is_told(run):
    lines = [line for line in lines_of(run) if "l1" in line]
    assert [{"planes", "feature", "depth"} <= line.keys() for line in lines] == [True, True, True, False]
    assert [{"adversary", "D fake"} <= line.keys() for line in lines] == [False, True, True, True]
    assert ["density" in line for line in lines] == [True, False, True, False]
    assert all(line["foreground"] > 0 < line["background"] for line in lines)
    assert all(line["planes"] > 0 < line["feature"] for line in lines[:3])
    assert all(line["generator_share"] > 0 < line["generator_s"] for line in lines)
    assert all(line["data_share"] < 0.5 for line in lines), "the generator's time is not the wait for data"
    assert (run / "samples/stage1_0000016.png").is_file()


def test_a_run_that_was_killed_ends_as_one_that_was_not(heads, run, tmp_path, monkeypatch, capsys):
    again, original, calls = tmp_path / "again", stage1.losses, []

    def losses(*given: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 6:
            raise InputError("the machine is gone")
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(stage1, "losses", losses)
        assert refused(words(heads, again), capsys) == "the machine is gone"
    assert [path.name for path in checkpoints_of(again, "stage1")] == ["stage1_000000008"]
    assert cli.main(words(heads, again)) == 0
    for network in ("generator", "discriminator"):
        one, other = (
            load_file(checkpoints_of(folder, "stage1")[-1] / f"{network}.safetensors") for folder in (run, again)
        )
        assert little.same(one, other), network
    assert unclocked(run) == unclocked(again)


def test_weights_of_generated_heads_turn_the_head_model_s_neck_and_begin_stage_2(run, tmp_path):
    out = tmp_path / "static"
    assert cli.main(["train", "export", str(run), str(out)]) == 0
    note = read_card(out, "portrait")["provenance"]
    assert note["network"] == "static synthesizer"
    assert note["cast"] is None
    assert note["init from"]["genhead"] == "genhead"
    assert ModelIdentity.from_dict(note["head_model"], "card").is_same(load_head_model().identity)
    assert load_portrait(out).neck is not None
    assert load_head_model(out).identity.is_same(load_head_model().identity), "stage 2 takes its head model"


def test_a_fresh_network_begins_with_the_generator_s_renderer(heads):
    generator = load_genhead(heads / "genhead")
    generator.mapping.mean_style.fill_(0.25)
    save_genhead(heads / "mean", generator, {})
    own = generator.state_dict()
    for until in (0, 8):
        config = little.generated()
        schedule = dataclasses.replace(config.stage1.schedule, renderer_frozen_until=until)
        config = dataclasses.replace(config, stage1=dataclasses.replace(config.stage1, schedule=schedule))
        init = InitFrom(genhead=str(heads / "mean"))
        found = static_models(config, init, torch.device("cpu")).portrait.state_dict()
        fresh = static_models(little.generated(), InitFrom(), torch.device("cpu")).portrait.state_dict()
        for name in found:
            if name == "superres.style":
                wanted = own[name] if until else torch.full_like(own[name], 0.25)
                assert torch.equal(found[name], wanted), "trained with a style of its own, or the published copy"
            elif name.startswith(("volume.", "superres.")):
                assert torch.equal(found[name], own[name]), name
            else:
                assert torch.equal(found[name], fresh[name]), name


def test_the_paper_s_start_names_what_it_needs_and_takes_the_generator(tmp_path, capsys):
    """The published sizes: without tables, and with a generator of another size."""
    save_genhead(tmp_path / "genhead", rule_genhead(genhead_tiny()), {})
    little_genhead.write_tables(tmp_path / "tables")
    given = words(tmp_path, tmp_path / "run", "--preset", "paper", "--perceptual", "gradients", "--identity-weight", 0)
    said = refused(given, capsys)
    assert "expected heads of 512 px for preset paper, got 128" in said
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_is_one_sentence(heads, little_folder, tmp_path, capsys):
    out = tmp_path / "run"
    given = words(heads, out)
    at = given.index("--parameters")
    bare = given[:at] + given[at + 2 :]
    said = refused(bare, capsys)
    assert "expected beside it the tables from which its heads are drawn, got none; name by --parameters" in said
    said = refused([*given, "--parameters", heads / "genhead"], capsys)
    assert "expected tables of parameters, there are none; make them by `triportrait prepare parameters`" in said
    said = refused([*given, "--data", little_folder], capsys)
    assert "expected none, as only genhead:FOLDER draws heads from tables" in said
    assert "nowhere" in refused([*given, "--data", "genhead:nowhere"], capsys)
    said = refused([*given, "--evaluate-every", 4], capsys)
    assert "hold somebody out for --evaluate-every, nobody is, as every head is drawn once; leave" in said
    said = refused(["train", "stage2", *bare[2:]], capsys)
    assert "expected a multi-view set or a clip store for stage2, got heads that GenHead draws" in said
    other = little_genhead.write_tables(tmp_path / "other", head_model=ModelIdentity("FLAME 2020", ""))
    assert "FLAME 2020" in refused([*given, "--parameters", other], capsys)
    generator = little_genhead.generator()
    with torch.no_grad():
        generator.volume.field.density.bias.add_(1)
    save_genhead(tmp_path / "genhead", generator, {})
    said = refused([*given, "--genhead", tmp_path / "genhead"], capsys)
    assert "expected the generator of the heads of genhead:genhead" in said
    assert not out.exists()


def test_a_renderer_of_other_sizes_is_refused(tmp_path):
    save_genhead(tmp_path, rule_genhead(genhead_tiny()), {})
    with pytest.raises(InputError, match=r"expected a renderer of the sizes of preset test \(planes of 8 channels, 64"):
        static_models(little.generated(), InitFrom(genhead=str(tmp_path)), torch.device("cpu"))


def test_other_tables_are_told_from_those_that_a_run_was_begun_on(heads, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    other = little_genhead.write_tables(tmp_path / "other", seed=1)
    said = refused(words(heads, tmp_path / "run", "--parameters", other), capsys)
    assert "begun on other data: genhead:genhead with 3 then, genhead:genhead with 3 now, of which ffhq_all_" in said


@pytest.fixture(scope="module")
def store(heads, tmp_path_factory) -> Path:
    """Six heads with feature images, of which some are held out."""
    folder = tmp_path_factory.mktemp("stored") / "store"
    given = ["--weights", heads / "genhead", "--parameters", heads / "tables", "--count", 6, "--views", 2]
    assert (
        cli.main(["prepare", "genhead", *map(str, [folder, *given, "--features", "--device", "cpu", "--workers", 1])])
        == 0
    )
    assert cli.main(["prepare", "split", str(folder), "--share", "0.4"]) == 0
    return folder


def otherwise(store: Path, out: Path, **changes: Any) -> Path:
    """The store as if it had been made with other numbers and nobody were held out."""
    shutil.copytree(store, out)
    (out / "split.json").unlink()
    index = json.loads((out / "index.json").read_text())
    drawing = index["drawing"] | {name: value for name, value in changes.items() if name in index["drawing"]}
    (out / "index.json").write_text(json.dumps(index | changes | {"drawing": drawing}))
    return out


def of_store(heads: Path, store: Path, out: Path, *more: Any) -> list[str]:
    given = words(heads, out, "--data", store, "--genhead", heads / "genhead", *more)
    at = given.index("--parameters")
    return given[:at] + given[at + 2 :]


def test_a_store_is_trained_on_and_measured_on_whom_it_holds_out(heads, store, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr("triportrait.train.run_generated_heads.face_provider", lambda: None)  # which takes longest
    assert cli.main(of_store(heads, store, out, "--evaluate-every", 8)) == 0
    lines = lines_of(out)
    trained = [line for line in lines if "l1" in line]
    assert all(line["planes"] > 0 < line["feature"] for line in trained[:3])
    assert all("generator_share" not in line for line in trained), "no generator runs"
    measured = [line for line in lines if "held_out views psnr" in line]
    assert [line["images_seen"] for line in measured] == [0, 8, 16]
    config = json.loads((out / "config.json").read_text())["run"]
    assert (config["source"], config["init_from"]["genhead"]) == ("genhead", "genhead")
    assert len(config["held_out"]) == 12


def test_a_store_that_was_made_otherwise_is_refused(heads, store, tmp_path, capsys):
    out = tmp_path / "run"
    given = of_store(heads, store, out)
    at = given.index("--genhead")
    said = refused(given[:at] + given[at + 2 :], capsys)
    assert "expected the GenHead that drew its heads, as a network that learns its planes begins" in said
    generator = little_genhead.generator()
    with torch.no_grad():
        generator.volume.field.density.bias.add_(1)
    save_genhead(tmp_path / "genhead", generator, {})
    said = refused([*given, "--genhead", tmp_path / "genhead"], capsys)
    assert f"--genhead {tmp_path / 'genhead'}: expected the generator of the heads of {store}" in said
    said = refused([*given, "--cameras", "published"], capsys)
    assert "expected as share of views from sampled cameras 0.5, got 1.0; make a store by" in said
    bare = otherwise(store, tmp_path / "bare", features=False)
    said = refused([*given, "--data", bare], capsys)
    assert "make it again by `triportrait prepare genhead --features`, or say --distill-feature 0" in said
    said = refused([*given, "--data", bare, "--distill-feature", 0, "--evaluate-every", 4], capsys)
    assert "nobody is; hold a tenth out by `triportrait prepare split" in said
    said = refused([*given, "--data", otherwise(store, tmp_path / "dynamic", static_share=0.5)], capsys)
    assert "expected as share of heads with one face in all views 1.0, got 0.5; make a store by" in said
    assert not out.exists()


def test_the_schedule_says_who_draws_and_from_where_heads_are_seen(heads, tmp_path, capsys):
    for name, wanted in (
        ("paper", "views: all views yaw -0.78 to 0.78, pitch -0.25 to 0.65 (elevation -9.2 to 24.4 deg)"),
        ("published", "views: 50% of the views the cameras of the tables, the others yaw -0.78 to 0.78"),
    ):
        assert cli.main([*words(heads, tmp_path / "run", "--preset", name), "--show-schedule"]) == 0
        shown = capsys.readouterr().out
        assert f"heads: drawn by the GenHead of {heads / 'genhead'} from the tables of {heads / 'tables'}" in shown
        assert wanted in shown
        assert "GenHead's planes" in shown
    assert not (tmp_path / "run").exists()


def test_generated_heads_have_one_source_and_one_target_from_anywhere():
    for config in (little.generated(), paper(), paper(published=True)):
        made = on_generated(config)
        assert (made.stage1.views, made.stage1.front_sources) == (1, 0.0)
        assert not made.cast.cameras.first_filmed
        assert made.cast.cameras.filmed_share == config.cast.cameras.filmed_share
