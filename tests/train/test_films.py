"""Films become a clip store: what is kept, what is dropped and why, and the same store however it was made."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
import torch

from tests.face_models import needs_face_models
from tests.train import little, made_films
from tests.train.made_films import OPTIONS
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.motion.parameter_encoder import flame_parameters
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data import parallel
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.frames import AvDecoder
from triportrait.train.data.clip_store.store import ClipStore, ClipWriter
from triportrait.train.data.clip_store.tracks import FlameTracks
from triportrait.train.data.films import many, one_film
from triportrait.train.data.films.clip_making import Tools
from triportrait.train.data.films.listing import Films, identities_of, list_films
from triportrait.train.data.films.many import Place, make_store
from triportrait.train.data.films.options import FilmOptions
from triportrait.train.data.heads.rasterize import project
from triportrait.train.data.split import place, read_split, split_data

pytestmark = needs_face_models  # they tell the person from what is behind


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A folder of films: two heads, and films that each trip one filter."""
    drawn = made_films.heads(tmp_path_factory.mktemp("drawn") / "heads")
    one, other = (made_films.read(drawn / f"clip_{head:06d}.mp4") for head in range(2))
    folder = tmp_path_factory.mktemp("films")
    for kind in ("plain", "short", "far", "beyond", "nobody", "loses", "blurred", "scattered", "hidden"):
        made_films.write(folder / f"{kind}.mp4", getattr(made_films, kind)(one))
    made_films.write(folder / "other.mp4", other)
    made_films.write(folder / "cut.mp4", made_films.joined(one, other))
    (folder / "text.mp4").write_text("no film")
    (folder / "notes.txt").write_text("no film")
    return folder


def make(films: Path, out: Path, options: FilmOptions = OPTIONS, **more) -> dict:
    """Make a store and read its report."""
    listed = list_films(films)
    make_store(listed, identities_of(listed), out, options, **more)
    return json.loads((out / "report.json").read_text())


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory) -> Path:
    """The store of all of them, made without a break."""
    out = tmp_path_factory.mktemp("stores") / "whole"
    make(films, out)
    return out


REASONS = {
    "plain": None, "other": None, "cut": None, "short": "too short", "far": "too small", "beyond": "cut off",
    "nobody": "no face", "loses": "face lost", "blurred": "blurred", "scattered": "bad fit", "hidden": "occluded",
    "text": "unreadable",
}  # fmt: skip


def test_each_film_is_dropped_for_its_reason(films, whole):
    lines = [json.loads(line) for line in (whole / "films.jsonl").read_text().splitlines()]
    assert {line["film"].removesuffix(".mp4"): line["reason"] for line in lines} == REASONS
    shots = {line["film"]: [shot["reason"] for shot in line["shots"]] for line in lines}
    assert shots["cut.mp4"] == [None, None], "a cut makes two clips"
    assert shots["nobody.mp4"] == shots["text.mp4"] == []
    assert all(
        len(reasons) == 1 for name, reasons in shots.items() if name not in ("cut.mp4", "nobody.mp4", "text.mp4")
    )
    assert next(line["said"] for line in lines if line["film"] == "text.mp4")[0].startswith("text.mp4: no video stream")


def test_counts_add_up_and_the_page_shows_all(films, whole):
    report = json.loads((whole / "report.json").read_text())
    for what in ("films", "shots"):
        assert report[what]["found"] == report[what]["kept"] + sum(report[what]["dropped"].values()), what
    assert report["films"]["found"] == len(REASONS)
    assert report["films"]["kept"] == 3
    assert report["shots"]["kept"] == len(ClipStore(whole)) == 4
    assert report["other_files"] == {"found": 1, "names": ["notes.txt"]}
    assert report["faces"] == {"landmark files": len(REASONS) - 1, "networks": 1}
    page = (whole / "page.html").read_text()
    for name, reason in REASONS.items():
        assert f"{name}.mp4" in page
        assert f"<th>{reason or 'kept'}</th>" in page
    assert page.count("<img ") == report["shots"]["found"] + 1, (
        "a strip of each shot, and a frame of the film of nobody"
    )
    assert "http" not in page.replace("http-equiv", "")


def test_a_clip_holds_frames_of_its_film_and_the_head_that_was_fitted(films, whole):
    store, model = ClipStore(whole, contents=True), load_head_model()
    assert store.index["head_model"] == model.identity.to_dict()
    assert store.index["motion_encoder"] is None
    assert [clip["film"] for clip in store.index["clips"]] == ["cut.mp4", "cut.mp4", "other.mp4", "plain.mp4"]
    clip = [clip["film"] for clip in store.index["clips"]].index("plain.mp4")
    table, numbers = store.table(clip), made_films.read(films / "plain.mp4")[1]
    assert table["frame"].tolist() == sorted(set(table["frame"].tolist()))
    assert len(table["frame"]) == OPTIONS.frames
    assert max(table["frame"]) < OPTIONS.window
    assert len(np.unique(table["shape"], axis=0)) == 1, "one shape for a clip"
    betas = np.concatenate([table["shape"][:, : model.num_shape], table["expression"][:, : model.num_expression]], 1)
    pose = torch.from_numpy(table["pose"])
    vertices, _ = model.flame(torch.from_numpy(betas), 0 * pose[:, :3], pose[:, 3:], torch.from_numpy(table["eyes"]))
    seen = project(model.flame.landmarks(vertices)[:, :68], camera_from_label(torch.from_numpy(table["camera"])), 64)[0]
    true = numbers["landmarks"][table["frame"]]
    # An alignment is a scale and a shift; what is left is how far the fitted head is from the true landmarks.
    flat = true.reshape(-1, 2)
    wanted = seen.numpy().reshape(-1, 2)
    scale = np.ptp(wanted) / np.ptp(flat)
    off = wanted - flat * scale
    assert np.abs(off - off.mean(0)).mean() < 1.5, "the fitted head is elsewhere"
    masks = store.masks(clip, np.arange(OPTIONS.frames))
    assert masks[:, 24:44, 24:40].mean() > 0.9
    assert masks[:, :6, :6].mean() < 0.2


def test_stage_two_draws_pairs_from_it(whole):
    model = little.model()
    tracks = FlameTracks(load_head_model().neck_field(model.neck, model.render.box_side), None)
    pictures = ClipPictures(ClipStore(whole), model, tracks, 0, AvDecoder())
    source, driving = pictures.pairs(4, 0.0, np.random.default_rng(0), 0)
    assert not pictures.skipped
    assert source.image.shape == (4, 3, 64, 64)
    assert driving.neck is not None
    eyes, mouth = driving.landmarks[:, 36:48].mean(1), driving.landmarks[:, 48:].mean(1)
    assert ((mouth - eyes)[:, 1] > 5).all(), "the heads stand upright in their pictures"


@pytest.mark.parametrize(
    "change, reason",
    [({"most_turned_deg": 1.0}, "turned away"), ({"most_error_px": 0.1}, "bad fit"),
     ({"most_enlarged": 0.5}, "too small"), ({"most_blur": 0.1}, "blurred"),
     ({"window": 16, "frames": 16, "fewest": 16, "most_flawed": 0.0}, None)],
)  # fmt: skip
def test_limits_are_the_options(films, change, reason, tmp_path):
    folder = made_films.copy(films, ["plain"], tmp_path / "films")
    options = dataclasses.replace(OPTIONS, **change)
    if reason is None:
        assert make(folder, tmp_path / "store", options)["frames"]["kept"] == 16
        return
    with pytest.raises(InputError, match=f"none of its 1 films gave a clip \\(0 of 1 films \\(1 {reason}\\)"):
        make(folder, tmp_path / "store", options)
    assert reason in (tmp_path / "store" / "page.html").read_text()


def test_workers_and_ranks_make_the_same_store(films, whole, tmp_path):
    folder = made_films.copy(films, ["plain", "cut", "other"], tmp_path / "films")
    (folder / "text.mp4").write_text("no film")
    stores = {name: tmp_path / name for name in ("one", "processes", "ranks")}
    make(folder, stores["one"])
    make(folder, stores["processes"], workers=2)
    second = get_context("spawn").Process(target=made_films.make_as_rank, args=(folder, stores["ranks"], 1, 2))
    second.start()
    make(folder, stores["ranks"], place=Place(0, 2))
    second.join()
    assert second.exitcode == 0
    expected = contents(stores["one"])
    assert "clip_000000_001.npz" in expected
    for name in ("processes", "ranks"):
        assert contents(stores[name]) == expected, name


class Killed(BaseException):
    pass


class Threads(ThreadPoolExecutor):
    """Threads in the place of processes, so that a test sees who works at the same time."""

    def __init__(self, count: int, *_) -> None:
        super().__init__(count)


def test_every_worker_has_a_film_while_the_first_one_takes_long(tmp_path, monkeypatch):
    names = [f"{number:02d}.mp4" for number in range(29)]
    together, others_done, left = Barrier(7), Event(), set(range(1, 29))

    def work(films, name, number, *_):
        if number == 0:
            assert others_done.wait(20), "the others wait for the first film"
            raise Killed
        together.wait(20)  # until seven are worked on beside the first
        left.discard(number)
        if not left:
            others_done.set()

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(many, "process_film", work)
    with pytest.raises(Killed):
        listed = Films(tmp_path, names, [1] * len(names), [])
        make_store(listed, identities_of(listed), tmp_path / "store", OPTIONS, workers=8)
    assert not left


@pytest.fixture(scope="module")
def unbroken(films, tmp_path_factory) -> Path:
    """The store of two films, made without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    make(made_films.copy(films, ["cut", "other"], folder / "films"), folder / "store")
    return folder / "store"


@pytest.mark.parametrize("moment", ["before a film is done", "while films are joined", "before the index"])
def test_a_store_that_was_killed_goes_on(moment, films, unbroken, tmp_path, monkeypatch):
    folder = made_films.copy(films, ["cut", "other"], tmp_path / "films")
    calls = []

    def killed(*_, **__):
        calls.append(1)
        if len(calls) == (1 if moment == "before the index" else 2):
            raise Killed

    with monkeypatch.context() as patch:
        if moment == "before a film is done":
            patch.setattr(one_film, "write_text", lambda *a: killed() or a[0].write_text(a[1]))
        elif moment == "while films are joined":
            take = ClipWriter.take
            patch.setattr(ClipWriter, "take", lambda *a: killed() or take(*a))
        else:
            patch.setattr(ClipWriter, "finish", killed)
        with pytest.raises(Killed):
            make(folder, tmp_path / "broken")
    done = []
    process = one_film.process_film
    monkeypatch.setattr(many, "process_film", lambda *a: done.append(one_film.read_outcome(a[3], a[2])) or process(*a))
    make(folder, tmp_path / "broken")
    assert sum(outcome is not None for outcome in done) == (1 if moment == "before a film is done" else 2)
    assert contents(tmp_path / "broken") == contents(unbroken)
    assert make_store(list_films(folder), identities_of(list_films(folder)), tmp_path / "broken", OPTIONS).already_there


def test_a_rank_that_is_gone_is_told_and_its_films_are_made_later(films, tmp_path, monkeypatch):
    folder = made_films.copy(films, ["plain", "other"], tmp_path / "films")
    monkeypatch.setattr(many, "SILENCE_S", 0.3)
    monkeypatch.setattr(many, "LOOK_S", 0.05)
    with pytest.raises(InputError, match="rank 1: expected 1 more films from it, nothing was heard"):
        make(folder, tmp_path / "store", place=Place(0, 2))
    assert make(folder, tmp_path / "store")["films"]["kept"] == 2


@pytest.mark.parametrize("late", [False, True], ids=["it begins late", "it was about to work"])
def test_a_rank_has_nothing_to_do_once_the_store_is_finished(late, films, whole, monkeypatch):
    before = contents(whole)
    monkeypatch.setattr(many, "SILENCE_S", 1.0)
    if late:
        monkeypatch.setattr(many, "_wait_for_begin", lambda *_: True)
    listed = list_films(films)
    assert make_store(listed, identities_of(listed), whole, OPTIONS, place=Place(1, 2)) is None
    assert contents(whole) == before
    assert not (whole / many.PARTS).exists()


def test_other_options_or_films_make_another_store(films, tmp_path):
    folder = made_films.copy(films, ["plain"], tmp_path / "films")
    make(folder, tmp_path / "store")
    with pytest.raises(InputError, match="this store is finished, with seed 0, now it is 1"):
        make(folder, tmp_path / "store", dataclasses.replace(OPTIONS, seed=1))
    made_films.copy(films, ["other"], folder)
    with pytest.raises(InputError, match="this store is finished, with films 1, now it is 2"):
        make(folder, tmp_path / "store")


def test_motion_is_stored_where_an_encoder_is_named(films, tmp_path):
    from triportrait.core.checkpoint import save_motion_encoder

    encoder = SmallMotionEncoder(9, 16, (8, 8))
    save_motion_encoder(tmp_path / "encoder", encoder.state_dict(), encoder, {})
    folder = made_films.copy(films, ["plain"], tmp_path / "films")
    make(folder, tmp_path / "store", dataclasses.replace(OPTIONS, motion=str(tmp_path / "encoder")))
    store = ClipStore(tmp_path / "store")
    assert store.table(0)["motion"].shape == (OPTIONS.frames, 9)
    assert np.ptp(store.table(0)["motion"], axis=0).max() > 0
    assert store.index["motion"]["width"] == 9
    assert store.index["motion_encoder"]


def test_an_encoder_that_reads_parameters_is_refused_before_any_work(films, tmp_path):
    from triportrait.core.checkpoint import save_motion_encoder

    encoder = flame_parameters(load_head_model().identity)
    save_motion_encoder(tmp_path / "row_f", {}, encoder, {})
    options = dataclasses.replace(OPTIONS, motion=str(tmp_path / "row_f"))
    with pytest.raises(InputError, match="expected a motion encoder that reads pictures, got parameters of open head"):
        make(made_films.copy(films, ["plain"], tmp_path / "films"), tmp_path / "store", options)
    assert not (tmp_path / "store").exists()


def test_a_name_that_is_no_utf_8_is_a_name(films, tmp_path):
    folder = made_films.copy(films, ["plain", "other"], tmp_path / "films")
    for ending in (".mp4", ".npz"):
        (folder / f"plain{ending}").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9" + ending.encode()))
    store = tmp_path / "store"
    assert make(folder, store)["films"]["kept"] == 2
    names = [clip["film"] for clip in ClipStore(store).index["clips"]]
    assert names == ["caf\udce9.mp4", "other.mp4"]
    assert "caf\\udce9.mp4" in (store / "page.html").read_text()
    split, _ = split_data(store, max(place(who, 0) for who in ("caf\udce9", "other")))
    assert len(split.held_out) == 1
    assert read_split(store) == split


class Halts(torch.nn.Module):
    """A network that runs out of memory, or ends as it is told to, at the films that are numbered."""

    def __init__(self, network: torch.nn.Module, error: BaseException) -> None:
        super().__init__()
        self.network, self.error, self.calls = network, error, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.network(image)


def halting(error: BaseException, monkeypatch) -> None:
    whole = Tools(OPTIONS, torch.device("cpu"))
    tools = Tools(OPTIONS, torch.device("cpu"))
    tools.__dict__["segmentation"] = Halts(whole.segmentation, error)
    monkeypatch.setattr(many, "tools_of", lambda *_: tools)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to"), np.linalg.LinAlgError("singular")], ids=type
)
def test_a_film_at_which_the_work_fails_is_counted_and_named(error, films, tmp_path, monkeypatch, caplog):
    folder = made_films.copy(films, ["other", "plain"], tmp_path / "films")
    halting(error, monkeypatch)
    report = make(folder, tmp_path / "store")
    assert report["films"] == {"found": 2, "kept": 1, "dropped": {"failed": 1}}
    said = str(error).splitlines()[0]
    assert f"other.mp4 was left out, failed: {type(error).__name__}: {said}" in caplog.text
    assert "Tried" not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA error: illegal address")])
def test_what_ends_the_whole_work_drops_no_film(error, films, tmp_path, monkeypatch):
    folder = made_films.copy(films, ["plain"], tmp_path / "films")
    halting(error, monkeypatch)
    with pytest.raises(type(error)):
        make(folder, tmp_path / "store")
    assert not list((tmp_path / "store").rglob(one_film.OUTCOME))


def test_who_is_who(tmp_path):
    for name in (
        "a.mp4",
        "ben/1.mp4",
        "ben/2.mkv",
        "ben/deep/3.webm",
        "Clip+xyz+P0+C1+F1-200.mp4",
        "b/Clip+xyz+P1+C0+F3-9.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".hidden.mp4").touch()
    (tmp_path / "ben" / "1").mkdir()
    (tmp_path / "ben" / "1" / "landmarks").mkdir()
    (tmp_path / "ben" / "1" / "landmarks" / "00001.npy").touch()
    films = list_films(tmp_path)
    assert identities_of(films) == {
        "Clip+xyz+P0+C1+F1-200.mp4": "xyz", "a.mp4": "a", "b/Clip+xyz+P1+C0+F3-9.mp4": "xyz", "ben/1.mp4": "ben",
        "ben/2.mkv": "ben", "ben/deep/3.webm": "ben/deep",
    }  # fmt: skip
    assert identities_of(films, "film")["ben/2.mkv"] == "ben/2"
    assert films.others == []
    people = tmp_path / "people.txt"
    people.write_text("a.mp4\tanna\nben/1.mp4\tben\n")
    with pytest.raises(InputError, match="4 are missing, the first is 'Clip"):
        identities_of(films, file=people)
    people.write_text("".join(f"{name}\t{name[0]}\n" for name in films.names))
    assert identities_of(films, file=people)["ben/2.mkv"] == "b"
    people.write_text("a.mp4 anna\n")
    with pytest.raises(InputError, match=re.escape("line 1 is 'a.mp4 anna', expected FILM<tab>PERSON")):
        identities_of(films, file=people)


def test_a_store_is_split_by_films_or_by_a_file(whole, films, tmp_path):
    store = shutil.copytree(whole, tmp_path / "store")
    split, _ = split_data(store, sorted(place(who, 0) for who in ("cut", "other", "plain"))[1])
    assert split.known_by == "films"
    assert list(split.identities.values()) == ["cut", "cut", "other", "plain"]
    assert read_split(store) == split
    assert all(split.sides())
    people = tmp_path / "people.txt"
    people.write_text("cut.mp4\tone\nother.mp4\ttwo\nplain.mp4\tone\n")
    (store / "split.json").unlink()
    share = (place("one", 0) + place("two", 0)) / 2
    split, _ = split_data(store, share, 0, people)
    assert split.known_by == "file"
    assert set(split.identities.values()) == {"one", "two"}
    assert read_split(store) == split


SIZES = ["--size", "64", "--frames", "6", "--window", "12", "--workers", "1", "--device", "cpu"]


def test_the_command_says_what_it_made(films, tmp_path, capsys):
    folder = made_films.copy(films, ["plain", "cut", "short"], tmp_path / "films")
    out = tmp_path / "store"
    job = ["prepare", "videos", str(folder), str(out), *SIZES]
    assert cli.main(job) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "2 of 3 films (1 too short), 3 clips of 4 shots (1 too short); 18 frames of 64 px" in said.err
    assert "short.mp4 was left out, too short" in said.err
    assert cli.main(job) == 0
    assert "its 3 clips are there already, nothing was done" in capsys.readouterr().err
    assert cli.main(["prepare", "check", str(out)]) == 0
    assert "3 clips of 64 px, 18 frames: whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [(["OUT"], "DIR STORE: expected a folder of films and the store to make, got OUT; videos of procedural heads are "
      "made by `prepare head-videos OUT` now"),
     (["OUT", "--count", "2"], "--count is an option of `prepare head-videos`, which films procedural heads"),
     (["none", "OUT"], "none: expected a folder of films, there is none"),
     ([".", "./OUT"], "expected a store outside ."), ([".", "../OUT", "--size", "33"], "size: expected an even number"),
     ([".", "../OUT"], "expected films in it or below"),
     ([".", "../OUT", "--window", "20"], "window: expected the 50 frames of a clip or more, got 20"),
     ([".", "../OUT", "--fewest", "51"], "fewest: expected 2 to the 50 frames of a clip, got 51"),
     ([".", "../OUT", "--workers", "0"], "workers: expected 1 to 256, got 0"),
     ([".", "../OUT", "--device", "tpu"], "device: expected auto, cpu or cuda, got tpu"),
     ([".", "../OUT", "--most-blur", "7"], "most-blur: expected 0 to 1, got 7")],
)  # fmt: skip
def test_bad_calls_are_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert cli.main(["prepare", "videos", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


def test_missing_networks_are_one_sentence_before_any_work(films, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPORTRAIT_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=re.escape("triportrait fetch faces")):
        Tools(OPTIONS, torch.device("cpu")).check()


def test_networks_follow_a_photograph_and_see_two_people(tmp_path):
    from tests.serve import raw
    from triportrait.serve.media.video.writer import write_video

    one = [raw.seen((160 + 2 * t, 130.0), 0.8, size=(320, 240)) for t in range(8)]
    two = [np.concatenate([raw.seen((120.0 + t, 130.0), 0.8, size=(240, 240))] * 2, 1) for t in range(8)]
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films" / "one.mp4", np.stack(one), 25)
    write_video(tmp_path / "films" / "two.mp4", np.stack(two), 25)
    options = dataclasses.replace(OPTIONS, window=8, most_outliers=70, most_error_px=100.0)
    report = make(tmp_path / "films", tmp_path / "store", options)
    assert report["films"] == {"found": 2, "kept": 1, "dropped": {"two people": 1}}
    assert report["faces"] == {"networks": 2}
