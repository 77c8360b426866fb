"""Learn one person: a residual of planes and low-rank updates, from a few pictures, with everything else frozen.

The given pictures are reconstructed from their cameras, each with its own motion. Pseudo views keep what no picture
shows: from a sampled camera the frozen network shows the source with its own motion and with one of a bank, and the
refined head keeps that shape (opacity, depth) and changes with the expression as much as the frozen one does.
These are the paper's pseudo multi-views (section 4.3), turned on one person; the frozen network itself draws them, with
motion on, as weights folders bring no static synthesizer.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from triportrait import __version__
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.person import Person, thumbnail_of, weights_hash
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, sample_look_at, turned
from triportrait.core.types import Camera, Driving, Head, NeckGrid, Rendering, Source
from triportrait.train.data.resize import shrink
from triportrait.train.data.upload import upload
from triportrait.train.objectives.losses import feature_weight, l1, opacity_loss, weighed_depth_loss
from triportrait.train.objectives.perceptual import Perceptual, perceptual
from triportrait.train.personal.given import GivenPictures, motion_bank
from triportrait.train.personal.refine_config import LIMITS, RefineConfig, RefineStep
from triportrait.train.personal.state import UNKNOWN_STEPS, State, read_state, write_state
from triportrait.train.personal.updates import LearnedPerson

TIMED = 5  # first steps, by which `minutes` becomes a number of steps; the first of them is not counted
LEAST_STEPS = 10
WARM_UP, LAST_LR = 10, 0.05  # steps until the full learning rate; its last share
COMPARED, PATIENCE, BETTER_DB = 12, 3, 0.02  # comparisons with what is kept aside; how many may bring less than so much
SAVE_S, PREVIEW_S = 15.0, 4.0
PREVIEW_YAW = math.radians(30)


def refine(
    portrait: Portrait4D,
    motion_encoder: MotionEncoder,
    given: GivenPictures,
    config: RefineConfig,
    progress: Callable[[RefineStep], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
    state: Path | None = None,
    previews: bool = False,
) -> Person:
    """Learn a person, and return what is to be written into a file.

    Args:
        portrait: the frozen networks; their numbers stay as they are.
        motion_encoder: v, by which the bank of motions is read.
        given: pictures of one person; the first is the source.
        config: every number of it.
        progress: is called after each step.
        should_stop: is asked after each step; where it says yes, what was reached is returned.
        state: where the refinement is saved while it runs and at its end, so that it goes on after a kill; `forget`
            removes it once the person is kept elsewhere.
        previews: make a picture of how it stands every few seconds.

    Raises:
        InputError: the pictures are too many or of another size, or the loss is not finite.
    """
    given.check(portrait.config.image_size)
    learning = _Refinement(portrait, motion_encoder, given, config, state)
    last_preview = last_save = time.monotonic()
    while learning.state.step < learning.state.steps and not learning.is_enough():
        loss, psnr = learning.step()
        now = time.monotonic()
        learning.set_steps(now)
        wants_preview = previews and now - last_preview > PREVIEW_S
        preview = learning.preview() if wants_preview else None
        last_preview = now if wants_preview else last_preview
        done, steps, aside_psnr = learning.state.step, learning.state.steps, learning.state.aside_psnr
        progress(RefineStep(done, steps, learning.seconds_left(now), loss, psnr, aside_psnr, preview))
        if should_stop():
            break
        if state is not None and now - last_save > SAVE_S:
            write_state(state, learning.state)
            last_save = now
    person = learning.person()
    if state is not None:
        write_state(state, learning.state)
    return person


@dataclass
class _Views:
    """Random cameras and motions of one step, and what the frozen network shows there."""

    camera: Camera
    motion: Tensor
    neck: NeckGrid | None
    frozen: Rendering = field(repr=False)


class _Refinement:
    def __init__(
        self, portrait: Portrait4D, encoder: MotionEncoder, given: GivenPictures, config: RefineConfig,
        state: Path | None,
    ) -> None:  # fmt: skip
        self.device = next(portrait.parameters()).device
        self.frozen, self.config, self.given = portrait, config, given.to(self.device)
        self.hash = weights_hash(portrait)
        self.rows, self.aside = given.split()
        with torch.no_grad():
            self.bank = motion_bank(encoder).to(self.device)
            self.source = portrait.prepare(self.given.image[:1], self.given.motion[:1])
        self.learned = LearnedPerson(portrait, config.rank, torch.Generator().manual_seed(config.seed))
        self.distance: Perceptual = perceptual("gradients").to(self.device)
        named = self.learned.learned()
        updates = [parameter for name, parameter in named.items() if name != "planes"]
        groups = [{"params": [named["planes"]], "lr": config.lr_planes}]
        groups += [{"params": updates, "lr": config.lr_updates}] if updates else []
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
        key = {"config": config.to_dict(), "given": given.fingerprint(), "weights": self.hash}
        self.state = State(key, config.steps or UNKNOWN_STEPS, named, self.adam)
        if state is None or not read_state(state, self.state):
            self.state.before_psnr = self._psnr(self.rows)
            if len(self.aside):
                self.state.before_aside_psnr = self._psnr(self.aside)
                self.state.compared(self.state.before_aside_psnr, BETTER_DB)
        self.started, self.first, self.is_warm = time.monotonic(), self.state.step, False

    def step(self) -> tuple[float, float]:
        """Take one step; return the loss and the PSNR of the picture that it learned from."""
        number, config = self.state.step, self.config
        seed = config.seed * 1_000_003 + number
        rng = torch.Generator().manual_seed(seed)
        # what each ray draws is drawn where rays are marched: at the published sizes an upload of 9 MB otherwise
        of_rays = rng if self.device.type == "cpu" else torch.Generator(self.device).manual_seed(seed)
        row = int(self.rows[torch.randint(len(self.rows), (1,), generator=rng)])
        with parametrize.cached():
            loss, error = self._picture_loss(row, of_rays)
            if number % config.views_every == 0:
                loss = loss + self._views_loss(self._views(rng), of_rays)
            loss = loss + config.small * self.learned.residual_size()
            loss = loss + config.small_updates * self.learned.update_size()
            self.adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        value, squared = torch.stack([loss.detach(), error]).cpu().tolist()  # a GPU is waited for here alone
        if not math.isfinite(value):
            raise InputError(
                f"personalize: the loss of step {number + 1} is not finite; leave odd pictures out, or choose "
                "another --seed"
            )
        factor = lr_factor(number, self.state.steps)
        for group, lr in zip(self.adam.param_groups, (config.lr_planes, config.lr_updates), strict=False):
            group["lr"] = lr * factor
        self.adam.step()
        self.state.step += 1
        if not self.is_warm:  # the first step is slower than all others
            self.started, self.first, self.is_warm = time.monotonic(), self.state.step, True
        every = max(self.state.steps // COMPARED, 1)
        if len(self.aside) and self.state.step > TIMED and self.state.step % every == 0:
            self.state.compared(self._psnr(self.aside), BETTER_DB)
        return value, _decibels(squared)

    def set_steps(self, now: float) -> None:
        """Turn minutes into steps once the first steps are timed."""
        minutes = self.config.minutes
        if minutes is not None and self.state.steps == UNKNOWN_STEPS and self.state.step >= max(TIMED, self.first + 1):
            each_s = max((now - self.started) / (self.state.step - self.first), 1e-4)
            steps = self.state.step + round((minutes * 60 - (now - self.started)) / each_s)
            self.state.steps = min(max(LEAST_STEPS, steps), int(LIMITS["steps"][1]))

    def seconds_left(self, now: float) -> float:
        """Estimate the seconds that the steps to come take."""
        if self.state.steps == UNKNOWN_STEPS and self.config.minutes is not None:
            return self.config.minutes * 60
        return (now - self.started) / max(self.state.step - self.first, 1) * (self.state.steps - self.state.step)

    def is_enough(self) -> bool:
        """Tell whether the pictures kept aside stopped getting better, in the second half."""
        return self.state.stale >= PATIENCE and self.state.step > self.state.steps // 2

    def person(self) -> Person:
        """Return what was learned: as it is, or as it was when what is kept aside was shown best."""
        if len(self.aside) and self.state.step > self.state.compared_at:
            self.state.compared(self._psnr(self.aside), BETTER_DB)
        values = self.state.best or {name: value.detach() for name, value in self.learned.learned().items()}
        crop = ((self.given.image[0].permute(1, 2, 0).cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            for name, parameter in self.learned.learned().items():
                parameter.copy_(values[name])
        steps = self.state.step if self.state.steps == UNKNOWN_STEPS else self.state.steps
        card = {
            "made by": f"triportrait {__version__}",
            "pictures": len(self.given),
            "kept aside": len(self.aside),
            "steps": self.state.step,
            "config": {**self.config.to_dict(), "minutes": None, "steps": steps},
            "psnr": {"before": round(self.state.before_psnr, 3), "after": round(self._psnr(self.rows), 3)},
        }
        if self.state.aside_psnr is not None:
            aside = {"kept aside before": self.state.before_aside_psnr, "kept aside": self.state.best_psnr}
            card["psnr"] |= {name: round(psnr, 3) for name, psnr in aside.items()}  # type: ignore[operator]
        planes = values["planes"].cpu()
        return Person(planes, self.learned.updates({n: v.cpu() for n, v in values.items()}), self.hash,
                      thumbnail_of(crop), card)  # fmt: skip

    @torch.no_grad()
    def preview(self) -> Tensor:
        """Show the source, the same as it is made now, from the side, and with another expression: [S, 4 S, 3]."""
        side = turned(fixed_camera(), PREVIEW_YAW, 0.0)
        cameras = Camera.cat([self.given.camera.take([0]), side.to(self.device), fixed_camera().to(self.device)])
        motion = torch.cat([self.given.motion[:1], self.given.motion[:1], self.bank[:1]])
        neck = None if self.given.neck is None else self.given.neck.take([0, 0, 0])
        head = self._head(self.learned.portrait, motion, neck, self.learned.planes)
        images = torch.cat([self.given.image[:1], self.learned.portrait.render(head, cameras).image])
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        return torch.cat(list(levels.permute(0, 2, 3, 1)), 1)

    def _picture_loss(self, row: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the loss of a given picture, and the mean squared error of how it is shown."""
        config, given = self.config, self.given.take(_one(row))
        head = self._head(self.learned.portrait, given.motion, given.neck, self.learned.planes)
        rendering = self._render(self.learned.portrait, head, given.camera, rng)
        side, raw_side = given.image.shape[-1], rendering.raw_image.shape[-1]
        weight = small_weight = None
        if given.landmarks is not None:
            weight = feature_weight(given.landmarks, side, config.eye_mouth_boost)
            small_weight = shrink(weight, raw_side)
        loss = config.picture * (
            l1(rendering.image, given.image, weight)
            + l1(rendering.raw_image, shrink(given.image, raw_side), small_weight)
            + self.distance(rendering.image, given.image, weight)
        )
        if given.opacity is not None:
            loss = loss + config.opacity * opacity_loss(rendering.opacity, shrink(given.opacity, raw_side))
        return loss.mean(), _squared_error(rendering.image.detach(), given.image)

    @torch.no_grad()
    def _views(self, rng: torch.Generator) -> _Views:
        """Draw a camera and a motion of the bank, and show the source there, with that motion and with its own."""
        row = int(torch.randint(len(self.bank), (1,), generator=rng))
        camera = upload(Camera.cat([sample_look_at(1, rng)] * 2), self.device)
        motion = torch.cat([self.bank[_one(row)], self.given.motion[:1]])
        neck = None if self.given.neck is None else NeckGrid.cat([self.given.neck.take(_one(0))] * 2)
        frozen = self.frozen.render(self._head(self.frozen, motion, neck, None), camera)
        return _Views(camera, motion, neck, frozen)

    def _views_loss(self, views: _Views, rng: torch.Generator) -> Tensor:
        head = self._head(self.learned.portrait, views.motion, views.neck, self.learned.planes)
        mine, frozen, config = self._render(self.learned.portrait, head, views.camera, rng), views.frozen, self.config
        shape = config.view_opacity * opacity_loss(mine.opacity, frozen.opacity)
        shape = shape + config.view_depth * weighed_depth_loss(mine.depth, frozen.depth, frozen.opacity)
        moved = change_of(mine.image, frozen.image) + change_of(mine.raw_image, frozen.raw_image)
        return shape.mean() + config.motion * moved

    def _head(self, network: Portrait4D, motion: Tensor, neck: NeckGrid | None, planes: Tensor | None) -> Head:
        count = len(motion)
        source: Source = dataclasses.replace(
            self.source,
            **{n: getattr(self.source, n).expand(count, *[-1] * (getattr(self.source, n).ndim - 1))
               for n in ("detail", "tokens", "background")},
        )  # fmt: skip
        head = network.reenact(source, Driving(motion, neck))
        return head if planes is None else dataclasses.replace(head, planes=head.planes + planes)

    def _render(self, network: Portrait4D, head: Head, camera: Camera, rng: torch.Generator) -> Rendering:
        render = network.config.render
        count, where = len(head.planes), rng.device
        jitter = torch.rand(count, render.num_coarse, generator=rng, device=where)
        uniforms = torch.rand(count, render.neural_size**2, render.num_fine, generator=rng, device=where)
        return network.render(head, camera, None, jitter, uniforms)

    @torch.no_grad()
    def _psnr(self, rows: Tensor) -> float:
        errors = []
        for row in rows.tolist():
            given = self.given.take(_one(row))
            head = self._head(self.learned.portrait, given.motion, given.neck, self.learned.planes)
            errors.append(_squared_error(self.learned.portrait.render(head, given.camera).image, given.image))
        return sum(map(_decibels, torch.stack(errors).cpu().tolist())) / len(rows)


def lr_factor(step: int, steps: int) -> float:
    """Return the factor on the learning rates: a warm-up, then half a cosine down to `LAST_LR`.

    The first steps, by which the number of steps is found, do not depend on it.
    """
    warm = min(1.0, (step + 1) / WARM_UP)
    if step < TIMED:
        return warm
    done = min((step - TIMED) / max(steps - TIMED, 1), 1.0)
    return warm * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * done)))


def _squared_error(image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error of pictures in [-1, 1], where their values are taken as 0 to 1."""
    return F.mse_loss((image.clamp(-1, 1) + 1) / 2, (truth + 1) / 2)


def _decibels(error: float) -> float:
    """Return the PSNR of a mean squared error."""
    return -10 * math.log10(max(error, 1e-10))


def _one(row: int) -> slice:
    """Return an index that looks at one row: a tensor of numbers would go to a GPU first, and be waited for."""
    return slice(row, row + 1)


def change_of(mine: Tensor, frozen: Tensor) -> Tensor:
    """Return the mean absolute difference between two changes: of the first of two pictures [2, C, S, S] from the
    second, in mine and in the frozen network's."""
    return ((mine[0] - mine[1]) - (frozen[0] - frozen[1])).abs().mean()
