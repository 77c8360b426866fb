"""Loads weights by the name that a user gives them, and copies them into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from triportrait.core.atomic import replacing
from triportrait.core.checkpoint import (
    load_pair,
    load_portrait,
    read_card,
    save_motion_encoder,
    save_weights,
    weights_folder,
)
from triportrait.core.config import portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.parameter_encoder import ParameterEncoder
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, Motion, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.seeded_weights import rule_motion_encoder, rule_portrait
from triportrait.core.weights import DEMO, named_weights
from triportrait.serve.media.output_file import writing

RULE = "rule"
STEMS = ("portrait", "motion", "flame", "neck")

FileStates = Mapping[Path, tuple[int, int]]
Networks = tuple[Portrait4D, MotionEncoder]
IsSame = Callable[[Portrait4D, MotionEncoder], bool]


def load_weights(weights: str | None, static: bool = False) -> Networks:
    """Load the networks of a weights folder, the package's own, or the rule-made ones.

    Args:
        weights: a folder, "demo" for the weights in the package (the tiny network, trained on procedural heads), or
            "rule" for weights made from names; None takes what `named_weights` does.
        static: nothing will read motion, so that a static synthesizer is as good.

    Raises:
        InputError: the folder does not hold what is needed, or it holds a static synthesizer, whose motion layers
            nobody trained.
    """
    weights = named_weights(weights)
    if weights == RULE:
        return rule_portrait(portrait4d_v2()), rule_motion_encoder()
    folder = weights_folder(weights)
    if not static:
        advice = "name weights that move, or let `triportrait reenact --static` show these without motion"
        told = read_card(folder, "motion").get("encoder") if (folder / "motion.json").exists() else None
        by_parameters = isinstance(told, dict) and told.get("architecture") == ParameterEncoder.architecture
        motion: Motion = "parameters" if by_parameters else "pictures"
        check_network(weights, REENACTMENT, "weights", advice, motion)
    if static and not (folder / "motion.json").exists():  # stage 1 leaves none, and nothing will ask it
        portrait = load_portrait(folder)
        return portrait, SmallMotionEncoder(portrait.config.transformer.motion_width)
    return load_pair(folder)


def need_faces(weights: str) -> bool:
    """Tell whether pictures must show a face: the demo weights know heads that need not look like one."""
    return weights not in (DEMO, RULE)


def files_of(weights: str) -> FileStates:
    """List the files of weights with size and time, by which a later change is seen; none for `rule`."""
    if weights == RULE:
        return {}
    stats = {file: file.stat() for file in _weight_files(weights_folder(weights))}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def located(weights: str) -> str:
    """Return a name of the same weights that still means them where the current folder is another one."""
    return weights if weights in (DEMO, RULE) else str(Path(weights).absolute())


class WeightFiles:
    """Knows the files of weights as they were when it was made: make it once they are loaded.

    Args:
        weights, static: as `load_weights` got them.
    """

    def __init__(self, weights: str, static: bool = False) -> None:
        self._weights, self._static = located(weights), static
        self._loaded = files_of(self._weights)

    def load_again(self, is_same: IsSame) -> Networks:
        """Load the same networks once more.

        Args:
            is_same: tells whether networks are those that were loaded; it is asked where files were touched since.

        Raises:
            InputError: the weights have changed since, or cannot be loaded any more.
        """
        files = files_of(self._weights)
        self._check(files.keys() == self._loaded.keys())
        networks = load_weights(self._weights, self._static)
        if files != self._loaded:
            self._check(is_same(*networks))
            self._loaded = files
        return networks

    def copy(self, folder: Path, is_same: IsSame) -> None:
        """Write the weights into a folder from which the same networks are loaded; each file appears whole or not.

        Args:
            is_same: as of `load_again`.

        Raises:
            InputError: as `load_again`, or the folder cannot be written or holds other weights.
        """
        if self._weights == RULE:
            portrait, encoder = rule_portrait(portrait4d_v2()), rule_motion_encoder()
            save_weights(folder, "portrait", portrait.state_dict(), portrait.config, {"from": RULE})
            save_motion_encoder(folder, encoder.state_dict(), encoder, {"from": RULE})
            return
        if files_of(self._weights) != self._loaded:
            self.load_again(is_same)
        names = {file.name for file in self._loaded}
        others = [file.name for file in _weight_files(folder) if file.name not in names]
        if others:
            raise InputError(
                f"{folder}: expected no other weights there, it holds {', '.join(others)}; name another folder"
            )
        with writing(folder / "portrait.json"):
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._loaded, key=lambda file: file.suffix == ".json"):  # the cards come last
                target = folder / file.name
                if not (target.exists() and target.samefile(file)):
                    with replacing(target, overwrite=True) as temporary:
                        shutil.copyfile(file, temporary)

    def _check(self, is_same: bool) -> None:
        if not is_same:
            raise InputError(f"{self._weights}: the weights have changed since they were loaded; load them again")


def _weight_files(folder: Path) -> list[Path]:
    names = [f"{stem}{ending}" for stem in STEMS for ending in (".safetensors", ".json")]
    return [folder / name for name in names if (folder / name).exists()]
