"""The engine by itself: heads, views, batches, what steers them, and precisions."""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.serve.faces import landmarks
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera, Driving
from triportrait.kernels.dispatch import use_backend
from triportrait.serve import precision as precision_module
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.freed_memory import keep_freed_memory, return_freed_memory
from triportrait.serve.image_tensors import to_float, to_size
from triportrait.serve.media.provenance.watermark import Watermark, mark
from triportrait.serve.precision import sample_picture, use_precision
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.tracking_files import HeadParameters, Tracking
from triportrait.serve.weight_loading import load_weights

FRONT = fixed_camera()
aligned = AlignedFace.whole


def nodding(*neck: float) -> Tracking:
    """A head of which nothing is known but the neck."""
    zeros = torch.zeros(1, 300)
    return Tracking(HeadParameters(FRONT, zeros, zeros[:, :100], torch.tensor([neck]), zeros[:, :3], zeros[:, :6]))


@pytest.fixture(scope="module")
def engine() -> Reenactor:
    return Reenactor(*load_weights("demo"))


@pytest.fixture(scope="module")
def source(engine) -> PreparedSource:
    return engine.prepare(aligned(sample_picture(128)))


@pytest.fixture(scope="module")
def driving() -> np.ndarray:
    """The sample with another face: its lower half is stretched, as a jaw would."""
    picture = sample_picture(128)
    return np.concatenate([picture[:70], to_size(picture, 256)[140:256, 64:192][:58]])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def test_a_new_view_of_a_head_asks_no_transformer(engine, source, driving):
    head = engine.head(source, aligned(driving))
    side = turned(FRONT, 0.4, 0.1)
    ran: list[str] = []
    parts = engine.parts()
    hooks = [part.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, part in parts.items()]
    try:
        front, aside = engine.views(head, [FRONT, side])
    finally:
        for hook in hooks:
            hook.remove()
    assert set(ran) == {"volume rendering", "super-resolution"}
    assert front.shape == aside.shape == (128, 128, 3)
    assert front.dtype == np.uint8
    for view, camera in ((front, FRONT), (aside, side)):
        assert np.array_equal(view, engine.reenact(source, aligned(driving), Controls(camera)))
    assert difference(front, aside) > 5


def test_what_is_cached_changes_nothing(engine, source):
    picture = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        motion = torch.randn(2, 9)
        plain = engine.portrait.prepare(picture, motion)
        cached = engine.portrait.cache(plain)
        wanted, found = (
            engine.portrait.render(engine.portrait.reenact(s, Driving(motion)), Camera.cat([FRONT, FRONT])).image
            for s in (plain, cached)
        )
    assert cached.background.shape[-1] == 64
    assert cached.detail_partial is not None
    assert cached.detail is None
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_strength_goes_from_the_source_s_motion_through_the_driving_one_and_beyond(engine, source, driving):
    own, read = source.motion, engine.motion(aligned(driving))
    seen: list[torch.Tensor] = []
    blocks = engine.portrait.reconstructor.transfer
    hook = blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    for strength in (0.0, 0.5, 1.0, 1.5):
        engine.head(source, aligned(driving), Controls(motion_strength=strength))
    hook.remove()
    assert own is not None
    assert (own - read).abs().max() > 0.1
    assert torch.equal(seen[2], read), "at 1 nothing is added"
    for strength, motion in zip((0.0, 0.5, 1.5), (seen[0], seen[1], seen[3]), strict=True):
        torch.testing.assert_close(motion, own + strength * (read - own), rtol=0, atol=1e-6)


def test_relative_motion_leaves_the_resting_face_behind(engine, source, driving):
    at_rest = engine.motion(aligned(driving))
    still, itself = (
        engine.reenact(source, aligned(image), Controls(neutral=neutral))
        for image, neutral in ((driving, at_rest), (sample_picture(128), None))
    )
    assert difference(still, itself) < 0.1, "at rest it shows the source's own expression"
    assert difference(still, engine.reenact(source, aligned(driving))) > 0.3


def test_gaze_moves_the_eyes_and_nothing_else_much(engine, source, driving):
    assert engine.can_steer_gaze
    ahead, left = (
        engine.reenact(source, aligned(driving), Controls(gaze=gaze)).astype(int) for gaze in ((0, 0), (0.8, 0))
    )
    moved = np.abs(left - ahead).mean(-1)
    eyes = np.zeros((128, 128), bool)
    eyes[45:70, 30:98] = True
    assert moved[eyes].max() > 20
    assert moved[eyes].mean() > 4 * moved[~eyes].mean()


def test_a_published_encoder_has_no_gaze_to_steer(tiny_weights, driving):
    engine = Reenactor(*load_weights(str(tiny_weights)))
    assert not engine.can_steer_gaze
    assert engine.can_turn_neck
    prepared = engine.prepare(aligned(sample_picture(128)))
    one, other = (engine.reenact(prepared, aligned(driving), Controls(gaze=gaze)) for gaze in ((0.0, 0.0), (0.9, 0.9)))
    assert np.array_equal(one, other)


def test_the_neck_of_the_demo_weights_turns(engine, source, driving):
    assert engine.can_turn_neck
    straight, zero, left, right = (
        engine.reenact(source, aligned(driving, tracking))
        for tracking in (None, nodding(0, 0, 0), nodding(0, 0.35, 0), nodding(0, -0.35, 0))
    )
    assert difference(straight, zero) < 0.05
    assert difference(left, straight) > 4
    assert difference(left, right) > 6
    still = engine.reenact(source, aligned(driving, nodding(0, 0.35, 0)), Controls(neck=False))
    assert np.array_equal(still, straight)
    below = slice(118, 128)  # the torso stays
    assert difference(left[below], straight[below]) < difference(left[30:90], straight[30:90]) / 3


def test_a_held_pose_asks_the_mesh_once(tiny_weights, driving):
    engine = Reenactor(*load_weights(str(tiny_weights)))
    prepared = engine.prepare(aligned(sample_picture(128)))
    asked: list[int] = []
    assert engine.portrait.neck is not None
    engine.portrait.neck.register_forward_hook(lambda *_: asked.append(1))
    for tracking, count in ((nodding(0, 0.2, 0), 1), (nodding(0, 0.2, 0), 1), (nodding(0, 0.21, 0), 2)):
        engine.head(prepared, aligned(driving, tracking))
        assert len(asked) == count


def test_a_batch_is_its_members(engine, source, driving):
    picture = sample_picture(128)
    other = engine.prepare(aligned(np.ascontiguousarray(picture[:, ::-1])))
    placed = Tracking(landmarks=torch.from_numpy(landmarks(6.0))[None])
    side = turned(FRONT, -0.3, 0.0)
    neutral = engine.motion(aligned(picture))
    requests = [
        (source, aligned(driving), Controls()),
        (other, aligned(picture, nodding(0, 0.3, 0)), Controls(side, motion_strength=1.3)),
        (source, aligned(picture, placed), Controls(gaze=(0.5, 0.0))),
        (other, aligned(driving, placed), Controls(side, gaze=(-0.5, 0.2), neutral=neutral)),
    ]
    for request, picture in zip(requests, engine.reenact_many(requests), strict=True):
        assert np.abs(picture.astype(int) - engine.reenact(*request)).max() <= 2
    assert engine.reenact_many([]) == []


def test_a_static_source_has_its_planes_made_once(driving):
    engine = Reenactor(*load_weights("demo"), static=True)
    prepared = engine.prepare(aligned(sample_picture(128)))
    calls: list[int] = []
    engine.portrait.reconstructor.plane_decoder.register_forward_hook(lambda *_: calls.append(1))
    picture = torch.tensor(sample_picture(128))[None]
    one, other = (engine.reenact(prepared, aligned(image)) for image in (driving, sample_picture(128)))
    batch, again = engine.reenact_many([(prepared, aligned(driving), Controls())] * 2)
    with torch.inference_mode():
        wanted = engine.portrait.reenact(engine.portrait.prepare(to_float(picture), None), Driving(None)).planes
    assert prepared.head is not None
    assert calls.pop()
    assert not calls
    torch.testing.assert_close(prepared.head.planes, wanted, rtol=1e-3, atol=1e-3)
    assert np.array_equal(one, other)
    assert np.array_equal(batch, again)
    assert not engine.can_steer_gaze
    assert np.abs(batch.astype(int) - one).max() <= 2


def test_a_watermark_of_the_device_is_that_of_the_host(engine, source, driving):
    """On a GPU the network's own pass marks pictures; here the same functions run on a CPU."""
    head, cameras = engine.head(source, aligned(driving)), [FRONT, turned(FRONT, 0.3, 0.0)]
    watermark = Watermark(0x1234567)
    for (plain, marked), view in zip(
        engine.marked_views(head, cameras, watermark.signs), engine.views(head, cameras), strict=True
    ):
        assert np.array_equal(plain, view)
        assert np.array_equal(marked, watermark.mark(view))
        assert not np.array_equal(marked, plain)
    requests = [(source, aligned(driving), Controls()), (source, aligned(sample_picture(128)), Controls())]
    plain = engine.reenact_many(requests)
    signs = torch.stack([watermark.signs, torch.zeros(64)])
    marked = engine.reenact_many(requests, signs)
    assert np.array_equal(marked[0], watermark.mark(plain[0]))
    assert np.array_equal(marked[1], plain[1]), "zeros leave a picture as it is"


def test_numbers_that_are_not_finite_name_where_they_come_from(source, driving):
    engine = Reenactor(*load_weights("demo"))
    prepared = engine.prepare(aligned(sample_picture(128)))
    engine.portrait.superres.conv1_bias_0.fill_(float("nan"))
    with pytest.raises(InputError, match=r"^picture: expected finite numbers"):
        engine.reenact(prepared, aligned(driving))
    engine.portrait.reconstructor.plane_decoder.out.bias.fill_(float("inf"))
    with pytest.raises(InputError, match=r"^planes: expected finite numbers"):
        engine.reenact(prepared, aligned(driving))


def test_half_precision_runs_where_its_frame_is_as_good(driving):
    engine = Reenactor(*load_weights("demo"))
    use_precision(engine, "auto")
    assert engine.dtype is None, "on a CPU auto is float32"
    wanted = engine.reenact(engine.prepare(aligned(sample_picture(128))), aligned(driving))
    use_precision(engine, "bf16")
    assert engine.dtype == torch.bfloat16
    prepared = engine.prepare(aligned(sample_picture(128)))
    head = engine.head(prepared, aligned(driving))
    found = engine.views(head, [FRONT])[0]
    assert head.planes.dtype == torch.bfloat16
    assert prepared.source.tokens.dtype == torch.float32
    assert 0 < difference(found, wanted) < 0.5
    batch = engine.reenact_many([(prepared, aligned(driving), Controls())] * 2)
    assert difference(batch[1], found) < 0.5


def test_half_precision_is_refused_where_its_frame_is_worse(monkeypatch, caplog):
    monkeypatch.setattr(precision_module, "GATE_DB", 75.0)
    engine = Reenactor(*load_weights("demo"))
    with pytest.raises(InputError, match=r"^--precision bf16: expected a frame within 75 dB .* use --precision fp32$"):
        use_precision(engine, "bf16")
    assert engine.dtype is None
    monkeypatch.setattr(precision_module, "GATE_DB", 300.0)
    monkeypatch.setattr(precision_module, "_automatic", lambda device: "bf16")
    use_precision(engine, "auto")
    (warning,) = caplog.messages
    assert re.search(r"bf16 [56]\d\.\d dB, fp16 [78]\d\.\d dB, 300 are wanted", warning), warning
    assert "fp32 it is" in warning
    assert engine.dtype is None
    weights = engine.portrait.reconstructor.plane_decoder.out.weight
    assert weights.dtype == torch.float32, "nothing was rounded"


@pytest.mark.parametrize(
    "found, first, chosen",
    [
        ({"bf16": 63.0, "fp16": 84.0}, "bf16", "bf16"), ({"bf16": 45.0, "fp16": 60.0}, "bf16", "fp16"),
        ({"bf16": 49.9, "fp16": 50.0}, "bf16", "fp16"), ({"bf16": 45.0, "fp16": 0.0}, "bf16", None),
        ({"bf16": 63.0, "fp16": 60.0}, "fp16", "fp16"), ({"bf16": 63.0, "fp16": 49.0}, "fp16", None),
    ],
)  # fmt: skip
def test_auto_takes_the_first_precision_whose_frame_is_as_good(found, first, chosen, monkeypatch, caplog):
    """bfloat16, then float16, then float32; 0 dB is a frame that is not finite."""

    class Engine:
        device, dtype, kept = torch.device("cuda"), None, False

        def keep_half(self):
            self.kept = True

    engine = Engine()
    caplog.set_level(logging.INFO)
    names = {dtype: name for name, dtype in precision_module.DTYPES.items()}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: first == "bf16")
    monkeypatch.setattr(precision_module, "_frame", lambda reenactor: names.get(reenactor.dtype))
    monkeypatch.setattr(precision_module, "psnr", lambda image, reference: found[image] if reference is None else -1)
    use_precision(engine, "auto")
    assert names.get(engine.dtype) == chosen
    assert engine.kept == (chosen is not None)
    line, *warnings = caplog.messages
    assert bool(warnings) == (chosen is None)
    assert line.startswith(f"precision: {chosen or 'fp32'};")
    assert f"{first} {found[first]:.1f} dB" in line


class _Forbidden(TorchDispatchMode):
    """Says what a capture would not hold: a wait for the device, or numbers that come from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in (*tensors, *made)}
        if devices - {"meta"} or func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "unique"):
            self.found.add(str(func))
        return out


@pytest.mark.parametrize("weights", ["demo", "published"])
def test_a_frame_asks_nothing_of_the_host(weights, tiny_weights, monkeypatch):
    """On tensors without memory: what comes from elsewhere shows by its device."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # they have none
    listed: list[object] = []
    engine = Reenactor(*load_weights(weights if weights == "demo" else str(tiny_weights)), device="meta")
    M, c = engine.motion_encoder.motion_width, engine.portrait.config

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(1, *shape, dtype=dtype, device="meta")

    picture = empty(128, 128, 3, dtype=torch.uint8)
    source = empty(64, 192), empty(48, 64, 64)
    grids = empty(12, 12, 12, 4), empty(6, 6, 6, 3)
    pose = [300, c.neck.num_expression, 3, 3, 6]
    mark(picture, empty(64))  # its tables are made once, in the runs before a capture
    # lists become tensors unseen by the dispatcher
    monkeypatch.setattr(torch, "tensor", lambda values, **k: listed.append(values) or torch.empty((), device="meta"))
    monkeypatch.setattr(torch.Tensor, "new_tensor", lambda own, values, **k: listed.append(values) or own.new_empty(()))
    with torch.inference_mode(), use_backend("reference"), _Forbidden() as seen:
        (planes,) = engine.frame_planes(picture, empty(9), empty(M), empty(M), *source)
        necks = engine.frame_necks(pose, empty(sum(pose))) if weights == "demo" else grids  # FLAME's has a kernel
        views = [
            engine.frame_view(planes, empty(16, 64, 64), empty(numbers), *more)
            for numbers in (25, 89)
            for more in ((), grids)
        ]
    assert planes.shape == (1, 3, 64, 64, c.render.plane_width)
    assert [grid.shape for grid in necks] == [grid.shape for grid in grids]
    shapes = [[tuple(x.shape) for x in view] for view in views]
    assert shapes == [[(1, 128, 128, 3), (1,)]] * 2 + [[(1, 128, 128, 3)] * 2 + [(1,)]] * 2
    assert not seen.found
    assert not listed


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_replayed_frame_is_the_frame(dtype, driving):
    """The graphs against the launches one by one, and copies that overlap."""
    plain, captured = (Reenactor(*load_weights("demo"), device="cuda") for _ in range(2))
    plain.dtype = captured.dtype = dtype
    captured.capture()
    pictures = [driving, sample_picture(128), np.ascontiguousarray(driving[:, ::-1])]
    faces = [aligned(image, tracking) for image in pictures for tracking in (None, nodding(0, 0.3, 0.1))]
    found = []
    for engine in (captured, plain):
        prepared = [engine.prepare(aligned(image)) for image in pictures[:2]]
        heads = [engine.head(one, face) for face in faces for one in prepared]
        found.append([engine.views(head, [FRONT, turned(FRONT, 0.3, 0.0)]) for head in heads])
    for one, other in zip(*found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.abs(a.astype(int) - b).max() <= 1


def resident() -> float:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_kept_and_returned():
    keep_freed_memory()
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
    held = resident()
    last = bytearray(100_000)  # behind them: else the heap's end could fall back by itself
    del blocks
    kept = resident()
    return_freed_memory()
    after = resident()
    assert held - kept < 20e6 < 80e6 < held - after
    assert len(last)
