"""What the first tests on a GPU do, on any device: they compare what comes out, the fake GPU counts what is launched.

Imports are few, as little may be installed beside a GPU; what serves pictures is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.config import ModelConfig, portrait4d_v2
from triportrait.core.reconstruct.attention import attend
from triportrait.kernels.dispatch import Backend, use_backend
from triportrait.profiling.cases import CASES, Inputs, make_inputs, moved
from triportrait.profiling.frame_parts import make_frame
from triportrait.profiling.measurement import numerics
from triportrait.profiling.step.inputs import make_inputs as make_step
from triportrait.profiling.step.inputs import with_batch
from triportrait.serve.media.provenance.watermark import Watermark
from triportrait.train import presets
from triportrait.train.config import StageName
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.frozen import frozen
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Group
from triportrait.train.objectives.adversary import FAKE

if TYPE_CHECKING:
    from triportrait.serve.faces.face import AlignedFace
    from triportrait.serve.reenactor import Reenactor

HALF = torch.bfloat16
HEADS = {"narrow": (4, 256), "wide": (2, 512)}  # of an attention -> how many, their width
MARCHES = {name for name in CASES if name.startswith("march")}
FORWARD = sorted(CASES.keys() - MARCHES)  # operators that run forward; the march runs backward, too
MESSAGE = 0x1234567  # of a watermark


def attention(kind: str, device: str) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Attend in bfloat16, by whatever runs here; return the result and query, key and value."""
    heads, width = HEADS[kind]
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, tokens, heads, width, generator=rng) for tokens in (100, 64, 64))
    inputs = tuple(x.to(HALF).to(device) for x in (query, key, value))
    with torch.no_grad():
        return attend(*inputs), inputs  # type: ignore[return-value]


def operator_inputs(name: str, device: str) -> Inputs:
    """Make inputs in bfloat16, of the smallest size that shows everything."""
    dtype = torch.float32 if CASES[name].wide_only else HALF
    return moved(make_inputs(name, CASES[name].odd[0], dtype), device)


def frame(precision: torch.dtype | None, device: str, config: ModelConfig | None = None) -> Tensor:
    """Compute a frame of a network of the published sizes: by the kernels in half precision, or by PyTorch in float32.

    Returns:
        [1, 3, S, S].
    """
    made = make_frame(config or portrait4d_v2(), device)
    backend: Backend = "reference" if precision is None else "auto"
    autocast = nullcontext() if precision is None else torch.autocast(torch.device(device).type, precision)
    with numerics(backend, tf32=precision is not None), autocast, torch.inference_mode():
        return made.render(made.reenact(made.prepare()))


@dataclass(frozen=True)
class Phase:
    """A phase of a training's step: losses, gradients by its network's weights, the adversary's by the pictures."""

    losses: dict[str, float]
    gradients: list[Tensor]
    adversary: list[Tensor]


def _adversary(discriminator: Any, micro_batch: Any, weight: float) -> list[Tensor]:
    """The gradient of the generator's adversarial term by the pictures that it made: what the generator learns from."""
    shown = micro_batch.handed_on[FAKE]
    leaf = shown.image.detach().requires_grad_()
    term = weight * F.softplus(-discriminator(leaf, *shown.values()[1:])).mean()
    return list(torch.autograd.grad(term, leaf))


def train_step(stage: StageName, device: str) -> dict[str, Phase]:
    """Run one step of a stage of a small network under bfloat16, with the adversary on; return its phases by name."""
    config = replace(presets.tiny_stages(), precision="bf16")
    inputs = make_step(stage, with_batch(config, stage, 4), torch.device(device))
    engines, settings = Engines(Ranks(device=torch.device(device))), inputs.stage_config
    moving = {
        name: engines.make(network, [Group([p for p in network.parameters() if p.dim()])], optimizer, settings)
        for name, network, optimizer in (
            ("generator", inputs.models.portrait, settings.optimizer),
            ("discriminator", inputs.models.discriminator, settings.discriminator),
        )
    }
    micro_batch, phases = inputs.micro_batch(), {}
    for phase in inputs.phases:
        engine = moving[phase.engine]
        weights = [p for p in engine.module.parameters() if p.dim()]
        with frozen([other.module for other in moving.values() if other is not engine]):
            terms = dict(phase.terms(micro_batch))
            engine.backward(torch.stack([value.float() for value in terms.values()]).sum() * phase.every)
        phases[phase.name] = Phase(
            {name: float(value.detach()) for name, value in terms.items()},
            [p.grad.clone() for p in weights if p.grad is not None],
            _adversary(inputs.models.discriminator, micro_batch, settings.losses.adversarial) if phase.counts else [],
        )
        engine.step(settings.batch if phase.counts else 0)
    return phases


def marked(device: str) -> tuple[Tensor, Tensor]:
    """Mark two pictures of a slope with noise; return them as they were and marked, uint8 [2, 256, 256, 3]."""
    rng = torch.Generator().manual_seed(0)
    slope = torch.linspace(40, 200, 256)[:, None, None].expand(2, 256, 256, 3)
    pictures = (slope + 12 * torch.randn(2, 256, 256, 3, generator=rng)).clamp(0, 255).to(torch.uint8)
    return pictures, Watermark(MESSAGE).mark(pictures.to(device))


def engine(device: str, precision: torch.dtype | None = None) -> Reenactor:
    """Load the demo weights."""
    from triportrait.serve.reenactor import Reenactor
    from triportrait.serve.weight_loading import load_weights

    made = Reenactor(*load_weights("demo"), device=device)
    if precision is not None:
        made.dtype = precision
        made.keep_half()
    return made


def faces() -> list[AlignedFace]:
    """Make a source's picture and two that drive it, the second with a turned neck."""
    from triportrait.core.render.cameras import fixed_camera
    from triportrait.serve.faces.face import AlignedFace
    from triportrait.serve.precision import sample_picture
    from triportrait.serve.tracking_files import HeadParameters, Tracking

    picture, zeros = sample_picture(128), torch.zeros(1, 300)
    turned = HeadParameters(
        fixed_camera(), zeros, zeros[:, :100], torch.tensor([[0, 0.3, 0.1]]), zeros[:, :3], zeros[:, :6]
    )
    driving = np.concatenate([picture[:70], picture[64:122]])
    return [
        AlignedFace.whole(picture),
        AlignedFace.whole(driving),
        AlignedFace.whole(np.ascontiguousarray(driving[:, ::-1]), Tracking(parameters=turned)),
    ]


def demo_frames(engine: Reenactor) -> list[np.ndarray]:
    """Prepare a portrait and show it as two faces drive it."""
    portrait, *driving = faces()
    source = engine.prepare(portrait)
    return [engine.reenact(source, face) for face in driving]


def captured_frames(engine: Reenactor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Show frames launch by launch, then from captured graphs."""
    plain = demo_frames(engine)
    engine.capture()
    return plain, demo_frames(engine)


def live_batch(engine: Reenactor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Show three requests of a live server one by one, and in one batch from a graph, which is filled up to four."""
    from triportrait.serve.controls import Controls

    portrait, *driving = faces()
    source = engine.prepare(portrait)
    requests = [(source, face, Controls()) for face in (*driving, portrait)]
    alone = [engine.reenact(*request) for request in requests]
    engine.capture(most_batch=4)
    return alone, engine.reenact_many(requests)


def operator(name: str, device: str) -> None:
    """Run an operator's kernel forward, and that of a march backward."""
    inputs, learns = operator_inputs(name, device), name in MARCHES
    leaves = [x.requires_grad_(learns) if x is not None and x.is_floating_point() else x for x in inputs]
    with use_backend("triton"), torch.set_grad_enabled(learns):
        out = CASES[name].op(*leaves)
        if learns:
            torch.stack([y.sum() for y in out if y.requires_grad]).sum().backward()


WORK: dict[str, Callable[[str], object]] = {  # what is run on the fake GPU
    **{f"attention, {kind} heads": partial(attention, kind) for kind in HEADS},
    **{f"kernel {name}": partial(operator, name) for name in FORWARD},
    "march": partial(operator, "march_train"),
    "a frame of the published sizes": partial(frame, HALF),
    "a step of stage1": partial(train_step, "stage1"),
    "a step of stage2": partial(train_step, "stage2"),
    "watermark": marked,
    "demo's frame": lambda device: demo_frames(engine(device)),
    "a captured frame": lambda device: captured_frames(engine(device, HALF)),
    "a live batch": lambda device: live_batch(engine(device)),
}
