"""The library face: the command's frames bit for bit, streams that are never held, what goes in, what is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import triportrait
from tests.serve.decoded import frames_of
from tests.serve.faces import picture
from tests.serve.making import make
from triportrait import Camera, Controls, InputError, Pipeline
from triportrait.cli import main
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.saving import AnimatedFrame

S = 128


@pytest.fixture(scope="module")
def pipe():
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [picture(i, (96, 160)) for i in range(4)]


def images(frames) -> np.ndarray:
    return np.stack([frame.image for frame in frames])


def test_importing_is_quick_and_loads_no_torch():
    code = (
        "import sys, time; began = time.perf_counter(); import triportrait; took = time.perf_counter() - began\n"
        "assert not {'torch', 'numpy', 'triportrait.core', 'triportrait.serve'} & set(sys.modules)\n"
        "assert took < 0.5, took\n"
        "assert set(triportrait.__all__) <= set(dir(triportrait))\n"
        "assert triportrait.InputError.__name__ == 'InputError' and 'torch' not in sys.modules\n"
        "for name in triportrait.__all__: getattr(triportrait, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="has no attribute 'Pipelines'"):
        _ = triportrait.Pipelines


@pytest.mark.parametrize(
    "flags, options",
    [
        ((), {}),
        (("--side-by-side", "--orbit"), {"side_by_side": True, "orbit": True}),
        (("--yaw-deg", "20", "--relative", "--no-neck", "--frames", "3"),
         {"yaw_deg": 20, "relative": True, "controls": Controls(neck=False), "frames": 3}),
        (("--paste-back",), {"paste_back": True}),
    ],
)  # fmt: skip
def test_what_is_saved_is_what_the_command_writes(pipe, portrait_file, driving, tmp_path, flags, options, capsys):
    theirs, ours = tmp_path / "command.mkv", tmp_path / "library.mkv"
    command = ["reenact", str(portrait_file), str(driving), str(theirs), "--weights", "demo", "--device", "cpu"]
    assert main([*command, "--faces", "none", *flags]) == 0, capsys.readouterr().err
    frames = pipe.animate(portrait_file, driving, **options)
    assert pipe.save(frames, ours, sound=driving) == ours
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_picture_is_saved_and_signed(pipe, portrait_file, tmp_path):
    out = pipe.save(pipe.animate(portrait_file, picture(1)), tmp_path / "out.png")
    assert read_picture(out).shape == (S, S, 3)
    assert main(["verify", str(out)]) == 0
    with pytest.raises(InputError, match="a picture holds one frame, more came"):
        pipe.save(pipe.animate(portrait_file, [picture(1)] * 2), tmp_path / "two.png")
    assert not (tmp_path / "two.png").exists()


def test_paths_pil_images_and_arrays_are_one(pipe, portrait_file, pictures, tmp_path):
    files = []
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    source = read_picture(portrait_file)
    expected = images(pipe.animate(portrait_file, files))
    given = {
        "str": (str(portrait_file), [str(file) for file in files]),
        "array": (source, pictures),
        "one array": (source, np.stack(pictures)),
        "PIL": (Image.open(portrait_file), (Image.open(file) for file in files)),
        "folder": (source, tmp_path / "folder"),
    }
    (tmp_path / "folder").mkdir()
    for file in files:
        (tmp_path / "folder" / file.name).write_bytes(file.read_bytes())
    for name, (portrait, driving) in given.items():
        assert np.array_equal(images(pipe.animate(portrait, driving)), expected), name
    assert len(images(pipe.animate(source, pictures[0]))) == 1


@pytest.mark.parametrize("kind", ["exif", "alpha", "16 bit"])
def test_a_pil_image_is_read_as_its_file(pipe, tmp_path, kind):
    image = Image.fromarray(picture(3, (120, 100)))
    path = tmp_path / "source.png"
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    elif kind == "alpha":
        image.putalpha(Image.new("L", image.size, 128))
        image.save(path)
    else:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    prepared = pipe.prepare(Image.open(path))
    assert prepared.picture is not None
    assert np.array_equal(prepared.picture.image, read_picture(path))


def test_a_video_that_the_device_marked_is_the_one_that_the_host_marks(
    pipe, portrait_file, pictures, tmp_path, monkeypatch
):
    """On a GPU the pass that renders puts the watermark in; here the same pass runs on a CPU."""
    host = pipe.save(pipe.animate(portrait_file, pictures), tmp_path / "host.mkv", encoder="x264")
    monkeypatch.setattr(Reenactor, "marks_on_device", True)
    animation = pipe.animate(portrait_file, pictures)
    with monkeypatch.context() as patch:
        patch.setattr(Stamp, "mark", lambda *_: pytest.fail("marked again"))
        device = pipe.save(animation, tmp_path / "device.mkv", encoder="x264")
    assert device.read_bytes() == host.read_bytes()
    animation = pipe.animate(portrait_file, pictures)
    animation.marks = True
    (frame, *_) = frames = list(animation)
    assert frame.marked is not None
    assert np.array_equal(frame.marked[0], frame.image)
    assert not np.array_equal(frame.marked[1], frame.image)
    for each in frames:
        each.image[...] = 255 - each.image
    changed = pipe.save(frames, tmp_path / "changed.mkv", encoder="x264")
    shown = [frame.image for frame in open_clip(changed).frames()]
    assert np.abs(shown[0].astype(int) - frame.image).mean() < 8, "a picture that was changed is marked anew"
    assert not any(frame.marked for frame in pipe.animate(portrait_file, pictures))


def test_ten_thousand_frames_are_read_one_by_one(pipe, portrait_file, monkeypatch):
    """Each picture is made when its frame is asked for, and let go."""
    monkeypatch.setattr(pipe._reenactor, "head", lambda source, face, controls: face)
    monkeypatch.setattr(pipe._reenactor, "views", lambda head, cameras, shows: [head.crop])
    alive: list[weakref.ref] = []
    read = 0

    def stream():
        nonlocal read
        for _ in range(10_000):
            read += 1
            pixels = np.zeros((64, 64, 3), np.uint8)
            alive.append(weakref.ref(pixels))
            yield pixels

    frames = pipe.animate(portrait_file, stream(), fps=30)
    assert read == 0
    first = next(frames)
    assert read == 1
    assert first.time_s == 0
    count, last_s = 1, 0.0
    for count, frame in enumerate(frames, start=2):
        assert read == count
        last_s = frame.time_s
        if count % 2500 == 0:
            gc.collect()
            assert sum(each() is not None for each in alive) <= 3
    assert count == 10_000
    assert last_s == pytest.approx(9_999 / 30)


def test_a_limit_takes_no_more_from_the_program(pipe, portrait_file, pictures):
    stream = iter(pictures)
    assert len(list(pipe.animate(portrait_file, stream, frames=2))) == 2
    assert len(list(stream)) == 2


def test_closing_early_ends_the_thread_and_closes_the_film(pipe, portrait_file, tmp_path):
    film = make(tmp_path / "long.mp4", [picture(i % 4, (96, 160)) for i in range(60)])
    before = threading.active_count()
    with pipe.animate(portrait_file, film) as frames:
        next(frames)
        assert threading.active_count() == before + 2  # one reads, one follows the face
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(frames)
    own = iter([picture(0)] * 3)
    frames = pipe.animate(portrait_file, own)
    next(frames)
    frames.close()
    assert len(list(own)) == 2


def test_a_frame_that_fails_leaves_nothing_behind(pipe, portrait_file, pictures, tmp_path):
    before = threading.active_count()
    with pytest.raises(InputError, match=r"driving frame 2: expected an array uint8 \[H, W, 3\], got float64"):
        pipe.save(pipe.animate(portrait_file, [*pictures[:2], pictures[2] / 255.0]), tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["portrait.png"]
    assert threading.active_count() == before


def test_a_loop_of_one_s_own_gives_the_same_frames(pipe, portrait_file, pictures):
    prepared = pipe.prepare(portrait_file)
    controls = Controls(motion_strength=1.2, gaze=(0.3, 0.0))
    animated = list(pipe.animate(prepared, pictures, controls=controls))
    tracker = pipe.tracker()
    for number, (frame, pixels) in enumerate(zip(animated, pictures, strict=True)):
        own = pipe.frame(prepared, pixels, controls, tracker=tracker, time_s=number / 25)
        assert np.array_equal(own.image, frame.image)
        assert torch.equal(own.camera.world_from_camera, frame.camera.world_from_camera)
        head = pipe.head(prepared, pixels, controls)
        assert np.array_equal(pipe.view(head), frame.image)
        aside = pipe.view(head, pipe.camera(yaw_deg=25))
        assert np.array_equal(aside, pipe.frame(prepared, pixels, _with(controls, pipe.camera(25))).image)
        assert np.abs(aside.astype(int) - frame.image).mean() > 3


def _with(controls: Controls, camera: Camera) -> Controls:
    return Controls(camera, controls.neck, controls.motion_strength, controls.gaze, controls.neutral)


class Finder:
    """Finds one face where it was put, and counts how often it was asked; a picture of one colour has none."""

    def __init__(self) -> None:
        self.asked = self.closed = 0
        rng = np.random.default_rng(0)
        points = np.pad(rng.normal(0, 12, (68, 2)) + np.array([80, 48]), ((0, 0), (0, 1))).astype(np.float32)
        points[[36, 39, 42, 45, 30, 48, 54], :2] = (68, 40), (76, 40), (84, 40), (92, 40), (80, 50), (72, 60), (88, 60)
        self.face = Face(points, alignment_points(points))

    def find(self, image, near=None, quick=False):
        self.asked += 1
        return [self.face] if np.ptp(image) else []

    def close(self) -> None:
        self.closed += 1


def test_faces_are_found_as_the_command_finds_them(pictures):
    finder = Finder()
    source = picture(9, (96, 160))
    blank = np.zeros_like(pictures[0])
    with Pipeline.from_pretrained("demo", device="cpu", faces=finder) as pipe:
        prepared = pipe.prepare(source)
        assert prepared.face.tracking.landmarks is not None
        frames = list(pipe.animate(prepared, [blank, *pictures, blank]))
        assert [frame.face_found for frame in frames] == [False, True, True, True, True, False]
        itself = pipe.view(pipe.head(prepared, source, Controls(motion_strength=0.0, neck=False)))
        assert np.abs(frames[0].image.astype(int) - itself).mean() < 1, "before the first face the source stays"
        assert np.array_equal(frames[5].image, frames[4].image), "the last pose is held"
        tracker = pipe.tracker()
        for number, pixels in enumerate([blank, *pictures, blank]):
            own = pipe.frame(prepared, pixels, tracker=tracker, time_s=number / 25)
            assert np.array_equal(own.image, frames[number].image), number
            assert own.face_found == frames[number].face_found
        with pytest.raises(InputError, match="--face: expected 1 to 1, counted from the left, got 2"):
            pipe.prepare(source, face=2)
    assert finder.asked > 6
    assert finder.closed == 0, "whoever made it closes it"


def test_weights_are_saved_and_loaded_bit_for_bit(pipe, portrait_file, pictures, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "weights")
    expected = images(pipe.animate(portrait_file, pictures))
    with Pipeline.from_pretrained(folder, device="cpu", faces="none") as again:
        assert again.config == pipe.config
        assert again.image_size == again.config.image_size == S
        states = (each._reenactor.portrait.state_dict() for each in (pipe, again))
        for (name, one), (other_name, other) in zip(*(state.items() for state in states), strict=True):
            assert name == other_name
            assert torch.equal(one, other), name
        assert np.array_equal(images(again.animate(portrait_file, pictures)), expected)
        assert again.save_pretrained(folder) == folder
        (folder / "flame.json").write_text("{}")
        with pytest.raises(InputError, match="have changed since they were loaded"):
            again.save_pretrained(tmp_path / "more")
    with pytest.raises(InputError, match=r"expected no other weights there, it holds flame.json"):
        pipe.save_pretrained(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        pipe.save_pretrained(tmp_path / "file" / "weights")


def test_to_another_device_and_back(portrait_file, pictures):
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipe:
        before = pipe.prepare(portrait_file)
        expected = pipe.frame(before, pictures[0]).image
        assert pipe.to("cpu") is pipe
        assert pipe.device == torch.device("cpu")
        assert np.array_equal(pipe.frame(before, pictures[0]).image, expected)
        for device, sentence in (("meta", "got meta"), ("gpu", "expected auto, cpu or cuda"), (3.5, "expected auto")):
            with pytest.raises(InputError, match=sentence):
                pipe.to(device)
        pipe._reenactor.to("meta")  # stands in for another device: sources do not travel
        with pytest.raises(InputError, match="prepared on another device"):
            pipe.frame(before, pictures[0])


def test_a_closed_pipeline_says_so_and_ends_what_is_under_way(portrait_file, driving):
    pipe = Pipeline.from_pretrained("demo", device="cpu", faces="none")
    before = threading.active_count()
    frames = pipe.animate(portrait_file, driving)
    next(frames)
    pipe.close()
    assert threading.active_count() == before
    assert list(frames) == []
    assert repr(pipe) == "Pipeline('demo', closed)"
    with pytest.raises(InputError, match="the pipeline is closed"):
        pipe.prepare(portrait_file)


def test_bad_input_is_one_sentence(pipe, portrait_file, driving, pictures, tmp_path):
    prepared = pipe.prepare(portrait_file)
    square = np.zeros((80, 80, 3), np.uint8)
    cases = {
        r"source: expected an array uint8 \[H, W, 3\], got float32 .* \.astype\(numpy\.uint8\)":
            lambda: pipe.prepare(square.astype(np.float32)),
        r"source: expected an array uint8 \[H, W, 3\], got uint8 \[80, 80, 4\]":
            lambda: pipe.prepare(np.zeros((80, 80, 4), np.uint8)),
        r"source: expected sides of 64 px at least": lambda: pipe.prepare(square[:40]),
        r"source: expected a path, a PIL image or a uint8 array \[H, W, 3\], got Tensor":
            lambda: pipe.prepare(torch.zeros(80, 80, 3)),
        r"driving: expected at least one frame, got none": lambda: list(pipe.animate(prepared, [])),
        r"driving: expected a path, a picture or an iterable of them, got int": lambda: pipe.animate(prepared, 3),
        r"none.mp4: ": lambda: pipe.animate(prepared, tmp_path / "none.mp4"),
        r"fps: expected a number above 0, got 0": lambda: pipe.animate(prepared, pictures, fps=0),
        r"fps: expected pictures beside it": lambda: pipe.animate(prepared, driving, fps=25),
        r"frames: expected at least 1, got 0": lambda: pipe.animate(prepared, driving, frames=0),
        r"yaw_deg: expected a number from -180 to 180, got 400": lambda: pipe.animate(prepared, driving, yaw_deg=400),
        r"paste_back: the portrait has one view; leave side_by_side, orbit, yaw_deg and pitch_deg out":
            lambda: pipe.animate(prepared, driving, paste_back=True, orbit=True),
        r"driving_face: expected at least 1": lambda: pipe.animate(prepared, driving, driving_face=0),
        r"controls: expected triportrait.Controls, got dict": lambda: pipe.animate(prepared, driving, controls={}),
        r"controls: expected finite numbers":
            lambda: pipe.frame(prepared, square, Controls(motion_strength=float("nan"))),
        r"controls.neutral: expected \[1, 9\] from Pipeline.motion, got \[1, 3\]":
            lambda: pipe.frame(prepared, square, Controls(neutral=torch.zeros(1, 3))),
        r"controls.camera: expected one Camera": lambda: pipe.frame(prepared, square, Controls(camera=7)),
        r"relative: expected no neutral motion":
            lambda: pipe.animate(prepared, driving, relative=True, controls=Controls(neutral=torch.zeros(1, 9))),
        r"source: expected one from Pipeline.prepare, got ndarray": lambda: pipe.frame(square, square),
        r"nowhere: no such weights folder": lambda: Pipeline.from_pretrained(tmp_path / "nowhere", device="cpu"),
        r"frames: expected at least one frame, got none": lambda: pipe.save([], tmp_path / "out.mp4"),
        r"frames: expected those of Pipeline.animate .* got ndarray": lambda: pipe.save([square], tmp_path / "out.mp4"),
        r"out.xyz: an ending out of": lambda: pipe.save([], tmp_path / "out.xyz"),
    }  # fmt: skip
    for sentence, call in cases.items():
        with pytest.raises(InputError, match=sentence) as error:
            call()
        assert "\n" not in str(error.value), sentence
    assert not list(tmp_path.glob("out*"))


def test_frames_of_a_loop_are_saved_with_sound_up_to_their_end(pipe, portrait_file, driving, pictures, tmp_path):
    prepared = pipe.prepare(portrait_file)
    frames = [pipe.frame(prepared, pixels, time_s=i / 25) for i, pixels in enumerate(pictures)]
    out = pipe.save(frames, tmp_path / "out.mp4", sound=driving)
    assert frames_of(out).shape == (4, S, S, 3)
    assert main(["verify", str(out)]) == 0


def test_controls_that_change_with_time(pipe, portrait_file, pictures):
    moving = list(pipe.animate(portrait_file, pictures, controls=lambda time_s: Controls(pipe.camera(200 * time_s))))
    still = list(pipe.animate(portrait_file, pictures))
    assert np.array_equal(moving[0].image, still[0].image)
    assert not np.array_equal(moving[3].image, still[3].image)


def test_a_neutral_face_stays_behind(pipe, portrait_file, pictures):
    prepared = pipe.prepare(portrait_file)
    neutral = pipe.motion(pictures[2])
    still = pipe.frame(prepared, pictures[2], Controls(neutral=neutral)).image
    itself = pipe.frame(prepared, portrait_file, Controls()).image
    assert np.abs(still.astype(int) - itself).mean() < 0.1


def test_an_abandoned_writer_leaves_no_file(pipe, portrait_file, pictures, tmp_path, monkeypatch):
    write = VideoWriter.write
    seen: list[AnimatedFrame] = []

    def failing(self, image, time_s):
        seen.append(image)
        if len(seen) == 3:
            raise InputError("disk full; free some space")
        write(self, image, time_s)

    monkeypatch.setattr(VideoWriter, "write", failing)
    frames = pipe.animate(portrait_file, pictures * 5)
    with pytest.raises(InputError, match="disk full"):
        pipe.save(frames, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["portrait.png"]
    assert list(frames) == [], "its animation is closed"


def test_the_package_s_own_weights_are_the_default(monkeypatch, tiny_weights):
    monkeypatch.setenv("TRIPORTRAIT_WEIGHTS", str(tiny_weights))
    with Pipeline.from_pretrained(device="cpu", faces="none") as pipe:
        assert pipe.weights == str(tiny_weights)
        assert Path(pipe.weights).is_dir()
        assert pipe.precision == "fp32"
