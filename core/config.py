"""Every size of the networks stands here, with the presets made of them: of the portrait, and of GenHead.

Sizes in the names: `_size` is the side of a square picture or feature map in pixels, `_width` a number of channels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, listed, literal, shown

LARGEST = 65536  # no size of a network is larger
MAX_SAMPLES = 1 << 23  # in one frame, five times those of the published network


def _from(least: float, most: float, default: Any, lengths: tuple[int, int] = (1, 8)) -> Any:
    """Declare a field whose number, or each of whose numbers, is within a range that no sensible network leaves.

    The tensors beside a config bound its widths. What no tensor bounds is bounded here: samples, sides of pictures and
    grids, dilations, and how many layers are built before a tensor is looked at.

    Args:
        lengths: the least and the most numbers in a list.
    """
    return field(default=default, metadata={"range": (least, most), "lengths": lengths})


@dataclass(frozen=True)
class EncoderConfig:
    """The global and detail encoders and the background U-Net (paper, section 3.1 and supplement A)."""

    trunk_widths: tuple[int, ...] = _from(1, 4096, (64, 128, 256, 512), (4, 4))  # ResNet stages
    trunk_blocks: tuple[int, ...] = _from(1, 64, (3, 4, 6, 3), (4, 4))  # ResNet-34
    pyramid_dilations: tuple[int, ...] = _from(1, 64, (12, 24, 36))  # beside a 1x1 and a pooled branch
    global_width: int = _from(1, 4096, 256)
    detail_widths: tuple[int, ...] = _from(1, 4096, (64, 96, 96, 96, 96), (1, 16))
    background_widths: tuple[int, ...] = _from(1, 4096, (64, 128, 256, 512))


@dataclass(frozen=True)
class TransformerConfig:
    """The neutral and motion blocks from global features and motion to canonical features (paper, section 3.1)."""

    token_width: int = _from(4, 8192, 1024)
    num_heads: int = _from(1, 128, 4)
    mlp_width: int = _from(1, 32768, 2048)
    num_neutral_blocks: int = _from(1, 64, 4)
    num_motion_blocks: int = _from(1, 64, 4)
    motion_width: int = _from(1, 8192, 548)  # eyes 6, emotion 30, mouth 512
    motion_hidden: int = _from(1, 8192, 512)
    num_motion_tokens: int = _from(1, 4096, 64)
    tail_width: int = _from(1, 4096, 128)
    canonical_width: int = _from(1, 4096, 96)


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder from canonical and detail features to planes."""

    head_widths: tuple[int, ...] = _from(1, 4096, (256, 128))
    token_width: int = _from(4, 8192, 1024)
    num_heads: int = _from(1, 128, 2)
    mlp_width: int = _from(1, 32768, 2048)
    num_blocks: int = _from(1, 64, 1)
    kv_reduction: int = _from(1, 16, 2)
    tail_widths: tuple[int, ...] = _from(1, 4096, (256, 128, 128))


@dataclass(frozen=True)
class RenderConfig:
    """The renderer from planes and a camera to a picture (Eq. 1)."""

    plane_size: int = _from(16, 512, 256)
    plane_width: int = _from(1, 1024, 32)
    field_hidden: int = _from(1, 4096, 64)
    box_side: float = _from(0.01, 100, 1.3)  # scene units; planes and neck grid cover this cube around the origin
    num_coarse: int = _from(1, 256, 48)
    num_fine: int = _from(1, 256, 48)
    neural_size: int = _from(8, 512, 128)  # side of the ray grid
    superres_widths: tuple[int, ...] = _from(1, 4096, (256, 128), (1, 4))  # one per doubling
    style_width: int = _from(1, 8192, 512)


@dataclass(frozen=True)
class NeckConfig:
    """The field that undoes the rotation of the neck (supplement A; GNARF's surface field on a coarse mesh)."""

    fine_size: int = _from(2, 64, 24)
    coarse_size: int = _from(2, 64, 8)
    near_squared_distance: float = _from(1e-09, 100, 3e-3)
    min_triangle_area: float = _from(1e-09, 100, 5e-3)
    num_shape: int = _from(1, 1000, 300)
    num_expression: int = _from(1, 1000, 100)


@dataclass(frozen=True)
class ModelConfig:
    """All sizes of one model; `image_size` is the side of source and result pictures."""

    preset: str = "portrait4d_v2"
    image_size: int = _from(32, 1024, 512)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)

    def __post_init__(self) -> None:
        _check_numbers(self, "")
        t, d, r = self.transformer, self.decoder, self.render
        if len(self.preset) > LONGEST_NAME or not self.preset.isprintable():
            raise InputError(f"preset: expected a name of up to {LONGEST_NAME} letters, got {shown(self.preset)}")
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
        samples = r.neural_size**2 * (r.num_coarse + r.num_fine)
        if samples > MAX_SAMPLES:
            raise InputError(
                f"render: expected at most {MAX_SAMPLES:,} samples a frame, neural_size² x (num_coarse + num_fine), "
                f"got {samples:,}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, name: str = "config") -> ModelConfig:
        """Build the config that `to_dict` wrote.

        Raises:
            InputError: unknown or missing fields, or a value of another type; `name` starts the sentence.
        """
        return _build(cls, values, name)


def _check_numbers(values: Any, prefix: str) -> None:
    """Check the type and the range of every number, and the length of every list."""
    for f in dataclasses.fields(values):
        value, name = getattr(values, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{name}.")
        elif "range" in f.metadata:
            numbers = value if isinstance(value, tuple) else (value,)
            kinds = (float, int) if f.type == "float" else (int,)
            if not all(type(number) in kinds for number in numbers):
                raise InputError(f"{name}: expected {' or '.join(k.__name__ for k in kinds)}, got {literal(value)}")
            if not numbers or not all(0 < number <= LARGEST for number in numbers):
                raise InputError(f"{name}: expected positive numbers up to {LARGEST}, got {literal(value)}")
            (least, most), (fewest, longest) = f.metadata["range"], f.metadata["lengths"]
            if isinstance(value, tuple) and not fewest <= len(value) <= longest:
                lengths = f"{fewest}" if fewest == longest else f"{fewest} to {longest}"
                raise InputError(f"{name}: expected {lengths} numbers, got {len(value)}")
            if not all(least <= number <= most for number in numbers):
                raise InputError(f"{name}: expected numbers from {least:g} to {most:g}, got {literal(value)}")


def _build(cls: Any, values: Any, name: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected an object with the fields of {cls.__name__}, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    wrong = sorted(set(values) ^ set(fields))
    if wrong:
        raise InputError(f"{name}: fields missing or unknown in {cls.__name__}: {listed(wrong)}; convert it again")
    defaults = cls()
    built = {}
    for key, value in values.items():
        default = getattr(defaults, key)
        if dataclasses.is_dataclass(default):
            value = _build(type(default), value, f"{name}.{key}")
        elif isinstance(default, tuple):
            if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
                raise InputError(f"{name}.{key}: expected a list of whole numbers, got {literal(value)}")
            value = tuple(value)
        elif type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise InputError(f"{name}.{key}: expected {type(default).__name__}, got {literal(value)}")
        built[key] = value
    try:
        return cls(**built)
    except InputError as error:
        raise InputError(f"{name}.{error}; convert it again") from error


def portrait4d_v2() -> ModelConfig:
    """Return the config of the published network: 512² pictures, 224,766,123 parameters."""
    return ModelConfig()


def tiny() -> ModelConfig:
    """Return the config of a small network for two CPU cores: 128² pictures, at most 5 M parameters.

    Its motion is the nine numbers of the small motion encoder.
    """
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


@dataclass(frozen=True)
class GenHeadConfig:
    """All sizes of a GenHead, the generator that stage 1 learns from (paper, section 3.1; its 4D GAN).

    `render.neural_size` is the side that super-resolution takes; the rays have a grid of their own, `ray_size`.
    """

    preset: str = "genhead_ffhq512"
    latent_width: int = _from(1, 8192, 512)
    mapping_layers: int = _from(1, 16, 2)  # behind the embedding of the condition
    background_mapping_layers: int = _from(1, 16, 8)
    plane_widths: tuple[int, ...] = _from(1, 4096, (512, 512, 512, 512, 512, 256, 128))  # at 4, 8, ..., plane_size
    background_widths: tuple[int, ...] = _from(1, 4096, (512, 512, 512, 512, 256))  # at 4, 8, ..., 64
    ray_size: int = _from(8, 512, 64)  # side of the ray grid, at which the generator was trained
    hard_fuse_size: int = _from(8, 512, 64)  # up to this side of the ray grid the parts are fused "hard"
    mask_size: int = _from(32, 1024, 512)  # side of the pictures in which the parts' masks are drawn
    render: RenderConfig = field(default_factory=RenderConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)

    def __post_init__(self) -> None:
        _check_numbers(self, "")
        if len(self.preset) > LONGEST_NAME or not self.preset.isprintable():
            raise InputError(f"preset: expected a name of up to {LONGEST_NAME} letters, got {shown(self.preset)}")
        largest = 4 * 2 ** (len(self.plane_widths) - 1)
        if largest != self.render.plane_size:
            raise InputError(
                f"plane_widths: expected one width for each of the sides 4, 8, ..., render.plane_size="
                f"{self.render.plane_size}, got {len(self.plane_widths)}, which end at {largest}"
            )
        if self.render.num_coarse < 4:
            raise InputError(f"render.num_coarse: expected at least 4, got {self.render.num_coarse}")
        samples = self.ray_size**2 * (self.render.num_coarse + self.render.num_fine)
        if samples > MAX_SAMPLES:
            raise InputError(
                f"render: expected at most {MAX_SAMPLES:,} samples a picture, ray_size² x (num_coarse + num_fine), "
                f"got {samples:,}"
            )

    @property
    def image_size(self) -> int:
        """Return the side of the pictures after super-resolution."""
        return self.render.neural_size << len(self.render.superres_widths)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, name: str = "config") -> GenHeadConfig:
        """Build the config that `to_dict` wrote.

        Raises:
            InputError: unknown or missing fields, or a value of another type; `name` starts the sentence.
        """
        return _build(cls, values, name)  # type: ignore[no-any-return]


def genhead_ffhq512() -> GenHeadConfig:
    """Return the config of the published generator: 512² pictures, 54,985,537 parameters."""
    return GenHeadConfig()


def genhead_tiny() -> GenHeadConfig:
    """Return the config of a small generator for two CPU cores: 128² pictures of the open head model."""
    return GenHeadConfig(
        preset="genhead_tiny",
        latent_width=32,
        background_mapping_layers=2,
        plane_widths=(48, 48, 48, 32, 24),
        background_widths=(32, 32, 24, 16),
        ray_size=32,
        mask_size=128,
        render=tiny().render,
        neck=NeckConfig(fine_size=12, coarse_size=6, num_shape=12, num_expression=10),
    )


GENHEAD_PRESETS = {"genhead_ffhq512": genhead_ffhq512, "genhead_tiny": genhead_tiny}
