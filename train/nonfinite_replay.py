"""Run a step that was not finite again: its terms one by one, and the first tensor that is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.checkpoint import motion_encoder_of_card
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.motion.encoder import MotionColumns
from triportrait.train.config import Precision, StageConfig, TrainConfig
from triportrait.train.data.generated.source import GeneratedBatch
from triportrait.train.data.training_pictures import GenHeadBatch
from triportrait.train.data.upload import upload
from triportrait.train.genhead_config import GenHeadTraining
from triportrait.train.genhead_replay import genhead_phases
from triportrait.train.networks import InitFrom, dynamic_models, reenact_models, static_models
from triportrait.train.objectives.adversary import DiscriminatorInput
from triportrait.train.runs.checkpoints import checkpoints_of, module_weights
from triportrait.train.runs.diverged import BEGIN, DIVERGED, KeptMicroBatch, kept_micros, read_micro
from triportrait.train.runs.flatten import flattened, rebuilt
from triportrait.train.runs.run_config import CONFIG, MOTION_ENCODER, read_config
from triportrait.train.stages import portrait4d
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.stage import MicroBatch, Phase

BATCHES = {
    "stage1": stage1.StaticBatch, "stage2": stage2.ReenactBatch, "portrait4d": GeneratedBatch, "genhead": GenHeadBatch,
}  # fmt: skip
NETWORK_NAMES = {"portrait": "generator"}  # other networks are called as their field


@dataclass(frozen=True)
class Replayed:
    """The outcome of a replay.

    Attributes:
        lines: what was not finite before, the first output that is not, and each term.
        nonfinite: what is not finite again, empty where all is finite.
    """

    lines: list[str] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)

    def is_finite(self, name: str, value: Tensor) -> bool:
        """Tell whether a tensor is finite, and add a line where it is not."""
        count = int((~value.isfinite()).sum())
        if count:
            self.lines.append(f"  {name}: {count} of {value.numel()} numbers are not finite")
        return count == 0


def replay(run: Path, precision: Precision | None, device: torch.device) -> Replayed:
    """Run again, in this process, what a run kept in `run/diverged`.

    Args:
        run: a run of one stage.
        precision: precision of the networks; None takes the run's.

    Raises:
        InputError: the run kept nothing, or a file that it kept, or a network that it used, is damaged or missing.
    """
    paths, checkpoints = kept_micros(run), [path for name in BATCHES for path in checkpoints_of(run / DIVERGED, name)]
    if not paths or not checkpoints:
        raise InputError(
            f"{run}: expected a run that ended as its loss was not finite, {DIVERGED} holds no batch of one; name "
            "another"
        )
    micro_batches = [read_micro(path, BATCHES, DiscriminatorInput) for path in paths]
    name = micro_batches[0].stage
    stage, models, phases, used = _stage_of(run, name, precision, device)
    networks = {f.name: getattr(models, f.name) for f in dataclasses.fields(models)}
    networks = {NETWORK_NAMES.get(n, n): part for n, part in networks.items() if isinstance(part, nn.Module)}
    for network in ("generator", "discriminator"):
        if network in networks:
            networks[network].load_state_dict(module_weights(checkpoints[-1], network))
    replayed = Replayed()
    for network, module in networks.items():
        for tensor, value in module.state_dict().items():
            replayed.is_finite(f"{network} {tensor}", value)
    for micro in micro_batches:
        phase = next((phase for phase in phases if phase.name == micro.phase), None)
        if phase is None:
            raise InputError(f"{run}: expected a phase of {name}, got {micro.phase!r}; the run is of another version")
        replayed.lines.append(
            f"{name}, {micro.phase}, micro-batch {micro.number} after {micro.images_seen} images, {used}"
        )
        optimizer = stage.discriminator if phase.engine == "discriminator" else stage.optimizer
        _run_again(micro, phase, networks, not optimizer.zero_nan_grads, device, replayed)
    return replayed


def _stage_of(
    run: Path, name: str, precision: Precision | None, device: torch.device
) -> tuple[StageConfig | GenHeadTraining, Any, list[Phase[Any]], Precision]:
    """Return the numbers of a stage, its networks, the phases of a step, and the precision of the networks."""
    models: Any
    phases: list[Phase[Any]]
    if name == "genhead":
        numbers, models, phases = genhead_phases(run, device)  # type: ignore[assignment]
        return numbers, models, phases, "fp32"
    config, begin = _config(run), _begin(run)
    config = config if precision is None else dataclasses.replace(config, precision=precision)
    stage: StageConfig = getattr(config, name)
    if name == "stage1":
        models = static_models(config, begin, device)
        phases = stage1.phases(models, stage)  # type: ignore[assignment]
    elif name == "portrait4d":
        models = dynamic_models(config, begin, device)
        phases = portrait4d.phases(models, stage)  # type: ignore[arg-type, assignment]
    else:
        models = reenact_models(config, begin, device, _parameters(run, config))
        phases = stage2.phases(models, stage)  # type: ignore[arg-type, assignment]
    return stage, models, phases, config.precision


def _run_again(
    micro: KeptMicroBatch,
    phase: Phase,
    networks: dict[str, nn.Module],
    gradients: bool,
    device: torch.device,
    replayed: Replayed,
) -> None:
    """Run one micro-batch again, and add to the outcome what is not finite."""
    for name, value in flattened(micro.batch, "batch")[1].items():
        replayed.is_finite(name, value)
    rng = _random_numbers(micro, device, replayed)
    handed_on = {
        name: DiscriminatorInput(*(x.to(device) for x in tensors.values())) for name, tensors in micro.handed_on.items()
    }
    with _Watch(networks) as watch:
        terms = phase.terms(MicroBatch(upload(micro.batch, device), rng, micro.images_seen, handed_on, micro.number))
    if watch.first:
        replayed.lines.append(f"  first output that is not finite: {watch.first}")
    width = max(map(len, terms))
    replayed.lines.extend(f"  {name:{width}}  {value.item():.9g}" for name, value in terms.items())
    nonfinite = [name for name, value in terms.items() if not bool(value.isfinite())]
    if nonfinite:
        first = watch.first or "outside of the networks"
        replayed.nonfinite.append(f"{', '.join(nonfinite)} of {micro.phase}, first {first}")
    elif gradients:
        torch.stack([value.float() for value in terms.values()]).sum().mul(phase.every).backward()
        gradients_of = networks[phase.engine].named_parameters()
        named = [(f"gradient of {name}", p.grad) for name, p in gradients_of if p.grad is not None]
        nonfinite = [name for name, gradient in named if not replayed.is_finite(name, gradient)]
        replayed.nonfinite.extend(f"the {name}" for name in nonfinite[:1])


def _random_numbers(micro: KeptMicroBatch, device: torch.device, replayed: Replayed) -> torch.Generator:
    """Return the random numbers of then; a CPU cannot draw a GPU's, which a line says."""
    if micro.drawn_on != "cpu" and device.type == "cpu":
        replayed.lines.append("  random numbers: not those of then, which a GPU drew; replay it on one for these")
        return torch.Generator()
    rng = torch.Generator(device if micro.drawn_on == "cuda" else "cpu")
    rng.set_state(micro.rng)
    return rng


class _Watch:
    """A watch on networks that finds the first module whose output is not finite, in the order of the forward pass."""

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.first, self._networks, self._handles = "", networks, []  # type: ignore[var-annotated]

    def __enter__(self) -> _Watch:
        for network, whole in self._networks.items():
            for path, module in whole.named_modules():
                name = f"{network} {path}".strip()
                self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self.first or _finite(output):
                return
            weights = [*module.parameters(), *module.buffers()]
            cause = "finite inputs and weights"
            if not _finite(weights):
                cause = "weights that are not"
            elif not _finite((args, kwargs)):
                cause = "inputs that are not"
            self.first = f"{name} ({type(module).__name__}), from {cause}"

        return look


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors within dataclasses, dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from _tensors(getattr(value, f.name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _config(run: Path) -> TrainConfig:
    try:
        plain = read_config(run)
        return rebuilt(TrainConfig, plain, {}, "config")  # type: ignore[no-any-return]
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{run / CONFIG}: it is no config of a run of one stage; name another run") from error


def _parameters(run: Path, config: TrainConfig) -> MotionColumns | None:
    """Return what the parameters are that move a run; None where pictures do, or an earlier version noted nothing."""
    folder = run / MOTION_ENCODER
    if config.stage2.motion == "pictures" or not folder.is_dir():
        return None
    return motion_encoder_of_card(folder).columns


def _begin(run: Path) -> InitFrom:
    path = run / DIVERGED / BEGIN
    try:
        init_from: InitFrom = rebuilt(InitFrom, {"genhead": None} | read_json(path), {}, "begin")
        return dataclasses.replace(init_from, discriminator=None)  # it is the one that was saved
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected what a run of one stage began from, it is missing or damaged; name another run"
        ) from error
