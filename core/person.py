"""One person's refinement of the frozen networks: low-rank updates and a residual of planes, in one small file.

`triportrait personalize` makes it, from pictures of one person; `reenact`, `live` and `Pipeline` read it. The file is
safetensors, bound to the weights that were refined by their hash, and to the source picture by a small copy of it.

    W' = W + up @ down             of the linear layers and convolutions of the motion blocks and the plane decoder
    planes' = planes(W') + planes  what the picture shows and the networks do not know, the same in every frame

Letters: R rank, H W of a plane, C channels, t side of the small copy.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from triportrait.core.atomic import replacing
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.files import check_tensor_file, parsed_json
from triportrait.core.portrait import Portrait4D
from triportrait.core.safe_text import literal, shown

FORMAT = 1
ENDING = ".safetensors"
REFINED = ("reconstructor.transfer", "reconstructor.plane_decoder")  # the parts of the network that updates may change
BOUND = ("reconstructor", "volume")  # the parts whose numbers a file is bound to
MOST_RANK = 64
THUMBNAIL = 32  # side of the small copy of the source, px
SAME_SOURCE = 2.5  # levels of 255: the mean difference up to which two small copies are of one picture
MOST_PICTURES = 40  # of one person, from which a refinement learns
_REMAKE = "make it again with `triportrait personalize`"


@dataclass(frozen=True)
class LowRank:
    """The update of one weight, up @ down in the weight's shape.

    Attributes:
        up: [out, R]. down: [R, in], the inputs and the places of a convolution's kernel flattened.
    """

    up: Tensor
    down: Tensor

    def delta(self, like: Tensor) -> Tensor:
        """Return the update in the shape, the type and on the device of a weight."""
        product = self.up.float() @ self.down.float()
        return product.view(like.shape).to(like)


@dataclass(frozen=True, eq=False)
class Person:
    """What was learned of one person.

    Attributes:
        planes: [1, 3, H, W, C], added to the planes of every frame.
        updates: the name of a weight -> its update.
        weights: `weights_hash` of the networks that were refined.
        thumbnail: [t, t, 3] uint8, the aligned source picture made small.
        card: plain JSON values that tell how it was made.
        file_sha256: of the file that it was read from; None for who was never in a file.
    """

    planes: Tensor
    updates: Mapping[str, LowRank]
    weights: str
    thumbnail: Tensor
    card: Mapping[str, Any] = field(default_factory=dict)
    file_sha256: str | None = field(default=None, init=False)  # so that `replace`, which makes another, drops it

    def refined(self, portrait: Portrait4D) -> Portrait4D:
        """Return the person's own networks: the updated parts are copies, all others are those of `portrait`.

        `planes` are not in them: add them to what `Portrait4D.planes` returns.
        """
        mine = with_own_parts(portrait)
        with torch.no_grad():
            for name, update in self.updates.items():
                weight = mine.get_parameter(name)
                weight.add_(update.delta(weight))
        return mine

    def rounded(self) -> Person:
        """Return the person as `load_person` reads it from the file: in float32, rounded to half precision."""
        updates = {
            name: LowRank(each.up.detach().half().float(), each.down.detach().half().float())
            for name, each in self.updates.items()
        }
        return replace(self, planes=self.planes.detach().half().float(), updates=updates)

    def sha256(self) -> str:
        """Return the SHA-256 of the file that the person was read from, else of the one that `save_person` writes.

        Raises: `InputError` where a number is not finite in half precision.
        """
        return self.file_sha256 or hashlib.sha256(save(*_contents(self, "person"))).hexdigest()

    def check_weights(self, loaded: str, name: object, weights: object) -> None:
        """Check that the file was made for the weights whose `weights_hash` is `loaded`; sentences use the two names.

        Raises: `InputError` where it was made for others.
        """
        if loaded != self.weights:
            made_for = shown(str(self.card.get("weights", "others")))
            raise InputError(
                f"{name}: this person was refined for other weights ({made_for}) than {weights}; name those with "
                f"--weights, or {_REMAKE}"
            )

    def check_source(self, crop: Tensor, name: object, source: object) -> None:
        """Check that an aligned source picture [S, S, 3] uint8 is the one that was refined.

        Raises: `InputError` where it is another one, or cropped otherwise.
        """
        if not is_same_source(self.thumbnail, crop):
            made_of = shown(str(self.card.get("source", "another one")))
            raise InputError(
                f"{name}: expected the picture of this person that it was made of ({made_of}), got {source}, which is "
                f"another one or cut out otherwise; name that picture, or {_REMAKE}"
            )


def with_own_parts(portrait: Portrait4D) -> Portrait4D:
    """Return networks whose refinable parts are copies; all others are those of `portrait` itself."""
    return with_parts(portrait, {name: copy.deepcopy(portrait.get_submodule(name)) for name in REFINED})


def with_parts(portrait: Portrait4D, parts: Mapping[str, nn.Module]) -> Portrait4D:
    """Return networks with other parts by the names in REFINED; all others are those of `portrait` itself."""
    mine = copy.copy(portrait)
    mine._modules = dict(portrait._modules)
    mine.reconstructor = copy.copy(portrait.reconstructor)
    mine.reconstructor._modules = dict(portrait.reconstructor._modules)
    for name, part in parts.items():
        owner, _, attribute = name.rpartition(".")
        setattr(mine.get_submodule(owner), attribute, part)
    return mine


def refinable_weights(portrait: Portrait4D) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the layers whose weights may be updated, by the names of the weights."""
    for start in REFINED:
        for name, module in portrait.get_submodule(start).named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.numel() > 0:
                yield f"{start}.{name}.weight", module


def weights_hash(portrait: Portrait4D) -> str:
    """Return the SHA-256 of the tensors between a source picture and its raw picture, in float32, by their names."""
    digest = hashlib.sha256()
    for start in BOUND:
        for name, tensor in sorted(portrait.get_submodule(start).state_dict().items()):
            digest.update(f"{start}.{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def thumbnail_of(crop: Tensor) -> Tensor:
    """Make an aligned picture [S, S, 3] uint8 small, [t, t, 3] uint8: a mean over squares."""
    small = F.interpolate(crop.permute(2, 0, 1)[None].float(), size=(THUMBNAIL, THUMBNAIL), mode="area")
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def source_difference(thumbnail: Tensor, crop: Tensor) -> float:
    """Return the mean difference, levels of 255, of a small copy [t, t, 3] and an aligned picture [S, S, 3] uint8."""
    return (thumbnail_of(crop).float() - thumbnail.float()).abs().mean().item()


def is_same_source(thumbnail: Tensor, crop: Tensor) -> bool:
    """Tell whether a small copy [t, t, 3] is of this aligned picture [S, S, 3] uint8."""
    return source_difference(thumbnail, crop) <= SAME_SOURCE


def file_bytes(portrait: Portrait4D, rank: int) -> int:
    """Return about how many bytes a person's file takes for these networks, which may be on the meta device."""
    render = portrait.config.render
    numbers = 3 * render.plane_size**2 * render.plane_width
    for _, layer in refinable_weights(portrait):
        rows = layer.weight.shape[0]
        numbers += least_rank(layer, rank) * (rows + layer.weight.numel() // rows)
    return 2 * numbers + 3 * THUMBNAIL**2


def least_rank(layer: nn.Linear | nn.Conv2d, rank: int) -> int:
    """Return the rank of a layer's update: as asked for, where the layer is not smaller."""
    rows = layer.weight.shape[0]
    return min(rank, rows, layer.weight.numel() // rows)


def save_person(path: Path, person: Person, *, overwrite: bool = False) -> None:
    """Write a person's file, numbers in half precision; it appears whole or not at all.

    Raises:
        InputError: the disk refuses, or a number is not finite in half precision.
    """
    tensors, told = _contents(person, path)
    try:
        with replacing(path, overwrite=overwrite) as part:
            part.write_bytes(save(tensors, told))  # `save_file` makes files that only their owner can read
    except OSError as error:
        raise InputError(f"{path}: the file could not be written ({error}); choose a folder with room") from error


def _contents(person: Person, name: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a person's file. Raises: `InputError` as `save_person`."""
    tensors = {"planes": person.planes.detach().half(), "thumbnail": person.thumbnail}
    for weight, update in person.updates.items():
        tensors[f"updates.{weight}.up"] = update.up.detach().half()
        tensors[f"updates.{weight}.down"] = update.down.detach().half()
    for tensor_name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{name}: {tensor_name} is not finite in half precision; make it with another --seed")
    card = {"format": FORMAT, "weights": person.weights, "card": dict(person.card)}
    return {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, {"person": json.dumps(card)}


def check_person_file(path: Path) -> None:
    """Check that a file is a person's, before networks are loaded. Raises: `InputError` where it is not."""
    with _refusals(path):
        _read_header(path)
        with safe_open(path, "pt"):  # it checks whether the tensors fill the file
            pass


def load_person(path: Path, portrait: Portrait4D) -> Person:
    """Read a person's file for these networks; every size is checked before a tensor is read.

    Raises:
        InputError: it is missing, damaged, no person's file, made for networks of other sizes, or changed meanwhile.
    """
    with _refusals(path):
        with _opened(path, portrait):  # a file of another size is not read whole
            pass
        digest = sha256(path)  # what is kept is read between two equal ones: another file may take the place any time
        with _opened(path, portrait) as (file, header, card):
            tensors = {name: file.get_tensor(name) for name in header}
        if sha256(path) != digest:
            raise InputError(
                f"{path}: expected a file that stays as it is while it is read, it was changed meanwhile; try again"
            )
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: {shown(name)} holds numbers that are not finite; {_REMAKE}")
    names = {name.removeprefix("updates.").rpartition(".")[0] for name in tensors if name.startswith("updates.")}
    updates = {
        name: LowRank(tensors[f"updates.{name}.up"].float(), tensors[f"updates.{name}.down"].float())
        for name in sorted(names)
    }
    person = Person(tensors["planes"].float(), updates, card["weights"], tensors["thumbnail"], card["card"])
    object.__setattr__(person, "file_sha256", digest)
    return person


@contextmanager
def _opened(path: Path, portrait: Portrait4D) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Open a person's file for these networks: its tensors by name, what its header tells of them, and its card."""
    header, card = _read_header(path)
    with safe_open(path, "pt") as file:  # it refuses headers that are none, and tensors that do not fill the file
        _check_sizes(path, header, portrait)
        yield file, header, card


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; make one with `triportrait personalize PICTURE {path}`") from error
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or shown(str(error))
        raise InputError(f"{path}: not a whole person's file ({reason}); {_REMAKE}") from error


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the header tells of the tensors, and the card."""
    header = check_tensor_file(path)
    told = header.pop("__metadata__", {})
    card = parsed_json(told["person"]) if "person" in told else None
    if not isinstance(card, dict):
        raise InputError(f"{path}: expected a person's file, got other tensors; {_REMAKE}")
    if card.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, got {literal(card.get('format'))}; {_REMAKE}")
    if not isinstance(card.get("weights"), str) or not isinstance(card.get("card"), dict):
        raise InputError(f"{path}: its card is damaged; {_REMAKE}")
    return header, card


def _check_sizes(path: Path, header: Mapping[str, Any], portrait: Portrait4D) -> None:
    render = portrait.config.render
    shapes = {
        "planes": [1, 3, render.plane_size, render.plane_size, render.plane_width],
        "thumbnail": [THUMBNAIL, THUMBNAIL, 3],
    }
    layers = dict(refinable_weights(portrait))
    for name, told in header.items():
        kind, shape = told["dtype"], told["shape"]
        weight, _, end = name.removeprefix("updates.").rpartition(".")
        if name in shapes:
            right = shape == shapes[name] and kind == ("U8" if name == "thumbnail" else "F16")
        elif name.startswith("updates.") and weight in layers and end in ("up", "down"):
            right = kind == "F16" and _fits(layers[weight], header, weight)
        else:
            right = False
        if not right:
            raise InputError(
                f"{path}: {shown(name)} of shape {literal(shape)} does not fit these weights; name the weights that "
                f"it was made for with --weights, or {_REMAKE}"
            )
    if missing := shapes.keys() - header.keys():
        raise InputError(f"{path}: expected {', '.join(sorted(missing))} in it, which is not there; {_REMAKE}")


def _fits(layer: nn.Linear | nn.Conv2d, header: Mapping[str, Any], weight: str) -> bool:
    up, down = (header.get(f"updates.{weight}.{end}", {}).get("shape") for end in ("up", "down"))
    rows = layer.weight.shape[0]
    columns = math.prod(layer.weight.shape[1:])
    if not (isinstance(up, list) and isinstance(down, list) and len(up) == len(down) == 2):
        return False
    return up[0] == rows and down[1] == columns and up[1] == down[0] and 1 <= up[1] <= MOST_RANK
