"""Portraits refined for one person: what a person's file changes, and that it changes nobody else."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.core.persons import person_of
from triportrait.cli import main
from triportrait.core.errors import InputError
from triportrait.core.person import Person, save_person, thumbnail_of
from triportrait.core.weights import DEMO_FOLDER
from triportrait.serve import weight_loading
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.provenance.manifest import read_manifest
from triportrait.serve.pipeline import Pipeline
from triportrait.serve.precision import sample_picture
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.weight_loading import load_weights

S = 128
aligned = AlignedFace.whole


@pytest.fixture(scope="module")
def engine() -> Reenactor:
    return Reenactor(*load_weights("demo"))


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    return sample_picture(S)


@pytest.fixture(scope="module")
def untaught(engine, crop) -> Person:
    """A person of whom nothing was learned."""
    return person_of(engine.portrait, torch.tensor(crop))


@pytest.fixture(scope="module")
def person(engine, crop) -> Person:
    return person_of(engine.portrait, torch.tensor(crop), scale=0.05)


@pytest.fixture(scope="module")
def source(engine, crop) -> PreparedSource:
    return engine.prepare(aligned(crop))


@pytest.fixture(scope="module")
def refined(engine, crop, person) -> PreparedSource:
    return engine.prepare(aligned(crop), person)


def driven(crop: np.ndarray, shift: int = 3) -> AlignedFace:
    return aligned(np.ascontiguousarray(np.roll(crop, shift, 1)))


def test_a_person_of_whom_nothing_was_learned_changes_not_a_bit(engine, source, untaught, crop):
    other = engine.prepare(aligned(crop), untaught)
    assert other.refined is not None
    heads = [engine.head(each, driven(crop)) for each in (source, other)]
    assert torch.equal(heads[0].planes, heads[1].planes)
    assert np.array_equal(*[engine.reenact(each, driven(crop)) for each in (source, other)])


def test_planes_and_weights_are_the_person_s(engine, source, person, crop):
    """The residual is added to the planes as it is, and updates change them, too; the networks stay as they were."""
    plain = engine.head(source, driven(crop)).planes
    residual_alone = engine.prepare(aligned(crop), replace(person, updates={}))
    torch.testing.assert_close(engine.head(residual_alone, driven(crop)).planes, plain + person.planes)
    updates_alone = engine.prepare(aligned(crop), replace(person, planes=torch.zeros_like(person.planes)))
    refined = person.refined(engine.portrait)
    with torch.inference_mode():
        motion = engine.motion(driven(crop))
        picture = torch.tensor(crop).permute(2, 0, 1)[None] / 127.5 - 1
        uncached = refined.prepare(picture, source.motion)  # without what `cache` takes from the plane decoder
        wanted = refined.planes(uncached.tokens, uncached.grid, motion, uncached.detail)
    torch.testing.assert_close(engine.head(updates_alone, driven(crop)).planes, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - plain).abs().max() > 0.01
    assert torch.equal(engine.head(source, driven(crop)).planes, plain)


def test_in_a_batch_each_source_has_its_own_planes_in_order(engine, source, refined, crop):
    faces = [driven(crop, shift) for shift in range(5)]
    batch = [(each, face, Controls()) for each, face in
             zip((source, refined, source, source, refined), faces, strict=True)]  # fmt: skip
    together = engine._heads(batch).planes
    plain = engine._heads([batch[i] for i in (0, 2, 3)]).planes
    assert torch.equal(together[[0, 2, 3]], plain), "those without a person are computed as if they were alone"
    for row, (each, face, _) in zip(together, batch, strict=True):
        torch.testing.assert_close(row[None], engine.head(each, face).planes, rtol=1e-5, atol=1e-3)
    nobody = [(source, face, Controls()) for face in faces]
    shown, alone = (np.stack(engine.reenact_many(requests)).astype(int) for requests in (batch, nobody))
    changed = np.abs(shown - alone).max((1, 2, 3))
    assert (changed[[0, 2, 3]] <= 2).all()
    assert (changed[[1, 4]] > 20).all()


def test_each_person_of_a_batch_is_computed_once_by_the_person_s_networks(engine, source, refined, crop, person):
    assert engine.prepare(aligned(crop), person).refined is refined.refined, "the sources of a person share networks"
    other, sizes = engine.prepare(aligned(crop), replace(person)), []
    for each in (engine.portrait, refined.refined.portrait, other.refined.portrait):
        each.reconstructor.transfer.register_forward_pre_hook(
            lambda _, inputs, each=each: sizes.append((id(each), len(inputs[0])))
        )
    sources = (refined, source, other, refined, source)
    engine._heads([(each, driven(crop), Controls()) for each in sources])
    ids = [id(each) for each in (refined.refined.portrait, engine.portrait, other.refined.portrait)]
    assert sizes == list(zip(ids, (2, 2, 1), strict=True))


def test_a_static_source_has_the_person_s_planes_once(crop, person):
    engine = Reenactor(*load_weights("demo"), static=True)
    plain, residual = engine.prepare(aligned(crop)), replace(person, updates={})
    refined = engine.prepare(aligned(crop), residual)
    torch.testing.assert_close(refined.head.planes, plain.head.planes + person.planes)
    assert torch.equal(engine.head(refined, driven(crop)).planes, refined.head.planes)
    assert not torch.equal(engine.prepare(aligned(crop), person).head.planes, refined.head.planes), "updates count, too"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_updates_before_it_rounds(crop, dtype):
    """The hash is that of the weights as loaded; an update below the steps of rounded weights is not lost."""
    engine = Reenactor(*load_weights("demo"))
    wide = engine.prepare(aligned(crop), small := person_of(engine.portrait, torch.tensor(crop), scale=0.005))
    engine.dtype = dtype
    engine.keep_half()
    half = engine.prepare(aligned(crop), small)
    for name in small.updates:
        kept, wanted = (each.refined.portrait.get_parameter(name) for each in (half, wide))
        assert kept.dtype == dtype
        assert torch.equal(kept, wanted.to(dtype)), name
    assert half.refined.residual.dtype == dtype
    assert engine.head(half, driven(crop)).planes.dtype == dtype


@pytest.fixture
def half():
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipe:
        pipe._reenactor.dtype = torch.bfloat16
        pipe._reenactor.keep_half()
        yield pipe


def test_half_precision_keeps_no_second_weights_before_the_first_person(half, crop, person, monkeypatch):
    network, loads = half._reenactor, []
    monkeypatch.setattr(weight_loading, "load_weights", lambda *given: loads.append(given) or load_weights(*given))
    half.prepare(crop)
    assert not network._before_rounding and not loads
    first = half.prepare(crop, person=person).refined
    assert network.weights_hash == person.weights
    name = next(iter(person.updates))
    wide = person.refined(load_weights("demo")[0])
    assert torch.equal(first.portrait.get_parameter(name), wide.get_parameter(name).bfloat16())
    half.prepare(crop, person=replace(person))
    assert len(loads) == 1


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A pipeline in half precision whose weights were named beside the folder that the program has left since."""
    shutil.copytree(DEMO_FOLDER, tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    with Pipeline.from_pretrained("w", device="cpu", faces="none") as pipe:
        pipe._reenactor.dtype = torch.bfloat16
        pipe._reenactor.keep_half()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        yield pipe


def touch(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, ns=(1, 1))


def change(folder: Path, stem: str, name_part: str, by: float) -> None:
    """Change one number of a network on the disk."""
    tensors = load_file(folder / f"{stem}.safetensors")
    name = next(name for name in tensors if name_part in name and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] += by
    save_file(tensors, folder / f"{stem}.safetensors")


@pytest.mark.parametrize("touched", [False, True])
def test_half_precision_finds_its_weights_from_another_folder_touched_or_not(moved, touched, crop, person, tmp_path):
    if touched:
        touch(tmp_path / "w")
    assert moved.prepare(crop, person=person).refined is not None
    assert moved._reenactor.weights_hash == person.weights
    assert moved._in_float32()._reenactor.weights_hash == person.weights
    assert moved.save_pretrained("copy") == Path("copy")
    assert moved.weights == str(tmp_path / "w")
    Image.fromarray(crop).save("photo.png")
    moved.save(moved.animate("photo.png", "photo.png"), "out.png")
    digest = hashlib.sha256((DEMO_FOLDER / "portrait.safetensors").read_bytes()).hexdigest()
    assert digest in str(read_manifest(Path("out.png"))), "the manifest names the weights from any folder"


@pytest.mark.parametrize(("stem", "part"), [
    ("portrait", "transfer"), ("portrait", "plane_decoder"), ("portrait", "superres"), ("motion", "weight"),
])  # fmt: skip
def test_half_precision_refuses_people_when_its_weights_have_changed(moved, stem, part, crop, person, tmp_path):
    change(tmp_path / "w", stem, part, 1.0)
    for call in (
        lambda: moved.prepare(crop, person=person), lambda: moved.personalize(crop, steps=1),
        lambda: moved.save_pretrained("copy"),
    ):  # fmt: skip
        with pytest.raises(InputError) as refused:
            call()
        assert str(refused.value) == (
            f"{tmp_path / 'w'}: the weights have changed since they were loaded; load them again"
        )
    assert not Path("copy").exists()


def test_another_person_s_file_is_refused(engine, crop, person):
    with pytest.raises(InputError, match=r"^person: this person was refined for other weights \(demo\) than these; "):
        engine.prepare(aligned(crop), replace(person, weights="0" * 64))
    with pytest.raises(InputError, match=r"^person: expected the picture of this person that it was made of"):
        engine.prepare(aligned(255 - crop), person)


class TestFiles:
    @pytest.fixture
    def photo(self, tmp_path, crop) -> Path:
        Image.fromarray(crop).save(tmp_path / "photo.png")
        return tmp_path / "photo.png"

    @pytest.fixture
    def file(self, tmp_path, person) -> Path:
        save_person(tmp_path / "ada.safetensors", person)
        return tmp_path / "ada.safetensors"

    @pytest.fixture
    def command(self, tmp_path, photo, capsys):
        def run(job: str, *words: object) -> tuple[int, str]:
            options = ["--weights", "demo", "--device", "cpu", "--faces", "none"]
            code = main([job, str(photo), *map(str, words), *options])
            return code, capsys.readouterr().err

        return run

    def test_the_command_and_the_library_show_the_person(self, command, photo, file, crop, person, tmp_path):
        Image.fromarray(driven(crop).crop).save(tmp_path / "driving.png")
        pictures = {}
        for name, words in {"plain": (), "refined": ("--person", file)}.items():
            code, said = command("reenact", tmp_path / "driving.png", tmp_path / f"{name}.png", *words)
            assert code == 0, said
            pictures[name] = read_picture(tmp_path / f"{name}.png").astype(int)
        assert np.abs(pictures["refined"] - pictures["plain"]).max() > 20
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert read_manifest(tmp_path / "refined.png").generation["person_sha256"] == digest
        assert "person_sha256" not in read_manifest(tmp_path / "plain.png").generation
        with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipe:
            for given in (file, str(file), person):
                pipe.save(
                    pipe.animate(photo, tmp_path / "driving.png", person=given), tmp_path / "l.png", overwrite=True
                )
                assert np.array_equal(read_picture(tmp_path / "l.png"), pictures["refined"])
                assert read_manifest(tmp_path / "l.png").generation["person_sha256"] == digest
            with pytest.raises(InputError, match="person: expected a picture beside it, got a prepared source"):
                pipe.prepare(pipe.prepare(photo), person=file)
            with pytest.raises(InputError, match="person: expected a path or a Person, got dict"):
                pipe.prepare(photo, person={})

    def test_a_turntable_and_a_mesh_are_refined(self, command, file, tmp_path):
        made = {}
        for name, words in {"plain": (), "refined": ("--person", file)}.items():
            code, said = command("turntable", tmp_path / f"{name}.mkv", "--show", "picture", "--seconds", 0.04, *words)
            assert code == 0, said
            code, said = command("mesh", tmp_path / f"{name}.ply", "--resolution", 48, *words)
            assert code == 0, said
            made[name] = [(tmp_path / f"{name}{ending}").read_bytes() for ending in (".mkv", ".ply")]
        for plain, refined in zip(*made.values(), strict=True):
            assert plain != refined

    @pytest.mark.parametrize("job", ["reenact", "turntable", "mesh"])
    def test_a_file_that_is_none_or_of_others_ends_with_2(self, job, command, photo, file, person, crop, tmp_path):
        out = tmp_path / f"out{'.glb' if job == 'mesh' else '.mp4'}"
        places = (photo, out) if job == "reenact" else (out,)
        foreign, other = tmp_path / "foreign.safetensors", tmp_path / "other.safetensors"
        save_person(foreign, replace(person, weights="0" * 64))
        save_person(other, person_of_picture(person, 255 - crop))
        for given, sentence in {
            tmp_path / "none.safetensors": "no such file; make one with `triportrait personalize PICTURE",
            photo: "not a whole person's file",
            foreign: "this person was refined for other weights (demo) than demo; name those with --weights",
            other: f"expected the picture of this person that it was made of (photo.jpg), got {photo}, which",
        }.items():
            code, said = command(job, *places, "--person", given)
            assert code == 2
            assert said.splitlines()[-1].startswith(f"triportrait: {given}: {sentence}"), said
            assert not out.exists()

    def test_verify_says_that_weights_were_refined(self, command, file, tmp_path, capsys):
        assert command("reenact", tmp_path / "photo.png", tmp_path / "out.png", "--person", file)[0] == 0
        assert main(["verify", str(tmp_path / "out.png")]) == 0
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"  refined for one person: SHA-256 {digest}\n" in capsys.readouterr().out

    def test_the_output_may_not_be_the_person_s_file(self, command, file, photo, tmp_path):
        film = tmp_path / "ada.mp4"
        file.rename(film)
        code, said = command("reenact", photo, film, "--person", film, "--overwrite")
        assert code == 2, said
        assert film.stat().st_size > 1000


def person_of_picture(person: Person, crop: np.ndarray) -> Person:
    return replace(person, thumbnail=thumbnail_of(torch.tensor(crop)))
