"""Every size of the model on one page, and the two presets made of them.

Sizes in the names: `_size` is the side of a square picture or feature map in pixels, `_width` a number of channels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from triportrait.core.errors import InputError

LARGEST = 65536  # no size of a network is larger


@dataclass(frozen=True)
class EncoderConfig:
    """The global and detail encoders and the background U-Net (paper, section 3.1 and supplement A)."""

    trunk_widths: tuple[int, ...] = (64, 128, 256, 512)  # ResNet stages
    trunk_blocks: tuple[int, ...] = (3, 4, 6, 3)  # ResNet-34
    pyramid_dilations: tuple[int, ...] = (12, 24, 36)  # atrous pyramid behind the trunk, beside 1x1 and pooled branches
    global_width: int = 256
    detail_widths: tuple[int, ...] = (64, 96, 96, 96, 96)
    background_widths: tuple[int, ...] = (64, 128, 256, 512)


@dataclass(frozen=True)
class TransformerConfig:
    """The neutral and motion blocks: global features + motion -> canonical features (paper, section 3.1)."""

    token_width: int = 1024
    num_heads: int = 4
    mlp_width: int = 2048
    num_neutral_blocks: int = 4
    num_motion_blocks: int = 4
    motion_width: int = 548  # eyes 6, emotion 30, mouth 512
    motion_hidden: int = 512
    num_motion_tokens: int = 64
    tail_width: int = 128
    canonical_width: int = 96


@dataclass(frozen=True)
class DecoderConfig:
    """Canonical and detail features -> planes."""

    head_widths: tuple[int, ...] = (256, 128)
    token_width: int = 1024
    num_heads: int = 2
    mlp_width: int = 2048
    num_blocks: int = 1
    kv_reduction: int = 2
    tail_widths: tuple[int, ...] = (256, 128, 128)


@dataclass(frozen=True)
class RenderConfig:
    """Planes and a camera -> a picture (Eq. 1)."""

    plane_size: int = 256
    plane_width: int = 32
    field_hidden: int = 64
    box_side: float = 1.3  # scene units; the planes and the neck grid cover this cube around the origin
    num_coarse: int = 48
    num_fine: int = 48
    neural_size: int = 128  # side of the ray grid
    superres_widths: tuple[int, ...] = (256, 128)  # one per doubling
    style_width: int = 512


@dataclass(frozen=True)
class NeckConfig:
    """The field that undoes the rotation of the neck (supplement A; GNARF's surface field on a coarse mesh)."""

    fine_size: int = 24
    coarse_size: int = 8
    near_squared_distance: float = 3e-3
    min_triangle_area: float = 5e-3
    num_shape: int = 300
    num_expression: int = 100


@dataclass(frozen=True)
class ModelConfig:
    """One model. `image_size` is the side of source and result pictures."""

    preset: str = "portrait4d_v2"
    image_size: int = 512
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)

    def __post_init__(self) -> None:
        _check_numbers(self, "")
        t, d, r, e = self.transformer, self.decoder, self.render, self.encoder
        for name, values, length in (
            ("encoder.trunk_widths", e.trunk_widths, 4),
            ("encoder.trunk_blocks", e.trunk_blocks, 4),
        ):
            if len(values) != length:
                raise InputError(f"{name}: expected {length} numbers, got {len(values)}")
        for name, width, heads in (
            ("transformer", t.token_width, t.num_heads),
            ("decoder", d.token_width, d.num_heads),
        ):
            if width % heads or width % 4:
                raise InputError(f"{name}.token_width: expected a multiple of num_heads={heads} and of 4, got {width}")
        larger = 2 ** len(r.superres_widths)
        if self.image_size != 2 * r.plane_size or self.image_size != larger * r.neural_size:
            raise InputError(
                f"image_size: expected 2 x render.plane_size and {larger} x render.neural_size (it doubles "
                f"{len(r.superres_widths)} times), got {self.image_size}, {r.plane_size}, {r.neural_size}"
            )
        if self.image_size % 32:
            raise InputError(f"image_size: expected a multiple of 32, got {self.image_size}")
        if r.num_coarse < 4:
            raise InputError(f"render.num_coarse: expected at least 4, got {r.num_coarse}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, read back by `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, name: str = "config") -> ModelConfig:
        """The config that `to_dict` wrote.

        Raises:
            InputError: unknown or missing fields, or a value of another type; `name` starts the sentence.
        """
        return _build(cls, values, name)


def _check_numbers(values: Any, prefix: str) -> None:
    """Every number positive, finite and below a bound that no network reaches; no list empty."""
    for f in dataclasses.fields(values):
        value, name = getattr(values, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{name}.")
        elif not isinstance(value, str):
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(0 < number <= LARGEST for number in numbers):
                raise InputError(f"{name}: expected positive numbers up to {LARGEST}, got {value}")


def _build(cls: Any, values: Any, name: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected an object with the fields of {cls.__name__}, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    wrong = sorted(set(values) ^ set(fields))
    if wrong:
        raise InputError(f"{name}: fields missing or unknown in {cls.__name__}: {', '.join(wrong)}; convert it again")
    defaults = cls()
    built = {}
    for key, value in values.items():
        default = getattr(defaults, key)
        if dataclasses.is_dataclass(default):
            value = _build(type(default), value, f"{name}.{key}")
        elif isinstance(default, tuple):
            if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
                raise InputError(f"{name}.{key}: expected a list of whole numbers, got {value!r}")
            value = tuple(value)
        elif type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise InputError(f"{name}.{key}: expected {type(default).__name__}, got {value!r}")
        built[key] = value
    return cls(**built)


def portrait4d_v2() -> ModelConfig:
    """The published network: 512² pictures, 224,766,123 parameters."""
    return ModelConfig()


def tiny() -> ModelConfig:
    """The same network at 128² with at most 5 M parameters, for two CPU cores; its motion is the nine numbers of the
    small motion encoder."""
    return ModelConfig(
        preset="tiny",
        image_size=128,
        encoder=EncoderConfig(
            trunk_widths=(16, 32, 48, 64),
            trunk_blocks=(1, 1, 1, 1),
            pyramid_dilations=(3, 6, 9),
            global_width=64,
            detail_widths=(24, 32, 32),
            background_widths=(16, 24, 32, 48),
        ),
        transformer=TransformerConfig(
            token_width=192,
            num_heads=4,
            mlp_width=384,
            num_neutral_blocks=2,
            num_motion_blocks=3,
            motion_width=9,
            motion_hidden=64,
            num_motion_tokens=16,
            tail_width=32,
            canonical_width=32,
        ),
        decoder=DecoderConfig(head_widths=(48, 32), token_width=128, num_heads=2, mlp_width=256, tail_widths=(48, 32)),
        render=RenderConfig(
            plane_size=64,
            plane_width=16,
            field_hidden=32,
            num_coarse=8,
            num_fine=8,
            neural_size=64,
            superres_widths=(32,),
            style_width=64,
        ),
        neck=NeckConfig(fine_size=12, coarse_size=6),
    )


PRESETS = {"portrait4d_v2": portrait4d_v2, "tiny": tiny}
