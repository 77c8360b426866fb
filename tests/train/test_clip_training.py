"""Stage 2 on stored clips: from the command line to weights, stopped and resumed, with damage, no thread left."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.serve.faces import landmarks, parameters, picture
from tests.train import little, tracked, trained
from tests.train.ranks_worker import StopsAt
from tests.train.runs import lines_of, refused
from tests.train.spoiling import changed, spoil
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait, save_motion_encoder
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.serve.reenactor import Reenactor
from triportrait.train.config import OptimizerConfig, ReenactConfig, TrainConfig
from triportrait.train.data.clip_store.store import PROGRESS
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom
from triportrait.train.run_folder import Run
from triportrait.train.run_one_stage import OneStage
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.runs.stopping import Stopped
from triportrait.train.stages import reenact as stage2

pytestmark = pytest.mark.usefixtures("little_preset")


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A static synthesizer, a motion encoder, clips of tracked faces and FLAME."""
    folder = tmp_path_factory.mktemp("material")
    trained.write(folder / "trained")
    trained.write_static(folder / "static")
    tracked.write_static(folder / "flame")
    tracked.write_store(folder / "tracked")
    return folder


def words(material: Path, data: Path, out: Path, *more: Any) -> list[str]:
    options = ["--data", data, "--out", out, "--static", material / "static", "--motion", material / "trained"]
    options += ["--batch", 2, "--micro-batches", 1, "--images", 6, "--save-every", 2, "--sample-every", 100]
    return ["train", "stage2", *map(str, [*options, "--precision", "fp32", *more])]


def losses_of(run: Path) -> list[dict[str, Any]]:
    """Numbers of steps, without what depends on the clock."""
    lines = [line for line in lines_of(run) if "l1" in line]
    return [{k: v for k, v in line.items() if k not in little.CLOCKED and not k.startswith("data_")} for line in lines]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_run_on_clips_from_the_command_line(material, little_clips, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(words(material, little_clips, run, "--adversarial-from", 2)) == 0
    lines = [line for line in lines_of(run) if "l1" in line]
    assert [("adversary" in line, line["images_seen"]) for line in lines] == [(False, 2), (True, 4), (True, 6)]
    told = {"data_share", "data_wait_s", "data_ready", "data_frames_cached", "data_tables_cached", "data_necks_cached"}
    assert all(told < line.keys() and line["data_left_out"] == 0 for line in lines)
    assert all(0 <= line["data_ready"] <= 2 for line in lines)
    assert "psnr jaw" in lines_of(run)[-1], "the same heads are probed"
    assert not threads()
    config = json.loads((run / "config.json").read_text())
    assert config["run"]["decoder"] == "av"
    assert config["cast"]["seed"] == 3
    assert config["cast"]["count"] == 5
    assert cli.main(["train", "export", str(run), str(tmp_path / "weights")]) == 0
    load_portrait(tmp_path / "weights"), load_motion_encoder(tmp_path / "weights")


def tracked_config(images: int = 12) -> TrainConfig:
    quick = OptimizerConfig(warmup=2, ema_decay=0.5)
    stage = ReenactConfig(images=images, batch=4, micro_batches=2, optimizer=quick)
    return little.config(stage2=stage, save_every=10**6, sample_every=10**6)


def start(material: Path, run: Path, data: Path | None = None, prefetch: int = 2, **loading: Any) -> Run:
    init_from = InitFrom(static=str(material / "flame"), motion=str(material / "trained"))
    inputs = OneStage("stage2", data or material / "tracked", init_from, Loading(prefetch=prefetch, **loading))
    return Run(tracked_config(), run, inputs, changes_allowed=False)


def weights_of(run: Path) -> dict[str, Any]:
    return load_file(checkpoints_of(run, "stage2")[-1] / "generator.safetensors")


@pytest.fixture(scope="module")
def damaged(material, tmp_path_factory) -> Path:
    """Clips of tracked faces, one of which lost its video."""
    folder = tmp_path_factory.mktemp("damaged") / "tracked"
    shutil.copytree(material / "tracked", folder)
    spoil(folder, "no video", "clip_2")
    return folder


@pytest.fixture(scope="module")
def whole(material, damaged, tmp_path_factory) -> Path:
    """A run of three steps over four clips, one damaged, without a thread, never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    start(material, run, damaged, prefetch=0, most_skipped=0.3).train()
    return run


def test_batches_made_ahead_and_a_stop_change_nothing(material, damaged, whole, tmp_path, caplog):
    """Also the clip that comes in the place of a damaged one is the same."""
    run = tmp_path / "run"
    with pytest.raises(Stopped, match="after 4 images"):
        start(material, run, damaged, most_skipped=0.3).train(StopsAt(1))
    assert not threads()
    start(material, run, damaged, prefetch=3, most_skipped=0.3).train()
    assert losses_of(run) == losses_of(whole)
    assert len(losses_of(run)) == 3
    assert little.same(weights_of(run), weights_of(whole))
    assert not threads()
    said = caplog.text
    assert said.count("stage2: left out clip_2: clip_2.mp4 does not decode") == 1, "once, also over a stop"
    assert "stage2: 1 left out in all: clip_2" in said.splitlines()[-1]


def test_a_damaged_clip_is_named_in_the_log(whole):
    (line,) = [line for line in lines_of(whole) if "left out" in line]
    assert (line["left out"], line["reason"]) == ("clip_2", "clip_2.mp4 does not decode")
    assert [line["data_left_out"] for line in lines_of(whole) if "l1" in line][-1] == 1
    assert (whole / "samples" / "stage2_0000012.png").is_file()
    assert "psnr" in lines_of(whole)[-1]


def test_too_many_damaged_clips_stop_the_run(material, damaged, tmp_path, capsys):
    more = ["--adversarial", 0, "--flame", material / "flame"]
    said = refused(words(material, damaged, tmp_path / "run", *more), capsys)
    assert "1 of 4 clips cannot be used, more than 5% (clip_2: clip_2.mp4 does not decode); make the store" in said
    assert not threads()


def test_a_discriminator_sees_tracked_faces_by_flame_s_mesh(material, tmp_path):
    run = tmp_path / "run"
    more = ["--flame", material / "flame", "--adversarial-from", 0]
    assert cli.main(words(material, material / "tracked", run, *more)) == 0
    told = [line for line in lines_of(run) if "l1" in line]
    assert told
    assert all({"adversary", "D real", "D fake"} < line.keys() for line in told)


def test_an_error_of_the_thread_and_an_impatient_user_leave_no_thread(material, tmp_path, monkeypatch):
    makers = set()

    def bad(*given: Any) -> Any:
        makers.add(threading.current_thread().name.partition("_")[0])
        if given[3] >= 4:
            raise RuntimeError("the decoder fell over")
        return original(*given)

    original = stage2.draw
    run = start(material, tmp_path / "run")
    monkeypatch.setattr(stage2, "draw", bad)
    with pytest.raises(RuntimeError, match="the decoder fell over"):
        run.train()
    monkeypatch.setattr(stage2, "draw", original)
    assert makers == {"prefetch"}
    assert not threads()

    def interrupt(*given: Any) -> Any:
        raise KeyboardInterrupt

    run._claim.close()
    monkeypatch.setattr(stage2, "losses", interrupt)
    run = start(material, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert not threads()


def test_stored_motion_drives_and_flame_carries_landmarks(material, tmp_path, monkeypatch):
    """No real picture is read by the motion encoder, only pseudo views, where FLAME's landmarks are seen."""
    read: list[Any] = []
    original = stage2.read_motion

    def reading(encoder: Any, image: Any, landmarks: Any) -> Any:
        read.append((image, landmarks))
        return original(encoder, image, landmarks)

    run = start(material, tmp_path / "run")
    monkeypatch.setattr(stage2, "read_motion", reading)
    batch = run.inputs.stage("stage2").draw(np.random.default_rng(0), 0)
    motion, _ = stage2.pseudo_views(batch, stage2_models(run))
    ((image, landmarks),) = read
    pseudo = ~batch.real_driving
    assert pseudo.any()
    assert len(image) == pseudo.sum()
    wanted = stage2.move_landmarks(batch.driving, batch.camera_p)[pseudo]
    assert landmarks.equal(wanted)
    assert motion[~pseudo].equal(batch.driving.features[~pseudo])


def stage2_models(run: Run) -> Any:
    portrait = run.inputs.stage("stage2").engine.module
    static = little.portrait().requires_grad_(False)
    return stage2.ReenactModels(portrait, static, little.encoder(), lambda a, b: None)  # type: ignore[arg-type]


def test_the_published_motion_encoder_travels_with_a_run(tmp_path):
    encoder = PDFGC()
    save_motion_encoder(tmp_path, encoder.state_dict(), encoder, {})
    again = load_motion_encoder(tmp_path)
    assert isinstance(again, PDFGC)
    assert all(p.equal(q) for p, q in zip(encoder.parameters(), again.parameters(), strict=True))


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory) -> Path:
    """The weights of that run, its FLAME folder not at hand."""
    folder = tmp_path_factory.mktemp("exported") / "weights"
    assert cli.main(["train", "export", str(whole), str(folder), "--half"]) == 0
    return folder


def test_weights_of_tracked_faces_know_no_cast(exported):
    provenance = json.loads((exported / "portrait.json").read_text())["provenance"]
    assert provenance["cast"] is None
    assert "FLAME's tables inside keep the FLAME licence" in provenance["licence"]


def test_weights_of_tracked_faces_carry_flame_and_its_coarse_mesh(material, exported):
    trained_on, portrait = load_portrait(material / "flame").neck, load_portrait(exported)
    assert isinstance(portrait.neck, NeckField)
    assert isinstance(trained_on, NeckField)
    assert little.same(portrait.neck.state_dict(), trained_on.state_dict())
    assert "mesh.coarse_faces" in portrait.neck.state_dict()
    assert "landmark70_faces" in portrait.neck.flame
    assert Reenactor(portrait, load_motion_encoder(exported)).can_turn_neck


def aligned(root: Path, turn: float) -> Path:
    """A published clip folder of one picture whose neck is turned, rad; its picture."""
    for name in ("align_images", "3dldmks_align", "flame_optim_params"):
        (root / name).mkdir(parents=True)
    Image.fromarray(picture(1)).save(root / "align_images" / "0.png")
    np.save(root / "3dldmks_align" / "0.npy", landmarks())
    np.save(root / "flame_optim_params" / "0.npy", parameters(neck=(0.0, turn, 0.0)))
    return root / "align_images" / "0.png"


def test_reenact_turns_their_neck(exported, tmp_path):
    """From the command line, with the published parameters of both pictures."""
    source, made = aligned(tmp_path / "source", 0.0), []
    for turn in (0.0, 0.5):
        out = tmp_path / f"{turn}.png"
        words = ["reenact", source, aligned(tmp_path / f"driving{turn}", turn), out, "--weights", exported]
        assert cli.main([*map(str, words), "--faces", "none", "--no-watermark"]) == 0
        made.append(np.asarray(Image.open(out).convert("RGB")).astype(int))
    assert np.abs(made[0] - made[1]).mean() > 0.2, "a neck that turns moves the picture"


def test_a_run_that_kept_no_tables_says_so_and_takes_them_by_name(material, whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "flame")
    assert cli.main(["train", "export", str(run), str(tmp_path / "without")]) == 0
    assert "these weights turn no neck; export them again with --flame FOLDER" in capsys.readouterr().err
    assert load_portrait(tmp_path / "without").neck is None
    named = ["train", "export", str(run), str(tmp_path / "with"), "--flame", str(material / "flame")]
    assert cli.main(named) == 0
    assert capsys.readouterr().err == ""
    assert isinstance(load_portrait(tmp_path / "with").neck, NeckField)


def test_what_clips_cannot_be_trained_from_is_one_sentence(material, little_clips, tmp_path, capsys):
    def said(*more: Any, data: Path = material / "tracked") -> str:
        return refused(words(material, data, tmp_path / "run", *more), capsys)

    assert "expected a weights folder with FLAME's tables, got one without" in said()
    assert "most-skipped: expected a share from 0 to 1, got 1.5" in said("--most-skipped", 1.5)
    assert "prefetch: expected 0 or more, got -1" in said("--prefetch", -1)
    one = words(material, little_clips, tmp_path / "run")
    at = one.index("--static")
    stage1 = [*["train", "stage1"], *one[2:at], *one[at + 4 :]]
    assert "expected a multi-view set for stage 1, this is a clip store" in refused(stage1, capsys)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / PROGRESS).write_text("{}")
    assert "it is not finished, run its command again" in said(data=unfinished)
    assert not (tmp_path / "run").exists(), "before any work"


def test_a_motion_of_another_width_is_refused(material, tmp_path):
    """Of some clips; where the first one has another width, another encoder read the store."""
    wide = tmp_path / "wide"
    shutil.copytree(material / "tracked", wide)
    for clip in ("clip_1", "clip_2", "clip_3"):
        changed(wide, wide, lambda t: t | {"motion": np.repeat(t["motion"], 2, 1)}, clip)
    with pytest.raises(InputError, match=r"its motion has rows of \(18,\), expected 9"):
        start(material, tmp_path / "run", wide).train()
