"""Make the phases of a step that move the discriminator: its two terms, and R1 now and then."""

from __future__ import annotations

from torch import Tensor

from triportrait.train.config import LossConfig, ScheduleConfig
from triportrait.train.objectives.adversary import FAKE, REAL, DiscriminatorInput, discriminator_terms, r1_terms
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.stages.stage import Batch, MicroBatch, Phase


def discriminator_phases(
    discriminator: Discriminator, config: LossConfig, schedule: ScheduleConfig
) -> list[Phase[Batch]]:
    """Return what the discriminator does in a step, after the generator has left real and fake pictures.

    The fakes are those that the generator was moved by, one step old: rendering them anew would cost a forward pass.
    """

    def main(micro: MicroBatch[Batch]) -> dict[str, Tensor]:
        true, false, share = _real_and_fake(micro, discriminator.config.group)
        return {name: share * value for name, value in discriminator_terms(discriminator, true, false).items()}

    def regularisation(micro: MicroBatch[Batch]) -> dict[str, Tensor]:
        true, _, share = _real_and_fake(micro, discriminator.config.group)
        return {name: share * value for name, value in r1_terms(discriminator, true, config).items()}

    since = schedule.adversarial_from
    return [
        Phase("discriminator", "discriminator", main, since=since, counts=True),
        Phase("R1", "discriminator", regularisation, every=schedule.r1_every, since=since),
    ]


def _real_and_fake(micro: MicroBatch[Batch], group: int) -> tuple[DiscriminatorInput, DiscriminatorInput, float]:
    """Real and fake pictures of a micro-batch, and 1; grey ones and 0 if it has none.

    Every rank must send the same gradients in the same order, so one with nothing to show sends noughts.
    """
    true, false = micro.handed_on[REAL], micro.handed_on[FAKE]
    if len(true.image):
        return true, false, 1.0
    grey = DiscriminatorInput(*(value.new_zeros(group, *value.shape[1:]) for value in true.values()))
    return grey, grey, 0.0
