"""`triportrait reenact` through the front door at the tiny preset: what it makes, what it says, what it refuses."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.log_json import log_objects
from tests.serve.decoded import frames_of, sound_packets
from tests.serve.faces import parameters, picture
from tests.serve.making import make, packets_of
from triportrait.cli import main
from triportrait.core.portrait import Portrait4D
from triportrait.serve import reenactor as reenactor_module
from triportrait.serve.media.pictures.picture_file import read_picture

S = 128


def test_a_photo_and_a_video_become_a_video_with_the_driving_sound(run, portrait_file, driving, tmp_path):
    code, log = run(portrait_file, driving, tmp_path / "out.mp4", "--log-json")
    assert code == 0, log
    assert frames_of(tmp_path / "out.mp4").shape == (4, S, S, 3)
    sound = sound_packets(tmp_path / "out.mp4")
    assert sound
    assert sound == sound_packets(driving)[: len(sound)]
    said = "\n".join(line["message"] for line in log_objects(log))
    assert "its middle square is taken as aligned" in said
    assert "the neck stays still" in said
    assert "4 frames" in said


def test_the_same_input_gives_the_same_bytes(run, portrait_file, driving, tmp_path):
    for name in ("a.mkv", "b.mkv", "a.mp4", "b.mp4"):
        assert run(portrait_file, driving, tmp_path / name, "--frames", 2)[0] == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert packets_of(tmp_path / "a.mp4") == packets_of(tmp_path / "b.mp4"), "not only the manifest is another"


def test_the_source_is_encoded_once_for_a_whole_video(run, portrait_file, driving, tmp_path, monkeypatch):
    calls: dict[str, int] = {}
    original = reenactor_module.Reenactor.__init__

    def counted(self, *args, **kwargs):
        original(self, *args, **kwargs)
        for name, module in self.parts().items():
            module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))

    monkeypatch.setattr(reenactor_module.Reenactor, "__init__", counted)
    assert run(portrait_file, driving, tmp_path / "out.mp4")[0] == 0
    once = ("global encoder", "neutral blocks", "background", "detail encoder")
    assert {name: calls[name] for name in once} == dict.fromkeys(once, 1)
    each = ("motion blocks", "plane decoder", "volume rendering", "super-resolution")
    assert {name: calls[name] for name in each} == dict.fromkeys(each, 4)
    assert calls["motion encoder"] == 5


def test_side_by_side_with_an_orbit(run, portrait_file, tmp_path):
    pictures = [picture(i, (96, 160)) for i in range(4)]
    driving = make(tmp_path / "slow.mp4", pictures, pts=[0, 30_000, 60_000, 90_000])  # a quarter of the orbit
    assert run(portrait_file, driving, tmp_path / "out.mkv", "--side-by-side", "--orbit")[0] == 0
    frames = frames_of(tmp_path / "out.mkv").astype(int)
    assert frames.shape == (4, S, 4 * S, 3)
    source, driven_by, result, orbit = np.split(frames, 4, axis=2)
    wanted = np.asarray(Image.fromarray(read_picture(portrait_file)[20:280]).resize((S, S), Image.Resampling.LANCZOS))
    assert np.abs(source[0] - wanted).mean() < 4
    assert np.abs(source[3] - wanted).mean() < 4
    middle = Image.fromarray(picture(2, (96, 160))[:, 32:128]).resize((S, S), Image.Resampling.LANCZOS)
    assert np.abs(driven_by[2] - np.asarray(middle)).mean() < 6
    assert 2 * np.abs(orbit[0] - result[0]).mean() < np.abs(orbit[3] - result[3]).mean()


def test_one_frame_of_a_video_as_a_picture(run, portrait_file, driving, tmp_path):
    assert run(portrait_file, driving, tmp_path / "out.jpg", "--frames", 1)[0] == 0
    assert read_picture(tmp_path / "out.jpg").shape == (S, S, 3)


def test_yaw_and_pitch_move_the_camera(run, portrait_file, tmp_path):
    Image.fromarray(picture(1)).save(tmp_path / "drive.png")
    pictures = {}
    for name, options in {"front": (), "yaw": ("--yaw-deg", 25), "pitch": ("--pitch-deg=-20",)}.items():
        assert run(portrait_file, tmp_path / "drive.png", tmp_path / f"{name}.png", *options)[0] == 0
        pictures[name] = read_picture(tmp_path / f"{name}.png").astype(int)
    assert pictures["front"].shape == (S, S, 3)
    for a, b in (("front", "yaw"), ("front", "pitch"), ("yaw", "pitch")):
        assert np.abs(pictures[a] - pictures[b]).mean() > 0.5


class TestPublishedFolders:
    def test_parameters_turn_the_neck_and_landmarks_place_the_crop(self, run, clip_folder, tmp_path, monkeypatch):
        grids, crops = [], []
        render = Portrait4D.render
        monkeypatch.setattr(
            Portrait4D,
            "render",
            lambda self, head, camera: grids.append(head.neck) or render(self, head, camera),
        )
        crop = reenactor_module.crop_map
        monkeypatch.setattr(reenactor_module, "crop_map", lambda lm, side: crops.append(lm) or crop(lm, side))
        code, said = run(clip_folder / "align_images" / "00000.png", clip_folder, tmp_path / "out.mp4")
        assert code == 0
        assert "no landmarks" not in said
        assert "the neck" not in said
        assert len(frames_of(tmp_path / "out.mp4")) == 3
        offsets = [grid.fine[..., :3].abs().max().item() for grid in grids]
        assert offsets[0] < 1e-4 < 0.05 < offsets[1] < offsets[2]
        assert [lm[0, 36, 0].item() for lm in crops] == [200, 200, 204, 208]  # the source, then three driving frames

    def test_no_neck_moves_the_camera_instead(self, run, clip_folder, tmp_path, monkeypatch):
        seen = []
        render = Portrait4D.render

        def spy(self, head, camera):
            seen.append((head.neck, camera.world_from_camera[0, 0, 3].item()))
            return render(self, head, camera)

        monkeypatch.setattr(Portrait4D, "render", spy)
        moved = parameters()
        moved[3] = 0.4  # the camera's x
        np.save(clip_folder / "flame_optim_params" / "00001.npy", moved)
        source = clip_folder / "align_images" / "00000.png"
        assert run(source, clip_folder, tmp_path / "out.mp4", "--no-neck")[0] == 0
        assert [neck for neck, _ in seen] == [None] * 3
        assert [x for _, x in seen] == pytest.approx([0, 0.4, 0])

    def test_files_beside_a_video_count_its_frames(self, run, portrait_file, driving, clip_folder, tmp_path):
        code, said = run(portrait_file, driving, tmp_path / "out.mp4", "--driving-params", clip_folder)
        assert code == 2
        assert "holds files for 3 frames" in said
        assert "pass --frames 3" in said
        assert not (tmp_path / "out.mp4").exists()
        code, said = run(portrait_file, driving, tmp_path / "o.mp4", "--driving-params", clip_folder, "--frames", 3)
        assert code == 0
        assert "turns as that of a mean face" in said

    def test_a_folder_as_the_source_is_its_first_picture(self, run, clip_folder, driving, tmp_path):
        code, said = run(clip_folder, driving, tmp_path / "out.mp4", "--frames", 1)
        assert code == 0
        assert "00000.png, the first picture" in said

    def test_a_video_as_the_source_is_its_first_frame(self, run, driving, tmp_path):
        code, said = run(driving, driving, tmp_path / "out.mp4", "--frames", 1)
        assert code == 0
        assert "the first frame of" in said

    def test_weights_without_flame_say_so(self, clip_folder, tiny_weights, tmp_path, capsys):
        from safetensors.torch import load_file, save_file

        shutil.copytree(tiny_weights, tmp_path / "w")
        tensors = load_file(tiny_weights / "portrait.safetensors")
        bare = {n: t for n, t in tensors.items() if not n.startswith("neck.")}
        save_file(bare, tmp_path / "w" / "portrait.safetensors")
        out = tmp_path / "out.mp4"
        assert main(["reenact", str(clip_folder), str(clip_folder), str(out), "--weights", str(tmp_path / "w")]) == 0
        assert "the weights hold no FLAME tables: the neck stays still" in capsys.readouterr().err


def test_static_keeps_the_source_s_expression(run, portrait_file, driving, tmp_path):
    assert run(portrait_file, driving, tmp_path / "out.mkv", "--static")[0] == 0
    frames = frames_of(tmp_path / "out.mkv").astype(int)
    assert np.abs(frames[3] - frames[0]).mean() < 0.1


def test_uneven_frame_times_are_kept(run, portrait_file, tmp_path):
    pts = [0, 3000, 9000, 30000]
    driving = make(tmp_path / "vfr.mp4", [picture(i, (96, 96)) for i in range(4)], pts=pts)
    assert run(portrait_file, driving, tmp_path / "out.mp4")[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as out:
        times = [float(f.pts * f.time_base) for f in out.decode(video=0)]
    assert times == pytest.approx([p / 90_000 for p in pts], abs=2e-4)


def test_verbose_prints_each_part_and_the_memory(run, portrait_file, driving, tmp_path):
    code, said = run(portrait_file, driving, tmp_path / "out.mp4", "-v", "--frames", 2)
    assert code == 0
    for part in ("global encoder", "plane decoder", "super-resolution", "reenact a frame", "write a frame"):
        assert part in said
    assert "peak memory" in said


class TestRefusals:
    """One sentence, exit code 2, nothing half-written, nothing lost."""

    def cases(self, tmp_path, portrait, driving):
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(driving.read_bytes()[:900])
        empty = tmp_path / "empty.mp4"
        empty.write_bytes(b"")
        tiny_picture = tmp_path / "small.png"
        Image.fromarray(picture(0, (40, 90))).save(tiny_picture)
        text = tmp_path / "text.png"
        text.write_text("hello")
        there = tmp_path / "there.mp4"
        there.write_bytes(b"mine")
        out = tmp_path / "out.mp4"
        return {
            "missing source": ((tmp_path / "none.png", driving, out), "none.png"),
            "missing driving": ((portrait, tmp_path / "none.mp4", out), "none.mp4"),
            "truncated driving": ((portrait, broken, out), "broken.mp4"),
            "empty driving": ((portrait, empty, out), "empty.mp4"),
            "small source": ((tiny_picture, driving, out), "small.png"),
            "text as source": ((text, driving, out), "text.png"),
            "output exists": ((portrait, driving, there), "--overwrite"),
            "folder missing": ((portrait, driving, tmp_path / "no" / "out.mp4"), "does not exist"),
            "unknown ending": ((portrait, driving, tmp_path / "out.xyz"), "ending"),
            "picture for a video": ((portrait, driving, tmp_path / "out.png"), "ending"),
            "output is the driving": ((portrait, driving, driving, "--overwrite"), "choose another"),
            "no frames": ((portrait, driving, out, "--frames", 0), "--frames: expected at least 1, got 0"),
            "yaw": ((portrait, driving, out, "--yaw-deg", 400), "--yaw-deg: expected a number from -180 to 180"),
            "pitch": ((portrait, driving, out, "--pitch-deg", 90), "--pitch-deg"),
            "not a number": ((portrait, driving, out, "--yaw-deg", "nan"), "--yaw-deg"),
            "weights missing": ((portrait, driving, out, "--weights", tmp_path / "nowhere"), "no such weights folder"),
            "params missing": ((portrait, driving, out, "--driving-params", tmp_path / "x"), "no such folder"),
            **(
                {} if torch.cuda.is_available() else {"cuda": ((portrait, driving, out, "--device", "cuda"), "no CUDA")}
            ),
        }

    def test_each(self, tmp_path, portrait_file, driving, tiny_weights, capsys):
        for case, (arguments, message) in self.cases(tmp_path, portrait_file, driving).items():
            before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
            extra = [] if "--weights" in arguments else ["--weights", str(tiny_weights)]
            code = main(["reenact", *map(str, arguments), *extra])
            said = capsys.readouterr().err.strip().splitlines()
            assert code == 2, case
            assert message in said[-1], (case, said)
            assert said[-1].startswith("triportrait: "), (case, said)
            assert not any("Traceback" in line for line in said), case
            after = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
            assert after == before, case

    def test_no_weights_named(self, tmp_path, portrait_file, driving, capsys, monkeypatch):
        """The package's own, and what they know, in a line."""
        monkeypatch.delenv("TRIPORTRAIT_WEIGHTS", raising=False)
        assert main(["reenact", str(portrait_file), str(driving), str(tmp_path / "out.png"), "--frames", "1"]) == 0
        said = capsys.readouterr().err.splitlines()
        (line,) = [line for line in said if "procedural heads alone" in line]
        assert line.startswith("weights demo: ")
        assert "--weights FOLDER" in line
        assert (tmp_path / "out.png").is_file()

    def test_weights_named_by_the_environment(self, tmp_path, portrait_file, driving, tiny_weights, monkeypatch):
        monkeypatch.setenv("TRIPORTRAIT_WEIGHTS", str(tiny_weights))
        assert main(["reenact", str(portrait_file), str(driving), str(tmp_path / "out.mp4"), "--frames", "1"]) == 0

    def test_overwrite_replaces_only_when_whole(self, tmp_path, portrait_file, driving, run, monkeypatch):
        out = tmp_path / "out.mp4"
        out.write_bytes(b"mine")

        def broken(self, *args):
            raise RuntimeError("fault of ours")

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="fault of ours"):
            patch.setattr(reenactor_module.Reenactor, "head", broken)
            run(portrait_file, driving, out, "--overwrite")
        assert out.read_bytes() == b"mine"
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        assert run(portrait_file, driving, out, "--overwrite")[0] == 0
        assert len(frames_of(out)) == 4

    @pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_an_interrupt_leaves_nothing_behind(self, tmp_path, portrait_file, driving, tiny_weights, kill):
        out = tmp_path / "out.mp4"
        before = sorted(tmp_path.iterdir())
        command = ["reenact", str(portrait_file), str(driving), str(out), "--weights", str(tiny_weights)]
        command += ["--faces", "none"]
        # the job says this line when it has its weights and is about to stream; the writer then waits for a kill
        code = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell hands it on ignored
            "from triportrait.serve.media.provenance.stamp import Stamp\n"
            "from triportrait.cli import main\n"
            "def slow(self, image):\n"
            "    print('streaming', flush=True)\n"
            "    time.sleep(3)\n"
            "    return image\n"
            "Stamp.mark = slow\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "streaming\n"
        process.send_signal(kill)
        assert process.wait(timeout=60) == 130
        assert sorted(tmp_path.iterdir()) == before

    def test_a_frame_that_is_not_finite_stops_with_its_name(self, tmp_path, portrait_file, driving, run, monkeypatch):
        original = Portrait4D.planes
        monkeypatch.setattr(Portrait4D, "planes", lambda self, *given: original(self, *given) * float("nan"))
        code, said = run(portrait_file, driving, tmp_path / "out.mp4")
        assert code == 2
        assert "planes: expected finite numbers" in said
        assert not (tmp_path / "out.mp4").exists()

    def test_a_damaged_video_is_used_as_far_as_it_goes(self, tmp_path, portrait_file, run):
        frames = [picture(i, (96, 96)) for i in range(12)]
        options = {"movflags": "+faststart"}
        whole = make(tmp_path / "whole.mp4", frames, container=options, options={"g": "1", "bf": "0"})
        damaged = tmp_path / "damaged.mp4"
        damaged.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
        code, said = run(portrait_file, damaged, tmp_path / "out.mp4")
        assert code == 0, said
        assert "frames could be decoded" in said
        assert 1 <= len(frames_of(tmp_path / "out.mp4")) < 12
