"""`triportrait personalize`: what is refused, what an interruption leaves, previews, and what is told at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.serve.trainer_stand_in import S
from triportrait import InputError, Pipeline
from triportrait.cli import main
from triportrait.core.person import load_person
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.precision import sample_picture
from triportrait.train import personal

BAD = {
    "both": (["--steps", 3, "--minutes", 1], "personalize: expected either minutes or steps, got both or neither"),
    "no steps": (["--steps", 0], "steps: expected 1 to 100000, got 0"),
    "for ever": (["--minutes", 1e9], "minutes: expected 0.05 to 240, got 1e+09"),
    "not a number": (["--minutes", "nan"], "minutes: expected a number, got nan"),
    "far too many steps": (
        ["--steps", "1" + 400 * "0"],
        "steps: expected 1 to 100000, got a number far beyond; choose",
    ),
    "a seed far beyond": (["--seed", "1" + 400 * "0"], "seed: expected 0 to 2.14748e+09, got a number far beyond; "),
    "rank": (["--rank", 65], "rank: expected 0 to 64, got 65"),
    "seed": (["--seed", -1], "seed: expected 0 to "),
    "face": (["--face", 0], "--face: expected at least 1"),
    "a face that nobody finds": (["--face", 1], "photo.png: expected a number of a face only where faces are found"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_number_that_cannot_be_is_one_sentence(case, command, trainer, photo, tmp_path):
    options, sentence = BAD[case]
    code, said = command(photo, tmp_path / "out.safetensors", *options)
    assert code == 2
    assert sentence in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [photo]


def test_files_that_cannot_be_are_one_sentence(command, trainer, photo, tmp_path):
    empty, out, there = tmp_path / "empty", tmp_path / "out.safetensors", tmp_path / "there.safetensors"
    empty.mkdir()
    there.write_bytes(b"mine")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(photo.read_bytes()[:200])
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for words, sentence in (
        ((photo, there), f"{there}: it exists already; pass --overwrite to replace it"),
        ((photo, tmp_path / "out.pt"), "an ending out of .safetensors is wanted, '.pt' came"),
        ((photo, tmp_path / "none" / "out.safetensors"), "does not exist; make the folder"),
        ((tmp_path / "none.png", out), "none.png: "),
        (
            (tmp_path / "none.png", out, "--preview"),
            "none.png: the picture cannot be read (no such file or directory); ",
        ),
        (
            (photo, tmp_path, tmp_path / "new.safetensors", "--preview"),
            "expected another folder than that of the pictures",
        ),
        ((photo, tmp_path / f"{'n' * 280}.safetensors"), "could not be written (file name too long)"),
        ((photo, tmp_path / ("n" * 280) / "out.safetensors"), "could not be written (file name too long)"),
        ((photo, tmp_path / f"{'n' * 240}.safetensors"), "could not be written (file name too long)"),
        ((photo, tmp_path / f"{'n' * 235}.safetensors", "--preview"), "could not be written (file name too long)"),
        ((photo, tmp_path / "Jos\udce9.safetensors"), "expected a name of Unicode letters, got other bytes"),
        ((photo, tmp_path / "none.png", out), "none.png: "),
        ((empty, out), "no picture in this folder"),
        ((photo, empty, out), "no picture in this folder"),
        ((photo, damaged, out), "damaged.png: "),
        ((there, there, "--overwrite"), "there.safetensors: this is the input"),
        ((photo, tmp_path / "photo.safetensors", "--preview"), f"{photo}: this is the input {photo}"),
        ((photo, tmp_path / "photo.safetensors", "--preview", "--overwrite"), f"{photo}: this is the input {photo}"),
        ((photo,), "OUT is missing"),
    ):
        code, said = command(*words, "--steps", 1)
        assert code == 2, (words, said)
        assert sentence in said.splitlines()[-1], said
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_ctrl_c_ends_early_and_writes_what_was_reached(command, trainer, photo, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    refine = trainer.module.refine

    def interrupted(*arguments):
        progress = arguments[4]
        trainer.steps = [{}, {}, {}]
        told = list(arguments)
        told[4] = lambda step: (progress(step), os.kill(os.getpid(), signal.SIGINT))
        return refine(*told)

    monkeypatch.setattr(trainer.module, "refine", interrupted)
    code, said = command(photo, tmp_path / "out.safetensors")
    assert code == 0, said
    assert "out.safetensors: interrupted, and what was reached by then is in it: 1 step in " in said
    assert trainer.told["state"] == tmp_path / "out.safetensors.state"
    assert (tmp_path / "out.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_ends_at_once(command, trainer, photo, tmp_path, monkeypatch):
    def interrupted(portrait, encoder, given, config, progress, *others):
        progress(personal.RefineStep(1, 10, 9.0, 0.5, 20.0))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one ends it")

    monkeypatch.setattr(trainer.module, "refine", interrupted)
    code, said = command(photo, tmp_path / "out.safetensors")
    assert code == 130
    assert "interrupted" in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [photo]


def test_previews_are_pictures_that_say_what_they_are(command, trainer, photo, tmp_path):
    grey = torch.full((S, 4 * S, 3), 90, dtype=torch.uint8)
    trainer.steps = [{"preview": grey}, {}, {"preview": grey + 60}, {}]
    code, said = command(photo, tmp_path / "out.safetensors", "--preview")
    assert code == 0, said
    assert trainer.told["previews"]
    shown = read_picture(tmp_path / "out.png")
    assert shown.shape == (S, 4 * S, 3)
    assert abs(shown.mean() - 150) < 1
    assert main(["verify", str(tmp_path / "out.png")]) == 0


class Killed(BaseException):
    """Ends a command as a kill does, which asks nobody."""


@pytest.mark.parametrize("first_step", [0, 3])
def test_a_killed_command_with_previews_goes_on(first_step, command, trainer, photo, tmp_path, monkeypatch):
    out, running = tmp_path / "out.safetensors", tmp_path / "out.safetensors.state.png"
    grey = torch.full((S, 4 * S, 3), 90, dtype=torch.uint8)

    def killed(portrait, encoder, given, config, progress, *others):
        progress(personal.RefineStep(1, 10, 9.0, 0.5, 20.0, preview=grey))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer.module, "refine", killed)
        with pytest.raises(Killed):
            command(photo, out, "--preview")
    assert sorted(tmp_path.iterdir()) == [running, photo]
    trainer.steps = [{"step": first_step + 1}]
    code, said = command(photo, out, "--preview")
    assert code == 0, said
    last = [tmp_path / "out.png"] if first_step else []  # of a refinement that began anew none was made
    assert sorted(tmp_path.iterdir()) == sorted([*last, out, photo])


def test_a_picture_in_the_place_of_the_preview_is_kept(command, trainer, photo, tmp_path, monkeypatch):
    mine = tmp_path / "out.png"
    trainer.steps = [{"preview": torch.full((S, 4 * S, 3), 90, dtype=torch.uint8)}]
    step = trainer.module.refine

    def meanwhile(*arguments):
        mine.write_bytes(b"mine")
        return step(*arguments)

    monkeypatch.setattr(trainer.module, "refine", meanwhile)
    code, said = command(photo, tmp_path / "out.safetensors", "--preview")
    assert code == 0, said
    assert "out.png: it appeared meanwhile and was kept; pass --overwrite to replace it; there is no preview" in said
    assert mine.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [mine, tmp_path / "out.safetensors", photo]


def test_the_command_that_is_told_at_the_end_can_be_copied(trainer, tmp_path, capsys):
    photo = tmp_path / "my photo.png"
    Image.fromarray(sample_picture(S)).save(photo)
    words = [photo, tmp_path / "it's.safetensors", "--steps", 1, "--weights", "demo", "--faces", "none"]
    assert main(["personalize", *map(str, words), "--device", "cpu"]) == 0
    told = capsys.readouterr().err.partition("show it with `")[2].partition("`\n")[0]
    wanted = ["triportrait", "reenact", photo, "DRIVING", "OUT", "--person", words[1], *words[4:]]
    assert shlex.split(told) == list(map(str, wanted))


@pytest.mark.parametrize("name", ["portrait.safetensors", "motion.safetensors"])
def test_the_weights_are_not_overwritten(name, trainer, tiny_weights, photo, tmp_path):
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    before = {path: path.read_bytes() for path in weights.iterdir()}
    refused = pytest.raises(InputError, match=f"{name}: this is the input .*{name}; choose another output")
    with Pipeline.from_pretrained(weights, device="cpu", faces="none") as pipe, refused:
        pipe.personalize(photo, weights / name, steps=1, overwrite=True)
    words = ["personalize", photo, weights / name, "--weights", weights, "--steps", 1, "--overwrite", "--faces", "none"]
    assert main([*map(str, words), "--device", "cpu"]) == 2
    assert {path: path.read_bytes() for path in weights.iterdir()} == before


def test_a_preview_that_cannot_be_written_is_told_once(command, trainer, photo, tmp_path, monkeypatch):
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise InputError(f"{path}: the disk is full")

    monkeypatch.setattr("triportrait.serve.jobs.personalize.write_picture", refuse)
    trainer.steps = [{"preview": torch.full((S, 4 * S, 3), 90, dtype=torch.uint8)}] * 3
    code, said = command(photo, tmp_path / "out.safetensors", "--preview")
    assert code == 0, said
    assert said.count("out.safetensors.state.png: the disk is full; no more previews are written") == 1
    assert load_person(tmp_path / "out.safetensors", trainer.told["portrait"]).card["steps"] == 1
    assert not (tmp_path / "out.png").exists()
