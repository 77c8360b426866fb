"""Metric networks, their alignment and SyncNet's sound and score agree with stored outputs of the published ones."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from tests.core.parity import seeded, stored
from triportrait.core.metrics.mfcc import mfcc
from triportrait.core.metrics.recon3d import flame_head_rotation, head_rotation, project
from triportrait.core.metrics.recon3d_alignment import align
from triportrait.core.metrics.sync_crop import median_filter
from triportrait.core.metrics.sync_score import REACH, SHIFTS, ShiftSearch, shifted_distances
from triportrait.core.metrics.syncnet import embed_sound_windows

pytestmark = pytest.mark.usefixtures("no_grad")

STAGES = {"maxpool": (1, 8, 8, 8), "layer1": (1, 16, 8, 8), "layer2": (1, 16, 4, 4), "layer3": (1, 32, 2, 2)}
RECON, SYNC, EMOTION = "16_recon3d", "17_syncnet", "18_emotion"


def picture() -> np.ndarray:
    """The picture whose faces are aligned, uint8 [256, 240, 3]; its numbers are rounded in float64."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(b"input/recon3d_src")))
    numbers = generator.uniform(-1, 1, (256, 240, 3)).astype(np.float32)
    return np.round(127.5 + 127.5 * numbers.astype(np.float64)).astype(np.uint8)


def sound() -> np.ndarray:
    noise, t = seeded("syncnet_audio", (25600,)).double().numpy(), np.arange(25600) / 16000
    voice = 2000 * noise * (0.2 + np.abs(np.sin(2 * np.pi * 1.7 * t))) + 4000 * np.sin(2 * np.pi * 220 * t)
    return np.clip(np.round(voice), -32768, 32767).astype(np.int16)


def check_trunk(trunk, image, agrees, stage):
    x = trunk.stem(image)
    agrees(stage, "maxpool", x, strides=STAGES["maxpool"])
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = trunk.get_submodule(name)(x)
        agrees(stage, name, x, strides=STAGES.get(name, (1, 64, 1, 1)))


def test_16_reconstructor(reconstructor, agrees):
    image = 0.5 + 0.5 * seeded("recon3d_img", (2, 3, 224, 224), "uniform")
    check_trunk(reconstructor.backbone, image, agrees, RECON)
    agrees(RECON, "pooled", reconstructor.backbone(image), strides=(1, 4))
    agrees(RECON, "coeffs", reconstructor(image))


@pytest.mark.parametrize("case, form", [("p4d", "portrait4d"), ("upstream", "upstream"), ("edge", "portrait4d")])
def test_16_alignment(reconstructor, agrees, case, form):
    points = stored(RECON)["lm5_edge" if case == "edge" else "lm5"].numpy()
    aligned = align(picture(), points, form)
    record = [aligned.width, aligned.height, aligned.scale, *aligned.centre]
    agrees(RECON, f"trans_{case}", torch.tensor(record))
    face = torch.from_numpy(aligned.face.copy())
    agrees(RECON, f"aligned_{case}", face.float(), strides=(4, 4, 1))
    if case != "edge":
        agrees(RECON, f"lm5_{case}", torch.from_numpy(aligned.points))
        agrees(RECON, f"coeffs_aligned_{case}", reconstructor(face.permute(2, 0, 1)[None] / 255))
    else:  # the crop begins at column -57 and row -74
        assert not face[:74].any() and not face[:, :57].any()
        assert face[74].any() and face[:, 57].any()


def test_16_geometry(agrees):
    angles, translation = stored(RECON)["angles"], stored(RECON)["trans"]
    agrees(RECON, "rot", head_rotation(angles).mT, "(of rows)")
    points = seeded("recon3d_points", (2, 50, 3), "uniform")
    agrees(RECON, "proj", project(points, angles, translation))
    agrees(RECON, "flame_rotvec", flame_head_rotation(angles))


def test_17_face_tower(syncnet, agrees):
    x = 127.5 + 127.5 * seeded("syncnet_face", (2, 3, 5, 224, 224), "uniform")
    for i, layer in enumerate(syncnet.netcnnlip):
        x = layer(x)
        if i in (3, 7, 17):
            agrees(SYNC, f"lip_{i}", x, strides={3: (1, 8, 1, 6, 6), 7: (1, 16, 1, 2, 2), 17: (1, 16, 1, 1, 1)}[i])
    agrees(SYNC, "lipfeat", x.flatten(1))
    agrees(SYNC, "face_embedding", syncnet.netfclip(x.flatten(1)))


def test_17_sound_tower(syncnet, agrees):
    coefficients = x = seeded("syncnet_mfcc", (2, 1, 13, 20)) * 10
    for i, layer in enumerate(syncnet.netcnnaud):
        x = layer(x)
        if i in (3, 7, 17):
            agrees(SYNC, f"aud_{i}", x, strides=(1, 8, 1, 1))
    agrees(SYNC, "audio_embedding", syncnet.embed_sound(coefficients))


def test_17_sound(syncnet, agrees):
    samples = sound()
    assert samples[:8].tolist() == stored(SYNC)["audio_head"].tolist()
    agrees(SYNC, "mfcc", torch.from_numpy(mfcc(samples)))
    embeddings = embed_sound_windows(syncnet, samples, batch=16)
    assert embeddings.shape == (35, 1024)  # 40 frames of sound, the last possible window is not used
    agrees(SYNC, "audio_embedding_windows", embeddings[[0, 10, 34]])


def test_17_search_and_score(agrees):
    faces, sound_ = seeded("syncnet_fv", (60, 1024)).numpy(), seeded("syncnet_fa", (60, 1024)).numpy() * 0.7
    sound_[:57] += faces[3:]
    search = ShiftSearch(1024)
    for face, heard in zip(faces, sound_, strict=True):
        search.add(face, heard)
    score = search.score()
    padded = np.pad(sound_, ((REACH, REACH), (0, 0)))
    distances = np.stack([shifted_distances(face, padded[i : i + SHIFTS]) for i, face in enumerate(faces)])
    agrees(SYNC, "dists", torch.from_numpy(distances), strides=(4, 1))
    agrees(SYNC, "mean_dist", torch.from_numpy(score.mean_distances))
    curve = np.median(score.mean_distances) - distances[:, score.mean_distances.argmin()]
    agrees(SYNC, "framewise_conf", torch.from_numpy(median_filter(curve, 9)))
    facts = (score.offset, score.distance, score.confidence + score.distance, score.confidence)
    agrees(SYNC, "score", torch.tensor(facts), "(offset, least, median, confidence)")
    assert score.offset == 3


def test_18_emotion(emotion, agrees):
    image = 0.5 + 0.5 * seeded("emotion_img", (2, 3, 224, 224), "uniform")
    check_trunk(emotion.backbone, image, agrees, EMOTION)
    feature = emotion(image)
    agrees(EMOTION, "feature", feature)
    agrees(EMOTION, "outputs", emotion.outputs(feature))
    assert feature.min() >= 0
