"""Who encodes a film: x264 beside a CPU, NVENC or a faster preset beside a GPU; what makes its bytes repeatable."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.serve.making import H, W, moving
from triportrait.core.errors import InputError
from triportrait.serve.live.recording import Recordings
from triportrait.serve.media.video import encoders, writer
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.encoders import chosen_encoder, encoder_of
from triportrait.serve.media.video.writer import VideoWriter


def test_it_follows_where_the_network_runs(monkeypatch):
    monkeypatch.setattr(encoders, "nvenc_opens", lambda *size: False)
    assert chosen_encoder("auto", on_gpu=False) == "x264"
    assert chosen_encoder("auto", on_gpu=True) == "fast"
    with pytest.raises(InputError, match=r"expected NVENC, .* does not open it; take x264"):
        chosen_encoder("nvenc", on_gpu=True)
    monkeypatch.setattr(encoders, "nvenc_opens", lambda *size: True)
    assert chosen_encoder("nvenc", on_gpu=True) == "nvenc"
    assert chosen_encoder("auto", on_gpu=False) == "x264"
    assert chosen_encoder("x264", on_gpu=True) == "x264"


def test_nvenc_encodes_the_sizes_that_it_opens_for(monkeypatch, tmp_path):
    """It refuses small pictures, such as those of the demo weights, and large ones."""
    monkeypatch.setattr(encoders, "nvenc_opens", lambda width=512, height=512: min(width, height) >= 145)
    assert encoder_of("libx264", "fast", 18, (512, 512))[0] == "h264_nvenc"
    name, options = encoder_of("libx264", "fast", 18, (128, 128))
    assert name == "libx264"
    assert options["preset"] == "veryfast"
    with VideoWriter(tmp_path / "small.mp4", size_px=(W, H), fps=25, encoder="fast") as writer:
        writer.write(moving(0), 0.0)
    named = VideoWriter(tmp_path / "named.mp4", size_px=(W, H), fps=25, encoder="nvenc")
    with pytest.raises(InputError, match=rf"it does not open for {W} x {H} px here; take x264"):
        named.open()
    assert [path.name for path in tmp_path.iterdir()] == ["small.mp4"]


def test_whether_nvenc_opens_is_asked_of_libav(monkeypatch):
    def refuses(name, mode):
        raise av.FFmpegError(1, "no driver")

    encoders.nvenc_opens.cache_clear()
    asked = []
    contexts = SimpleNamespace(create=lambda *words: asked.append(words) or refuses(*words))
    libav = SimpleNamespace(CodecContext=contexts, VideoCodecContext=object, FFmpegError=av.FFmpegError)
    monkeypatch.setattr(encoders, "av", libav)
    assert not encoders.nvenc_opens(640, 480)
    assert asked == [("h264_nvenc", "w")]
    encoders.nvenc_opens.cache_clear()


@pytest.mark.parametrize(
    ("codec", "encoder"),
    [("libx264", "x264"), ("libx264", "fast"), ("libx264", "nvenc"), ("libvpx-vp9", "nvenc")],
)
def test_libav_knows_every_option_and_its_value(codec, encoder, monkeypatch):
    monkeypatch.setattr(encoders, "nvenc_opens", lambda *size: encoder == "nvenc")
    name, options = encoder_of(codec, encoder, 18, (512, 512))
    supported = av.CodecContext.create(name, "w").supported_options
    known = {option.name: option for option in (*supported.generic, *supported.private)}
    for option, value in options.items():
        choices = [choice.name for choice in known[option].choices]
        assert not choices or value in choices or value.lstrip("-").isdigit(), (option, choices)


def test_the_faster_preset_shows_the_same_pictures_in_the_same_bytes_each_time(tmp_path):
    frames = [moving(i) for i in range(12)]
    for name, encoder in (("a", "x264"), ("b", "fast"), ("c", "fast")):
        with VideoWriter(tmp_path / f"{name}.mp4", size_px=(W, H), fps=25, encoder=encoder) as writer:
            for i, frame in enumerate(frames):
                writer.write(frame, i / 25)
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a != b
    assert b == c
    shown = [[frame.image.astype(int) for frame in open_clip(tmp_path / f"{name}.mp4").frames()] for name in "ab"]
    assert len(shown[1]) == len(frames)
    assert np.abs(np.subtract(*shown)).mean() < 4


def test_a_recording_is_encoded_as_it_was_chosen(monkeypatch):
    """Beside a GPU x264 takes its faster preset, or NVENC makes it."""
    asked = []
    given = writer.encoder_of
    monkeypatch.setattr(writer, "encoder_of", lambda *words: asked.append(words[1]) or given(*words))
    monkeypatch.setattr(encoders, "nvenc_opens", lambda *size: False)
    for encoder in ("x264", "fast"):
        recordings = Recordings(encoder)
        recording = recordings.begin(64, SimpleNamespace(sign=lambda path: None))
        for i in range(3):
            recording.write(moving(i)[:64, :64], i / 25)
        assert len(list(open_clip(recordings.finish(recording).path).frames())) == 3
        recordings.close()
    assert asked == ["x264", "fast"]


WRITES_FILMS = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from triportrait.serve.media.video.writer import VideoWriter, write_video
noise = np.random.default_rng(0).integers(0, 256, (200, 500, 3), np.uint8)
smooth = sum(np.roll(noise.astype(int), (i, j), (0, 1)) for i in range(-2, 3) for j in range(-2, 3)) // 25
frames = [np.roll(smooth.astype(np.uint8), 3 * i, 1)[:, :400] for i in range(8)]
folder = Path(sys.argv[1])
for name, encoder in (("medium.mp4", "x264"), ("veryfast.mp4", "fast"), ("vp9.webm", "x264")):
    with VideoWriter(folder / name, size_px=(400, 200), fps=25, encoder=encoder) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, i / 25)
write_video(folder / "plain.mp4", frames, 25)
"""


def test_a_film_does_not_depend_on_what_was_in_memory_before(tmp_path):
    """`MALLOC_PERTURB_` fills memory that is handed out, so that a reader of what was never written shows."""
    films = []
    for fill in ("0", "1", "85"):
        (tmp_path / fill).mkdir()
        words = [sys.executable, "-c", WRITES_FILMS, str(tmp_path / fill)]
        subprocess.run(words, check=True, env=os.environ | {"MALLOC_PERTURB_": fill})
        films.append({path.name: path.read_bytes() for path in sorted((tmp_path / fill).iterdir())})
    assert len(films[0]) == 4
    for others in films[1:]:
        assert [name for name in others if others[name] != films[0][name]] == []
