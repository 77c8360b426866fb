"""What metric networks read off frames reaches the right columns, and lips are measured against the driver's sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.train.evaluation_protocols.moving_clips import SIZE_PX, picture, write_results
from tests.train.evaluation_protocols.stand_ins import Distance, Faces, Means, cell, upright_face
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.core.metrics.networks import Loaded
from triportrait.core.metrics.syncnet import SyncNet
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.protocols import network_features, sync_features
from triportrait.train.evaluation.protocols.features import FOUND, FeatureCache
from triportrait.train.evaluation.protocols.instruments import make_instruments
from triportrait.train.evaluation.protocols.records import read_protocol
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.summary import score_results


def extractors():
    made = {"arcface": 512, "recon3d": 257, "emotion": 2048}
    loaded = {kind: Loaded(kind, Means(count), kind[0] * 64) for kind, count in made.items()}
    return tuple(network_features._OF_FACES[kind](loaded[kind]) for kind in made)


@pytest.fixture(scope="module")
def scored(clips, tmp_path_factory):
    path, folder = clips / "p4d-table1.jsonl", tmp_path_factory.mktemp("networks")
    protocol, found = read_protocol(path), {}
    lpips = network_features.LpipsComparison(Loaded("lpips_alex", Distance(), "l" * 64))
    for name in ("copy", "truth"):
        write_results(folder / name, protocol, name)
        instruments, _ = make_instruments(Faces(), extractors(), (lpips,), None, FeatureCache(folder / "c"), "test")
        score_results(open_results(folder / name, protocol), protocol, instruments, Ranks(), {})
        found[name] = folder / name
    return found


def test_features_reach_their_columns(scored):
    for metric in ("aed_mean_square", "apd_mean_square", "aed_f_mean_absolute", "lpips_alex"):
        assert cell(scored["truth"], "self", metric) == pytest.approx(0, abs=1e-9), metric
        assert cell(scored["copy"], "self", metric) > 1e-6, metric
    assert cell(scored["copy"], "self", "id") == pytest.approx(1), "the source is the source"
    assert cell(scored["copy"], "cross", "id") == pytest.approx(1)
    assert cell(scored["truth"], "self", "id_to_truth") == pytest.approx(1)
    assert cell(scored["truth"], "cross", "id") < 1 - 1e-6


def test_lpips_of_heads_looks_at_the_head_alone(scored):
    whole, inside = (
        cell(scored["copy"], "self", name) for name in ("lpips_alex", "lpips_h_alex_within_mask")
    )  # fmt: skip
    assert inside > whole > 0, "what differs is the head"


def test_consistency_is_measured_over_the_drivers_of_each_source(clips, tmp_path):
    import shutil

    shutil.copytree(clips, tmp_path / "clips", ignore=shutil.ignore_patterns("*.jsonl"))
    words = ["evaluate", "protocol", str(tmp_path / "clips"), "--kind", "p4d-table3", "--size", str(SIZE_PX)]
    assert cli.main(words) == 0
    protocol = read_protocol(tmp_path / "clips" / "p4d-table3.jsonl")
    found = {}
    for name in ("copy", "truth"):
        folder = write_results(tmp_path / name, protocol, name)
        instruments, _ = make_instruments(Faces(), extractors()[:1], (), None, FeatureCache(tmp_path / "c"), "test")
        score_results(open_results(folder, protocol), protocol, instruments, Ranks(), {})
        found[name] = cell(folder, "consistency", "cons_pairwise")
    assert found["copy"] == pytest.approx(1), "whoever drives, the copy is the same"
    assert found["truth"] < 1 - 1e-6, "the drivers are other people"


# sound


def write_talking_clip(path: Path, person: int, frames: int, fps: int, loud: float) -> None:
    """A clip of a disc with a tone that swells; `loud` is its peak."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=fps), container.add_stream("aac", rate=16000)
        video.width = video.height = SIZE_PX
        video.pix_fmt, video.options, sound.layout = "yuv420p", {"crf": "0"}, "mono"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(person, k / frames), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        time = np.arange(16000 * frames // fps) / 16000
        wave = (loud * np.sin(2 * np.pi * 300 * time) * (1 + np.sin(9 * time)) / 2 * 32767).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        piece.sample_rate, piece.pts = 16000, 0
        for part in [piece, None]:
            container.mux(sound.encode(part))


@pytest.fixture(scope="module")
def syncnet():
    torch.manual_seed(0)
    return sync_features.LipSync(Loaded("syncnet", SyncNet().eval().requires_grad_(False), "s" * 64))


def test_lips_are_measured_against_the_driver_s_sound(syncnet, tmp_path, caplog):
    (tmp_path / "clips").mkdir()
    write_talking_clip(tmp_path / "clips" / "one.mp4", 1, 12, 25, 0.5)
    write_talking_clip(tmp_path / "clips" / "two.mp4", 2, 12, 25, 0.0)
    words = ["evaluate", "protocol", str(tmp_path / "clips"), "--kind", "p4d-table2", "--size", str(SIZE_PX)]
    assert cli.main(words) == 0
    protocol = read_protocol(tmp_path / "clips" / "p4d-table2.jsonl")
    assert {pair.driving for pair in protocol.pairs if pair.kind == "sound"} == {"clip-0000", "clip-0001"}
    folder = write_results(tmp_path / "r", protocol, "truth")
    instruments, _ = make_instruments(Faces(), (), (), syncnet, FeatureCache(tmp_path / "c"), "test")
    scores = score_results(open_results(folder, protocol), protocol, instruments, Ranks(), {})
    (distance,) = (c for c in scores["cells"] if c["metric"] == "syncnet_distance")
    assert distance["clips"] == 1 and distance["frames"] == 12 - 5 and distance["value"] > 0
    assert "got silence" in distance["note"], "the silent clip is named, and the other one measured"


def test_where_all_sound_is_silent_the_column_is_empty_and_says_why(syncnet, tmp_path):
    (tmp_path / "clips").mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        write_talking_clip(tmp_path / "clips" / f"{name}.mp4", seed, 8, 25, 0.0)
    words = ["evaluate", "protocol", str(tmp_path / "clips"), "--kind", "p4d-table2", "--size", str(SIZE_PX)]
    assert cli.main(words) == 0
    protocol = read_protocol(tmp_path / "clips" / "p4d-table2.jsonl")
    folder = write_results(tmp_path / "r", protocol, "truth")
    instruments, _ = make_instruments(Faces(), (), (), syncnet, FeatureCache(tmp_path / "c"), "test")
    scores = score_results(open_results(folder, protocol), protocol, instruments, Ranks(), {})
    cells = [c for c in scores["cells"] if c["metric"] in ("syncnet_distance", "syncnet_confidence")]
    assert len(cells) == 2 and all(c["value"] is None and "got silence" in c["note"] for c in cells)


def test_of_a_clip_too_short_for_syncnet_its_length_is_said(syncnet):
    frames, landmarks = np.zeros((6, SIZE_PX, SIZE_PX, 3), np.uint8), np.tile(upright_face() + 40, (6, 1, 1))
    sound = np.full(16000, 999, np.int16)
    for count in (6, 3):
        with pytest.raises(InputError, match=f"SyncNet: expected a clip of 7 frames and more .* got {count}; leave"):
            syncnet.embed(frames[:count], landmarks[:count], np.ones(count, bool), 25, sound)


class TellsPrecision(SyncNet):
    """Stands for every network: remembers what float32 products may be computed in."""

    def __init__(self):
        super().__init__()
        self.told: list[tuple[str, bool]] = []

    def tell(self, *inputs):
        self.told.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return torch.zeros(len(inputs[0]), 1024)

    forward = embed_sound = tell


def test_every_network_computes_in_full_precision():
    network = TellsPrecision()
    frames = np.zeros((7, SIZE_PX, SIZE_PX, 3), np.uint8)
    landmarks, found = np.tile(upright_face() + SIZE_PX / 2, (7, 1, 1)).astype(np.float32), np.ones(7, bool)
    face = network_features.FaceNetworkExtractor(
        Loaded("arcface", network, "a" * 64), {"identity": 1024}, lambda image, points: torch.zeros(1, 3, 8, 8),
        lambda given: (given,),
    )  # fmt: skip
    calls = {
        "face": lambda: face.add(frames, {"landmarks": landmarks, FOUND: found}),
        "inception": lambda: network_features.InceptionExtractor(Loaded("inception", network, "i" * 64)).add(
            frames, None
        ),
        "lpips": lambda: network_features.LpipsComparison(Loaded("lpips_vgg", network, "v" * 64)).compare(
            frames, frames, {"lpips_vgg"}, None
        ),
        "syncnet": lambda: sync_features.LipSync(Loaded("syncnet", network, "s" * 64)).embed(
            frames, landmarks, found, 25, np.full(16000, 999, np.int16)
        ),
    }
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for name, call in calls.items():
            network.told.clear()
            with torch.autocast("cpu", torch.bfloat16):
                call()
            assert set(network.told) == {("highest", False)}, name
    finally:
        torch.set_float32_matmul_precision(before)


def test_sound_is_read_from_the_first_frame_on(tmp_path):
    write_talking_clip(tmp_path / "clip.mp4", 1, 50, 25, 0.5)
    whole = sync_features.sound_of(tmp_path / "clip.mp4", 0, 2)
    later = sync_features.sound_of(tmp_path / "clip.mp4", 0.4, 1)
    assert whole.dtype == np.int16 and len(whole) == 32000 and len(later) == 16000
    assert np.abs(whole).max() > 8000
    np.testing.assert_array_equal(later, whole[6400:22400])
    with pytest.raises(InputError, match="expected a clip with sound"):
        with av.open(str(tmp_path / "mute.mp4"), "w") as container:
            video = container.add_stream("libx264", rate=25)
            video.width = video.height = SIZE_PX
            for k in range(3):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture(1, k / 3), format="rgb24")))
            container.mux(video.encode(None))
        sync_features.sound_of(tmp_path / "mute.mp4", 0, 1)


@pytest.mark.parametrize("count, fps, first", [(50, 25, [0, 1, 2, 3]), (60, 30, [0, 1, 2, 4]), (100, 50, [0, 2, 4, 6])])
def test_other_rates_are_read_at_25_frames_a_second(count, fps, first):
    numbers = sync_features.at_25_fps(count, fps)
    assert list(numbers[:4]) == first and len(numbers) == pytest.approx(count / fps * 25, abs=1)
    assert numbers[-1] < count
