"""These runs do what the product does on a GPU, at its published sizes, on a fake one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.fake_gpu.device import CUDA, Counts, FakeGpu
from tests.fake_gpu.launches import Programs, programs_recorded
from tests.fake_gpu.libraries import Xformers, attention_libraries
from triportrait.core.config import ModelConfig, portrait4d_v2
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.reconstruct import attention
from triportrait.core.render.cameras import fixed_camera
from triportrait.profiling.frame_parts import sphere_tables
from triportrait.profiling.step.inputs import RandomSet, make_inputs, with_batch
from triportrait.serve import cuda_graph
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.personalizing import given_pictures
from triportrait.serve.precision import Precision, use_precision
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracking_files import HeadParameters, Tracking
from triportrait.train import presets
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.data.upload import upload
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.frozen import frozen
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Group
from triportrait.train.personal import RefineConfig, RefineStep, refine
from triportrait.train.personal import given as personal_given
from triportrait.train.stages import motion

BATCHES = (1, 3, 8)  # of live serving: the smallest, one that is padded, the largest
Rows = dict[str, dict[str, Any]]  # what was done -> its counts


@dataclass
class Run:
    """A run happens on one fake GPU.

    Attributes:
        name: of the run.
        gpu: where it runs.
        attention: which attention was called, with which dtype and bytes of scores -> how often.
        rows: counts by what was done.
    """

    name: str
    gpu: FakeGpu
    attention: Mapping[Any, int]
    rows: Rows

    def count(self, done: str) -> Counts:
        """Note the counts since the last look under a name."""
        counts = self.gpu.take()
        self.rows[done] = counts.summary()
        return counts


@contextmanager
def running(name: str, programs: Programs, xformers: Xformers = "absent") -> Iterator[Run]:
    """Provide a fake GPU; launches are added to the programs. Graphs are warmed up once: nothing settles there."""
    attention.has_xformers.cache_clear()
    attention._runs.clear()
    warmed = mock.patch.object(cuda_graph, "WARM_UP", 1)
    with warmed, FakeGpu() as gpu, attention_libraries(gpu, xformers) as calls, programs_recorded(gpu, programs, name):
        yield Run(name, gpu, calls, {})


def face(side: int, turn: float = 0.0) -> AlignedFace:
    """Make a grey picture with all that a tracker may know of a face."""
    landmarks = torch.rand(1, 68, 3, generator=torch.Generator().manual_seed(0)) * 200 + 150
    zeros = torch.zeros(1, 300)
    parameters = HeadParameters(
        fixed_camera(), zeros, zeros[:, :100], torch.full((1, 3), turn), zeros[:, :3], zeros[:, :6]
    )
    return AlignedFace.whole(np.full((side, side, 3), 128, np.uint8), Tracking(parameters, landmarks))


def reenactor(config: ModelConfig, static: bool = False) -> Reenactor:
    """Make a network of any sizes with FLAME's neck on the GPU."""
    width = config.transformer.motion_width
    with torch.device(CUDA):
        portrait = Portrait4D(config)
        encoder = PDFGC() if width == PDFGC.motion_width else SmallMotionEncoder(width)
    portrait.neck = NeckField(config.neck, config.render.box_side, *sphere_tables(config.neck))
    portrait.requires_grad_(False)
    return Reenactor(portrait, encoder.eval().requires_grad_(False), CUDA, static=static)


def serve(run: Run, precision: Precision, config: ModelConfig | None = None, batches: Sequence[int] = BATCHES) -> None:
    """Prepare a source, then reenact and render: one by one, and, where there are batches, from graphs and in these."""
    engine = reenactor(config or portrait4d_v2())
    use_precision(engine, precision)
    side = engine.image_size
    run.count("load")
    source = engine.prepare(face(side))
    run.count("prepare")
    still = Controls(neck=False)
    turns = iter(0.01 * np.arange(1, 1000))
    for controls, name in ((still, "frame"), (Controls(), "frame, neck turned")):
        head = engine.head(source, face(side, next(turns)), controls)
        run.count(f"{name}: reenact")
        engine.views(head, [fixed_camera()])
        run.count(f"{name}: render")
    if not batches:
        return
    engine.capture(max(batches), marked=[False])
    run.count("capture")
    for controls, name in ((still, "captured frame"), (Controls(), "captured frame, neck turned")):
        engine.reenact(source, face(side, next(turns)), controls)
        run.count(name)
    for batch in batches:
        requests = [(source, face(side, next(turns)), Controls() if i % 2 else still) for i in range(batch)]
        pictures = engine.reenact_many(requests)
        assert [picture.shape for picture in pictures] == [(side, side, 3)] * batch
        run.count(f"live batch of {batch}")


def serve_static(run: Run, precision: Precision) -> None:
    """Serve a static source, whose planes are made once."""
    engine = reenactor(portrait4d_v2(), static=True)
    use_precision(engine, precision)
    engine.capture()
    side = engine.image_size
    source = engine.prepare(face(side))
    run.count("prepare")
    engine.reenact(source, face(side, 0.1))
    run.count("captured frame, neck turned")


def train(run: Run, stage: StageName, config: TrainConfig, batch: int = 4, phases: Sequence[str] | None = None) -> None:
    """Run one step of a stage with every phase that it ever has, or those named: the adversary on, R1 and the others
    due."""
    inputs = make_inputs(stage, with_batch(config, stage, batch), CUDA)
    settings, engines = inputs.stage_config, Engines(Ranks(device=CUDA))
    moved = {
        name: engines.make(network, [Group([p for p in network.parameters() if p.dim()])], optimizer, settings)
        for name, network, optimizer in (
            ("generator", inputs.models.portrait, settings.optimizer),
            ("discriminator", inputs.models.discriminator, settings.discriminator),
        )
    }
    run.count("load")
    micro_batch = inputs.micro_batch()
    run.count("batch to the device")
    for phase in (phase for phase in inputs.phases if phases is None or phase.name in phases):
        engine = moved[phase.engine]
        with frozen([other.module for name, other in moved.items() if name != phase.engine]):
            terms = dict(phase.terms(micro_batch))
            engine.backward(torch.stack([value.float() for value in terms.values()]).sum() * phase.every)
        engine.step(settings.batch if phase.counts else 0)
        if "float16" in run.count(phase.name).dtypes:
            raise FloatingPointError(f"{phase.name}: float16, in which gradients of a mean over a picture are zeros")


def train_motion(run: Run, config: TrainConfig) -> None:
    """Run one step of the motion encoder's stage, which knows float32 alone."""
    with torch.device(CUDA):
        encoder = SmallMotionEncoder(config.model.transformer.motion_width)
    engine = Engines(Ranks(device=CUDA)).make(
        encoder, [Group(list(encoder.parameters()))], config.motion.optimizer, config.motion
    )
    run.count("load")
    pictures: Any = RandomSet(config, seed=0)
    batch = upload(motion.draw([pictures], config.motion, encoder.crop_size, np.random.default_rng(0)), CUDA)
    run.count("batch to the device")
    engine.backward(motion.losses(batch, encoder)["motion"])
    engine.step(config.motion.batch)
    run.count("main")


def refine_person(run: Run, config: ModelConfig) -> None:
    """Refine networks for one person, from a picture of which all is known: two steps, both with pseudo views."""
    engine = reenactor(config)
    side, source = engine.image_size, face(engine.image_size)
    given = given_pictures(engine, engine.prepare(source), [source], masks=False)
    assert given.landmarks is not None and given.neck is not None
    given = replace(given, opacity=torch.ones(1, 1, side, side))
    run.count("given")

    def counted(step: RefineStep) -> None:
        run.count(f"step {step.step}")  # the first one with all that comes before it

    numbers = RefineConfig(minutes=None, steps=2, views_every=1)
    with mock.patch.object(personal_given, "BANK", 2):  # the host draws a head for each of its motions
        person = refine(engine.portrait, engine.motion_encoder, given, numbers, counted)
    run.count("person")
    assert person.updates and all(update.up.device.type == "cpu" for update in person.updates.values())


def published_training(precision: str) -> TrainConfig:
    """Return the published training, but for a perceptual distance that needs no file, and with what GenHead knows of
    its pictures to the end of stage 1, so that every term is on at once."""
    config = presets.paper(published=True)
    schedule = replace(config.stage1.schedule, distill_until=10**12)
    stage = replace(config.stage1, schedule=schedule)
    return replace(config, stage1=stage, precision=precision, perceptual="gradients")


RUNS: dict[str, tuple[Callable[[Run], None], Xformers]] = {
    "serve fp32": (partial(serve, precision="fp32", batches=(1, 2)), "absent"),
    "serve bf16": (partial(serve, precision="bf16"), "absent"),
    "serve fp16": (partial(serve, precision="fp16", batches=(1, 2)), "absent"),
    "static bf16": (partial(serve_static, precision="bf16"), "absent"),
    **{
        f"{stage} {p}": (partial(train, stage=stage, config=published_training(p)), "absent")
        for stage in ("stage1", "stage2")
        for p in ("fp32", "bf16")
    },
    "motion fp32": (partial(train_motion, config=presets.tiny()), "absent"),
    "refine fp32": (partial(refine_person, config=portrait4d_v2()), "absent"),
    "serve bf16, xFormers": (partial(serve, precision="bf16", batches=()), "whole"),
    "stage2 bf16, xFormers": (  # no other phase has attention
        partial(train, stage="stage2", config=published_training("bf16"), phases=("main",)),
        "whole",
    ),
}
