"""Who decodes the driving frames of `live`: Pillow, or DALI by name, with Pillow behind it."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.jobs import live
from triportrait.serve.live import dali_jpeg
from triportrait.serve.live.dali_jpeg import MOST_BROKEN, DaliJpeg, chosen_jpeg_decoder
from triportrait.serve.live.inference import Engine, decode_jpeg, encode_jpeg, example_picture

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def jpeg(picture: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (picture or Image.fromarray(example_picture())).save(out, "JPEG", **dict(quality=85) | options)
    return out.getvalue()


@pytest.fixture
def decoder() -> DaliJpeg:
    pytest.importorskip("nvidia.dali", exc_type=ImportError)
    return DaliJpeg(CPU)


def test_dali_shows_what_pillow_shows(decoder: DaliJpeg, caplog: Any) -> None:
    """Its decoder of the CPU runs; both are libjpeg-turbo."""
    exif = Image.Exif()
    exif[0x0112] = 6
    example = Image.fromarray(example_picture())
    for data in (
        jpeg(), jpeg(subsampling=0), jpeg(exif=exif), jpeg(example.convert("L")), jpeg(example.convert("CMYK")),
        jpeg(example.resize((201, 77))), encode_jpeg(example_picture()),
    ):  # fmt: skip
        assert np.array_equal(decoder(data), decode_jpeg(data))
    assert not decoder._broken
    with caplog.at_level(logging.INFO):
        assert isinstance(chosen_jpeg_decoder("dali", CPU), DaliJpeg)
    assert "DALI decodes driving frames that come as JPEG; VP8 over WebRTC is decoded by aiortc" in caplog.text


def test_several_threads_decode_at_once(decoder: DaliJpeg) -> None:
    pictures = [jpeg(Image.fromarray(np.roll(example_picture(), 40 * i, 1))) for i in range(4)]
    with ThreadPoolExecutor(3) as pool:
        for made, data in zip(pool.map(decoder, pictures * 6), pictures * 6, strict=True):
            assert np.array_equal(made, decode_jpeg(data))


def test_hostile_frames_get_pillow_s_sentences_and_cost_a_few_pipelines_at_most(decoder, caplog, monkeypatch):
    whole, built, build = jpeg(), [], dali_jpeg._built
    monkeypatch.setattr(dali_jpeg, "_built", lambda gpu: built.append(gpu) or build(gpu))
    strip = jpeg(Image.new("RGB", (700, 80)))
    for data in (b"", b"\xff\xd8" + bytes(90), whole[:300], strip, jpeg(progressive=True)):
        with pytest.raises(InputError) as expected:
            decode_jpeg(data)
        with pytest.raises(InputError) as came:
            decoder(data)
        assert str(came.value) == str(expected.value)
    for i in range(3 * MOST_BROKEN):
        with pytest.raises(InputError, match="the picture is damaged"):
            decoder(whole[: len(whole) // 2 + i])
        assert np.array_equal(decoder(whole), decode_jpeg(whole))
        assert decoder._broken == min(i + 1, MOST_BROKEN), "a pipeline broke on a whole picture"
    assert len(built) <= MOST_BROKEN + 1
    assert f"{MOST_BROKEN} pictures broke DALI's pipelines; the CPU decodes from here on" in caplog.text


def test_where_it_does_not_run_one_sentence_says_so(caplog: Any, monkeypatch: Any) -> None:
    """On a GPU DALI's `mixed` decoder is asked for; without one, DALI itself refuses here."""
    if not torch.cuda.is_available():
        assert chosen_jpeg_decoder("dali", CUDA) is decode_jpeg
        (record,) = caplog.records
        assert record.getMessage().startswith("--decoder dali: ")
        assert record.getMessage().endswith("; the CPU decodes the driving frames")
    caplog.clear()
    assert chosen_jpeg_decoder("nvdec", CPU) is decode_jpeg
    assert "--decoder nvdec: expected av or dali" in caplog.text
    caplog.clear()
    assert chosen_jpeg_decoder("auto", CUDA) is decode_jpeg
    assert chosen_jpeg_decoder("av", CPU) is decode_jpeg
    assert not caplog.records
    asked: list[Any] = []

    def pipeline_def(**options: Any) -> Any:
        asked.append(options["device_id"])
        return lambda make: lambda: make() or SimpleNamespace(build=lambda: None)

    fn = SimpleNamespace(
        external_source=lambda **words: None,
        decoders=SimpleNamespace(image=lambda jpeg, device, output_type: asked.append(device)),
    )
    types = SimpleNamespace(UINT8=1, RGB=2)
    stub = SimpleNamespace(fn=fn, types=types, pipeline_def=pipeline_def)
    monkeypatch.setattr(dali_jpeg.importlib, "import_module", lambda name: stub)
    dali_jpeg._built(1)
    dali_jpeg._built(None)
    assert asked == [1, "mixed", None, "cpu"]


def test_other_pictures_of_a_decoder_are_not_shown(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(DaliJpeg, "run", lambda self, data: 255 - decode_jpeg(data))
    assert chosen_jpeg_decoder("dali", CPU) is decode_jpeg
    assert "it decodes other pictures" in caplog.text


def test_live_hands_the_decoder_and_the_encoder_on(monkeypatch: Any) -> None:
    """`--decoder dali` reaches the frames; recordings are written by what encodes beside the network's device."""
    seen: dict[str, Any] = {}

    class Reached(Exception):
        pass

    def engine(*words: Any) -> Any:
        seen["decode"] = words[3]
        return SimpleNamespace(finds_faces=True, measure=lambda: 0.1, most_batch=1)

    def server(_engine: Any, _admission: Any, _metrics: Any, recordings: Any, *words: Any) -> Any:
        seen["encoder"] = recordings._encoder
        recordings.close()
        raise Reached

    monkeypatch.setattr(live, "Engine", engine)
    monkeypatch.setattr(live, "LiveServer", server)
    monkeypatch.setattr(live, "host_costs", lambda *words: {})
    monkeypatch.setattr(live, "share_cores", lambda *words, **others: None)
    monkeypatch.setattr(live, "chosen_jpeg_decoder", lambda choice, device: (choice, device.type))
    monkeypatch.setattr(live, "chosen_encoder", lambda choice, on_gpu: (choice, on_gpu))
    with pytest.raises(Reached):
        live.Live(device="cpu", decoder="dali")._load_and_measure()
    assert seen == {"decode": ("dali", "cpu"), "encoder": ("auto", False)}
    given = Engine(SimpleNamespace(has_flame_neck=False, marks_on_device=False, device=CPU), None, None, seen.get)
    assert given.decode(b"decode") is None
    assert given.decode("decode") == ("dali", "cpu")
